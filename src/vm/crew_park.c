/* SPDX-License-Identifier: MIT */
/* Main's side of parking and running; the member's is in crew_member.c, with the theory of
 * operation. */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "crew_impl.h"

#define PARK_SPIN_NS 200000
#define NO_LIMIT_NS (UINT64_MAX / 2)

/* The first that is not; NULL: all are. told: but for those that are to run. */
static struct crew_member *not_parked(struct crew *crew, bool told)
{
	for (uint32_t i = 0; i < crew->count; i++) {
		struct crew_member *cm = &crew->members[i];

		if (!atomic_load(&cm->parked) && !(told && atomic_load(&cm->goal) == CREW_RUN))
			return cm;
	}
	return NULL;
}

/* NULL, or one that is not parked when the time is over. */
static struct crew_member *wait_parked(struct crew *crew, bool told, uint64_t end_ns)
{
	const uint64_t give_up = now_ns() + PARK_SPIN_NS;
	const struct timespec end = ns_to_timespec(end_ns);
	struct crew_member *late;
	bool in_time = true;

	/*
	 * Most are there at once, sooner than this thread would have gone to sleep and come back.
	 */
	while (crew->host_cpus > 1 && not_parked(crew, told) && crew_wait_awake(give_up))
		;
	pthread_mutex_lock(&crew->lock);
	while ((late = not_parked(crew, told)) && in_time)
		in_time = pthread_cond_clockwait(&crew->parked, &crew->lock, CLOCK_MONOTONIC,
						 &end) == 0;
	pthread_mutex_unlock(&crew->lock);
	return late;
}

void crew_wait_parked(struct crew *crew)
{
	wait_parked(crew, false, now_ns() + NO_LIMIT_NS);
}

static void tell_to_park(struct crew_member *cm)
{
	atomic_store(&cm->goal, CREW_PARK);
	if (atomic_load(&cm->started))
		pthread_kill(cm->thread, CREW_KICK_SIGNAL);
}

/* Those that are in the way of nobody: the others run meanwhile. */
static struct crew_member *park_waiting(struct crew *crew, uint64_t end_ns)
{
	for (uint32_t i = 0; i < crew->count; i++) {
		struct crew_member *cm = &crew->members[i];

		cm->waited = atomic_load(&cm->goal) == CREW_RUN && crew->ops->waits &&
			     crew->ops->waits(cm);
		if (cm->waited)
			tell_to_park(cm);
	}
	return wait_parked(crew, true, end_ns);
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

void crew_rouse(struct crew *crew)
{
	crew_keep_awake(crew, true);
	for (uint32_t i = 0; i < crew->count; i++)
		if (atomic_load(&crew->members[i].stays_awake))
			crew_wake(&crew->members[i]);
}

static struct crew_member *park_busy(struct crew *crew, struct crew *next, uint64_t end_ns)
{
	choose_who_stays_awake(crew);
	for (uint32_t i = 0; i < crew->count; i++)
		if (!crew->members[i].waited)
			tell_to_park(&crew->members[i]);
	if (next)
		crew_rouse(next);
	return wait_parked(crew, false, end_ns);
}

static int hangs(const struct crew_member *cm, struct error *err)
{
	return err_set(err, ETIMEDOUT, "%s %u does not stop: its thread hangs",
		       cm->crew->ops->title, cm->id);
}

int crew_park_for(struct crew *crew, struct crew *next, uint64_t timeout_ns, uint64_t *stopped_ns,
		  struct error *err)
{
	const uint64_t end_ns = now_ns() + timeout_ns;
	struct crew_member *late = park_waiting(crew, end_ns);
	uint64_t last = 0;

	if (!late)
		late = park_busy(crew, next, end_ns);
	if (late) {
		crew_unpark(crew);
		return hangs(late, err);
	}
	for (uint32_t i = 0; i < crew->count; i++) {
		atomic_store(&crew->members[i].entered_ns, 0);
		if (crew->members[i].stopped_ns > last)
			last = crew->members[i].stopped_ns;
	}
	*stopped_ns = last;
	return 0;
}

uint64_t crew_park(struct crew *crew)
{
	uint64_t stopped_ns = 0;

	crew_park_for(crew, NULL, NO_LIMIT_NS, &stopped_ns, NULL);
	return stopped_ns;
}

void crew_keep_awake(struct crew *crew, bool on)
{
	if (on)
		choose_who_stays_awake(crew);
	atomic_store(&crew->awake, on);
}

/* Called with the lock held, and the visit not begun: then its member knows of none. */
static int call_off(struct crew_member *cm, struct error *err)
{
	cm->visit = NULL;
	atomic_store(&cm->goal, CREW_RUN);
	return hangs(cm, err);
}

int crew_visit(struct crew *crew, uint32_t id, crew_job_fn *fn, void *opaque, uint64_t timeout_ns,
	       struct error *err)
{
	const struct timespec end = ns_to_timespec(now_ns() + timeout_ns);
	struct crew_visit visit = { .fn = fn, .opaque = opaque, .err = err };
	struct crew_member *cm = &crew->members[id];

	pthread_mutex_lock(&crew->lock);
	cm->visit = &visit;
	pthread_mutex_unlock(&crew->lock);
	tell_to_park(cm);
	crew_wake(cm); /* if it is held there already */
	pthread_mutex_lock(&crew->lock);
	while (cm->visit &&
	       pthread_cond_clockwait(&crew->parked, &crew->lock, CLOCK_MONOTONIC, &end) == 0)
		;
	if (cm->visit)
		visit.result = call_off(cm, err);
	else
		while (!visit.is_over)
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

		if (cpu >= 0 && !crew->members[i].waited)
			CPU_CLR((size_t)cpu, spare);
	}
	return CPU_COUNT(spare) > 0;
}
