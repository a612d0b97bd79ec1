/* SPDX-License-Identifier: MIT */
/* Inside of the log: lines that wait for their writer, and how many each call site may write. */
#ifndef MOLT_BASE_LOG_QUEUE_H
#define MOLT_BASE_LOG_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define LOG_QUEUE_BYTES 65536u
#define LOG_LINE_MAX 1400u
#define LOG_SITES 64u

/* What a call site may still write: a token bucket. */
struct log_site {
	const char *fmt;    /* its format string, whose address tells sites apart; NULL: free */
	uint64_t refill_ns; /* when tokens were last added */
	uint32_t tokens;
	uint32_t level;
	uint64_t suppressed; /* not told yet */
};

struct log_sites {
	struct log_site site[LOG_SITES];
	uint64_t suppressed; /* of all sites */
};

/*
 * Whether the site may write a line now; *more: how many it could not before, told with that line.
 */
bool log_sites_pass(struct log_sites *s, const char *fmt, uint32_t level, uint64_t now_ns,
		    uint64_t *more);

/*
 * The next site that has something to tell and may; its count is forgotten. NULL: none. all: also
 * who may not.
 */
const struct log_site *log_sites_report(struct log_sites *s, uint64_t now_ns, bool all,
					uint64_t *more);

/*
 * Whole lines, oldest first. What does not fit is lost, and all after it until the queue is empty.
 */
struct log_queue {
	char ring[LOG_QUEUE_BYTES];
	uint32_t head;
	uint32_t len;
	uint32_t lines;
	bool full;
	uint64_t lost; /* not told yet */
};

void log_queue_put(struct log_queue *q, const char *line, size_t len);

/* Takes the oldest line, its end included; 0 if there is none. line holds LOG_LINE_MAX bytes. */
size_t log_queue_take(struct log_queue *q, char *line);

#endif
