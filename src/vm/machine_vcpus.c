/* SPDX-License-Identifier: MIT */
/* What is done to all vCPUs at once: by the crew that runs them (crew_park.c), whichever that is
 * now. */
#include <molt/vm/machine.h>

#include "machine_state.h"

uint64_t machine_park_vcpus(struct machine *m)
{
	return crew_park(m->crew);
}

int machine_park_in_time(struct machine *m, struct crew *next, uint64_t *stopped_ns,
			 struct error *err)
{
	return crew_park_for(m->crew, next, MACHINE_STOP_NS, stopped_ns, err);
}

void machine_rouse_vcpus(struct machine *m)
{
	crew_rouse(m->crew);
}

void machine_unpark_vcpus(struct machine *m)
{
	crew_unpark(m->crew);
}

void machine_keep_awake(struct machine *m, bool on)
{
	crew_keep_awake(m->crew, on);
}

uint64_t machine_entered(struct machine *m)
{
	return crew_entered(m->crew);
}

uint64_t machine_wait_entered(struct machine *m)
{
	return crew_wait_entered(m->crew);
}

bool machine_spare_cpus(struct machine *m, cpu_set_t *spare)
{
	return crew_spare_cpus(m->crew, spare);
}

void machine_note_who_waits(struct machine *m, struct crew *crew)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		crew_note_waited(crew, i, vcpu_state_waits(m->vcpus[i].state));
}

/* Those that the crew may use, but for not_on; how many. */
static int cpus_for(const struct crew *crew, const cpu_set_t *not_on, cpu_set_t *cpus)
{
	cpu_set_t all;

	if (!not_on || sched_getaffinity(crew->members[0].tid, sizeof(all), &all) < 0)
		return 0;
	CPU_AND(cpus, &all, not_on);
	CPU_XOR(cpus, cpus, &all);
	return CPU_COUNT(cpus);
}

void machine_prepare_vcpus(struct machine *m, struct crew *crew, const cpu_set_t *not_on)
{
	cpu_set_t cpus;
	int helpers = cpus_for(crew, not_on, &cpus);
	const cpu_set_t *where = helpers ? &cpus : NULL;

	machine_note_who_waits(m, crew);
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		if (!vcpu_state_waits(m->vcpus[i].state) || helpers-- > 0)
			crew_prepare(crew, i, m->vcpus[i].place.differs ? NULL : where);
}

void machine_tell_paused(struct machine *m)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		vcpu_state_tell_paused(&m->kvm, m->vcpus[i].fd);
}
