/* SPDX-License-Identifier: MIT */
/* Whether there may be as many threads more as an update needs. */
#include <errno.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "cgroup.h"
#include "room_threads.h"

/* All tasks of the host: "0.00 0.01 0.05 1/123 4567". */
static bool read_tasks(const char *root, uint64_t *tasks)
{
	_cleanup_file_ FILE *f = cgroup_open(root, "/proc/loadavg");

	return f && fscanf(f, "%*s %*s %*s %*[0-9]/%" SCNu64, tasks) == 1;
}

static bool read_limit(const char *root, const char *path, uint64_t *limit)
{
	_cleanup_file_ FILE *f = cgroup_open(root, path);

	return f && fscanf(f, "%" SCNu64, limit) == 1;
}

static int too_few(uint32_t threads, const char *where, const char *limit, uint64_t limited,
		   uint64_t used, struct error *err)
{
	return err_set(err, EAGAIN,
		       "the update needs %" PRIu32 " more threads, and %.400s has room for %" PRIu64
		       ": raise %s, which is %" PRIu64,
		       threads, where, limited > used ? limited - used : 0, limit, limited);
}

static int ask_host(const char *root, uint32_t threads, struct error *err)
{
	uint64_t tasks, limit;

	if (!read_tasks(root, &tasks) ||
	    !read_limit(root, "/proc/sys/kernel/threads-max", &limit) || tasks + threads <= limit)
		return 0;
	return too_few(threads, "this host", "kernel.threads-max", limit, tasks, err);
}

static bool exempt(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = { 0 };
	uint32_t either = CAP_TO_MASK(CAP_SYS_RESOURCE) | CAP_TO_MASK(CAP_SYS_ADMIN);

	return getuid() == 0 || syscall(SYS_capget, &header, data) < 0 ||
	       (data[0].effective & either);
}

/*
 * How many threads its user has is known to nobody but the kernel; this process's own are certain.
 * Where that is too good a guess the threads cannot be made, and nothing has stopped by then.
 */
static int ask_user(const char *root, uint32_t threads, struct error *err)
{
	struct rlimit limit;
	uint64_t own;

	if (exempt() || getrlimit(RLIMIT_NPROC, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY ||
	    !cgroup_read_key(root, "/proc/self/status", "Threads:", &own) ||
	    own + threads <= limit.rlim_cur)
		return 0;
	return too_few(threads, "molt's user", "RLIMIT_NPROC (ulimit -u)", limit.rlim_cur, own,
		       err);
}

static int ask_groups(const char *root, uint32_t threads, struct error *err)
{
	struct cgroup_left tasks;
	char where[PATH_MAX + 32];

	cgroup_tasks_left(root, &tasks);
	if (tasks.left >= threads)
		return 0;
	snprintf(where, sizeof(where), "control group %s", tasks.group);
	return too_few(threads, where, tasks.file, tasks.limit, tasks.limit - tasks.left, err);
}

int room_threads(const char *root, uint32_t threads, struct error *err)
{
	int r = ask_groups(root, threads, err);

	if (r == 0)
		r = ask_user(root, threads, err);
	return r == 0 ? ask_host(root, threads, err) : r;
}
