/* SPDX-License-Identifier: MIT */
/*
 * What the control groups leave. Theory of operation.
 *
 * What is in use counts page cache, which the kernel takes back before it kills anybody. Of cache
 * in active use and of the kernel's own caches half is counted on, as the kernel does for
 * MemAvailable. Guest RAM is shared memory, and no cache in this sense: it can only be swapped out,
 * like anonymous memory, as far as host and groups have swap left.
 *
 * Each CPU keeps up to 256 KiB of what it has charged in advance. That counts as in use until a
 * limit is reached, and so there may be a little more left than is said here, never less.
 */
#include <string.h>

#include "cgroup.h"

#define UNLIMITED_V1 (1ull << 62) /* version 1 says the largest multiple of a page */

/* A pair of files in a group's directory, there in one of the versions or in both. */
struct meter {
	const char *limit, *usage;
	bool reclaimed; /* the kernel frees some of what is in use */
	bool swapped;   /* by swapping, too */
};

static const struct meter memory_meters[] = {
	{ "memory.max", "memory.current", true, true },
	{ "memory.limit_in_bytes", "memory.usage_in_bytes", true, true },
	{ "memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes", true, false },
};

static const struct meter high_meter = { "memory.high", "memory.current", true, false };

static const struct meter task_meter = { "pids.max", "pids.current", false, false };

/* The walk up, one group at a time. */
struct walk {
	const char *root;
	struct cgroup group;
	bool own; /* not an ancestor */
	char dir[2 * PATH_MAX];
	uint64_t swap; /* bytes that can be swapped out */
};

static bool read_number(const struct walk *w, const char *name, uint64_t *value)
{
	_cleanup_file_ FILE *f = NULL;
	char path[2 * PATH_MAX + 64], word[32];
	unsigned long long n = 0;

	snprintf(path, sizeof(path), "%s/%s", w->dir, name);
	f = cgroup_open(w->root, path);
	if (!f || fscanf(f, "%31s", word) != 1)
		return false;
	if (strcmp(word, "max") == 0)
		n = UNLIMITED_V1;
	else if (sscanf(word, "%llu", &n) != 1)
		return false;
	*value = n >= UNLIMITED_V1 ? CGROUP_UNLIMITED : n;
	return true;
}

static bool begin(struct walk *w, const char *root, const char *controller)
{
	*w = (struct walk){ .root = root, .own = true };
	if (!cgroup_find(root, controller, &w->group))
		return false;
	snprintf(w->dir, sizeof(w->dir), "%s%s", w->group.mount, w->group.path);
	return true;
}

/* False above the topmost group that can be seen. */
static bool up(struct walk *w)
{
	char *slash = strrchr(w->group.path, '/');

	if (!slash)
		return false;
	*slash = '\0';
	w->own = false;
	snprintf(w->dir, sizeof(w->dir), "%s%s", w->group.mount, w->group.path);
	return true;
}

static uint64_t stat_of(const struct walk *w, const char *key)
{
	char path[2 * PATH_MAX + 64], total[64];
	uint64_t value = 0;

	snprintf(path, sizeof(path), "%s/memory.stat", w->dir);
	snprintf(total, sizeof(total), "%s%s ", w->group.v2 ? "" : "total_", key);
	cgroup_read_key(w->root, path, total, &value);
	return value;
}

static uint64_t smaller(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t reclaimable(const struct walk *w, const struct meter *m)
{
	uint64_t sum = 0;

	if (m->reclaimed)
		sum = stat_of(w, "inactive_file") + stat_of(w, "active_file") / 2 +
		      stat_of(w, "slab_reclaimable") / 2;
	if (m->swapped && w->swap)
		sum += smaller(w->swap, stat_of(w, "inactive_anon") + stat_of(w, "active_anon"));
	return sum;
}

/* A group of version 1 may be told not to count its children. */
static bool counts(const struct walk *w)
{
	uint64_t on;

	return w->own || w->group.v2 || !read_number(w, "memory.use_hierarchy", &on) || on;
}

static void ask(const struct walk *w, const struct meter *m, struct cgroup_left *least)
{
	uint64_t limit, used, left;

	if (!read_number(w, m->limit, &limit) || limit == CGROUP_UNLIMITED ||
	    !read_number(w, m->usage, &used) || !counts(w))
		return;
	left = (limit > used ? limit - used : 0) + reclaimable(w, m);
	if (left >= least->left)
		return;
	least->left = left;
	least->limit = limit;
	least->file = m->limit;
	snprintf(least->group, sizeof(least->group), "%.*s", PATH_MAX - 1, w->dir);
}

/* From the process's own group up. */
static void ask_all(const struct walk *start, const struct meter *meters, size_t n,
		    struct cgroup_left *least)
{
	struct walk w = *start;

	*least = (struct cgroup_left){ .left = CGROUP_UNLIMITED };
	do {
		for (size_t i = 0; i < n; i++)
			ask(&w, &meters[i], least);
	} while (up(&w));
}

/* The least on the way up, for what a process may swap is bounded by each of its groups. */
static uint64_t swap_left(const struct walk *start)
{
	static const struct meter meter = { "memory.swap.max", "memory.swap.current", false,
					    false };
	uint64_t free_kib = 0, swappiness = 1;
	struct cgroup_left least;

	if (!cgroup_read_key(start->root, "/proc/meminfo", "SwapFree:", &free_kib) || !free_kib)
		return 0;
	if (!start->group.v2 && read_number(start, "memory.swappiness", &swappiness) && !swappiness)
		return 0;
	ask_all(start, &meter, 1, &least);
	return smaller(free_kib << 10, least.left);
}

void cgroup_memory_left(const char *root, struct cgroup_memory *memory)
{
	struct walk w;

	memory->max.left = memory->high.left = CGROUP_UNLIMITED;
	if (!begin(&w, root, "memory"))
		return;
	ask_all(&w, &high_meter, 1, &memory->high);
	w.swap = swap_left(&w);
	ask_all(&w, memory_meters, ARRAY_SIZE(memory_meters), &memory->max);
}

void cgroup_tasks_left(const char *root, struct cgroup_left *tasks)
{
	struct walk w;

	tasks->left = CGROUP_UNLIMITED;
	if (begin(&w, root, "pids"))
		ask_all(&w, &task_meter, 1, tasks);
}
