/* SPDX-License-Identifier: MIT */
/*
 * Character backends without a descriptor of their own: null, and molt's standard input and output.
 *
 * Standard input may be anything: a terminal, a pipe, a file, /dev/null. Only a terminal is put
 * into raw mode (its settings come back in the end) and only there Ctrl-A is an escape: what comes
 * through a pipe is data.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_impl.h"

#define CTRL_A 0x01

/*
 * A terminal that says that it is writable may have room for one byte, and each line end becomes
 * two: a write that was polled for can block all the same. So a terminal is opened once more, for
 * an open file description of our own that does not block. Where that cannot be had (no /proc,
 * another user's terminal) a write is at least so small that it seldom comes to that.
 */
#define TTY_CHUNK 128u
#define OWN_STDOUT "/proc/self/fd/1"
#define OWN_FLAGS (O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

static int null_open(struct chardev *cd, const char *path, struct error *err)
{
	(void)path;
	(void)err;
	snprintf(cd->describe, sizeof(cd->describe), "null");
	return 0;
}

static int null_adopt(struct chardev *cd, struct fdtable *fds, struct error *err)
{
	(void)cd;
	(void)fds;
	(void)err;
	return 0;
}

static int null_save_fds(const struct chardev *cd, struct fdtable *fds, struct error *err)
{
	(void)cd;
	(void)fds;
	(void)err;
	return 0;
}

const struct chardev_kind chardev_null = {
	.name = "null",
	.open = null_open,
	.adopt = null_adopt,
	.save_fds = null_save_fds,
};

static bool is_socket(int fd)
{
	struct stat st;

	return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void classify(struct chardev *cd)
{
	cd->shared = true;
	cd->in_socket = is_socket(cd->in_fd);
	cd->out_socket = is_socket(cd->out_fd);
	cd->out_chunk = isatty(cd->out_fd) ? TTY_CHUNK : CHARDEV_CHUNK;
}

/* Output processing stays on: molt's own log lines go to the same terminal. */
static int make_raw(struct chardev *cd, struct error *err)
{
	struct termios t;

	if (tcgetattr(cd->in_fd, &cd->original) < 0)
		return err_sys(err, errno, "cannot read the terminal's settings");
	t = cd->original;
	cfmakeraw(&t);
	t.c_oflag |= OPOST;
	if (tcsetattr(cd->in_fd, TCSANOW, &t) < 0)
		return err_sys(err, errno, "cannot put the terminal into raw mode");
	cd->raw = true;
	return 0;
}

static int tty_open(struct chardev *cd, const char *path, struct error *err)
{
	(void)path;
	for (int fd = STDIN_FILENO; fd <= STDOUT_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			return err_sys(err, errno, "standard %s is closed; redirect it, or use "
				       "another backend than tty",
				       fd == STDIN_FILENO ? "input" : "output");
	snprintf(cd->describe, sizeof(cd->describe), "standard input and output");
	cd->in_fd = STDIN_FILENO;
	cd->out_fd = isatty(STDOUT_FILENO) ? open(OWN_STDOUT, OWN_FLAGS) : -1;
	if (cd->out_fd < 0)
		cd->out_fd = STDOUT_FILENO;
	classify(cd);
	return isatty(cd->in_fd) ? make_raw(cd, err) : 0;
}

static int tty_adopt(struct chardev *cd, struct fdtable *fds, struct error *err)
{
	cd->in_fd = chardev_take_fd(cd, "in", 0, fds, err);
	if (cd->in_fd < 0)
		return cd->in_fd;
	cd->out_fd = chardev_take_fd(cd, "out", 0, fds, err);
	if (cd->out_fd < 0)
		return cd->out_fd;
	classify(cd);
	return 0;
}

static int tty_save_fds(const struct chardev *cd, struct fdtable *fds, struct error *err)
{
	int rc = chardev_add_fd(cd, "in", cd->in_fd, fds, err);

	return rc ? rc : chardev_add_fd(cd, "out", cd->out_fd, fds, err);
}

static void tty_close(struct chardev *cd, bool undo)
{
	pid_t foreground;

	if (cd->out_fd > STDERR_FILENO)
		fd_close(&cd->out_fd);
	if (!undo || !cd->raw)
		return;
	/* In the background the terminal is somebody else's, and setting it would stop us. */
	foreground = tcgetpgrp(cd->in_fd);
	if (foreground >= 0 && foreground != getpgrp())
		return;
	if (tcsetattr(cd->in_fd, TCSANOW, &cd->original) < 0)
		log_warn("%s: cannot restore the terminal's settings: %s", cd->tag,
			 strerror(errno));
}

/* Standard input may be one of molt's parents' and is never closed: there is just no more of it. */
static void tty_input_error(struct chardev *cd, int error)
{
	log_warn("%s: no more input from standard input: %s", cd->tag, strerror(error));
	chardev_end_input(cd);
}

static void tty_output_error(struct chardev *cd, int error)
{
	struct stat st;

	/* A full disk may get room again; a reader that went away does not come back. */
	chardev_lose_output(cd, error, fstat(cd->out_fd, &st) < 0 || !S_ISREG(st.st_mode));
}

static size_t tty_filter(struct chardev *cd, uint8_t *data, size_t len)
{
	size_t kept = 0;

	if (!cd->raw)
		return len;
	for (size_t i = 0; i < len; i++) {
		bool escaped = cd->escape;

		cd->escape = !escaped && data[i] == CTRL_A;
		if (cd->escape)
			continue;
		if (!escaped || data[i] == CTRL_A)
			data[kept++] = data[i];
		else if (data[i] == 'x' && cd->ops.quit)
			cd->ops.quit(cd->ops.opaque);
	}
	return kept;
}

static void tty_filename(const struct chardev *cd, char *name, size_t size)
{
	(void)cd;
	snprintf(name, size, "stdio");
}

const struct chardev_kind chardev_tty = {
	.name = "tty",
	.has_output = true,
	.open = tty_open,
	.adopt = tty_adopt,
	.save_fds = tty_save_fds,
	.close = tty_close,
	.input_error = tty_input_error,
	.filter = tty_filter,
	.output_error = tty_output_error,
	.filename = tty_filename,
};
