/* SPDX-License-Identifier: MIT */
/*
 * The machine while its VMM is replaced. Theory of operation.
 *
 * Two processes share this machine's memory then, and each has threads of its own for the vCPUs:
 * two crews, one of which runs the guest (machine->crew). To hand it over is to park the one, and
 * let the other go. The vCPUs and devices stay what they are; KVM does not ask which thread of the
 * address space runs a vCPU. Two things go by threads. Performance counters are perf events of the
 * thread that entered the vCPU: they stand still with another one, and nothing is done about that
 * (docs/live-update.md, "Known limits"). And steal time (steal_time.c).
 *
 * Steal time is seen to by the new thread itself, before it runs the vCPU: registers are changed
 * and put back for it, and the predecessor may die in between, in the hand-off.
 *
 * The process whose crew does not run may die at any time. Its threads leave nothing behind but the
 * crew's lock and conditions, and where it is main that dies, devices' locks.
 */
#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "machine_state.h"
#include "vcpu_run.h"

/* About what the old order takes; a grace period takes two ticks and more. */
#define SLOW_NS 4000000

bool machine_hands_over_slowly(struct machine *m)
{
	uint64_t ns = kvm_thread_change_ns(&m->kvm);
	bool was_slow = m->thread_change_ns > SLOW_NS;

	if (ns)
		m->thread_change_ns = ns;
	if (ns > SLOW_NS && !was_slow)
		log_info("KVM takes %llu ms to run a vCPU on another thread, as before Linux 6.13 where "
			 "/sys/kernel/rcu_expedited is 0: updates stop the guest before the exec",
			 (unsigned long long)(ns / 1000000));
	return m->thread_change_ns > SLOW_NS;
}

static struct crew *other(struct machine *m)
{
	return m->crew == &m->crews[0] ? &m->crews[1] : &m->crews[0];
}

int machine_make_stand_in(struct machine *m, struct error *err)
{
	struct crew *crew = m->stand_in = other(m);
	int r;

	machine_note_places(m);
	r = crew_init(crew, &vcpu_crew_ops, m, m->guest.cpus, err);

	if (r == 0)
		r = crew_start(crew, machine_has_places(m), err);
	if (r == 0)
		r = crew_job_finish(crew, err);
	if (r == 0)
		crew_wait_parked(crew);
	return r;
}

void machine_unmake_stand_in(struct machine *m)
{
	crew_stop(m->stand_in);
	crew_fini(m->stand_in);
}

static void forget(struct crew *crew)
{
	if (!crew->members)
		return;
	crew_forget(crew);
	crew_fini(crew);
}

void machine_forget_stand_in(struct machine *m)
{
	if (m->stand_in)
		forget(m->stand_in);
	m->stand_in = NULL;
}

int machine_rest(struct machine *m, struct error *err)
{
	int r = 0;

	for (unsigned int i = 0; i < m->ndevices && r == 0; i++) {
		struct device *dev = m->devices[i];

		r = dev->cls->rest ? dev->cls->rest(dev, err) : 0;
		if (r < 0)
			err_prefix(err, "device '%s'", dev->id);
	}
	return r;
}

void machine_go_on(struct machine *m)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->go_on)
			m->devices[i]->cls->go_on(m->devices[i]);
}

void machine_hand_over(struct machine *m)
{
	machine_note_who_waits(m, m->stand_in);
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		m->vcpus[i].leaves_thread = true;
	m->crew = m->stand_in;
}

void machine_hand_back(struct machine *m)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		m->vcpus[i].leaves_thread = false;
	if (m->crew == m->stand_in)
		m->crew = other(m);
}

void machine_clear_preempted(struct machine *m)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		vcpu_clear_preempted(&m->vcpus[i]);
}

void machine_serve(struct machine *m)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];

		if (!dev->cls->serve)
			continue;
		pthread_mutex_lock(&dev->lock);
		dev->cls->serve(dev);
		pthread_mutex_unlock(&dev->lock);
	}
}

static void revive_devices(struct machine *m, bool stood_in)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];

		/* Who is gone may have held it. With nobody there it can be made again. */
		if (!stood_in)
			pthread_mutex_init(&dev->lock, NULL);
		if (dev->cls->revive)
			dev->cls->revive(dev, stood_in);
	}
}

void machine_lose_stand_in(struct machine *m)
{
	revive_devices(m, false);
}

void machine_take_back(struct machine *m, bool stood_in)
{
	forget(other(m));
	m->stand_in = NULL;
	revive_devices(m, stood_in);
	machine_clear_preempted(m);
	machine_tell_paused(m);
}
