/* SPDX-License-Identifier: MIT */
/*
 * vhost-user: what both sides of the protocol share. Constants and structs as on the wire (the
 * specification is QEMU's docs/interop/vhost-user.rst, cited by its headings), and a connection,
 * which receives and sends whole messages with their descriptors and never blocks.
 *
 * Two sockets belong to a device. On the first the front-end (the VMM) asks and the back-end
 * answers; on the second, the back-end channel, it is the other way round.
 */
#ifndef MOLT_VIRTIO_VHOST_USER_H
#define MOLT_VIRTIO_VHOST_USER_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>

/* "Front-end message types" */
enum vhost_user_request {
	VHOST_USER_GET_FEATURES = 1,
	VHOST_USER_SET_FEATURES = 2,
	VHOST_USER_SET_OWNER = 3,
	VHOST_USER_RESET_OWNER = 4,
	VHOST_USER_SET_MEM_TABLE = 5,
	VHOST_USER_SET_LOG_BASE = 6,
	VHOST_USER_SET_LOG_FD = 7,
	VHOST_USER_SET_VRING_NUM = 8,
	VHOST_USER_SET_VRING_ADDR = 9,
	VHOST_USER_SET_VRING_BASE = 10,
	VHOST_USER_GET_VRING_BASE = 11,
	VHOST_USER_SET_VRING_KICK = 12,
	VHOST_USER_SET_VRING_CALL = 13,
	VHOST_USER_SET_VRING_ERR = 14,
	VHOST_USER_GET_PROTOCOL_FEATURES = 15,
	VHOST_USER_SET_PROTOCOL_FEATURES = 16,
	VHOST_USER_GET_QUEUE_NUM = 17,
	VHOST_USER_SET_VRING_ENABLE = 18,
	VHOST_USER_SET_BACKEND_REQ_FD = 21,
	VHOST_USER_GET_CONFIG = 24,
	VHOST_USER_SET_CONFIG = 25,
	VHOST_USER_GET_INFLIGHT_FD = 31,
	VHOST_USER_SET_INFLIGHT_FD = 32,
	VHOST_USER_RESET_DEVICE = 34,
	VHOST_USER_GET_MAX_MEM_SLOTS = 36,
	VHOST_USER_ADD_MEM_REG = 37,
	VHOST_USER_REM_MEM_REG = 38,
	VHOST_USER_SET_STATUS = 39,
	VHOST_USER_GET_STATUS = 40,
};

/* "Back-end message types", on the back-end channel */
enum vhost_user_backend_request {
	VHOST_USER_BACKEND_CONFIG_CHANGE_MSG = 2,
	VHOST_USER_BACKEND_VRING_CALL = 4,
	VHOST_USER_BACKEND_VRING_ERR = 5,
};

/* "Protocol features": numbers of bits */
enum vhost_user_protocol_feature {
	VHOST_USER_PROTOCOL_F_MQ = 0,
	VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
	VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
	VHOST_USER_PROTOCOL_F_CONFIG = 9,
	VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = 10,
	VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
	VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
	VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
	VHOST_USER_PROTOCOL_F_STATUS = 16,
};

/* Among the virtio features: that there are protocol features. Never shown to a guest. */
#define VHOST_USER_F_PROTOCOL_FEATURES 30

#define VHOST_USER_VERSION 1u
#define VHOST_USER_VERSION_MASK 3u
#define VHOST_USER_FLAG_REPLY 4u
#define VHOST_USER_FLAG_NEED_REPLY 8u

#define VHOST_USER_MAX_FDS 8
#define VHOST_USER_MAX_REGIONS 8
#define VHOST_USER_MAX_CONFIG 256

/* In the value of SET_VRING_KICK, _CALL and _ERR */
#define VHOST_USER_VRING_INDEX_MASK 0xffu
#define VHOST_USER_VRING_NO_FD 0x100u

/* "Header" */
struct vhost_user_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of the payload */
};

/* "A vring state description" */
struct vhost_user_vring_state {
	uint32_t index;
	uint32_t num;
};

/* "A vring address description"; the addresses are user addresses, see below */
struct vhost_user_vring_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc;
	uint64_t used;
	uint64_t avail;
	uint64_t log;
};

/*
 * "Memory region description". A user address is a key into this table and nothing else: molt
 * takes the guest physical address for it.
 */
struct vhost_user_region {
	uint64_t guest_addr;
	uint64_t size;
	uint64_t user_addr;
	uint64_t mmap_offset;
};

/* "Multiple memory regions description"; one descriptor for each region */
struct vhost_user_memory {
	uint32_t count;
	uint32_t padding;
	struct vhost_user_region regions[VHOST_USER_MAX_REGIONS];
};

/* "Single memory region description" */
struct vhost_user_one_region {
	uint64_t padding;
	struct vhost_user_region region;
};

/* "Virtio device config space"; data is as long as size says */
struct vhost_user_config {
	uint32_t offset;
	uint32_t size;
	uint32_t flags;
	uint8_t data[VHOST_USER_MAX_CONFIG];
};
#define VHOST_USER_CONFIG_HEADER 12u

/*
 * "Inflight description". The specification's struct ends after 20 bytes; everybody sends the four
 * that a compiler adds, and some insist on them. Both are taken.
 */
struct vhost_user_inflight {
	uint64_t mmap_size;
	uint64_t mmap_offset;
	uint16_t num_queues;
	uint16_t queue_size;
	uint32_t padding;
};
#define VHOST_USER_INFLIGHT_MIN 20u

union vhost_user_payload {
	uint64_t u64;
	struct vhost_user_vring_state state;
	struct vhost_user_vring_addr addr;
	struct vhost_user_memory memory;
	struct vhost_user_one_region region;
	struct vhost_user_config config;
	struct vhost_user_inflight inflight;
	uint8_t bytes[280];
};

static_assert(sizeof(struct vhost_user_header) == 12, "as on the wire");
static_assert(sizeof(struct vhost_user_vring_addr) == 40, "as on the wire");
static_assert(sizeof(struct vhost_user_region) == 32, "as on the wire");
static_assert(sizeof(struct vhost_user_memory) == 264, "as on the wire");
static_assert(sizeof(struct vhost_user_one_region) == 40, "as on the wire");
static_assert(sizeof(struct vhost_user_config) == 268, "as on the wire");
static_assert(sizeof(struct vhost_user_inflight) == 24, "as on the wire");
static_assert(sizeof(union vhost_user_payload) == 280, "the longest message");

struct vhost_user_message {
	struct vhost_user_header hdr;
	union vhost_user_payload payload;
	uint32_t nfds;
	int fds[VHOST_USER_MAX_FDS];
};

/* Which side of which socket this is: that decides what may come in. */
enum vhost_user_role {
	VHOST_USER_FRONT_END,         /* gets replies */
	VHOST_USER_BACK_END,          /* gets requests */
	VHOST_USER_FRONT_END_CHANNEL, /* the front-end on the back-end channel: gets requests */
	VHOST_USER_BACK_END_CHANNEL,  /* the back-end on it: gets replies */
};

#define VHOST_USER_QUEUE 8 /* messages that wait for a full socket */

struct vhost_user_conn {
	int fd; /* -1 while there is none */
	enum vhost_user_role role;
	struct vhost_user_message in; /* of which in_len bytes have come, as on the wire */
	uint32_t in_len;
	struct vhost_user_message out[VHOST_USER_QUEUE]; /* a ring */
	uint32_t out_first;
	uint32_t out_count;
	uint32_t out_sent; /* bytes of the first that are sent */
};

/* fd: a connected stream socket, made non-blocking; it is the connection's from now on. */
void vhost_user_conn_init(struct vhost_user_conn *c, enum vhost_user_role role, int fd);

/* Closes the socket and every descriptor that came or waits. Harmless on one that is closed. */
void vhost_user_conn_close(struct vhost_user_conn *c);

/*
 * Receives one message. 1: it is in *msg, its descriptors (close-on-exec) are the caller's; 0: not
 * yet whole, wait until the socket is readable; -ECONNRESET: the other side has closed it, also in
 * the middle of a message; -EPROTO or another -errno with the sentence: nonsense came, or the
 * kernel says no; then the connection is of no use any more.
 *
 * Of a message that the specification knows, length and number of descriptors are what it says
 * there, counts in the payload fit its length, and what of the payload did not come is zero. One
 * that it does not know reaches a receiver of requests without its descriptors (they are closed):
 * what that answers is its affair. No contents are checked beyond that.
 */
int vhost_user_receive(struct vhost_user_conn *c, struct vhost_user_message *msg,
		       struct error *err);

/*
 * Sends a message; its descriptors stay the caller's. 0: it is sent, or waits in the queue (with
 * descriptors of its own); then vhost_user_flush() has to be called when the socket is writable.
 * -ENOBUFS: the queue is full; -EPIPE, -ECONNRESET: nobody is there; or another -errno. Never
 * blocks, never raises SIGPIPE.
 */
int vhost_user_send(struct vhost_user_conn *c, const struct vhost_user_message *msg);

/*
 * The same for who can make the message again: where the socket or the queue has something waiting
 * it is not taken, and this is -EAGAIN. Only the rest of one that is half sent is ever queued,
 * which needs no descriptors any more.
 */
int vhost_user_try_send(struct vhost_user_conn *c, const struct vhost_user_message *msg);

/* Sends what waits. 1: nothing waits any more; 0: the socket is full again; -errno. */
int vhost_user_flush(struct vhost_user_conn *c);

/* Whether something waits to be sent (ask for EPOLLOUT). */
bool vhost_user_sending(const struct vhost_user_conn *c);

/* A request without payload and descriptors, to be filled in. */
struct vhost_user_message vhost_user_request(uint32_t request);

/* The same with a number, or a queue's index and a number. */
struct vhost_user_message vhost_user_request_u64(uint32_t request, uint64_t value);
struct vhost_user_message vhost_user_request_state(uint32_t request, uint32_t index, uint32_t num);

/* The reply to a request: its own type, flags as they must be, a number for payload. */
struct vhost_user_message vhost_user_reply_u64(const struct vhost_user_message *to, uint64_t value);

/* Closes the descriptors of a message that was received, those that are not -1. */
void vhost_user_close_fds(struct vhost_user_message *msg);

/* "GET_CONFIG" and so on, "request 99" of an unknown one: buf is for the latter. For sentences. */
const char *vhost_user_request_name(enum vhost_user_role role, uint32_t request, char buf[24]);

#endif
