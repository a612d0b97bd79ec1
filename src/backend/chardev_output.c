/* SPDX-License-Identifier: MIT */
/*
 * From a character backend's queue to the host, without ever waiting for it. Theory of operation.
 *
 * What can be polled, main writes: it asks first, or the descriptor does not block, and where the
 * host takes nothing main waits for EPOLLOUT. A regular file is always ready and yet may block for
 * as long as its file system hangs: for that there is a thread of its own (writer.h), made when
 * there is first something to write. It tells main of errors, and main does what is to be done
 * about them.
 *
 * At the end (power-off, quit, a signal) what is still queued waits for a reader that is there: as
 * long as it goes on reading, but no longer than CHARDEV_END_NS; CHARDEV_STALL_NS where it does
 * not; not at all after a further signal. Then the log says how much was lost.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_impl.h"

#define HOLD_MS 200 /* a write to a file takes microseconds, a file system that hangs for ever */
#define END_MS 20   /* for a thread that has nothing to do */
#define SLICE_MS 10

/* ---- one attempt ---- */

/*
 * A descriptor that others hold, too. Between poll() and the write another may have filled it, the
 * log's thread for one; where the kernel can be asked not to wait (pipes since Linux 6.4), it is.
 */
static ssize_t put_shared(int fd, const uint8_t *data, size_t len)
{
	const struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
	ssize_t n;

	if (!fd_ready(fd, POLLOUT)) {
		errno = EAGAIN;
		return -1;
	}
	n = pwritev2(fd, &iov, 1, -1, RWF_NOWAIT);
	return n < 0 && (errno == EOPNOTSUPP || errno == ENOSYS) ? write(fd, data, len) : n;
}

/* Bytes taken, -EAGAIN where the host takes nothing now, or -errno. */
static ssize_t put(struct chardev *cd, const uint8_t *data, size_t len)
{
	ssize_t n;

	if (cd->out_socket)
		n = send(cd->out_fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	else if (cd->shared)
		n = put_shared(cd->out_fd, data, len);
	else
		n = write(cd->out_fd, data, len);
	if (n > 0)
		return n;
	/* A terminal that takes nothing may say so with 0. */
	return n == 0 || errno == EINTR ? -EAGAIN : -errno;
}

static void output_works(struct chardev *cd)
{
	if (!atomic_exchange(&cd->out_failing, false))
		return;
	log_info("%s: %s takes output again", cd->name, cd->describe);
}

/* A stand-in changes no descriptor: whoever comes after it will find the same. */
static void fails(struct chardev *cd, int error)
{
	if (atomic_load(&cd->serving))
		atomic_store(&cd->serving, false);
	else
		cd->kind->output_error(cd, error);
}

static void flush_here(struct chardev *cd)
{
	size_t done = 0;

	while (cd->out_fd >= 0 && !cd->out_deaf) {
		const uint8_t *piece;
		uint32_t n = chardev_queue_next(cd, &piece);
		ssize_t taken;

		if (!n)
			return;
		/* The guest may fill as fast as this empties: others want the loop, too. */
		if (done >= CHARDEV_QUEUE_BYTES) {
			loop_wake_signal(&cd->wake);
			return;
		}
		taken = put(cd, piece, n < cd->out_chunk ? n : cd->out_chunk);
		if (taken == -EAGAIN) {
			cd->out_blocked = true;
			return;
		}
		if (taken < 0) {
			fails(cd, (int)-taken);
			return;
		}
		output_works(cd);
		chardev_queue_taken(cd, (uint32_t)taken);
		done += (size_t)taken;
	}
}

/* ---- by a thread ---- */

static size_t file_next(void *opaque, const void **piece, int *fd, unsigned int *again_ms)
{
	struct chardev *cd = opaque;
	const uint8_t *bytes;
	uint32_t n;

	(void)again_ms;
	/* Main has to look at an error first. */
	if (atomic_load(&cd->write_error))
		return 0;
	n = chardev_queue_next(cd, &bytes);
	*piece = bytes;
	*fd = cd->out_fd;
	return n;
}

static void file_written(void *opaque, ssize_t result)
{
	struct chardev *cd = opaque;

	/* Main tells of what has changed. */
	if (result <= 0) {
		atomic_store(&cd->write_error, result ? (int)-result : EIO);
		loop_wake_signal(&cd->wake);
		return;
	}
	chardev_queue_taken(cd, (uint32_t)result);
	if (atomic_load(&cd->out_failing)) {
		atomic_store(&cd->out_wrote, true);
		loop_wake_signal(&cd->wake);
	}
}

static const struct writer_ops file_ops = {
	.thread_name = "serial-file",
	.next = file_next,
	.written = file_written,
};

static void flush_by_thread(struct chardev *cd)
{
	struct error err = ERROR_INIT;
	int error = atomic_load(&cd->write_error);

	if (error) {
		fails(cd, error);
		atomic_store(&cd->write_error, 0);
	} else if (atomic_exchange(&cd->out_wrote, false)) {
		output_works(cd);
	}
	if (!chardev_queue_pending(cd))
		return;
	if (writer_start(&cd->writer, &err) == 0) {
		writer_kick(&cd->writer);
		return;
	}
	log_warn("%s: %s; should %s hang, so will molt", cd->name, err.text, cd->describe);
	flush_here(cd);
}

/* ---- what others call ---- */

void chardev_output_init(struct chardev *cd)
{
	int type = fd_type(cd->out_fd);

	writer_init(&cd->writer, &file_ops, cd);
	cd->out_threaded = type == S_IFREG || type == S_IFBLK;
}

void chardev_flush(struct chardev *cd)
{
	cd->out_blocked = false;
	if (cd->out_threaded)
		flush_by_thread(cd);
	else
		flush_here(cd);
}

static int hangs(const struct chardev *cd, struct error *err)
{
	return err_set(err, EBUSY,
		       "%s does not take what is being written to it: its file "
		       "system hangs",
		       cd->describe);
}

int chardev_output_rest(struct chardev *cd, struct error *err)
{
	if (!cd->out_threaded)
		return 0;
	/* It is asked for again: no further write begins meanwhile. */
	if (!writer_hold(&cd->writer, 0) || !writer_rest(&cd->writer, END_MS))
		return hangs(cd, err);
	return 0;
}

void chardev_output_go_on(struct chardev *cd)
{
	if (!cd->out_threaded)
		return;
	writer_release(&cd->writer);
	/* What is queued wakes nobody, and there may be no thread any more. */
	loop_wake_signal(&cd->wake);
}

/* What is queued goes along: the guest has stopped, and a write may wait for others. */
int chardev_output_hold(struct chardev *cd, struct error *err)
{
	if (!cd->out_threaded || writer_hold(&cd->writer, HOLD_MS))
		return 0;
	writer_release(&cd->writer);
	return hangs(cd, err);
}

/* Main writes in its next turn: here the guest may be waiting, and a write may wait for others. */
void chardev_output_release(struct chardev *cd)
{
	if (cd->out_threaded)
		writer_release(&cd->writer);
	loop_wake_signal(&cd->wake);
}

void chardev_lose_output(struct chardev *cd, int error, bool for_good)
{
	chardev_queue_drop(cd, for_good);
	if (!atomic_exchange(&cd->out_failing, true))
		log_error("%s: cannot write to %s: %s; the guest's output is dropped%s", cd->name,
			  cd->describe, error_text(error),
			  for_good ? "" : " until this works again");
}

/* ---- the end ---- */

/* Bytes that nobody has read yet, as far as can be told. */
static uint32_t unread(struct chardev *cd)
{
	return chardev_queue_pending(cd) + (cd->kind->unread ? cd->kind->unread(cd) : 0);
}

/* Readable when a signal is waiting that ends molt: they are all blocked. -1: not to be had. */
static int watch_end_signals(void)
{
	sigset_t set;

	end_signals(&set);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

static bool reader_is_there(const struct chardev *cd)
{
	return cd->out_fd >= 0 && !cd->out_deaf && !cd->out_dead;
}

static void wait_for_reader(struct chardev *cd)
{
	uint64_t start = now_ns(), progress = start, now = start;
	_cleanup_close_ int signals = watch_end_signals();
	uint32_t left, before = UINT32_MAX;

	for (;;) {
		int blocked = cd->out_blocked ? cd->out_fd : -1;
		struct pollfd fds[2] = { { .fd = signals, .events = POLLIN },
					 { .fd = blocked, .events = POLLOUT } };

		chardev_flush(cd);
		left = unread(cd);
		if (left < before)
			progress = now;
		before = left;
		if (!left || !reader_is_there(cd) || now - progress >= CHARDEV_STALL_NS ||
		    now - start >= CHARDEV_END_NS)
			return;
		if (poll(fds, 2, SLICE_MS) > 0 && fds[0].revents)
			return;
		now = now_ns();
	}
}

static void log_loss(struct chardev *cd)
{
	uint32_t left = unread(cd);

	if (left && cd->out_fd >= 0)
		log_warn("%s: the last %u bytes of the guest's output are lost: %s did not take "
			 "them",
			 cd->name, left, cd->describe);
	else if (left)
		log_info("%s: the last %u bytes of the guest's output are lost: nobody came to %s",
			 cd->name, left, cd->describe);
}

bool chardev_output_end(struct chardev *cd, bool wait)
{
	bool ended;

	if (wait)
		wait_for_reader(cd);
	ended = writer_stop(&cd->writer, HOLD_MS);
	if (wait)
		log_loss(cd);
	return ended;
}
