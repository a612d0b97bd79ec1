/* SPDX-License-Identifier: MIT */
/*
 * The front-end of vhost-user: one object a device, between the device's registers (its owner) and
 * a back-end in another process. Facts about the protocol: QEMU's docs/interop/vhost-user.rst;
 * what this front-end does with it, and what survives: docs/vhost-user.md.
 *
 * The owner says what it wants (start, stop, queues), and is told by callbacks what has become of
 * it. Nothing here waits: a back-end may be away, dead or silent for any time. It is connected to
 * again, and if it still offers what the guest has negotiated, the session is set up anew.
 *
 * All functions are for the main thread. Callbacks come from the event loop or out of
 * vhost_front_wait_ready() and vhost_front_serve_stop(), never out of another function here; they
 * may call all functions but these two and vhost_front_destroy().
 */
#ifndef MOLT_VIRTIO_VHOST_FRONT_H
#define MOLT_VIRTIO_VHOST_FRONT_H

#include <molt/base/loop.h>
#include <molt/state/fdtable.h>
#include <molt/state/vmstate.h>
#include <molt/virtio/vhost_user.h>
#include <molt/vm/memory.h>

#define VHOST_FRONT_MAX_QUEUES 64

/* Where a front-end is, for reports; it follows from the rest. */
enum vhost_front_state {
	VHOST_FRONT_DISCONNECTED,
	VHOST_FRONT_HANDSHAKE,
	VHOST_FRONT_READY,    /* features and configuration are known, no queue runs */
	VHOST_FRONT_SETUP,    /* the owner has started it, the back-end is being told */
	VHOST_FRONT_RUNNING,  /* the back-end has the queues */
	VHOST_FRONT_DRAINING, /* stopped by the owner, the back-end is finishing */
};

/* A queue, as the guest has set it up. Addresses are guest physical ones. */
struct vhost_front_queue {
	uint16_t size; /* 1..32768, a power of 2 */
	uint64_t desc;
	uint64_t avail;
	uint64_t used;
	uint16_t base; /* the index in the available ring to go on from: 0, or as it was told */
	bool enabled;
};

/*
 * What of a connection is not in the kernel: a message that came in part, answers that could not be
 * sent whole.
 */
struct vhost_user_carried {
	uint32_t in_len;
	uint32_t in_fds;
	uint32_t out_len;
	uint32_t out_sent;
	uint8_t in[292];
	uint8_t out[292];
};

/* The part that crosses an update; no pointers, and valid at any moment. See VHOST_FRONT_FIELDS. */
struct vhost_front_guest {
	uint8_t step;
	uint8_t queue_step;
	uint16_t queue_at;
	uint32_t awaiting; /* the request whose answer is outstanding, 0: none */
	bool connected;
	bool channel; /* there is a back-end channel */
	bool known;   /* features, queue_num and config are what the guest was shown */
	bool ready;   /* the owner knows that the back-end is there */
	bool started;
	bool running;
	bool unconfirmed; /* something was set up since the back-end last answered */
	bool reset_wanted;
	bool tell_stopped;
	bool tell_lost;
	bool config_dirty;
	bool tell_config;
	bool has_inflight;
	uint8_t state; /* the last that was noticed, and since when */
	uint8_t reserved[4];
	uint16_t queue_num;
	uint16_t inflight_queues;
	uint16_t inflight_queue_size;
	uint64_t inflight_size;
	uint64_t inflight_offset;
	uint64_t features; /* of what the first back-end offered: what the guest is shown */
	uint64_t offered;  /* what this one does */
	uint64_t protocol; /* what was agreed on with this one */
	uint64_t acked;
	uint64_t since_ns;    /* CLOCK_MONOTONIC, of state */
	uint64_t reply_by_ns; /* CLOCK_MONOTONIC; 0: nothing is waited for */
	uint64_t drain_by_ns;
	uint32_t config_len;
	uint8_t config[VHOST_USER_MAX_CONFIG];
	uint16_t queue_flags[VHOST_FRONT_MAX_QUEUES];
	uint16_t queue_size[VHOST_FRONT_MAX_QUEUES];
	uint16_t queue_base[VHOST_FRONT_MAX_QUEUES];
	uint8_t reserved2[4];
	uint64_t queue_desc[VHOST_FRONT_MAX_QUEUES];
	uint64_t queue_avail[VHOST_FRONT_MAX_QUEUES];
	uint64_t queue_used[VHOST_FRONT_MAX_QUEUES];
	struct vhost_user_carried main_carried;
	struct vhost_user_carried channel_carried;
};

/* clang-format off */
#define VHOST_USER_CARRIED_FIELDS_(s, m) \
	VMSTATE_U8_VAR(s, m.in, m.in_len), VMSTATE_U32(s, m.in_fds), \
	VMSTATE_U8_VAR(s, m.out, m.out_len), VMSTATE_U32(s, m.out_sent)

/* The fields of a struct vhost_front_guest m in a struct s, for a vmstate table. */
#define VHOST_FRONT_FIELDS(s, m) \
	VMSTATE_U8(s, m.step), VMSTATE_U8(s, m.queue_step), VMSTATE_U16(s, m.queue_at), \
	VMSTATE_U32(s, m.awaiting), VMSTATE_BOOL(s, m.connected), VMSTATE_BOOL(s, m.channel), \
	VMSTATE_BOOL(s, m.known), VMSTATE_BOOL(s, m.ready), VMSTATE_BOOL(s, m.started), \
	VMSTATE_BOOL(s, m.running), VMSTATE_BOOL(s, m.unconfirmed), \
	VMSTATE_BOOL(s, m.reset_wanted), VMSTATE_BOOL(s, m.tell_stopped), \
	VMSTATE_BOOL(s, m.tell_lost), VMSTATE_BOOL(s, m.config_dirty), \
	VMSTATE_BOOL(s, m.tell_config), VMSTATE_BOOL(s, m.has_inflight), \
	VMSTATE_U8(s, m.state), VMSTATE_U64(s, m.since_ns), \
	VMSTATE_UNSAVED(s, m.reserved, "padding"), VMSTATE_UNSAVED(s, m.reserved2, "padding"), \
	VMSTATE_U16(s, m.queue_num), VMSTATE_U16(s, m.inflight_queues), \
	VMSTATE_U16(s, m.inflight_queue_size), VMSTATE_U64(s, m.inflight_size), \
	VMSTATE_U64(s, m.inflight_offset), VMSTATE_U64(s, m.features), \
	VMSTATE_U64(s, m.offered), VMSTATE_U64(s, m.protocol), VMSTATE_U64(s, m.acked), \
	VMSTATE_U64(s, m.reply_by_ns), VMSTATE_U64(s, m.drain_by_ns), \
	VMSTATE_U8_VAR(s, m.config, m.config_len), VMSTATE_U16_ARRAY(s, m.queue_flags), \
	VMSTATE_U16_ARRAY(s, m.queue_size), VMSTATE_U16_ARRAY(s, m.queue_base), \
	VMSTATE_U64_ARRAY(s, m.queue_desc), VMSTATE_U64_ARRAY(s, m.queue_avail), \
	VMSTATE_U64_ARRAY(s, m.queue_used), \
	VHOST_USER_CARRIED_FIELDS_(s, m.main_carried), \
	VHOST_USER_CARRIED_FIELDS_(s, m.channel_carried)
/* clang-format on */

struct vhost_front_ops {
	/* A back-end is there: features, queue_num and config may be asked for. */
	void (*ready)(void *opaque);
	/* The back-end has all queues that were started. */
	void (*running)(void *opaque);
	/*
	 * The back-end has finished with the queue, or is gone: it touches guest RAM no more. base
	 * is where to go on from.
	 */
	void (*queue_stopped)(void *opaque, unsigned int queue, uint16_t base);
	/* After vhost_front_stop(), when all queues were told to be stopped. */
	void (*stopped)(void *opaque);
	/* The connection is gone; for sockets that are given: the owner has to give another. */
	void (*lost)(void *opaque);
	/*
	 * The back-end died without an inflight table, and nobody can know which requests of the
	 * queue are done. It is not set up again before vhost_front_stop() or a stop of the queue:
	 * the device needs a reset.
	 */
	void (*requests_lost)(void *opaque, unsigned int queue, const struct error *err);
	/* vhost_front_config() is another now, and check_config has agreed to it. */
	void (*config_changed)(void *opaque);
	/* The back-end cannot be used as it is; the connection is dropped and tried anew. */
	void (*failed)(void *opaque, const struct error *err);
	/*
	 * Whether a running guest can live with now where it was shown old. NULL: if nothing
	 * changed. 0, or -errno with the sentence.
	 */
	int (*check_config)(void *opaque, const uint8_t *old, const uint8_t *now, uint32_t len,
			    struct error *err);
};

struct vhost_front_setup {
	const char *name; /* the device's, for sentences; as all pointers here it has to stay */
	const char *path; /* where to connect to; NULL: sockets are given */
	struct loop *loop;
	const struct memory *mem;
	const struct vhost_front_ops *ops; /* each may be NULL */
	void *opaque;
	uint64_t allowed; /* virtio features that the guest may be shown */
	uint64_t needed;  /* without these the back-end is of no use */
	uint16_t queues;  /* at least as many must be there; 1..VHOST_FRONT_MAX_QUEUES */
	uint16_t max_queue_size;
	/*
	 * Whether the device finishes by itself what it was given, as a disk does; a network card
	 * keeps its buffers until a packet comes. Only then is it waited for.
	 */
	bool finishes;
	uint32_t config_len;   /* bytes of configuration space to ask for; 0: none */
	unsigned int reply_ms; /* for an answer; 0: 10 s */
	unsigned int drain_ms; /* for requests in flight at a stop; 0: 30 s */
};

struct vhost_front {
	struct vhost_front_guest *guest; /* the owner's */
	struct vhost_front_setup setup;
	struct vhost_user_conn conn;
	struct vhost_user_conn channel;
	struct loop_source conn_source;
	struct loop_source channel_source;
	struct loop_timer timer;
	int inflight_fd;
	int kick_fd[VHOST_FRONT_MAX_QUEUES];
	int call_fd[VHOST_FRONT_MAX_QUEUES];
	int err_fd[VHOST_FRONT_MAX_QUEUES];
	bool live;    /* in the loop: between resume and quiesce */
	bool blocked; /* the socket is full */
	uint64_t connected_ns;
	uint64_t retry_ns;
	unsigned int retry_delay_ms;
	uint64_t settle_ns;
	struct error last_error;
};

/*
 * Prepares a front-end for a cold start or for vhost_front_adopt(): nothing is opened, sent or
 * registered yet. guest, all zero or loaded from a stream, has to stay as long as the front-end.
 */
void vhost_front_init(struct vhost_front *f, struct vhost_front_guest *guest,
		      const struct vhost_front_setup *setup);

/* Closes what it has open; tells the back-end nothing. Harmless on one that is all zero. */
void vhost_front_destroy(struct vhost_front *f);

/*
 * Begins, or goes on after vhost_front_quiesce() or vhost_front_adopt(): registers with the loop,
 * connects, sends what is to be sent. Trouble is met like a lost connection.
 */
void vhost_front_resume(struct vhost_front *f);

/*
 * Where sockets are given: a connected stream socket, which is the front-end's from now on, in
 * place of one that it has.
 */
void vhost_front_give_socket(struct vhost_front *f, int fd);

/*
 * Descriptors of a queue, which stay the owner's: eventfds, non-blocking; call and err may be -1.
 * Before vhost_front_start() and again after vhost_front_adopt(). They are passed on when the queue
 * is set up.
 */
void vhost_front_set_fds(struct vhost_front *f, unsigned int queue, int kick, int call, int err);

/*
 * The guest has set its driver up with these features (of vhost_front_features()). Queues are given
 * by vhost_front_start_queue(), before or after. -EBUSY while a stop is not finished; -EALREADY.
 */
int vhost_front_start(struct vhost_front *f, uint64_t features);

/*
 * One queue more. -EINVAL for a queue that cannot be; -EFAULT for rings that are not in guest RAM,
 * or not aligned; -EBUSY while its stop is not finished; -EALREADY.
 */
int vhost_front_start_queue(struct vhost_front *f, unsigned int queue,
			    const struct vhost_front_queue *q);

/*
 * A queue is to be taken back; queue_stopped tells when it is. A back-end that does not give it
 * back within drain_ms loses the connection. -ENOENT for one that was not started.
 */
int vhost_front_stop_queue(struct vhost_front *f, unsigned int queue);

/*
 * All queues are to be taken back; stopped tells when they are, also where there are none. reset:
 * the guest resets the device, so that what was in flight is forgotten; else it goes on with the
 * next start, be that by another back-end. -EALREADY for one that was not started.
 */
int vhost_front_stop(struct vhost_front *f, bool reset);

/*
 * The driver gives a queue up, by a reset of it or after a stop that was no reset: what may still
 * be in flight of it (where the back-end died meanwhile) is not to be done by the next back-end or
 * start. For a queue that is stopped.
 */
void vhost_front_forget_queue(struct vhost_front *f, unsigned int queue);

/* Whether that would change anything; of a front-end that is stopped, on any thread. */
bool vhost_front_has_to_forget(const struct vhost_front *f);

/*
 * For a cold start: serves this front-end alone until it is ready. -ETIMEDOUT with a sentence that
 * names the socket and the way out; -EINTR within a second of a signal that ends molt.
 */
int vhost_front_wait_ready(struct vhost_front *f, unsigned int ms, struct error *err);

/*
 * For a reset of the machine, which does not turn the event loop: after vhost_front_stop(), serves
 * what there is without waiting. at_once: a back-end that has not stopped loses the connection.
 */
void vhost_front_serve_stop(struct vhost_front *f, bool at_once);

enum vhost_front_state vhost_front_state(const struct vhost_front *f);
const char *vhost_front_state_name(enum vhost_front_state state);
/* When it came to be so: CLOCK_MONOTONIC, also of before an update. */
uint64_t vhost_front_since_ns(const struct vhost_front *f);

/* What the guest may be shown, the same over the device's life; 0 before the first ready. */
uint64_t vhost_front_features(const struct vhost_front *f);
uint16_t vhost_front_queue_num(const struct vhost_front *f);

/* config_len bytes; only config_changed changes them. */
const uint8_t *vhost_front_config(const struct vhost_front *f);

/* Whether requests in flight survive the sudden death of the back-end: INFLIGHT_SHMFD is agreed on.
 */
bool vhost_front_keeps_inflight(const struct vhost_front *f);

/*
 * An update. quiesce makes the guest part complete; after it either vhost_front_resume(), in this
 * process or in one that has taken its memory over, or save_fds, which lists the descriptors as
 * ("vhost-socket", id), "vhost-channel", "vhost-inflight" and, of a message that came in part,
 * ("vhost-in", id * 16 + n). Meanwhile the loop is held, or takes no turn: the sockets stay in it,
 * and loop_hold()'s waits() hears of a back-end that is lost or has something to say.
 *
 * adopt: vhost_front_init() was called with the guest part from the stream; takes the descriptors
 * and checks everything. -EINVAL with the sentence where it cannot be; then nothing is taken but
 * what vhost_front_destroy() closes. Until vhost_front_resume() nothing is sent or received.
 */
void vhost_front_quiesce(struct vhost_front *f);
int vhost_front_save_fds(const struct vhost_front *f, uint32_t id, struct fdtable *t,
			 struct error *err);
int vhost_front_adopt(struct vhost_front *f, uint32_t id, struct fdtable *t, struct error *err);

#endif
