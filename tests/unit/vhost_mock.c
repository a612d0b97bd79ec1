/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "vhost_mock.h"
#include "vhost_user_bench.h"

const char *const mock_fault_names[FAULTS] = {
	"silent", "close", "half",    "half-silent", "short", "long", "surplus-fds", "one-fd",
	"other",  "twice", "version", "request",     "zero",  "ones", "flood",
};

void mock_init(struct mock *m, int *theirs)
{
	int fds[2];

	memset(m, 0, sizeof(*m));
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	vhost_user_conn_init(&m->conn, VHOST_USER_BACK_END, fds[0]);
	*theirs = fds[1];
	m->channel = -1;
	m->features = UINT64_MAX;
	m->protocol = UINT64_MAX;
	m->queues = 64;
	m->fault_at = -1;
	m->inflight = fd_memfd("inflight", 0);
	assert_int_equal(ftruncate(m->inflight, 8192), 0);
	m->inflight_size = 8192;
}

void mock_fini(struct mock *m)
{
	vhost_user_conn_close(&m->conn);
	fd_close(&m->channel);
	fd_close(&m->inflight);
}

static struct vhost_user_message config_reply(struct mock *m, const struct vhost_user_message *to)
{
	struct vhost_user_message r = *to;

	r.hdr.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
	memcpy(r.payload.config.data, m->config + r.payload.config.offset, r.payload.config.size);
	return r;
}

static struct vhost_user_message inflight_reply(struct mock *m, const struct vhost_user_message *to)
{
	struct vhost_user_message r = *to;

	r.hdr.flags = VHOST_USER_VERSION | VHOST_USER_FLAG_REPLY;
	r.payload.inflight.mmap_size = m->inflight_size;
	r.nfds = 1;
	r.fds[0] = m->inflight;
	return r;
}

/* The right answer; false where none is due. */
static bool answer(struct mock *m, struct vhost_user_message *msg, struct vhost_user_message *r)
{
	switch (msg->hdr.request) {
	case VHOST_USER_GET_FEATURES:
		*r = vhost_user_reply_u64(msg, m->features);
		return true;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		*r = vhost_user_reply_u64(msg, m->protocol);
		return true;
	case VHOST_USER_GET_QUEUE_NUM:
		*r = vhost_user_reply_u64(msg, m->queues);
		return true;
	case VHOST_USER_GET_CONFIG:
		*r = config_reply(m, msg);
		return true;
	case VHOST_USER_GET_INFLIGHT_FD:
		*r = inflight_reply(m, msg);
		return true;
	case VHOST_USER_GET_VRING_BASE:
		*r = vhost_user_reply_u64(msg, 0);
		r->payload.state.index = msg->payload.state.index;
		r->payload.state.num = m->base[msg->payload.state.index % 64];
		return true;
	default:
		*r = vhost_user_reply_u64(msg, 0);
		return msg->hdr.flags & VHOST_USER_FLAG_NEED_REPLY;
	}
}

static void note(struct mock *m, struct vhost_user_message *msg)
{
	assert_true(m->count < MOCK_SEEN);
	m->seen[m->count] = msg->hdr.request;
	m->seen_index[m->count] = msg->payload.state.index;
	m->count++;
	if (msg->hdr.request == VHOST_USER_SET_PROTOCOL_FEATURES)
		m->agreed = msg->payload.u64;
	if (msg->hdr.request == VHOST_USER_SET_MEM_TABLE)
		m->memory = msg->payload.memory;
	if (msg->hdr.request == VHOST_USER_SET_VRING_BASE)
		m->base[msg->payload.state.index % 64] = (uint16_t)msg->payload.state.num;
	if (msg->hdr.request != VHOST_USER_SET_BACKEND_REQ_FD)
		return;
	fd_close(&m->channel);
	m->channel = msg->fds[0];
	msg->nfds = 0;
}

static void send_raw(struct mock *m, const struct vhost_user_message *r, size_t len, int nfds)
{
	struct wire w = { .hdr = r->hdr };
	int fds[9];

	memcpy(&w.payload, &r->payload, sizeof(w.payload));
	for (int i = 0; i < nfds; i++)
		fds[i] = m->inflight;
	send_wire(m->conn.fd, &w, len, fds, (size_t)nfds);
}

static void flood(struct mock *m, const struct vhost_user_message *r)
{
	while (vhost_user_try_send(&m->conn, r) == 0)
		;
	m->silent = true;
}

static void misbehave(struct mock *m, struct vhost_user_message *r)
{
	uint32_t whole = 12 + r->hdr.size;
	int nfds = (int)r->nfds;

	switch (m->fault) {
	case FAULT_SILENT:
		m->silent = true;
		return;
	case FAULT_CLOSE:
		fd_close(&m->conn.fd);
		return;
	case FAULT_HALF:
		send_raw(m, r, 15, nfds);
		fd_close(&m->conn.fd);
		return;
	case FAULT_HALF_SILENT:
		send_raw(m, r, 15, nfds);
		m->silent = true;
		return;
	case FAULT_SHORT:
		r->hdr.size -= 4;
		send_raw(m, r, whole - 4, nfds);
		return;
	case FAULT_LONG:
		r->hdr.size = 4096;
		send_raw(m, r, whole, nfds);
		return;
	case FAULT_SURPLUS_FDS:
		send_raw(m, r, whole, 9);
		return;
	case FAULT_ONE_FD:
		send_raw(m, r, whole, 1);
		return;
	case FAULT_OTHER:
		r->hdr.request = VHOST_USER_GET_MAX_MEM_SLOTS;
		r->hdr.size = 8;
		send_raw(m, r, 20, 0);
		return;
	case FAULT_TWICE:
		send_raw(m, r, whole, nfds);
		send_raw(m, r, whole, nfds);
		return;
	case FAULT_VERSION:
		r->hdr.flags ^= 3;
		send_raw(m, r, whole, nfds);
		return;
	case FAULT_REQUEST:
		r->hdr.flags &= ~VHOST_USER_FLAG_REPLY;
		send_raw(m, r, whole, nfds);
		return;
	case FAULT_ZERO:
		memset(&r->payload, 0, sizeof(r->payload));
		send_raw(m, r, whole, nfds);
		return;
	case FAULT_ONES:
		memset(&r->payload, 0xff, sizeof(r->payload));
		send_raw(m, r, whole, nfds);
		return;
	default:
		flood(m, r);
		return;
	}
}

static bool slowly(struct mock *m)
{
	struct wire w = { .hdr = m->slow_answer.hdr };
	bool first = m->slow_sent == 0;

	if (m->slow_sent == m->slow_whole)
		return false;
	memcpy(&w.payload, &m->slow_answer.payload, sizeof(w.payload));
	send_wire_from(m->conn.fd, &w, m->slow_sent++, 1, m->slow_answer.fds,
		       first ? m->slow_answer.nfds : 0);
	return true;
}

static void send_answer(struct mock *m, const struct vhost_user_message *r)
{
	if (!m->slow) {
		m->closed = vhost_user_send(&m->conn, r) < 0;
		return;
	}
	m->slow_answer = *r;
	m->slow_sent = 0;
	m->slow_whole = 12 + r->hdr.size;
}

bool mock_serve(struct mock *m)
{
	struct vhost_user_message msg, r;
	struct error err = ERROR_INIT;
	bool wanted;
	int got;

	if (m->conn.fd < 0 || m->silent || m->closed || slowly(m))
		return false;
	got = vhost_user_receive(&m->conn, &msg, &err);
	if (got == 0)
		return false;
	m->closed = got < 0;
	if (got < 0)
		return false;
	wanted = answer(m, &msg, &r);
	note(m, &msg);
	if ((int)m->count - 1 == m->fault_at)
		misbehave(m, &r);
	else if (wanted)
		send_answer(m, &r);
	vhost_user_close_fds(&msg);
	return true;
}

void mock_config_change(struct mock *m, bool need_reply)
{
	struct wire w = wire(VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
			     VHOST_USER_VERSION | (need_reply ? VHOST_USER_FLAG_NEED_REPLY : 0), 0);

	send_wire(m->channel, &w, 12, NULL, 0);
}
