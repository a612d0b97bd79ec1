/* SPDX-License-Identifier: MIT */
/* What the files of the vhost-user front-end say to each other; vhost_front.c explains it. */
#ifndef MOLT_SRC_VIRTIO_VHOST_FRONT_IMPL_H
#define MOLT_SRC_VIRTIO_VHOST_FRONT_IMPL_H

#include <molt/virtio/vhost_front.h>

/* In queue_flags. These, and the numbers of the steps below, are in the state stream. */
#define QUEUE_WANTED 1u      /* by the owner */
#define QUEUE_LIVE 2u        /* the back-end has it */
#define QUEUE_ASKED 4u       /* and was asked to give it back */
#define QUEUE_GIVEN 8u       /* and has; queue_base is its answer */
#define QUEUE_TELL 16u       /* the owner waits for queue_stopped */
#define QUEUE_ENABLED 32u    /* as the owner said */
#define QUEUE_KICK 64u       /* set up anew: to be kicked once all is set up */
#define QUEUE_DEAD 128u      /* given up with requests in flight: they are not to be resubmitted */
#define QUEUE_LOST 256u      /* nobody knows what was in flight: it is not set up again */
#define QUEUE_TELL_LOST 512u /* and the owner is to be told */
#define QUEUE_UNJUDGED 1024u /* it was the back-end's when that was lost, which has no table */
#define QUEUE_CALL 2048u     /* the same, which may not have told of what it had finished */
/* What the last back-end has left; until a reset. */
#define QUEUE_HISTORY (QUEUE_UNJUDGED | QUEUE_CALL)

#define BIT64(n) (1ull << (n))
#define INFLIGHT_MAX (64ull << 20) /* bytes of an inflight table */

/*
 * The steps that a connection goes through, in this order. At two of them it stays until the owner
 * wants something. A release that puts one in between has to translate its predecessor's.
 */
enum vhost_front_step {
	STEP_GET_FEATURES,
	STEP_GET_PROTOCOL_FEATURES,
	STEP_SET_PROTOCOL_FEATURES,
	STEP_GET_QUEUE_NUM,
	STEP_SET_BACKEND_REQ_FD,
	STEP_SET_OWNER,
	STEP_GET_CONFIG,
	STEP_READY, /* until vhost_front_start() */
	STEP_SET_FEATURES,
	STEP_SET_MEM_TABLE,
	STEP_GET_INFLIGHT_FD,
	STEP_SET_INFLIGHT_FD,
	STEP_SESSION, /* until vhost_front_stop() */
	STEP_RESET_DEVICE,
	STEPS,
};

/* vhost_front_script.c: the steps. 1: done or skipped, 0: wait, -errno with the sentence. */
int vhost_front_step(struct vhost_front *f, struct error *err);
int vhost_front_reread_config(struct vhost_front *f, struct error *err);
int vhost_front_barrier(struct vhost_front *f, struct error *err);
/* An answer; 0 or -errno. */
int vhost_front_reply(struct vhost_front *f, struct vhost_user_message *msg, struct error *err);

/* Sends; 1, 0 where the socket is full, -errno. ack: an answer shall be waited for, if agreed on. */
int vhost_front_send(struct vhost_front *f, struct vhost_user_message *msg, bool ack,
		     struct error *err);
bool vhost_front_has(const struct vhost_front *f, unsigned int protocol_feature);

/* vhost_front_replies.c: what the answers to the steps mean. 0 or -errno. */
int vhost_front_got_features(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err);
int vhost_front_got_protocol(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err);
int vhost_front_got_queue_num(struct vhost_front *f, struct vhost_user_message *msg,
			      struct error *err);
int vhost_front_got_config(struct vhost_front *f, struct vhost_user_message *msg,
			   struct error *err);
int vhost_front_got_inflight(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err);
int vhost_front_got_confirmation(struct vhost_front *f, struct vhost_user_message *msg,
				 struct error *err);
bool vhost_front_can_ack(const struct vhost_front *f, struct error *err);

/* queue_step: what is sent next for the queue that is being set up. */
enum {
	QSTEP_NUM,
	QSTEP_BASE,
	QSTEP_ADDR,
	QSTEP_ERR,
	QSTEP_CALL,
	QSTEP_KICK,
	QSTEP_ENABLE,
	QSTEPS,
};

/* vhost_front_queue.c. 1: something was done, 0: nothing to do or wait, -errno. */
int vhost_front_set_up_queues(struct vhost_front *f, struct error *err);
bool vhost_front_queues_with(const struct vhost_front *f, unsigned int flags);
/* Confirmed to be set up: kick each, so that nothing waits for ever. */
void vhost_front_kick_queues(struct vhost_front *f);

/* vhost_front_drain.c. As above. */
int vhost_front_take_queues_back(struct vhost_front *f, struct error *err);
int vhost_front_queue_given(struct vhost_front *f, const struct vhost_user_message *msg,
			    struct error *err);
/* Whether a queue is to be taken back. */
bool vhost_front_draining(const struct vhost_front *f);
/* The owner is told of queues that are stopped, or lost. */
bool vhost_front_tell_queues(struct vhost_front *f);
/* The used ring's index; false where it is not in guest RAM. */
bool vhost_front_used_index(const struct vhost_front *f, unsigned int queue, uint16_t *index);

/* vhost_front_lost.c: the connection is gone. */
void vhost_front_lose_queues(struct vhost_front *f);
void vhost_front_tell_lost(struct vhost_front *f, unsigned int queue);
/*
 * Where a queue goes on that a back-end without a table had; false: it cannot. Before the next one
 * gets it, and no earlier.
 */
bool vhost_front_judge_queue(struct vhost_front *f, unsigned int queue);
/*
 * A back-end that takes no table goes on from the used rings' indices: -ENOTSUP where the table of
 * who was before it says more than these. Else there is no table any more: nobody keeps it up.
 */
int vhost_front_check_table(struct vhost_front *f, struct error *err);
/* Makes zero what the inflight table has of queues that were given up. */
void vhost_front_clear_dead(struct vhost_front *f);

/*
 * vhost_front_order.c: whether a back-end that has died without an inflight table has finished
 * requests in their order, so that the next can go on from the used ring's index. flying: how many
 * were in flight.
 */
bool vhost_front_in_order(const struct vhost_front *f, unsigned int queue, unsigned int *flying);

/* vhost_front_channel.c */
int vhost_front_open_channel(struct vhost_front *f, int *theirs, struct error *err);
void vhost_front_watch_channel(struct vhost_front *f);
void vhost_front_on_channel(void *opaque, uint32_t events);

/* vhost_front_connect.c */
void vhost_front_connect(struct vhost_front *f);
void vhost_front_watch(struct vhost_front *f);
void vhost_front_on_conn(void *opaque, uint32_t events);
/* Drops the connection, to be tried again. err NULL: it ended, which is no fault. */
void vhost_front_drop(struct vhost_front *f, const struct error *err);
void vhost_front_forget_inflight(struct vhost_front *f);

/* vhost_front.c: does all that can be done now. */
void vhost_front_pump(struct vhost_front *f);
void vhost_front_soon(struct vhost_front *f);
void vhost_front_on_timer(void *opaque);

#endif
