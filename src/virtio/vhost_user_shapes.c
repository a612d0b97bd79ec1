/* SPDX-License-Identifier: MIT */
/* Lengths and descriptors of the messages: one table for each thing that can be received. */
#include <errno.h>
#include <stdio.h>

#include <molt/base/fd.h>

#include "vhost_user_shapes.h"

struct shape {
	uint32_t request;
	const char *name;
	uint16_t min; /* bytes of payload */
	uint16_t max;
	uint8_t min_fds;
	uint8_t max_fds;
};

#define SHAPE(r, ...) \
	{ \
		VHOST_USER_##r, #r, __VA_ARGS__ \
	}
#define STATE sizeof(struct vhost_user_vring_state)
#define ADDR sizeof(struct vhost_user_vring_addr)
#define REGION sizeof(struct vhost_user_one_region)
#define CONFIG sizeof(struct vhost_user_config)
#define INFLIGHT VHOST_USER_INFLIGHT_MIN, sizeof(struct vhost_user_inflight)

/* What a back-end gets. */
static const struct shape requests[] = {
	SHAPE(GET_FEATURES, 0, 0, 0, 0),
	SHAPE(SET_FEATURES, 8, 8, 0, 0),
	SHAPE(SET_OWNER, 0, 0, 0, 0),
	SHAPE(RESET_OWNER, 0, 0, 0, 0),
	SHAPE(SET_MEM_TABLE, 8, sizeof(struct vhost_user_memory), 0, VHOST_USER_MAX_REGIONS),
	SHAPE(SET_LOG_BASE, 8, 16, 0, 1),
	SHAPE(SET_LOG_FD, 0, 0, 1, 1),
	SHAPE(SET_VRING_NUM, STATE, STATE, 0, 0),
	SHAPE(SET_VRING_ADDR, ADDR, ADDR, 0, 0),
	SHAPE(SET_VRING_BASE, STATE, STATE, 0, 0),
	SHAPE(GET_VRING_BASE, STATE, STATE, 0, 0),
	SHAPE(SET_VRING_KICK, 8, 8, 0, 1),
	SHAPE(SET_VRING_CALL, 8, 8, 0, 1),
	SHAPE(SET_VRING_ERR, 8, 8, 0, 1),
	SHAPE(GET_PROTOCOL_FEATURES, 0, 0, 0, 0),
	SHAPE(SET_PROTOCOL_FEATURES, 8, 8, 0, 0),
	SHAPE(GET_QUEUE_NUM, 0, 0, 0, 0),
	SHAPE(SET_VRING_ENABLE, STATE, STATE, 0, 0),
	SHAPE(SET_BACKEND_REQ_FD, 0, 8, 1, 1),
	SHAPE(GET_CONFIG, VHOST_USER_CONFIG_HEADER, CONFIG, 0, 0),
	SHAPE(SET_CONFIG, VHOST_USER_CONFIG_HEADER, CONFIG, 0, 0),
	SHAPE(GET_INFLIGHT_FD, INFLIGHT, 0, 0),
	SHAPE(SET_INFLIGHT_FD, INFLIGHT, 1, 1),
	SHAPE(RESET_DEVICE, 0, 0, 0, 0),
	SHAPE(GET_MAX_MEM_SLOTS, 0, 0, 0, 0),
	SHAPE(ADD_MEM_REG, REGION, REGION, 1, 1),
	SHAPE(REM_MEM_REG, REGION, REGION, 0, 1),
	SHAPE(SET_STATUS, 8, 8, 0, 0),
	SHAPE(GET_STATUS, 0, 0, 0, 0),
	{ 0 }
};

/* What a front-end gets; every other request is answered by a number (REPLY_ACK). */
static const struct shape replies[] = {
	SHAPE(GET_FEATURES, 8, 8, 0, 0),
	SHAPE(GET_PROTOCOL_FEATURES, 8, 8, 0, 0),
	SHAPE(GET_QUEUE_NUM, 8, 8, 0, 0),
	SHAPE(GET_VRING_BASE, STATE, STATE, 0, 0),
	SHAPE(GET_CONFIG, 0, CONFIG, 0, 0),
	SHAPE(GET_INFLIGHT_FD, INFLIGHT, 0, 1),
	SHAPE(GET_MAX_MEM_SLOTS, 8, 8, 0, 0),
	SHAPE(GET_STATUS, 8, 8, 0, 0),
	{ 0 }
};

#undef SHAPE
#define SHAPE(r, ...) \
	{ \
		VHOST_USER_BACKEND_##r, #r, __VA_ARGS__ \
	}

/* What a front-end gets on the back-end channel. */
static const struct shape channel[] = { SHAPE(CONFIG_CHANGE_MSG, 0, 0, 0, 0),
					SHAPE(VRING_CALL, STATE, STATE, 0, 0),
					SHAPE(VRING_ERR, STATE, STATE, 0, 0),
					{ 0 } };

static const struct shape unknown_request = { .max = sizeof(union vhost_user_payload),
					      .max_fds = VHOST_USER_MAX_FDS };
static const struct shape ack = { .min = 8, .max = 8 };

static bool gets_replies(enum vhost_user_role role)
{
	return role == VHOST_USER_FRONT_END || role == VHOST_USER_BACK_END_CHANNEL;
}

static const struct shape *find(const struct shape *table, uint32_t request)
{
	for (; table->request; table++)
		if (table->request == request)
			return table;
	return NULL;
}

static const struct shape *shape_of(enum vhost_user_role role, uint32_t request)
{
	const struct shape *s = NULL;

	if (role == VHOST_USER_FRONT_END)
		s = find(replies, request);
	else if (role == VHOST_USER_BACK_END)
		s = find(requests, request);
	else if (role == VHOST_USER_FRONT_END_CHANNEL)
		s = find(channel, request);
	if (s)
		return s;
	return gets_replies(role) ? &ack : &unknown_request;
}

const char *vhost_user_request_name(enum vhost_user_role role, uint32_t request, char buf[24])
{
	bool on_channel = role == VHOST_USER_FRONT_END_CHANNEL ||
			  role == VHOST_USER_BACK_END_CHANNEL;
	const struct shape *s = find(on_channel ? channel : requests, request);

	if (s)
		return s->name;
	snprintf(buf, 24, "request %u", request);
	return buf;
}

int vhost_user_check_header(enum vhost_user_role role, const struct vhost_user_header *hdr,
			    struct error *err)
{
	const struct shape *s = shape_of(role, hdr->request);
	bool reply = hdr->flags & VHOST_USER_FLAG_REPLY;
	char buf[24];
	const char *name = vhost_user_request_name(role, hdr->request, buf);

	if ((hdr->flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION)
		return err_set(err, EPROTO, "%s: version %u of the protocol", name,
			       hdr->flags & VHOST_USER_VERSION_MASK);
	if (reply != gets_replies(role))
		return err_set(err, EPROTO, "%s: %s where a %s belongs", name,
			       reply ? "a reply" : "a request", reply ? "request" : "reply");
	if (hdr->size < s->min || hdr->size > s->max)
		return err_set(err, EPROTO, "%s: a payload of %u bytes (%u to %u are right)", name,
			       hdr->size, s->min, s->max);
	return 1;
}

static bool counts_fit(const struct vhost_user_message *msg)
{
	const struct vhost_user_config *config = &msg->payload.config;
	const struct vhost_user_memory *memory = &msg->payload.memory;

	switch (msg->hdr.request) {
	case VHOST_USER_SET_MEM_TABLE:
		return memory->count <= VHOST_USER_MAX_REGIONS && memory->count == msg->nfds &&
		       msg->hdr.size == 8 + memory->count * sizeof(memory->regions[0]);
	case VHOST_USER_GET_CONFIG:
	case VHOST_USER_SET_CONFIG:
		/* A back-end refuses GET_CONFIG by a reply without data. */
		if (msg->hdr.flags & VHOST_USER_FLAG_REPLY &&
		    msg->hdr.size <= VHOST_USER_CONFIG_HEADER)
			return true;
		return config->size <= VHOST_USER_MAX_CONFIG &&
		       config->offset <= VHOST_USER_MAX_CONFIG - config->size &&
		       msg->hdr.size == VHOST_USER_CONFIG_HEADER + config->size;
	default:
		return true;
	}
}

int vhost_user_check_message(enum vhost_user_role role, struct vhost_user_message *msg,
			     struct error *err)
{
	const struct shape *s = shape_of(role, msg->hdr.request);
	bool main_socket = role == VHOST_USER_FRONT_END || role == VHOST_USER_BACK_END;
	char buf[24];
	const char *name = vhost_user_request_name(role, msg->hdr.request, buf);

	if (msg->nfds < s->min_fds || msg->nfds > s->max_fds)
		return err_set(err, EPROTO, "%s: %u descriptors (%u to %u are right)", name,
			       msg->nfds, s->min_fds, s->max_fds);
	/* SET_CONFIG and SET_MEM_TABLE are answered by a number. */
	if (main_socket && s != &ack && !counts_fit(msg))
		return err_set(err, EPROTO,
			       "%s: the counts in it do not fit its %u bytes and %u "
			       "descriptors",
			       name, msg->hdr.size, msg->nfds);
	if (s == &unknown_request)
		vhost_user_close_fds(msg);
	return 1;
}
