/* SPDX-License-Identifier: MIT */
/*
 * Work that is shared among main and the parked members, who have nothing else to do: whoever is
 * free takes the next item, be it about itself or not. For vCPUs that is saving their state, making
 * and loading it: a call takes the kernel 5 to 100 us, a vCPU needs a dozen, and all of it lies
 * within an update's pause. A job's function allocates nothing and takes no lock that could be left
 * behind: once main has finished the job every helper is back in the park.
 *
 * A member that has given up what it does not need (confined) helps with what only reads. Where all
 * have, as at a guest's reset, main is alone with the rest.
 */
#include <sched.h>

#include <molt/base/fd.h>

#include "crew_impl.h"

#define JOB_SPIN_NS 1000000
#define CONTENDED_NS 100000

/*
 * To wake a thread takes 30 us, and a millisecond where the host's CPU is itself a virtual one that
 * has to be woken first. So in the pause whoever waits stays awake. It yields, for kernel threads
 * that KVM waits for want this CPU; and where a yield takes long others want it as well: then a
 * sleeper, which the scheduler favours when it wakes, has it back sooner.
 * #syscalls vcpu: sched_yield
 */
bool crew_wait_awake(uint64_t until)
{
	uint64_t before = now_ns();

	if (before >= until)
		return false;
	sched_yield();
	return now_ns() - before < CONTENDED_NS;
}

bool crew_job_is_open(struct crew *crew)
{
	return atomic_load(&crew->job.next) < atomic_load(&crew->job.count);
}

bool crew_job_help(struct crew *crew, bool confined)
{
	struct error err = ERROR_INIT;
	uint32_t item;
	int r;

	if (!crew_job_is_open(crew) || (confined && !crew->job.reads))
		return false;
	item = atomic_fetch_add(&crew->job.next, 1);
	pthread_mutex_unlock(&crew->lock);
	r = crew->job.fn(crew->job.opaque, item, &err);
	pthread_mutex_lock(&crew->lock);
	if (r < 0 && crew->job.result == 0) {
		crew->job.result = r;
		crew->job.err = err;
	}
	if (atomic_fetch_sub(&crew->job.left, 1) == 1)
		pthread_cond_broadcast(&crew->parked);
	return true;
}

void crew_leave_main_alone(struct crew *crew, bool on)
{
	atomic_store(&crew->alone, on);
}

static void start(struct crew *crew, crew_job_fn *fn, void *opaque, bool reads)
{
	pthread_mutex_lock(&crew->lock);
	crew->job.fn = fn;
	crew->job.opaque = opaque;
	crew->job.reads = reads;
	crew->job.result = 0;
	atomic_store(&crew->job.left, 0);
	atomic_store(&crew->job.next, 0);
	atomic_store(&crew->job.count, 0);
	pthread_mutex_unlock(&crew->lock);
}

void crew_job_start(struct crew *crew, crew_job_fn *fn, void *opaque)
{
	start(crew, fn, opaque, false);
}

void crew_job_offer(struct crew *crew, uint32_t count)
{
	pthread_mutex_lock(&crew->lock);
	atomic_fetch_add(&crew->job.left, count);
	atomic_fetch_add(&crew->job.count, count);
	pthread_mutex_unlock(&crew->lock);
	if (!atomic_load(&crew->alone))
		crew_wake_helpers(crew, crew->host_cpus - 1 < count ? crew->host_cpus - 1 : count);
}

/*
 * A helper has at most the rest of one item to do, which is over sooner than main would be asleep.
 */
static void wait_for_helpers(struct crew *crew)
{
	const uint64_t give_up = now_ns() + JOB_SPIN_NS;

	pthread_mutex_unlock(&crew->lock);
	while (crew->host_cpus > 1 && atomic_load(&crew->job.left) && crew_wait_awake(give_up))
		;
	pthread_mutex_lock(&crew->lock);
	while (atomic_load(&crew->job.left))
		pthread_cond_wait(&crew->parked, &crew->lock);
}

int crew_job_finish(struct crew *crew, struct error *err)
{
	int r;

	pthread_mutex_lock(&crew->lock);
	while (crew_job_help(crew, false))
		;
	wait_for_helpers(crew);
	atomic_store(&crew->job.count, 0);
	atomic_store(&crew->job.next, 0);
	r = crew->job.result;
	crew->job.result = 0; /* told; a finish with no job before it must not tell it again */
	if (r < 0 && err)
		*err = crew->job.err;
	pthread_mutex_unlock(&crew->lock);
	return r;
}

static int run(struct crew *crew, uint32_t count, crew_job_fn *fn, void *opaque, bool reads,
	       struct error *err)
{
	/* Waking a thread takes longer than one item. */
	if (count == 1)
		return fn(opaque, 0, err);
	start(crew, fn, opaque, reads);
	crew_job_offer(crew, count);
	return crew_job_finish(crew, err);
}

int crew_job(struct crew *crew, uint32_t count, crew_job_fn *fn, void *opaque, struct error *err)
{
	return run(crew, count, fn, opaque, false, err);
}

int crew_job_read(struct crew *crew, uint32_t count, crew_job_fn *fn, void *opaque,
		  struct error *err)
{
	return run(crew, count, fn, opaque, true, err);
}
