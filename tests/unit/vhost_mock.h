/* SPDX-License-Identifier: MIT */
/*
 * A back-end that does no I/O, for faults: it answers as it should, but for one message, counted
 * from 0, to which it does something else. It never waits: mock_serve() takes what is there.
 */
#ifndef MOLT_TESTS_VHOST_MOCK_H
#define MOLT_TESTS_VHOST_MOCK_H

#include <molt/virtio/vhost_user.h>

enum mock_fault {
	FAULT_SILENT, /* this and all after it are not answered */
	FAULT_CLOSE,
	FAULT_HALF, /* 15 bytes of the answer, then closed */
	FAULT_HALF_SILENT,
	FAULT_SHORT,
	FAULT_LONG,
	FAULT_SURPLUS_FDS,
	FAULT_ONE_FD,
	FAULT_OTHER, /* an answer to something else */
	FAULT_TWICE,
	FAULT_VERSION,
	FAULT_REQUEST, /* the answer is no reply */
	FAULT_ZERO,    /* all of the payload */
	FAULT_ONES,
	FAULT_FLOOD, /* answers until the socket is full */
	FAULTS,
};

extern const char *const mock_fault_names[FAULTS];

#define MOCK_SEEN 512

struct mock {
	struct vhost_user_conn conn;
	int channel; /* -1: none yet */
	int inflight;
	uint64_t inflight_size; /* as it says; it has 8192 bytes */
	uint64_t features, protocol, agreed;
	uint64_t queues;
	uint8_t config[VHOST_USER_MAX_CONFIG];
	struct vhost_user_memory memory;
	uint16_t base[64];
	uint32_t seen[MOCK_SEEN];
	uint32_t seen_index[MOCK_SEEN]; /* the queue it was about */
	unsigned int count;
	int fault_at; /* -1: never */
	enum mock_fault fault;
	bool silent;
	bool slow; /* answers come byte by byte, one at a call */
	struct vhost_user_message slow_answer;
	unsigned int slow_sent, slow_whole;
	bool closed; /* by the front-end */
};

/* All features and protocol features; the other end of its socket is *theirs. */
void mock_init(struct mock *m, int *theirs);
void mock_fini(struct mock *m);

/* Serves one message; false where none is there. */
bool mock_serve(struct mock *m);

/* On the back-end channel. */
void mock_config_change(struct mock *m, bool need_reply);

#endif
