/* SPDX-License-Identifier: MIT */
/*
 * Character backends, the part that all kinds share: the output queue and the polling.
 *
 * Theory of operation
 *
 * Output: any thread appends to a ring under the lock and wakes main when the ring was empty. Main
 * alone takes out: it copies a piece, writes it with no lock held, and drops from the ring what the
 * host took. While the host takes nothing, main waits for EPOLLOUT; while nobody is there (socket)
 * it waits for a peer. In both cases the ring is not empty, so writers need not wake anyone.
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

#define INPUT_PIECE 512u         /* bytes of one read */
#define INPUT_TURNS 8            /* reads of a file before the loop gets its turn */
#define DROP_LOG_NS 60000000000ull /* at most one line a minute about dropped output */

static const struct chardev_kind *const kinds[] = {
	&chardev_null, &chardev_tty, &chardev_pty, &chardev_file, &chardev_socket,
};

const struct chardev_kind *chardev_kind_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strlen(kinds[i]->name) == len && memcmp(kinds[i]->name, name, len) == 0)
			return kinds[i];
	return NULL;
}

/* ---- the queue ---- */

static void ring_append(struct chardev *cd, const uint8_t *data, uint32_t len)
{
	uint32_t tail = (cd->head + cd->len) % CHARDEV_RING_BYTES;
	uint32_t first = CHARDEV_RING_BYTES - tail;

	if (first > len)
		first = len;
	memcpy(cd->ring + tail, data, first);
	memcpy(cd->ring, data + first, len - first);
	cd->len += len;
}

/* The oldest bytes that lie in one piece, at most max of them. */
static uint32_t ring_peek(struct chardev *cd, uint8_t *buf, size_t max)
{
	uint32_t n;

	pthread_mutex_lock(&cd->lock);
	n = CHARDEV_RING_BYTES - cd->head;
	if (n > cd->len)
		n = cd->len;
	if (n > max)
		n = (uint32_t)max;
	memcpy(buf, cd->ring + cd->head, n);
	pthread_mutex_unlock(&cd->lock);
	return n;
}

static void ring_consume(struct chardev *cd, uint32_t n)
{
	pthread_mutex_lock(&cd->lock);
	cd->head = (cd->head + n) % CHARDEV_RING_BYTES;
	cd->len -= n;
	pthread_mutex_unlock(&cd->lock);
}

/* Under the lock: whether it is time for a line about dropped bytes, and how many to name. */
static uint64_t drops_to_log(struct chardev *cd, bool last)
{
	uint64_t now = now_ns();

	if (cd->dropped == cd->dropped_logged)
		return 0;
	if (!last && cd->drop_log_ns && now - cd->drop_log_ns < DROP_LOG_NS)
		return 0;
	cd->drop_log_ns = now;
	cd->dropped_logged = cd->dropped;
	return cd->dropped;
}

static void log_drops(const struct chardev *cd, uint64_t bytes)
{
	if (bytes)
		log_warn("%s: %s does not take the guest's output: %llu bytes dropped so far",
			 cd->tag, cd->describe, (unsigned long long)bytes);
}

void chardev_write(struct chardev *cd, const uint8_t *data, size_t len)
{
	uint64_t log_bytes = 0;
	uint32_t space, n;
	bool wake;

	if (!cd->kind->has_output || !len)
		return;
	pthread_mutex_lock(&cd->lock);
	space = cd->out_dead ? 0 : CHARDEV_RING_BYTES - cd->len;
	n = len < space ? (uint32_t)len : space;
	wake = cd->len == 0 && n > 0;
	ring_append(cd, data, n);
	if (n < len) {
		cd->dropped += len - n;
		/* Of a dead output the log knows already. */
		if (!cd->out_dead)
			log_bytes = drops_to_log(cd, false);
	}
	pthread_mutex_unlock(&cd->lock);
	log_drops(cd, log_bytes);
	if (wake)
		loop_wake_signal(&cd->wake);
}

/* ---- output ---- */

/* Whether fd is ready (or hung up) right now. */
static bool ready_now(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	return poll(&pfd, 1, 0) > 0;
}

/* One attempt: bytes taken, -EAGAIN where the host takes nothing now, or -errno. */
static ssize_t put(struct chardev *cd, const uint8_t *data, size_t len)
{
	ssize_t n;

	if (cd->out_socket)
		n = send(cd->out_fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	else if (cd->shared && !ready_now(cd->out_fd, POLLOUT))
		return -EAGAIN;
	else
		n = write(cd->out_fd, data, len);
	if (n > 0)
		return n;
	/* A terminal that takes nothing may say so with 0. */
	return n == 0 || errno == EINTR ? -EAGAIN : -errno;
}

static void output_works(struct chardev *cd)
{
	if (!cd->out_failing)
		return;
	cd->out_failing = false;
	log_info("%s: %s takes output again", cd->tag, cd->describe);
}

void chardev_flush(struct chardev *cd)
{
	uint8_t buf[CHARDEV_CHUNK];
	size_t done = 0;

	cd->out_blocked = false;
	while (cd->out_fd >= 0 && !cd->out_deaf) {
		uint32_t n = ring_peek(cd, buf, cd->out_chunk);
		ssize_t put_len;

		if (!n)
			return;
		/* The guest may fill as fast as this empties: others want the loop, too. */
		if (done >= CHARDEV_RING_BYTES) {
			loop_wake_signal(&cd->wake);
			return;
		}
		put_len = put(cd, buf, n);
		if (put_len == -EAGAIN) {
			cd->out_blocked = true;
			return;
		}
		if (put_len < 0) {
			cd->kind->output_error(cd, (int)-put_len);
			return;
		}
		output_works(cd);
		ring_consume(cd, (uint32_t)put_len);
		done += (size_t)put_len;
	}
}

void chardev_lose_output(struct chardev *cd, int error, bool for_good)
{
	pthread_mutex_lock(&cd->lock);
	cd->dropped += cd->len;
	/* This loss has its own line below. */
	cd->dropped_logged = cd->dropped;
	cd->head = 0;
	cd->len = 0;
	cd->out_dead = for_good;
	pthread_mutex_unlock(&cd->lock);
	if (!cd->out_failing)
		log_error("%s: cannot write to %s: %s; the guest's output is dropped%s", cd->tag,
			  cd->describe, strerror(error), for_good ? "" : " until this works again");
	cd->out_failing = true;
}

/* ---- input ---- */

static ssize_t get(struct chardev *cd, uint8_t *buf, size_t len)
{
	ssize_t n;

	if (cd->in_socket)
		n = recv(cd->in_fd, buf, len, MSG_DONTWAIT);
	else if (cd->shared && !ready_now(cd->in_fd, POLLIN))
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

	if (!want)
		return false;
	n = get(cd, buf, want < sizeof(buf) ? want : sizeof(buf));
	if (n == -EAGAIN)
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

static void on_wake(void *opaque)
{
	struct chardev *cd = opaque;

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
 * waiting for nothing: to enter it again may fail for want of memory, and then there is no way back.
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

	if (more && !cd->in_eof && !atomic_load(&cd->in_stopped))
		events |= EPOLLIN;
	rc = watch(cd, &cd->in_src, cd->in_fd, more || blocked, events, on_input);
	if (rc == -EPERM) {
		cd->in_unpolled = true;
		loop_wake_signal(&cd->wake);
	} else if (rc < 0) {
		log_error("%s: cannot wait for input from %s: %s; there will be none", cd->tag,
			  cd->describe, strerror(-rc));
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

/* ---- life ---- */

static struct chardev *chardev_new(const char *tag, struct loop *loop,
				   const struct chardev_ops *ops)
{
	struct chardev *cd = calloc(1, sizeof(*cd));

	if (!cd)
		return NULL;
	cd->saved = chardev_new_state();
	if (!cd->saved) {
		free(cd);
		return NULL;
	}
	snprintf(cd->tag, sizeof(cd->tag), "%s", tag);
	cd->loop = loop;
	cd->ops = *ops;
	cd->in_fd = -1;
	cd->out_fd = -1;
	cd->aux_fd = -1;
	cd->out_chunk = CHARDEV_CHUNK;
	pthread_mutex_init(&cd->lock, NULL);
	return cd;
}

/* What the command line's text names; *path is NULL where there is none. 0 or -EINVAL. */
static int parse_spec(const char *what, const char *spec, const struct chardev_kind **kind,
		      const char **path, struct error *err)
{
	const char *equals = strchr(spec, '=');
	size_t len = equals ? (size_t)(equals - spec) : strlen(spec);

	*kind = chardev_kind_find(spec, len);
	*path = equals ? equals + 1 : NULL;
	if (!*kind || (*kind)->takes_path != (equals != NULL) || (equals && !equals[1]))
		return err_set(err, EINVAL, "%s: no character backend \"%s\"; there are null, tty, "
			       "pty, file=PATH and socket=PATH", what, spec);
	return 0;
}

int chardev_check_spec(const char *what, const char *spec, struct error *err)
{
	const struct chardev_kind *kind;
	const char *path;
	int rc = parse_spec(what, spec, &kind, &path, err);

	return rc == 0 && kind == &chardev_socket ? unix_socket_check_path(what, path, err) : rc;
}

static int open_spec(struct chardev *cd, const char *spec, struct error *err)
{
	const char *path;
	int rc = parse_spec(cd->tag, spec, &cd->kind, &path, err);

	if (rc)
		return rc;
	cd->owner = true;
	cd->running = true;
	return cd->kind->open(cd, path, err);
}

static int open_incoming(struct chardev *cd, struct fdtable *fds, struct stream *stream,
			 struct error *err)
{
	int rc = chardev_load_state(cd, stream, err);

	return rc ? rc : cd->kind->adopt(cd, fds, err);
}

int chardev_open(struct chardev **out, const char *tag, const char *spec, struct loop *loop,
		 const struct chardev_ops *ops, struct fdtable *fds, struct stream *stream,
		 struct error *err)
{
	struct chardev *cd;
	bool had_input;
	int rc;

	*out = NULL;
	if (strlen(tag) > CHARDEV_TAG_MAX)
		return err_set(err, EINVAL, "the name \"%s\" is too long for a character backend",
			       tag);
	cd = chardev_new(tag, loop, ops);
	if (!cd)
		return err_set(err, ENOMEM, "%s: no memory for the character backend", tag);
	rc = loop_wake_init(loop, &cd->wake, on_wake, cd, err);
	if (rc) {
		pthread_mutex_destroy(&cd->lock);
		free(cd->saved);
		free(cd);
		return rc;
	}
	rc = fds && stream ? open_incoming(cd, fds, stream, err) : open_spec(cd, spec, err);
	if (rc) {
		chardev_close(cd);
		return rc;
	}
	had_input = !cd->in_eof;
	chardev_arm(cd);
	if (had_input && cd->in_eof) {
		chardev_close(cd);
		return err_set(err, ENOMEM, "%s: cannot wait for input", tag);
	}
	*out = cd;
	return 0;
}

void chardev_close(struct chardev *cd)
{
	if (!cd)
		return;
	log_drops(cd, drops_to_log(cd, true));
	if (cd->running)
		chardev_flush(cd);
	loop_del(&cd->in_src);
	loop_del(&cd->out_src);
	loop_del(&cd->aux_src);
	loop_wake_fini(&cd->wake);
	if (cd->kind && cd->kind->close)
		cd->kind->close(cd, cd->owner);
	pthread_mutex_destroy(&cd->lock);
	free(cd->saved);
	free(cd);
}

void chardev_revive(struct chardev *cd)
{
	pthread_mutex_init(&cd->lock, NULL);
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

void chardev_quiesce(struct chardev *cd)
{
	chardev_flush(cd);
	cd->running = false;
	chardev_arm(cd);
}

void chardev_resume(struct chardev *cd)
{
	cd->running = true;
	cd->owner = true;
	cd->in_parked = false;
	atomic_store(&cd->in_stopped, false);
	chardev_flush(cd);
	chardev_arm(cd);
	if (cd->in_unpolled)
		loop_wake_signal(&cd->wake);
}

const char *chardev_describe(const struct chardev *cd)
{
	return cd->describe;
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

	return fdtable_take(fds, chardev_fd_name(cd, what, name), 0, kind, err);
}

int chardev_add_fd(const struct chardev *cd, const char *what, int fd, struct fdtable *fds,
		   struct error *err)
{
	char name[STREAM_NAME_MAX + 1];

	return fdtable_add(fds, chardev_fd_name(cd, what, name), 0, fd, err);
}

int chardev_save(struct chardev *cd, struct stream_writer *w, struct fdtable *fds,
		 struct error *err)
{
	int rc = chardev_save_state(cd, w, err);

	return rc ? rc : cd->kind->save_fds(cd, fds, err);
}
