/* SPDX-License-Identifier: MIT */
/* An update server over the machine of machine_bench.h; what it says is noted. */
#ifndef MOLT_TESTS_UPDATE_BENCH_H
#define MOLT_TESTS_UPDATE_BENCH_H

#include "machine_bench.h"

#include <molt/base/fd.h>

#include "../../src/update/internal.h"

struct update_bench {
	struct bench b;
	char self_path[96];
	char *self_argv[4];
	struct update_self self;
	struct update *u;
	char dir[64];    /* of our own, removed with all files in it */
	char said[8192]; /* "reply <json or !sentence>\n" and "<event> <json>\n" */
	unsigned int replies;
	int manager;    /* what a service manager's socket says */
	int save_error; /* what the last of its parts fails to save with */
};

/* A machine with cpus vCPUs, in state PRELAUNCH. */
void update_bench_init(struct update_bench *t, uint32_t cpus);
void update_bench_fini(struct update_bench *t);

/* A file in t->dir; the name is good until the next call. */
const char *update_bench_file(struct update_bench *t, const char *name, const char *text, int mode);

/* Runs a command of the table; what it returns. json: its arguments, "" for none. */
int update_bench_run(struct update_bench *t, const struct command *table, size_t count,
		     const char *name, const char *json, json_t **result, struct error *err);

/*
 * The command `update`; and that it fails, after it was accepted, with a reason that has these
 * words.
 */
int update_bench_update(struct update_bench *t, const char *json, struct error *err);
void update_bench_must_fail(struct update_bench *t, const char *json, const char *words);

/* `update` refused at once. */
void update_bench_refused(struct update_bench *t, const char *json, int code, const char *words);

/* handover_prepare() for a command (NULL: the default), and what undoes it. */
int update_bench_prepare(struct update_bench *t, char **command, struct error *err);
void update_bench_unprepare(struct update_bench *t);

/* Skips the case, where it needs a stand-in, in a build that cannot have one. */
void update_bench_skip_under_tsan(void);
/* And where threads of a process that was killed leave their stacks to others. */
void update_bench_skip_under_asan(void);

/* Turns the loop until said contains text; fails the test after some seconds without. */
void update_bench_wait(struct update_bench *t, const char *text);

#endif
