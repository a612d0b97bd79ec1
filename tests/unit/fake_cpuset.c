/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fake_cpuset.h"

#define THREADS_MAX 64

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t group;
static struct {
	int tid;
	uint64_t asked;
} threads[THREADS_MAX];
static unsigned int nthreads;

void fake_cpuset(uint64_t cpus)
{
	pthread_mutex_lock(&lock);
	group = cpus;
	nthreads = 0;
	pthread_mutex_unlock(&lock);
}

void fake_cpuset_change(uint64_t cpus)
{
	pthread_mutex_lock(&lock);
	group = cpus;
	pthread_mutex_unlock(&lock);
}

static uint64_t *asked_by(int tid)
{
	unsigned int i = 0;

	if (!tid)
		tid = (int)syscall(SYS_gettid);
	while (i < nthreads && threads[i].tid != tid)
		i++;
	if (i == THREADS_MAX)
		return &threads[0].asked;
	if (i == nthreads) {
		threads[nthreads].tid = tid;
		threads[nthreads++].asked = UINT64_MAX;
	}
	return &threads[i].asked;
}

static uint64_t runs_on(int tid)
{
	uint64_t asked = *asked_by(tid);

	return asked & group ? asked & group : group;
}

uint64_t fake_cpuset_of(int tid)
{
	uint64_t cpus;

	pthread_mutex_lock(&lock);
	cpus = runs_on(tid);
	pthread_mutex_unlock(&lock);
	return cpus;
}

int sched_setaffinity(pid_t tid, size_t size, const cpu_set_t *set)
{
	int r = 0;
	uint64_t cpus;

	pthread_mutex_lock(&lock);
	memcpy(&cpus, set, sizeof(cpus));
	if (!group)
		r = (int)syscall(SYS_sched_setaffinity, tid, size, set);
	else if (cpus & group)
		*asked_by(tid) = cpus;
	else
		r = -1, errno = EINVAL;
	pthread_mutex_unlock(&lock);
	return r;
}

int sched_getaffinity(pid_t tid, size_t size, cpu_set_t *set)
{
	uint64_t cpus;
	long r = 0;

	pthread_mutex_lock(&lock);
	memset(set, 0, size);
	cpus = group ? runs_on(tid) : 0;
	if (cpus)
		memcpy(set, &cpus, sizeof(cpus));
	else
		r = syscall(SYS_sched_getaffinity, tid, size, set);
	pthread_mutex_unlock(&lock);
	return r < 0 ? -1 : 0;
}
