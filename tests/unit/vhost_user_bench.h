/* SPDX-License-Identifier: MIT */
/* What tests of vhost-user share: messages as bytes, and a count of open descriptors. */
#ifndef MOLT_TESTS_VHOST_USER_BENCH_H
#define MOLT_TESTS_VHOST_USER_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <molt/virtio/vhost_user.h>

/* A message as on the wire, right or wrong. */
struct wire {
	struct vhost_user_header hdr;
	union {
		uint8_t bytes[280];
		struct vhost_user_vring_state state;
		struct vhost_user_config config;
	} __attribute__((packed, aligned(4))) payload;
} __attribute__((packed, aligned(4)));

struct wire wire(uint32_t request, uint32_t flags, uint32_t size);

/* Sends the first len bytes of it, with nfds descriptors, and expects that all go out. */
void send_wire(int fd, const struct wire *w, size_t len, const int *fds, size_t nfds);

/* The same for len bytes from byte `from` on. */
void send_wire_from(int fd, const struct wire *w, size_t from, size_t len, const int *fds,
		    size_t nfds);

/* How many descriptors this process has open. */
unsigned int open_descriptors(void);

#endif
