/* SPDX-License-Identifier: MIT */
/*
 * The machine's KVM VM: building it with vCPUs and devices, and replacing it.
 *
 * The order in which KVM objects are made is the same in all cases and chosen for the incoming
 * one: VM, memslots (5 ms and more each if they came after the irqchip: KVM then waits for an SRCU
 * grace period), the interrupt chips, then vCPUs and, beside them, the other in-kernel devices. A
 * vCPU's state is loaded as soon as it is there; that of the devices follows when all have theirs,
 * so that an interrupt that the IOAPIC hands out while its own state is set finds a LAPIC that is
 * loaded already.
 *
 * A guest reset replaces the KVM VM by a fresh one. KVM has no call that puts a VM back to
 * power-on, and a list of everything to be cleared would be wrong one day; a new VM is right by
 * construction.
 */
#include "machine_vm.h"

#include "device_list.h"
#include "machine_state.h"
#include "requests.h"
#include "vcpu_run.h"

/* Makes the vCPUs, one after the other for KVM does them so; helpers load those that are there. */
static int open_vcpus(struct machine *m, struct error *err)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		int r = vcpu_open(&m->vcpus[i], err);

		if (r < 0)
			return r;
		if (m->incoming)
			crew_job_offer(m->crew, 1);
	}
	return 0;
}

int machine_build_vm(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	int r = kvm_vm_create(&m->vm, &m->kvm, m->avoid_vm_fd, err), started, loaded;

	if (r == 0)
		r = memory_map_into(&m->memory, &m->vm, err);
	if (r == 0)
		r = devices_attach(m, true, err);
	started = crew_job_finish(m->crew, r < 0 ? NULL : err); /* of crew_start() */
	if (r < 0 || started < 0)
		return r < 0 ? r : started;
	crew_job_start(m->crew, machine_load_vcpu, m);
	r = open_vcpus(m, err);
	if (r == 0 && cfg)
		r = devices_create(m, cfg, false, err);
	if (r == 0)
		r = devices_attach(m, false, err);
	loaded = crew_job_finish(m->crew, r < 0 ? NULL : err);
	return r < 0 ? r : loaded;
}

void machine_tear_down_vm(struct machine *m)
{
	for (uint32_t i = 0; m->vcpus && i < m->guest.cpus; i++)
		vcpu_close(&m->vcpus[i]);
	kvm_vm_destroy(&m->vm);
}

int machine_power_on(struct machine *m, struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < m->guest.cpus && r == 0; i++) {
		r = vcpu_state_set_cpuid(m->vcpus[i].state, &m->kvm, m->vcpus[i].fd, err);
		if (r == 0)
			r = vcpu_state_power_on(&m->kvm, m->vcpus[i].fd, err);
	}
	for (unsigned int i = 0; i < m->ndevices && r == 0; i++)
		if (m->devices[i]->cls->reset)
			m->devices[i]->cls->reset(m->devices[i]);
	if (r == 0)
		r = m->ops.load_boot(m, m->ops.opaque, err);
	return r;
}

int machine_reset(struct machine *m, const char *reason, struct error *err)
{
	int r;

	machine_park_vcpus(m);
	/* Of a guest that is no more; the one that begins now has asked for nothing. */
	atomic_fetch_and(&m->requests, ~MACHINE_ENDING_REQUESTS);
	devices_before_reset(m);
	machine_tear_down_vm(m);
	msi_routes_forget_vm(&m->msi_routes);
	r = memory_clear(&m->memory, err);
	if (r == 0)
		r = machine_build_vm(m, NULL, err);
	if (r == 0)
		r = machine_power_on(m, err);
	if (r < 0) {
		err_prefix(err, "resetting the machine");
		return r;
	}
	m->ops.event(m, m->ops.opaque, MACHINE_EVENT_RESET, reason);
	if (m->guest.run_state == RUN_STATE_RUNNING)
		machine_unpark_vcpus(m);
	return 0;
}
