/* SPDX-License-Identifier: MIT */
/*
 * Character backends, the part that all kinds share: input, and the polling.
 *
 * Theory of operation
 *
 * Output: any thread queues (chardev_queue.c) and wakes main when the queue was empty; main sees
 * that it is written (chardev_output.c). While the host takes nothing, main waits for EPOLLOUT;
 * while nobody is there (socket) it waits for a peer. In both cases the queue is not empty, so
 * nobody need wake main.
 *
 * Input: main reads no more than the device has room for. Where it has none, main raises in_stopped
 * and asks once more (the device may just have made room, and then it saw no flag to wake for).
 * From then on EPOLLIN is off until chardev_input_ready() takes the flag down.
 *
 * What keeps the loop from spinning: epoll reports hang-ups and errors even to those who ask for
 * nothing. So a descriptor that cannot make progress must leave the loop:
 *  - at the end of input (unless the kind waits for the final hang-up of a peer);
 *  - hung up while the device has no room ("parked"): the rest is read when there is room again;
 *  - an output descriptor other than the input's is in the loop only while a write is refused.
 * A regular file or /dev/null cannot be polled (EPERM): it is read whenever the device has room, a
 * few pieces a turn.
 *
 * Standard input and output are open file descriptions that molt shares with its parent shell, so
 * O_NONBLOCK is out of the question (`shared`): poll() comes before each read and each write, and a
 * write is so small that it fits where poll() says there is room.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_impl.h"

#define INPUT_PIECE 512u /* bytes of one read */
#define INPUT_TURNS 8    /* reads of a file before the loop gets its turn */

/* ---- input ---- */

static ssize_t get(struct chardev *cd, uint8_t *buf, size_t len)
{
	ssize_t n;

	if (cd->in_socket)
		n = recv(cd->in_fd, buf, len, MSG_DONTWAIT);
	else if (cd->shared && !fd_ready(cd->in_fd, POLLIN))
		return -EAGAIN;
	else
		n = read(cd->in_fd, buf, len);
	if (n >= 0)
		return n;
	return errno == EINTR ? -EAGAIN : -errno;
}

/* How much the device takes; at 0 chardev_input_ready() will wake main. */
static size_t room(struct chardev *cd)
{
	size_t n = cd->ops.room(cd->ops.opaque);

	if (n)
		return n;
	atomic_store(&cd->in_stopped, true);
	n = cd->ops.room(cd->ops.opaque);
	if (n)
		atomic_store(&cd->in_stopped, false);
	return n;
}

void chardev_end_input(struct chardev *cd)
{
	cd->in_eof = true;
}

/* Reads one piece and hands it on; false if there is nothing to be had now. */
static bool read_piece(struct chardev *cd)
{
	uint8_t buf[INPUT_PIECE];
	size_t want = room(cd);
	ssize_t n;

	if (!want || (cd->kind->may_read && !cd->kind->may_read(cd)))
		return false;
	n = get(cd, buf, want < sizeof(buf) ? want : sizeof(buf));
	if (n == -EAGAIN)
		return false;
	if ((n == 0 || n == -EIO) && cd->kind->goes_on && cd->kind->goes_on(cd))
		return false;
	if (n == 0) {
		chardev_end_input(cd);
		return false;
	}
	if (n < 0) {
		cd->kind->input_error(cd, (int)-n);
		return false;
	}
	want = cd->kind->filter ? cd->kind->filter(cd, buf, (size_t)n) : (size_t)n;
	if (want)
		cd->ops.input(cd->ops.opaque, buf, want);
	return true;
}

/* A file: never reported by epoll, so it is read as long as the device takes it. */
static void read_unpolled(struct chardev *cd)
{
	int turns = INPUT_TURNS;

	while (cd->in_fd >= 0 && !cd->in_eof && !atomic_load(&cd->in_stopped)) {
		if (turns-- == 0) {
			loop_wake_signal(&cd->wake);
			return;
		}
		if (!read_piece(cd))
			return;
	}
}

/* ---- the loop ---- */

static void on_input(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;
	bool hangup = events & (EPOLLHUP | EPOLLERR);

	if (hangup && cd->kind->hangup)
		cd->kind->hangup(cd);
	if (cd->in_fd == cd->out_fd && (hangup || (events & EPOLLOUT)))
		chardev_flush(cd);
	if (cd->in_fd >= 0 && !cd->in_eof && (hangup || (events & EPOLLIN))) {
		read_piece(cd);
		cd->in_parked = hangup && atomic_load(&cd->in_stopped);
	}
	chardev_arm(cd);
}

static void on_output(void *opaque, uint32_t events)
{
	struct chardev *cd = opaque;

	(void)events;
	chardev_flush(cd);
	chardev_arm(cd);
}

void chardev_woken(void *opaque)
{
	struct chardev *cd = opaque;

	if (atomic_load(&cd->serving))
		chardev_flush(cd);
	if (!cd->running)
		return;
	chardev_flush(cd);
	if (!atomic_load(&cd->in_stopped))
		cd->in_parked = false;
	if (cd->in_unpolled)
		read_unpolled(cd);
	chardev_arm(cd);
}

/*
 * In the loop with these events, or out of it. While the backend is quiesced it stays in the loop,
 * waiting for nothing: to enter it again may fail for want of memory, and then there is no way
 * back.
 */
static int watch(struct chardev *cd, struct loop_source *src, int fd, bool want, uint32_t events,
		 loop_fn *fn)
{
	if (!want) {
		loop_del(src);
		return 0;
	}
	if (!cd->running)
		events = 0;
	if (src->loop)
		return loop_mod(src, events);
	return loop_add(cd->loop, src, fd, events, fn, cd);
}

static void arm_input(struct chardev *cd, bool same)
{
	bool more = cd->in_fd >= 0 && !cd->in_parked && !cd->in_unpolled &&
		    (!cd->in_eof || cd->kind->outlives_eof);
	bool blocked = same && cd->out_blocked;
	uint32_t events = blocked ? EPOLLOUT : 0;
	int rc;

	if (more && !cd->in_eof && !cd->in_held && !atomic_load(&cd->in_stopped))
		events |= EPOLLIN;
	rc = watch(cd, &cd->in_src, cd->in_fd, more || blocked, events, on_input);
	if (rc == -EPERM) {
		cd->in_unpolled = true;
		loop_wake_signal(&cd->wake);
	} else if (rc < 0) {
		log_error("%s: cannot wait for input from %s: %s; there will be none", cd->name,
			  cd->describe, error_text(-rc));
		chardev_end_input(cd);
	}
}

void chardev_arm(struct chardev *cd)
{
	bool same = cd->in_fd == cd->out_fd;
	int rc;

	arm_input(cd, same);
	rc = watch(cd, &cd->out_src, cd->out_fd, !same && cd->out_blocked, EPOLLOUT, on_output);
	if (rc < 0)
		chardev_lose_output(cd, -rc, true);
	if (cd->kind->arm)
		cd->kind->arm(cd);
}

/* ---- what the device calls ---- */

void chardev_revive(struct chardev *cd, bool stood_in)
{
	if (!stood_in) {
		pthread_mutex_init(&cd->lock, NULL);
		writer_revive(&cd->writer);
	}
	/* The shell sees its job end. It may act on that before this process runs the guest on. */
	chardev_job_control(cd, true);
}

void chardev_input_ready(struct chardev *cd)
{
	if (atomic_exchange(&cd->in_stopped, false))
		loop_wake_signal(&cd->wake);
}

bool chardev_connected(const struct chardev *cd)
{
	return cd->out_fd >= 0;
}

int chardev_quiesce(struct chardev *cd, struct error *err)
{
	int rc = chardev_output_hold(cd, err);

	atomic_store(&cd->serving, false);
	if (rc)
		return rc;
	cd->running = false;
	chardev_arm(cd);
	return 0;
}

void chardev_resume(struct chardev *cd)
{
	atomic_store(&cd->serving, false);
	cd->running = true;
	cd->owner = true;
	cd->in_parked = false;
	atomic_store(&cd->in_stopped, false);
	chardev_job_control(cd, false);
	chardev_output_release(cd);
	chardev_arm(cd);
}

int chardev_rest(struct chardev *cd, struct error *err)
{
	return chardev_output_rest(cd, err);
}

void chardev_go_on(struct chardev *cd)
{
	chardev_output_go_on(cd);
}

void chardev_serve(struct chardev *cd)
{
	atomic_store(&cd->serving, true);
	if (cd->out_threaded)
		writer_release(&cd->writer);
	loop_wake_signal(&cd->wake);
}

void chardev_job_control(struct chardev *cd, bool stopping)
{
	if (cd->kind->job_control)
		cd->kind->job_control(cd, stopping);
}

const char *chardev_describe(const struct chardev *cd)
{
	return cd->describe;
}

void chardev_label(const struct chardev *cd, char *label, size_t size)
{
	snprintf(label, size, "%s%u", cd->tag, cd->instance);
}

void chardev_filename(const struct chardev *cd, char *name, size_t size)
{
	snprintf(name, size, "%s", cd->kind->name);
	if (cd->kind->filename)
		cd->kind->filename(cd, name, size);
}

/* ---- descriptors ---- */

const char *chardev_fd_name(const struct chardev *cd, const char *what, char *buf)
{
	snprintf(buf, STREAM_NAME_MAX + 1, "%s-chardev-%s", cd->tag, what);
	return buf;
}

int chardev_take_fd(const struct chardev *cd, const char *what, unsigned int kind,
		    struct fdtable *fds, struct error *err)
{
	char name[STREAM_NAME_MAX + 1];

	return fdtable_take(fds, chardev_fd_name(cd, what, name), cd->instance, kind, err);
}

int chardev_add_fd(const struct chardev *cd, const char *what, int fd, struct fdtable *fds,
		   struct error *err)
{
	char name[STREAM_NAME_MAX + 1];

	return fdtable_add(fds, chardev_fd_name(cd, what, name), cd->instance, fd, err);
}
