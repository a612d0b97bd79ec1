/* SPDX-License-Identifier: MIT */
/*
 * What the control groups of this process leave it, of both versions: Linux, Documentation/
 * admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst and cgroup-v1/pids.rst. Nothing is changed.
 *
 * root stands before every path that is opened: "" but for tests.
 */
#ifndef MOLT_UPDATE_CGROUP_H
#define MOLT_UPDATE_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <molt/base/fd.h>

#define CGROUP_UNLIMITED UINT64_MAX

/* The tightest limit of a kind on the way from the process's own group to the topmost. */
struct cgroup_left {
	uint64_t left; /* CGROUP_UNLIMITED: there is no limit, or it cannot be seen from here */
	uint64_t limit;
	const char *file;     /* the limit's, such as "memory.max" */
	char group[PATH_MAX]; /* its directory, as this process sees it */
};

struct cgroup_memory {
	struct cgroup_left max;  /* bytes; beyond is the out-of-memory killer */
	struct cgroup_left high; /* bytes; beyond everybody in it is slowed down (version 2) */
};

/*
 * What can be used without anybody being killed: the limit less what is in use, plus what the
 * kernel would take back first (page cache, caches of its own, what can be swapped out).
 */
void cgroup_memory_left(const char *root, struct cgroup_memory *memory);

/* Threads and processes. */
void cgroup_tasks_left(const char *root, struct cgroup_left *tasks);

/* A process's group in the hierarchy that has a controller. */
struct cgroup {
	bool v2;
	char mount[PATH_MAX];
	char path[PATH_MAX]; /* beneath mount: "" or "/..." */
};

/* False where there is none, or it cannot be seen from here. */
bool cgroup_find(const char *root, const char *controller, struct cgroup *g);

/*
 * The number after key (as "MemAvailable:") in a file of lines "key number ...". False where there
 * is no such file or line.
 */
bool cgroup_read_key(const char *root, const char *path, const char *key, uint64_t *value);

/* A file for reading, or NULL. */
FILE *cgroup_open(const char *root, const char *path);

static inline void cleanup_file(FILE **f)
{
	if (*f)
		fclose(*f);
}

#define _cleanup_file_ __attribute__((cleanup(cleanup_file)))

#endif
