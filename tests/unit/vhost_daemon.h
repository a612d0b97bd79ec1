/* SPDX-License-Identifier: MIT */
/* QEMU's storage daemon with a disk, and a driver for it. */
#ifndef MOLT_TESTS_VHOST_DAEMON_H
#define MOLT_TESTS_VHOST_DAEMON_H

#include <sys/types.h>

#include "vhost_driver.h"

struct daemon_bench {
	char dir[64], image[96], path[96];
	const char *format;
	pid_t daemon;
	struct driver d;
};

/* False, and says so, where the daemon is not installed. The daemon does not run yet. */
bool daemon_bench_init(struct daemon_bench *b, const char *format, unsigned int queues,
		       unsigned int depth);
void daemon_bench_fini(struct daemon_bench *b);

void daemon_start(struct daemon_bench *b);

/* Sends it a signal and waits for its end. */
void daemon_end(struct daemon_bench *b, int sig);

/* The front-end goes into the loop, and has to be ready soon. */
void daemon_wait_ready(struct daemon_bench *b);

#endif
