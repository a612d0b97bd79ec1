/* SPDX-License-Identifier: MIT */
#include <string.h>

#include <molt/base/log.h>

#include "log_queue.h"

#define REFILL_NS (LOG_REFILL_S * 1000000000ull)

static void refill(struct log_site *site, uint64_t now_ns)
{
	uint64_t tokens = (now_ns - site->refill_ns) / REFILL_NS;

	site->refill_ns += tokens * REFILL_NS;
	if (tokens > LOG_BURST - site->tokens)
		site->tokens = LOG_BURST;
	else
		site->tokens += (uint32_t)tokens;
}

/* The site of a format string; a free one or one that is at rest where it has none yet. */
static struct log_site *find(struct log_sites *s, const char *fmt, uint64_t now_ns)
{
	struct log_site *spare = NULL;

	for (size_t i = 0; i < LOG_SITES; i++) {
		struct log_site *site = &s->site[i];

		if (site->fmt == fmt)
			return site;
		if (site->fmt)
			refill(site, now_ns);
		if (!site->fmt || (site->tokens == LOG_BURST && !site->suppressed))
			spare = site;
	}
	/* All are busy: the last one is shared by whoever comes now. */
	if (!spare)
		return &s->site[LOG_SITES - 1];
	*spare = (struct log_site){ .fmt = fmt, .refill_ns = now_ns, .tokens = LOG_BURST };
	return spare;
}

static uint64_t take_suppressed(struct log_sites *s, struct log_site *site)
{
	uint64_t n = site->suppressed;

	s->suppressed -= n;
	site->suppressed = 0;
	return n;
}

bool log_sites_pass(struct log_sites *s, const char *fmt, uint32_t level, uint64_t now_ns,
		    uint64_t *more)
{
	struct log_site *site = find(s, fmt, now_ns);

	*more = 0;
	refill(site, now_ns);
	if (!site->tokens) {
		site->level = level;
		site->suppressed++;
		s->suppressed++;
		return false;
	}
	site->tokens--;
	*more = take_suppressed(s, site);
	return true;
}

const struct log_site *log_sites_report(struct log_sites *s, uint64_t now_ns, bool all,
					uint64_t *more)
{
	for (size_t i = 0; s->suppressed && i < LOG_SITES; i++) {
		struct log_site *site = &s->site[i];

		if (!site->suppressed)
			continue;
		refill(site, now_ns);
		if (!site->tokens && !all)
			continue;
		site->tokens -= site->tokens > 0;
		*more = take_suppressed(s, site);
		return site;
	}
	return NULL;
}

void log_queue_put(struct log_queue *q, const char *line, size_t len)
{
	uint32_t tail = (q->head + q->len) % LOG_QUEUE_BYTES, n = (uint32_t)len;
	uint32_t first = n < LOG_QUEUE_BYTES - tail ? n : LOG_QUEUE_BYTES - tail;

	if (q->full || len > LOG_QUEUE_BYTES - q->len) {
		q->full = true;
		q->lost++;
		return;
	}
	memcpy(q->ring + tail, line, first);
	memcpy(q->ring, line + first, n - first);
	q->lines++;
	q->len += n;
}

size_t log_queue_take(struct log_queue *q, char *line)
{
	uint32_t n = 0;

	while (n < q->len && n < LOG_LINE_MAX) {
		line[n] = q->ring[(q->head + n) % LOG_QUEUE_BYTES];
		if (line[n++] == '\n')
			break;
	}
	q->head = (q->head + n) % LOG_QUEUE_BYTES;
	q->len -= n;
	q->lines -= n > 0;
	if (!q->len)
		q->full = false;
	return n;
}
