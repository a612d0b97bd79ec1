/* SPDX-License-Identifier: MIT */
/*
 * What is said to a back-end, in this order: a table of the steps of a connection. A step that a
 * back-end does not know how to take is left out.
 *
 * Protocol features that are not asked for, and why: CONFIGURE_MEM_SLOTS, for guest RAM has at most
 * two regions and they never change; STATUS, for what it says follows from the queues; logging,
 * page faults and what belongs to migration.
 */
#include <errno.h>

#include <molt/base/fd.h>

#include "vhost_front_impl.h"

#define WANTED \
	(BIT64(VHOST_USER_PROTOCOL_F_MQ) | BIT64(VHOST_USER_PROTOCOL_F_REPLY_ACK) | \
	 BIT64(VHOST_USER_PROTOCOL_F_BACKEND_REQ) | BIT64(VHOST_USER_PROTOCOL_F_CONFIG) | \
	 BIT64(VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD) | BIT64(VHOST_USER_PROTOCOL_F_RESET_DEVICE))
#define ALWAYS (-1) /* in place of a protocol feature */
#define ANY_PROTOCOL (-2)
#define NS_PER_MS 1000000ull

struct step {
	uint32_t request;
	int needs;
	bool answered; /* by the request's own reply */
	bool ack;      /* by REPLY_ACK, where there is that */
	bool closes;   /* its descriptors are closed when it is sent, or cannot be */
	/* Fills the payload. 1, 0: leave the step out, -errno. */
	int (*make)(struct vhost_front *f, struct vhost_user_message *msg, struct error *err);
	int (*got)(struct vhost_front *f, struct vhost_user_message *msg, struct error *err);
};

bool vhost_front_has(const struct vhost_front *f, unsigned int protocol_feature)
{
	return f->guest->protocol & BIT64(protocol_feature);
}

static int make_protocol_features(struct vhost_front *f, struct vhost_user_message *msg,
				  struct error *err)
{
	struct vhost_front_guest *g = f->guest;

	g->protocol &= WANTED;
	if (!vhost_front_has(f, VHOST_USER_PROTOCOL_F_CONFIG) && f->setup.config_len)
		return err_set(err, ENOTSUP,
			       "it has no configuration space to offer (protocol "
			       "feature CONFIG)");
	*msg = vhost_user_request_u64(msg->hdr.request, g->protocol);
	return 1;
}

static int make_channel(struct vhost_front *f, struct vhost_user_message *msg, struct error *err)
{
	int r = vhost_front_open_channel(f, &msg->fds[0], err);

	msg->nfds = r == 0;
	return r < 0 ? r : 1;
}

static int make_owner(struct vhost_front *f, struct vhost_user_message *msg, struct error *err)
{
	(void)msg;
	if (f->setup.queues > 1 && !vhost_front_has(f, VHOST_USER_PROTOCOL_F_MQ))
		return err_set(err, ENOTSUP,
			       "it has 1 queue (no protocol feature MQ), and %u are needed",
			       f->setup.queues);
	return 1;
}

static int make_config(struct vhost_front *f, struct vhost_user_message *msg, struct error *err)
{
	(void)err;
	if (!f->setup.config_len)
		return 0;
	msg->payload.config.size = f->setup.config_len;
	msg->hdr.size = VHOST_USER_CONFIG_HEADER + f->setup.config_len;
	return 1;
}

static int make_features(struct vhost_front *f, struct vhost_user_message *msg, struct error *err)
{
	struct vhost_front_guest *g = f->guest;

	if (!vhost_front_can_ack(f, err) || vhost_front_check_table(f, err) < 0)
		return -ENOTSUP;
	*msg = vhost_user_request_u64(msg->hdr.request,
				      g->acked |
					      (g->offered & BIT64(VHOST_USER_F_PROTOCOL_FEATURES)));
	return 1;
}

static int make_mem_table(struct vhost_front *f, struct vhost_user_message *msg, struct error *err)
{
	const struct memory *mem = f->setup.mem;
	struct vhost_user_memory *m = &msg->payload.memory;

	(void)err;
	for (unsigned int i = 0; i < mem->count; i++) {
		const struct memory_region *r = &mem->regions[i];

		m->regions[i] = (struct vhost_user_region){ .guest_addr = r->gpa,
							    .size = r->size,
							    .user_addr = r->gpa };
		msg->fds[i] = r->fd;
	}
	m->count = mem->count;
	msg->nfds = mem->count;
	msg->hdr.size = (uint32_t)(8 + mem->count * sizeof(m->regions[0]));
	return 1;
}

static void fill_inflight(const struct vhost_front *f, struct vhost_user_message *msg)
{
	const struct vhost_front_guest *g = f->guest;

	msg->payload.inflight = (struct vhost_user_inflight){
		.mmap_size = g->inflight_size,
		.mmap_offset = g->inflight_offset,
		.num_queues = g->inflight_queues,
		.queue_size = g->inflight_queue_size,
	};
	msg->hdr.size = sizeof(msg->payload.inflight);
}

static int make_get_inflight(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err)
{
	struct vhost_front_guest *g = f->guest;

	(void)err;
	if (g->has_inflight)
		return 0;
	g->inflight_size = 0;
	g->inflight_offset = 0;
	g->inflight_queues = f->setup.queues;
	g->inflight_queue_size = f->setup.max_queue_size;
	fill_inflight(f, msg);
	return 1;
}

static int make_set_inflight(struct vhost_front *f, struct vhost_user_message *msg,
			     struct error *err)
{
	(void)err;
	vhost_front_clear_dead(f);
	fill_inflight(f, msg);
	msg->fds[0] = f->inflight_fd;
	msg->nfds = 1;
	return 1;
}

/* clang-format off */
#define STEP(name, ...) [STEP_##name] = { .request = VHOST_USER_##name, __VA_ARGS__ }
#define NEEDS(feature) .needs = VHOST_USER_PROTOCOL_F_##feature

static const struct step steps[STEPS] = {
	STEP(GET_FEATURES, .needs = ALWAYS, .answered = true, .got = vhost_front_got_features),
	STEP(GET_PROTOCOL_FEATURES, .needs = ANY_PROTOCOL, .answered = true,
	     .got = vhost_front_got_protocol),
	STEP(SET_PROTOCOL_FEATURES, .needs = ANY_PROTOCOL, .make = make_protocol_features),
	STEP(GET_QUEUE_NUM, NEEDS(MQ), .answered = true, .got = vhost_front_got_queue_num),
	STEP(SET_BACKEND_REQ_FD, NEEDS(BACKEND_REQ), .ack = true, .make = make_channel,
	     .closes = true),
	STEP(SET_OWNER, .needs = ALWAYS, .make = make_owner),
	STEP(GET_CONFIG, .needs = ALWAYS, .answered = true, .make = make_config,
	     .got = vhost_front_got_config),
	STEP(SET_FEATURES, .needs = ALWAYS, .ack = true, .make = make_features),
	STEP(SET_MEM_TABLE, .needs = ALWAYS, .ack = true, .make = make_mem_table),
	STEP(GET_INFLIGHT_FD, NEEDS(INFLIGHT_SHMFD), .answered = true, .make = make_get_inflight,
	     .got = vhost_front_got_inflight),
	STEP(SET_INFLIGHT_FD, NEEDS(INFLIGHT_SHMFD), .ack = true, .make = make_set_inflight),
	STEP(RESET_DEVICE, NEEDS(RESET_DEVICE), .ack = true),
};
/* clang-format on */

static bool applies(const struct vhost_front *f, const struct step *s)
{
	if (s->needs == ANY_PROTOCOL)
		return f->guest->offered & BIT64(VHOST_USER_F_PROTOCOL_FEATURES);
	return s->needs == ALWAYS || vhost_front_has(f, (unsigned int)s->needs);
}

static void await(struct vhost_front *f, uint32_t request)
{
	f->guest->awaiting = request;
	f->guest->reply_by_ns = now_ns() + f->setup.reply_ms * NS_PER_MS;
}

int vhost_front_send(struct vhost_front *f, struct vhost_user_message *msg, bool ack,
		     struct error *err)
{
	bool wait = ack && vhost_front_has(f, VHOST_USER_PROTOCOL_F_REPLY_ACK);
	char buf[24];
	int r;

	if (wait)
		msg->hdr.flags |= VHOST_USER_FLAG_NEED_REPLY;
	r = vhost_user_try_send(&f->conn, msg);
	f->blocked = r == -EAGAIN;
	if (f->blocked)
		return 0;
	if (r < 0)
		return err_sys(err, -r, "sending %s",
			       vhost_user_request_name(VHOST_USER_FRONT_END, msg->hdr.request, buf));
	if (wait)
		await(f, msg->hdr.request);
	return 1;
}

/* RESET_DEVICE is the last, and ends where the owner may start anew. */
static int step_done(struct vhost_front *f)
{
	struct vhost_front_guest *g = f->guest;

	g->step++;
	if (g->step == STEPS)
		g->step = STEP_READY;
	else if (g->step == STEP_SESSION)
		g->unconfirmed = true;
	return 1;
}

static int take(struct vhost_front *f, const struct step *s, struct error *err)
{
	struct vhost_user_message msg = vhost_user_request(s->request);
	int r = s->make ? s->make(f, &msg, err) : 1;

	if (r <= 0)
		return r < 0 ? r : 2;
	r = vhost_front_send(f, &msg, s->ack, err);
	if (s->closes)
		vhost_user_close_fds(&msg);
	if (r > 0 && s->answered)
		await(f, s->request);
	return r;
}

int vhost_front_step(struct vhost_front *f, struct error *err)
{
	const struct step *s = &steps[f->guest->step];
	int r = applies(f, s) ? take(f, s, err) : 2;

	return r > 0 ? step_done(f) : r;
}

int vhost_front_reread_config(struct vhost_front *f, struct error *err)
{
	int r = take(f, &steps[STEP_GET_CONFIG], err);

	if (r > 0)
		f->guest->config_dirty = false;
	return r > 0 ? 1 : r;
}

/* Every back-end answers this, after all that was sent before. */
int vhost_front_barrier(struct vhost_front *f, struct error *err)
{
	return take(f, &steps[STEP_GET_FEATURES], err);
}

int vhost_front_reply(struct vhost_front *f, struct vhost_user_message *msg, struct error *err)
{
	struct vhost_front_guest *g = f->guest;
	uint32_t request = msg->hdr.request;
	char buf[24];
	const char *name = vhost_user_request_name(VHOST_USER_FRONT_END, request, buf);

	if (request == VHOST_USER_GET_VRING_BASE)
		return vhost_front_queue_given(f, msg, err);
	if (!g->awaiting || g->awaiting != request)
		return err_set(err, EPROTO, "an answer to %s, which was not asked", name);
	g->awaiting = 0;
	g->reply_by_ns = 0;
	for (unsigned int i = 0; i < STEPS; i++)
		if (steps[i].request == request && steps[i].answered)
			return steps[i].got(f, msg, err);
	if (msg->payload.u64)
		return err_set(err, EPROTO, "it refuses %s", name);
	return 0;
}
