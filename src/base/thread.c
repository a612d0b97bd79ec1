/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include <molt/base/thread.h>

int thread_create(pthread_t *thread, size_t stack_bytes, void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	sigset_t all, old;
	int r = pthread_attr_init(&attr);

	if (r)
		return r;
	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	r = pthread_attr_setstacksize(&attr, stack_bytes);
	if (r == 0)
		r = pthread_sigmask(SIG_SETMASK, &all, &old);
	if (r == 0) {
		r = pthread_create(thread, &attr, fn, arg);
		pthread_sigmask(SIG_SETMASK, &old, NULL);
	}
	pthread_attr_destroy(&attr);
	return r;
}

/*
 * The kernel tells where a thread may run, which is what was asked for as far as its control group
 * (cpuset) and the CPUs that are online go. Who asks for that has it for good: the thread will run
 * on no CPU that comes online again, nor where its cpuset grows. So where nobody has kept it to
 * some all are asked for, and the kernel sees to the rest.
 */
static bool ask_for_all(const cpu_set_t *told)
{
	cpu_set_t all, got, more;

	memset(&all, 0xff, sizeof(all));
	if (sched_setaffinity(0, sizeof(all), &all) < 0 ||
	    sched_getaffinity(0, sizeof(got), &got) < 0)
		return false;
	CPU_OR(&more, &got, told);
	return CPU_EQUAL(&more, told);
}

bool thread_get_cpus(cpu_set_t *cpus)
{
	if (sched_getaffinity(0, sizeof(*cpus), cpus) < 0)
		return false;
	if (ask_for_all(cpus))
		memset(cpus, 0xff, sizeof(*cpus));
	else
		sched_setaffinity(0, sizeof(*cpus), cpus);
	return true;
}

bool thread_set_cpus(const cpu_set_t *cpus)
{
	return ask_for_all(cpus) || sched_setaffinity(0, sizeof(*cpus), cpus) == 0;
}

int thread_main_stack(size_t bytes, struct error *err)
{
	struct rlimit limit, before;

	if (getrlimit(RLIMIT_STACK, &before) < 0 || before.rlim_cur >= bytes)
		return 0;
	limit = before;
	limit.rlim_cur = bytes;
	if (limit.rlim_max < bytes)
		limit.rlim_max = bytes;
	if (setrlimit(RLIMIT_STACK, &limit) == 0)
		return 0;
	return err_set(err, errno,
		       "the stack needs %zu KiB: raise RLIMIT_STACK (ulimit -s; systemd: "
		       "LimitSTACK=), which is %llu KiB",
		       bytes >> 10, (unsigned long long)before.rlim_max >> 10);
}
