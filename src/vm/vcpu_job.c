/* SPDX-License-Identifier: MIT */
/*
 * Work that every vCPU needs while none of them runs: saving its state, making and loading it. A
 * call takes the kernel 5 to 100 us, a vCPU needs a dozen, and all of it lies within the pause. So
 * the parked vCPU threads, which have nothing else to do, share the work with main: whoever is free
 * takes the next vCPU, be it its own or not. A job's function allocates nothing and takes no lock
 * that could be left behind: once main has finished the job every helper is back in the park.
 *
 * A thread that has given up what it does not need (machine_ops.confine) helps with what only reads
 * a vCPU. At a guest's reset, when vCPUs are made anew, main is alone.
 */
#include <sched.h>

#include <molt/base/fd.h>
#include <molt/vm/machine.h>

#include "vcpu_run.h"

#define JOB_SPIN_NS 1000000
#define CONTENDED_NS 100000

uint32_t vcpu_count_host_cpus(void)
{
	cpu_set_t set;

	return sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : (uint32_t)CPU_COUNT(&set);
}

/*
 * To wake a thread takes 30 us, and a millisecond where the host's CPU is itself a virtual one that
 * has to be woken first. So in the pause whoever waits stays awake. It yields, for kernel threads
 * that KVM waits for want this CPU; and where a yield takes long others want it as well: then a
 * sleeper, which the scheduler favours when it wakes, has it back sooner.
 * #syscalls vcpu: sched_yield
 */
bool vcpu_wait_awake(uint64_t until)
{
	uint64_t before = now_ns();

	if (before >= until)
		return false;
	sched_yield();
	return now_ns() - before < CONTENDED_NS;
}

bool vcpu_job_is_open(struct machine *m)
{
	return atomic_load(&m->job.next) < atomic_load(&m->job.count);
}

bool vcpu_job_help(struct machine *m, bool confined)
{
	struct error err = ERROR_INIT;
	struct vcpu *v;
	int r;

	if (!vcpu_job_is_open(m) || (confined && !m->job.reads))
		return false;
	v = &m->vcpus[atomic_fetch_add(&m->job.next, 1)];
	pthread_mutex_unlock(&m->vcpu_lock);
	r = m->job.fn(v, &err);
	pthread_mutex_lock(&m->vcpu_lock);
	if (r < 0 && m->job.result == 0) {
		m->job.result = r;
		m->job.err = err;
	}
	if (atomic_fetch_sub(&m->job.left, 1) == 1)
		pthread_cond_broadcast(&m->vcpu_parked);
	return true;
}

static void start(struct machine *m, vcpu_job_fn *fn, bool reads)
{
	pthread_mutex_lock(&m->vcpu_lock);
	m->job.fn = fn;
	m->job.reads = reads;
	m->job.result = 0;
	atomic_store(&m->job.left, 0);
	atomic_store(&m->job.next, 0);
	atomic_store(&m->job.count, 0);
	pthread_mutex_unlock(&m->vcpu_lock);
}

void vcpu_job_start(struct machine *m, vcpu_job_fn *fn)
{
	start(m, fn, false);
}

void vcpu_job_offer(struct machine *m, uint32_t count)
{
	uint32_t helpers = m->host_cpus - 1 < count ? m->host_cpus - 1 : count;

	pthread_mutex_lock(&m->vcpu_lock);
	atomic_fetch_add(&m->job.left, count);
	atomic_fetch_add(&m->job.count, count);
	pthread_mutex_unlock(&m->vcpu_lock);
	while (helpers--)
		pthread_cond_signal(&m->vcpu_unpark);
}

/*
 * A helper has at most the rest of one vCPU to do, which is over sooner than main would be asleep.
 */
static void wait_for_helpers(struct machine *m)
{
	const uint64_t give_up = now_ns() + JOB_SPIN_NS;

	pthread_mutex_unlock(&m->vcpu_lock);
	while (m->host_cpus > 1 && atomic_load(&m->job.left) && vcpu_wait_awake(give_up))
		;
	pthread_mutex_lock(&m->vcpu_lock);
	while (atomic_load(&m->job.left))
		pthread_cond_wait(&m->vcpu_parked, &m->vcpu_lock);
}

int vcpu_job_finish(struct machine *m, struct error *err)
{
	int r;

	pthread_mutex_lock(&m->vcpu_lock);
	while (vcpu_job_help(m, false))
		;
	wait_for_helpers(m);
	atomic_store(&m->job.count, 0);
	atomic_store(&m->job.next, 0);
	r = m->job.result;
	m->job.result = 0; /* told; a finish with no job before it must not tell it again */
	if (r < 0 && err)
		*err = m->job.err;
	pthread_mutex_unlock(&m->vcpu_lock);
	return r;
}

int vcpu_job_read(struct machine *m, vcpu_job_fn *fn, struct error *err)
{
	/* Waking a thread takes longer than one vCPU. */
	if (m->guest.cpus == 1)
		return fn(&m->vcpus[0], err);
	start(m, fn, true);
	vcpu_job_offer(m, m->guest.cpus);
	return vcpu_job_finish(m, err);
}
