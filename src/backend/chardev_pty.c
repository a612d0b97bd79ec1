/* SPDX-License-Identifier: MIT */
/*
 * A new pseudo-terminal. molt holds the slave open, too: without a slave the master is hung up,
 * which epoll reports without end, and what the guest says before the user attaches would be lost.
 *
 * This holds even after a user's program hung the slave up (vhangup(2), as getty does): the hold
 * still counts as an open slave, though it can carry nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_impl.h"

static int hold_slave(int master)
{
	int fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

/* Else the line discipline would echo the guest's output back as input, and edit lines. */
static int make_raw(int slave)
{
	struct termios t;

	if (tcgetattr(slave, &t) < 0)
		return -errno;
	cfmakeraw(&t);
	return tcsetattr(slave, TCSANOW, &t) < 0 ? -errno : 0;
}

static int pty_open(struct chardev *cd, const char *path, struct error *err)
{
	char name[64];
	int fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	int rc;

	(void)path;
	if (fd < 0)
		return err_sys(err, errno, "cannot open a new pseudo-terminal");
	cd->in_fd = fd;
	cd->out_fd = fd;
	if (grantpt(fd) < 0 || unlockpt(fd) < 0 || ptsname_r(fd, name, sizeof(name)) != 0)
		return err_sys(err, errno, "cannot set up a new pseudo-terminal");
	cd->aux_fd = hold_slave(fd);
	rc = cd->aux_fd < 0 ? cd->aux_fd : make_raw(cd->aux_fd);
	if (rc < 0)
		return err_sys(err, -rc, "cannot use pseudo-terminal %s", name);
	snprintf(cd->describe, sizeof(cd->describe), "pty %s", name);
	/* Without it nobody can use it. */
	log_always("%s: %s", cd->name, cd->describe);
	return 0;
}

static int pty_adopt(struct chardev *cd, struct fdtable *fds, struct error *err)
{
	int fd = chardev_take_fd(cd, "master", FD_KIND_TTY, fds, err);

	if (fd < 0)
		return fd;
	cd->in_fd = fd;
	cd->out_fd = fd;
	/* Hung up, it does not even look like a terminal any more. */
	cd->aux_fd = chardev_take_fd(cd, "slave", 0, fds, err);
	return cd->aux_fd < 0 ? cd->aux_fd : 0;
}

static int pty_save_fds(const struct chardev *cd, struct fdtable *fds, struct error *err)
{
	int rc = chardev_add_fd(cd, "master", cd->in_fd, fds, err);

	return rc ? rc : chardev_add_fd(cd, "slave", cd->aux_fd, fds, err);
}

static void pty_close(struct chardev *cd, bool undo)
{
	(void)undo;
	fd_close(&cd->aux_fd);
	cd->out_fd = -1;
	fd_close(&cd->in_fd);
}

static void pty_input_error(struct chardev *cd, int error)
{
	log_error("%s: cannot read from %s: %s; there will be no more input", cd->name,
		  cd->describe, error_text(error));
	chardev_end_input(cd);
}

static void pty_output_error(struct chardev *cd, int error)
{
	chardev_lose_output(cd, error, true);
}

/* What the slave's side has not read goes with the master. */
static uint32_t pty_unread(const struct chardev *cd)
{
	int n = 0;

	return ioctl(cd->aux_fd, FIONREAD, &n) == 0 && n > 0 ? (uint32_t)n : 0;
}

static void pty_filename(const struct chardev *cd, char *name, size_t size)
{
	snprintf(name, size, "pty:%s", cd->describe + strlen("pty "));
}

const struct chardev_kind chardev_pty = {
	.name = "pty",
	.has_output = true,
	.open = pty_open,
	.adopt = pty_adopt,
	.save_fds = pty_save_fds,
	.close = pty_close,
	.input_error = pty_input_error,
	.output_error = pty_output_error,
	.unread = pty_unread,
	.filename = pty_filename,
};
