/* SPDX-License-Identifier: MIT */
/*
 * Character backends without a descriptor of their own: null, and molt's standard input and
 * output.
 *
 * Standard input may be anything: a terminal, a pipe, a file, /dev/null. Only a terminal is put
 * into raw mode (its settings come back in the end) and only there Ctrl-A is an escape: what
 * comes through a pipe is data.
 *
 * A terminal is lent. While this process is in the foreground it is raw and read; in the
 * background it is neither read nor set, and shows output. So `raw` is a wish, which crosses an
 * update; whether it is in force (raw_set) follows from who has the terminal, at the start, after
 * an update, before each read, and when SIGCONT comes. A shell that brings a running job to the
 * foreground sends no signal, nor does one that takes the terminal from the stand-in: then a
 * timer looks now and then.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_impl.h"
#include "terminal.h"

#define CTRL_A 0x01
#define LOOK_AGAIN_NS 250000000

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
	return fd_type(fd) == S_IFSOCK;
}

static void classify(struct chardev *cd)
{
	cd->shared = true;
	cd->in_socket = is_socket(cd->in_fd);
	cd->out_socket = is_socket(cd->out_fd);
	cd->out_chunk = isatty(cd->out_fd) ? TTY_CHUNK : CHARDEV_CHUNK;
}

/* ---- the terminal ---- */

static void put_right(struct chardev *cd)
{
	int r = cd->raw_set ? terminal_put_right(cd->in_fd, &cd->original) : 0;

	cd->raw_set = false;
	/* EIO: it is hung up. */
	if (r < 0 && r != -EIO)
		log_warn("%s: cannot restore the terminal's settings: %s", cd->name,
			 error_text(-r));
}

static int make_raw(struct chardev *cd)
{
	int r = terminal_make_raw(cd->in_fd, &cd->original);

	if (r == 0)
		cd->raw_set = true;
	return r;
}

static void look_again(const struct chardev *cd, bool on)
{
	const struct timespec period = { .tv_nsec = on ? LOOK_AGAIN_NS : 0 };
	const struct itimerspec when = { .it_interval = period, .it_value = period };

	timerfd_settime(cd->aux_fd, 0, &when, NULL);
}

/* What follows from who has the terminal now. */
static void look(struct chardev *cd)
{
	bool ours = terminal_is_ours(cd->in_fd), was_held = cd->in_held;
	int r = 0;

	if (ours)
		r = make_raw(cd);
	else
		put_right(cd);
	if (r < 0 && r != -EIO)
		log_warn("%s: cannot put the terminal into raw mode: %s", cd->name, error_text(-r));
	cd->in_held = !ours;
	/* Once more after we got it: the shell may not have been through with its settings. */
	look_again(cd, !cd->in_eof && (!ours || was_held || terminal_has_lost_its_shell()));
	chardev_arm(cd);
}

static void on_timer(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;
	uint64_t count;

	(void)events;
	if (read(cd->aux_fd, &count, sizeof(count)) == (ssize_t)sizeof(count) && cd->running)
		look(cd);
}

/* While this is quiesced nobody waits for it: who waits makes an update hurry (loop_hold()). */
static void tty_arm(struct chardev *cd)
{
	if (cd->aux_src.loop)
		loop_mod(&cd->aux_src, cd->running ? EPOLLIN : 0);
}

static void tty_job_control(struct chardev *cd, bool stopping)
{
	if (!cd->raw)
		return;
	if (stopping) {
		cd->in_held = true;
		put_right(cd);
	} else if (cd->in_held && terminal_has_lost_its_shell()) {
		/* In the stand-in: the shell is about to take the terminal. */
		look_again(cd, true);
	} else {
		look(cd);
	}
}

static bool tty_may_read(struct chardev *cd)
{
	if (cd->raw && terminal_is_ours(cd->in_fd) == cd->in_held)
		look(cd);
	return !cd->in_held;
}

/*
 * A terminal ends when it is hung up, and then it has no settings any more. Else another has set it
 * and Ctrl-D came, or took it after we asked whose it is (EIO, since SIGTTIN is blocked).
 */
static bool tty_goes_on(struct chardev *cd)
{
	struct termios now;

	if (!cd->raw || tcgetattr(cd->in_fd, &now) < 0)
		return false;
	look(cd);
	return true;
}

/* Before anything else is done to it. */
static int open_timer(struct chardev *cd, struct error *err)
{
	int r;

	cd->aux_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (cd->aux_fd < 0)
		return err_sys(err, errno, "timerfd for the terminal");
	r = loop_add(cd->loop, &cd->aux_src, cd->aux_fd, EPOLLIN, on_timer, cd);
	return r < 0 ? err_sys(err, -r, "epoll on the terminal's timer") : 0;
}

static int open_terminal(struct chardev *cd, struct error *err)
{
	int r = open_timer(cd, err);

	if (r < 0)
		return r;
	/* From the background too: `original` is always something. */
	if (tcgetattr(cd->in_fd, &cd->original) < 0)
		return err_sys(err, errno, "cannot read the terminal's settings");
	cd->raw = true;
	cd->in_held = !terminal_is_ours(cd->in_fd);
	look_again(cd, cd->in_held);
	r = cd->in_held ? 0 : make_raw(cd);
	return r < 0 ? err_sys(err, -r, "cannot put the terminal into raw mode") : 0;
}

/* ---- the backend ---- */

void chardev_keep_terminal(void)
{
	int fd = isatty(STDOUT_FILENO) ? open(OWN_STDOUT, OWN_FLAGS) : -1;

	if (fd >= 0)
		dup2(fd, STDOUT_FILENO);
	fd_close(&fd);
}

static int tty_open(struct chardev *cd, const char *path, struct error *err)
{
	(void)path;
	snprintf(cd->describe, sizeof(cd->describe), "standard input and output");
	cd->in_fd = STDIN_FILENO;
	cd->out_fd = isatty(STDOUT_FILENO) ? open(OWN_STDOUT, OWN_FLAGS) : -1;
	if (cd->out_fd < 0)
		cd->out_fd = STDOUT_FILENO;
	classify(cd);
	return isatty(cd->in_fd) ? open_terminal(cd, err) : 0;
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
	/* As far as the predecessor knew; it is looked at when this process has the guest. */
	cd->raw_set = cd->raw;
	return cd->raw ? open_timer(cd, err) : 0;
}

static int tty_save_fds(const struct chardev *cd, struct fdtable *fds, struct error *err)
{
	int rc = chardev_add_fd(cd, "in", cd->in_fd, fds, err);

	return rc ? rc : chardev_add_fd(cd, "out", cd->out_fd, fds, err);
}

static void tty_close(struct chardev *cd, bool undo)
{
	if (undo)
		put_right(cd);
	fd_close(&cd->aux_fd);
	if (cd->out_fd > STDERR_FILENO)
		fd_close(&cd->out_fd);
}

/* Standard input may be one of molt's parents' and is never closed: there is just no more of it. */
static void tty_input_error(struct chardev *cd, int error)
{
	log_warn("%s: no more input from standard input: %s", cd->name, error_text(error));
	chardev_end_input(cd);
}

static void tty_output_error(struct chardev *cd, int error)
{
	/* A full disk may get room again; a reader that went away does not come back. */
	chardev_lose_output(cd, error, !cd->out_threaded);
}

static size_t tty_filter(struct chardev *cd, uint8_t *data, size_t len)
{
	size_t kept = 0;
	bool quits = false;

	if (!cd->raw)
		return len;
	for (size_t i = 0; i < len; i++) {
		bool escaped = cd->escape;

		cd->escape = !escaped && data[i] == CTRL_A;
		if (cd->escape)
			continue;
		if (!escaped || data[i] == CTRL_A)
			data[kept++] = data[i];
		else if (data[i] == 'x')
			quits = true;
	}
	/* Once, however often it was typed while main was busy. */
	if (quits && cd->ops.quit)
		cd->ops.quit(cd->ops.opaque);
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
	.arm = tty_arm,
	.input_error = tty_input_error,
	.filter = tty_filter,
	.may_read = tty_may_read,
	.goes_on = tty_goes_on,
	.job_control = tty_job_control,
	.output_error = tty_output_error,
	.filename = tty_filename,
};
