/* SPDX-License-Identifier: MIT */
/*
 * Character backends: what a serial port is plugged into on the host. One direction each way,
 * both bounded: of output that the host side does not take the newest 60 KiB are kept, input is
 * not read from the host before the device has room for it.
 *
 * All functions are for the main thread, except chardev_write() and chardev_input_ready(), which
 * any thread may call.
 */
#ifndef MOLT_BACKEND_CHARDEV_H
#define MOLT_BACKEND_CHARDEV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/state/fdtable.h>
#include <molt/state/stream.h>
#include <molt/state/vmstate.h>

struct chardev;

/* The device's side. Called on the main thread, with no chardev lock held. */
struct chardev_ops {
	/* How many bytes the device can take now; 0 stops reading until chardev_input_ready(). */
	size_t (*room)(void *opaque);
	void (*input)(void *opaque, const uint8_t *data, size_t len);
	/* The other end came or went (socket); NULL if the device does not care. */
	void (*connected)(void *opaque, bool connected);
	/* The user asked to end the VM at the terminal (tty escape). */
	void (*quit)(void *opaque);
	void *opaque;
};

/*
 * Opens a backend by its command-line text:
 *	null		nothing
 *	tty		standard input and output; a terminal is put into raw mode, Ctrl-A x ends
 *			the VM and Ctrl-A Ctrl-A sends one Ctrl-A. In the background it is not read
 *	pty		a new pseudo-terminal; its name goes to the log, at every level
 *	file=PATH	output appended to a file, no input
 *	socket=PATH	a listening Unix socket (0600), one peer at a time
 * tag and instance name it in fd table and stream ("<tag>-chardev"), and in the log. With fds and
 * stream (incoming), descriptors and backend state come from there and spec is ignored.
 */
int chardev_open(struct chardev **cd, const char *tag, uint32_t instance, const char *spec,
		 struct loop *loop, const struct chardev_ops *ops, struct fdtable *fds,
		 struct stream *stream, struct error *err);

/*
 * Whether spec is such a text, and a socket's path one that a socket can have; what ("--serial")
 * begins the sentence. Nothing is opened. 0, -EINVAL, -ENAMETOOLONG.
 */
int chardev_check_spec(const char *what, const char *spec, struct error *err);

/*
 * Gives a reader that is there a bounded time for what is still queued, logs what is lost, restores
 * the terminal, removes the socket's path, closes.
 */
void chardev_close(struct chardev *cd);

/*
 * Queues output. Never blocks; the oldest lines make room where there is none, and are counted in
 * the log.
 */
void chardev_write(struct chardev *cd, const uint8_t *data, size_t len);

/* The device has room again. */
void chardev_input_ready(struct chardev *cd);

/* Whether somebody is at the other end. */
bool chardev_connected(const struct chardev *cd);

/* As control_listen_again(), for a socket's peers; nothing for other kinds. */
void chardev_listen_again(struct chardev *cd);

/*
 * The other process on this memory, predecessor or stand-in, is gone. stood_in: this one has
 * served; else whoever held the lock is dead, and the thread that wrote.
 */
void chardev_revive(struct chardev *cd, bool stood_in);

/*
 * Reads and writes nothing until chardev_resume(). -EBUSY where a write to a file hangs: molt could
 * not exec with that under way. It runs on then.
 */
int chardev_quiesce(struct chardev *cd, struct error *err);
void chardev_resume(struct chardev *cd);

/*
 * Before an update's pause: ends the thread that writes to a file, so that no other process on this
 * memory misses it. Does not wait: -EBUSY while it is in a write, after which it begins no other;
 * to be called again, or chardev_go_on(), by which the thread comes again when it is needed.
 */
int chardev_rest(struct chardev *cd, struct error *err);
void chardev_go_on(struct chardev *cd);

/*
 * Quiesced, in a stand-in: writes what the guest sends, as far as nothing goes wrong, until
 * chardev_quiesce() or chardev_resume(). What goes wrong is for whoever resumes it.
 */
void chardev_serve(struct chardev *cd);

/*
 * This process is about to be stopped by job control, or has just been continued. A terminal that
 * is shared with a shell gets its settings back, and is made raw again if we are in the
 * foreground.
 */
void chardev_job_control(struct chardev *cd, bool stopping);

/*
 * For before this process becomes another user, whose the terminal is not: makes standard output an
 * open file description of our own that does not block, which the backend "tty" could not get then.
 */
void chardev_keep_terminal(void);

/* Backend state (queued output, terminal settings, escape state) and descriptors. */
int chardev_save(struct chardev *cd, struct stream_writer *w, struct fdtable *fds,
		 struct error *err);

/*
 * Over the state that it was opened with, as long as it has not been resumed: what was queued and
 * received since. -EBADMSG, or -EINVAL where it is another kind.
 */
int chardev_load_again(struct chardev *cd, struct stream *stream, struct error *err);

/* The fields of the backend's section, whatever its tag; for struct takeover_kind. */
extern const struct vmstate chardev_vmstate;

/* The names in the fd table that belong to a backend with this tag (a string literal). */
#define CHARDEV_FD_NAMES(tag) \
	tag "-chardev-in", tag "-chardev-out", tag "-chardev-master", tag "-chardev-slave", \
		tag "-chardev-file", tag "-chardev-listen", tag "-chardev-peer"

/* A sentence for the user of where it is: "pty /dev/pts/5"; valid as long as cd. */
const char *chardev_describe(const struct chardev *cd);
/* Tag and instance, as QEMU calls it: "serial0". */
void chardev_label(const struct chardev *cd, char *label, size_t size);

/* The same in QEMU's words, for query-chardev: "pty:/dev/pts/5". */
void chardev_filename(const struct chardev *cd, char *name, size_t size);

#endif
