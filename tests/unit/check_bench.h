/* SPDX-License-Identifier: MIT */
/* The successor's half of the check before an update, in this process. */
#ifndef MOLT_TESTS_CHECK_BENCH_H
#define MOLT_TESTS_CHECK_BENCH_H

#include <jansson.h>

#include "machine_bench.h"

/*
 * What a molt that makes machines of this model and takes over these kinds says of a stream and an
 * fd table: an array of sentences, empty where it would take over. The caller decrefs it.
 */
json_t *bench_check(const struct machine_model *model, const struct takeover_kinds *kinds,
		    const void *stream, size_t len, const struct fdtable *fds);

#endif
