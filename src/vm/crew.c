/* SPDX-License-Identifier: MIT */
/*
 * Threads that park and run. Theory of operation.
 *
 * Each thread loops: wait in the park until its goal is to run, then run() until it is not. Main
 * sets the goal, and kicks with a signal whose handler calls kick(), which leaves a mark that the
 * blocking call of run() looks at (of KVM_RUN that is immediate_exit). If the signal comes before
 * that call is entered, the mark has it return at once; if it comes inside, the call ends with
 * EINTR; if it comes before run() takes the mark away, the goal that is read afterwards tells. So no
 * kick is ever lost.
 *
 * The lock is for the park alone: it guards what a thread waits for there, on two conditions. Nobody
 * holds it while work is done. So a process that dies with all members parked leaves nothing half
 * done but the lock and the conditions themselves, and whoever has the memory then makes them anew
 * (crew_life.c).
 *
 * To sleep and be woken takes longer than most of what happens in an update's pause. So who waits
 * there stays awake for a while, where a CPU can be spared (crew_job.c).
 *
 * What a member that has confined itself still may do: wait, be kicked, and end (glibc's)
 * #syscalls vcpu: getcpu
 * #syscalls vcpu: futex rt_sigreturn rt_sigprocmask madvise exit
 */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "crew_impl.h"

#define PARK_SPIN_NS 200000
#define AWAKE_NS 2000000 /* about as long as a successor takes to build the machine */

/* The handler has no other way to find the member whose thread it interrupted. */
static _Thread_local struct crew_member *kicked;

static void on_kick(int sig)
{
	(void)sig;
	if (kicked && kicked->crew->ops->kick)
		kicked->crew->ops->kick(kicked);
}

int crew_catch_kick(struct error *err)
{
	struct sigaction sa = { .sa_handler = on_kick };

	if (sigaction(CREW_KICK_SIGNAL, &sa, NULL) < 0)
		return err_sys(err, errno, "sigaction for the kick");
	return 0;
}

bool crew_may_run(struct crew_member *cm)
{
	struct crew *crew = cm->crew;

	return atomic_load(&cm->goal) == CREW_RUN && !(crew->ops->held && crew->ops->held(crew));
}

void crew_nap(struct crew_member *cm, uint64_t until_ns)
{
	const struct timespec until = { .tv_sec = (time_t)(until_ns / 1000000000),
					.tv_nsec = (long)(until_ns % 1000000000) };
	struct crew *crew = cm->crew;

	pthread_mutex_lock(&crew->lock);
	pthread_cond_clockwait(&cm->unpark, &crew->lock, CLOCK_MONOTONIC, &until);
	pthread_mutex_unlock(&crew->lock);
}

/* ---- on the member's thread ---- */

/*
 * Where a CPU can be spared. Called and left with the lock held; true where it was dropped
 * meanwhile, so that the caller looks again at what it waits for.
 */
static bool stay_awake(struct crew_member *cm, bool *awake, uint64_t until)
{
	struct crew *crew = cm->crew;

	if (!*awake || !atomic_load(&crew->awake) || !atomic_load(&cm->stays_awake))
		return false;
	pthread_mutex_unlock(&crew->lock);
	while (*awake && atomic_load(&crew->awake) && atomic_load(&cm->goal) == CREW_PARK &&
	       !crew_job_is_open(crew))
		*awake = crew_wait_awake(until);
	pthread_mutex_lock(&crew->lock);
	return true;
}

/* Called and left with the lock held. */
static bool receive_visit(struct crew_member *cm)
{
	struct crew_visit *visit = cm->visit;
	struct crew *crew = cm->crew;

	if (!visit)
		return false;
	pthread_mutex_unlock(&crew->lock);
	visit->result = visit->fn(visit->opaque, cm->id, visit->err);
	pthread_mutex_lock(&crew->lock);
	cm->visit = NULL;
	atomic_store(&cm->goal, CREW_RUN);
	pthread_cond_broadcast(&crew->parked);
	return true;
}

static bool help(struct crew_member *cm)
{
	return !atomic_load(&cm->crew->alone) && crew_job_help(cm->crew, cm->confined);
}

/* Waits in the park. False when the thread is to end. */
static bool wait_in_park(struct crew_member *cm)
{
	struct crew *crew = cm->crew;
	uint64_t now = now_ns();
	bool awake = true;

	pthread_mutex_lock(&crew->lock);
	atomic_store(&cm->parked, true);
	pthread_cond_broadcast(&crew->parked);
	while (atomic_load(&cm->goal) != CREW_QUIT && !crew_may_run(cm))
		if (!receive_visit(cm) && !help(cm) && !stay_awake(cm, &awake, now + AWAKE_NS))
			crew_sleep(cm);
	atomic_store(&cm->parked, false);
	pthread_mutex_unlock(&crew->lock);
	if (atomic_exchange(&crew->wakes_rest, false))
		crew_wake_rest(crew);
	return atomic_load(&cm->goal) != CREW_QUIT;
}

void *crew_thread(void *opaque)
{
	struct crew_member *cm = opaque;
	const struct crew_ops *ops = cm->crew->ops;
	char name[CREW_NAME_MAX + sizeof("4294967295")];

	snprintf(name, sizeof(name), "%s%u", ops->name, cm->id);
	pthread_setname_np(pthread_self(), name);
	cm->tid = (pid_t)syscall(SYS_gettid);
	cm->stopped_ns = now_ns();
	while (wait_in_park(cm)) {
		kicked = cm;
		atomic_store(&cm->host_cpu, sched_getcpu());
		atomic_store(&cm->entered_ns, now_ns());
		ops->run(cm);
		/* While parked what it marks may go, and a late kick must not touch it. */
		kicked = NULL;
		cm->stopped_ns = now_ns();
		if (ops->settle)
			ops->settle(cm);
	}
	return NULL;
}

/* ---- main's side ---- */

/* told: but for those that are to run. */
static bool are_parked(struct crew *crew, bool told)
{
	for (uint32_t i = 0; i < crew->count; i++) {
		struct crew_member *cm = &crew->members[i];

		if (!atomic_load(&cm->parked) && !(told && atomic_load(&cm->goal) == CREW_RUN))
			return false;
	}
	return true;
}

static void wait_parked(struct crew *crew, bool told)
{
	const uint64_t give_up = now_ns() + PARK_SPIN_NS;

	/*
	 * Most are there at once, sooner than this thread would have gone to sleep and come back.
	 */
	while (crew->host_cpus > 1 && !are_parked(crew, told) && crew_wait_awake(give_up))
		;
	pthread_mutex_lock(&crew->lock);
	while (!are_parked(crew, told))
		pthread_cond_wait(&crew->parked, &crew->lock);
	pthread_mutex_unlock(&crew->lock);
}

void crew_wait_parked(struct crew *crew)
{
	wait_parked(crew, false);
}

static void tell_to_park(struct crew_member *cm)
{
	atomic_store(&cm->goal, CREW_PARK);
	if (cm->started)
		pthread_kill(cm->thread, CREW_KICK_SIGNAL);
}

/* Those that are in the way of nobody: the others run meanwhile. */
static void park_waiting(struct crew *crew)
{
	for (uint32_t i = 0; i < crew->count; i++) {
		struct crew_member *cm = &crew->members[i];

		cm->waited = atomic_load(&cm->goal) == CREW_RUN && crew->ops->waits &&
			     crew->ops->waits(cm);
		if (cm->waited)
			tell_to_park(cm);
	}
	wait_parked(crew, true);
}

static void choose_who_stays_awake(struct crew *crew)
{
	uint32_t spare = crew->host_cpus - 1;

	for (int waited = 0; waited < 2; waited++)
		for (uint32_t i = 0; i < crew->count; i++) {
			struct crew_member *cm = &crew->members[i];

			if (cm->waited == (waited == 1)) {
				atomic_store(&cm->stays_awake, spare > 0);
				spare -= spare > 0;
			}
		}
}

uint64_t crew_park(struct crew *crew)
{
	uint64_t last = 0;

	park_waiting(crew);
	choose_who_stays_awake(crew);
	for (uint32_t i = 0; i < crew->count; i++)
		if (!crew->members[i].waited)
			tell_to_park(&crew->members[i]);
	crew_wait_parked(crew);
	for (uint32_t i = 0; i < crew->count; i++)
		if (crew->members[i].stopped_ns > last)
			last = crew->members[i].stopped_ns;
	return last;
}

void crew_keep_awake(struct crew *crew, bool on)
{
	atomic_store(&crew->awake, on);
}

int crew_visit(struct crew *crew, uint32_t id, crew_job_fn *fn, void *opaque, struct error *err)
{
	struct crew_visit visit = { .fn = fn, .opaque = opaque, .err = err };
	struct crew_member *cm = &crew->members[id];

	pthread_mutex_lock(&crew->lock);
	cm->visit = &visit;
	pthread_mutex_unlock(&crew->lock);
	tell_to_park(cm);
	pthread_cond_signal(&cm->unpark); /* if it is held there already */
	pthread_mutex_lock(&crew->lock);
	while (cm->visit)
		pthread_cond_wait(&crew->parked, &crew->lock);
	pthread_mutex_unlock(&crew->lock);
	return visit.result;
}

uint64_t crew_entered(struct crew *crew)
{
	uint64_t first = UINT64_MAX;

	for (uint32_t i = 0; i < crew->count; i++) {
		uint64_t t = atomic_load(&crew->members[i].entered_ns);

		if (t && t < first)
			first = t;
	}
	if (first != UINT64_MAX)
		return first;
	return crew->ops->held && crew->ops->held(crew) ? now_ns() : 0;
}

uint64_t crew_wait_entered(struct crew *crew)
{
	uint64_t entered;

	while (!(entered = crew_entered(crew)))
		sched_yield();
	return entered;
}

bool crew_spare_cpus(const struct crew *crew, cpu_set_t *spare)
{
	if (sched_getaffinity(0, sizeof(*spare), spare) < 0)
		return false;
	for (uint32_t i = 0; i < crew->count; i++) {
		int cpu = atomic_load(&crew->members[i].host_cpu);

		if (cpu >= 0)
			CPU_CLR((size_t)cpu, spare);
	}
	return CPU_COUNT(spare) > 0;
}
