/* SPDX-License-Identifier: MIT */
/* What `molt stats` was told by a server, and its ways to show it. Servers may say anything. */
#ifndef MOLT_CLI_STATS_H
#define MOLT_CLI_STATS_H

#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

/* No molt has more of them; of what a server says beyond that nothing is shown. */
#define STATS_DISKS_MAX 64
#define STATS_QUEUES_MAX 64
#define STATS_BINS_MAX 128

struct stats_sample {
	json_t *status; /* of query-status, query-update, query-block and query-blockstats */
	json_t *update;
	json_t *blocks;
	json_t *stats;
	uint64_t at_ns; /* CLOCK_MONOTONIC */
};

/* A member that should be a number that counts; 0 where it is not. */
static inline uint64_t stats_number(const json_t *object, const char *key)
{
	json_int_t n = json_integer_value(json_object_get(object, key));

	return n > 0 ? (uint64_t)n : 0;
}

/* The entry of a list whose "device" is that of another's, or NULL. */
json_t *stats_find(const json_t *list, const json_t *other);

/* The prefixes of query-blockstats's members, and what people call them; NULL-terminated. */
struct stats_kind {
	const char *prefix;
	const char *name;
};
extern const struct stats_kind stats_kinds[];

/* The number "<prefix>_<suffix>", or "failed_<prefix>_operations". */
uint64_t stats_of_kind(const json_t *stats, const struct stats_kind *kind, const char *suffix);
uint64_t stats_errors(const json_t *stats, const struct stats_kind *kind);
json_t *stats_histogram(const json_t *stats, const struct stats_kind *kind);

/* stats_prometheus.c: text exposition format 0.0.4. */
void stats_print_prometheus(FILE *out, const struct stats_sample *s);

/* stats_table.c: for people; with an earlier sample, what has happened since it, a second. */
void stats_print_table(FILE *out, const struct stats_sample *s, const struct stats_sample *before);

#endif
