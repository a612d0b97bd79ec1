/* SPDX-License-Identifier: MIT */
/*
 * How a crew's threads begin and end, and how they begin again in another process. Theory of
 * operation.
 *
 * A process that dies or execs takes its threads along. Who shares its memory (CLONE_VM, without
 * CLONE_THREAD) has everything else: then the crew forgets the threads and starts others. They had
 * been parked, so nothing of their work is half done. But glibc counts main among those who wait on
 * the condition and would wait for it in the next broadcast, for ever, and whoever died may have
 * held the lock. With nobody there these objects can simply be made again.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "crew_impl.h"

static uint32_t count_host_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : (uint32_t)CPU_COUNT(&set);
}

static void init_locks(struct crew *crew)
{
	pthread_mutex_init(&crew->lock, NULL);
	pthread_cond_init(&crew->parked, NULL);
}

int crew_init(struct crew *crew, const struct crew_ops *ops, void *opaque, uint32_t count,
	      struct error *err)
{
	int r = crew_catch_kick(err);

	*crew = (struct crew){ .ops = ops, .opaque = opaque, .host_cpus = count_host_cpus() };
	if (r < 0)
		return r;
	crew->members = calloc(count, sizeof(*crew->members));
	if (!crew->members)
		return err_set(err, ENOMEM, "no memory for the threads of %u %ss", count,
			       ops->title);
	crew->count = count;
	for (uint32_t i = 0; i < count; i++) {
		crew->members[i].crew = crew;
		crew->members[i].id = i;
		atomic_init(&crew->members[i].parked, true);
		atomic_init(&crew->members[i].host_cpu, -1);
		atomic_init(&crew->members[i].sleeps_on, -1);
	}
	init_locks(crew);
	return 0;
}

void crew_set_cpus(struct crew *crew, const cpu_set_t *cpus)
{
	crew->cpus = *cpus;
	crew->has_cpus = true;
	crew->host_cpus = (uint32_t)CPU_COUNT(cpus);
}

void crew_fini(struct crew *crew)
{
	if (!crew->members)
		return;
	pthread_cond_destroy(&crew->parked);
	pthread_mutex_destroy(&crew->lock);
	free(crew->members);
	crew->members = NULL;
	crew->count = 0;
}

/* Signals for the process are main's. SIGBUS is for who runs into it, or KVM in its name. */
static int create_thread(struct crew_member *cm, struct error *err)
{
	const char *title = cm->crew->ops->title;
	sigset_t all, old;
	int r;

	sigfillset(&all);
	sigdelset(&all, CREW_KICK_SIGNAL);
	sigdelset(&all, SIGSYS);
	sigdelset(&all, SIGBUS);
	r = pthread_sigmask(SIG_SETMASK, &all, &old);
	if (r)
		return err_sys(err, r, "signals of %s %u's thread", title, cm->id);
	r = pthread_create(&cm->thread, NULL, crew_thread, cm);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r ? err_sys(err, r, "thread for %s %u", title, cm->id) : 0;
}

static int start_member(struct crew_member *cm, struct error *err)
{
	int r;

	atomic_store(&cm->goal, CREW_PARK);
	atomic_store(&cm->parked, false);
	atomic_store(&cm->entered_ns, 0);
	cm->confined = false;
	r = create_thread(cm, err);
	if (r < 0) {
		atomic_store(&cm->parked, true); /* nobody is to wait for it */
		return r;
	}
	atomic_store(&cm->started, true);
	if (cm->crew->ops->started)
		cm->crew->ops->started(cm);
	return 0;
}

/* A job: all but the first. */
static int start_other(void *opaque, uint32_t item, struct error *err)
{
	struct crew *crew = opaque;

	return start_member(&crew->members[item + 1], err);
}

int crew_start(struct crew *crew, bool by_main, struct error *err)
{
	int r = start_member(&crew->members[0], err);

	for (uint32_t i = 1; by_main && i < crew->count && r == 0; i++)
		r = start_member(&crew->members[i], err);
	if (r < 0 || by_main || crew->count == 1)
		return r;
	crew_job_start(crew, start_other, crew);
	crew_job_offer(crew, crew->count - 1);
	return 0;
}

static void stop_member(struct crew_member *cm)
{
	struct crew *crew = cm->crew;

	pthread_mutex_lock(&crew->lock);
	atomic_store(&cm->goal, CREW_QUIT);
	pthread_mutex_unlock(&crew->lock);
	crew_wake(cm);
	pthread_kill(cm->thread, CREW_KICK_SIGNAL);
	pthread_join(cm->thread, NULL);
	atomic_store(&cm->started, false);
	atomic_store(&cm->parked, true);
}

void crew_stop(struct crew *crew)
{
	for (uint32_t i = 0; i < crew->count; i++)
		if (atomic_load(&crew->members[i].started))
			stop_member(&crew->members[i]);
}

static void forget_thread(struct crew_member *cm)
{
	/*
	 * The kernel clears a dying thread's id, so this frees its stack; if not, that is all we
	 * lose.
	 */
	if (atomic_load(&cm->started))
		pthread_tryjoin_np(cm->thread, NULL);
	atomic_store(&cm->started, false);
	cm->visit = NULL;
	atomic_store(&cm->sleeps_on, -1);
	atomic_store(&cm->parked, true);
}

void crew_forget(struct crew *crew)
{
	init_locks(crew);
	atomic_store(&crew->job.count, 0);
	atomic_store(&crew->job.left, 0);
	crew->job.result = 0;
	for (uint32_t i = 0; i < crew->count; i++)
		forget_thread(&crew->members[i]);
}
