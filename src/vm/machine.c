/* SPDX-License-Identifier: MIT */
/*
 * Building, resetting and ending the machine.
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
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <molt/base/fd.h>
#include <molt/vm/cpuid.h>
#include <molt/vm/machine.h>

#include "device_list.h"
#include "machine_state.h"
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

/*
 * The KVM VM with all that is in it, vCPUs and devices. vCPUs have their state where there is a
 * stream; devices that do not exist yet are created from cfg (NULL: all do), still without state.
 */
static int build_vm(struct machine *m, const struct machine_config *cfg, struct error *err)
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

static void tear_down_vm(struct machine *m)
{
	for (uint32_t i = 0; m->vcpus && i < m->guest.cpus; i++)
		vcpu_close(&m->vcpus[i]);
	kvm_vm_destroy(&m->vm);
}

/* Power-on state for a VM that was just built. */
static int power_on(struct machine *m, struct error *err)
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

static int cold_start(struct machine *m, struct error *err)
{
	int khz = kvm_call_num(&m->kvm, m->vcpus[0].fd, KVM_GET_TSC_KHZ, 0);
	int r = 0;

	if (khz <= 0)
		return err_sys(err, khz ? -khz : ENOTSUP, "KVM_GET_TSC_KHZ");
	for (uint32_t i = 0; i < m->guest.cpus && r == 0; i++) {
		const struct cpuid_config cpuid = {
			.id = i,
			.cpus = m->guest.cpus,
			.tsc_khz = (uint32_t)khz,
			.model = m->guest.cpu_model,
		};

		r = cpuid_make(m->vcpus[i].state, &m->kvm, &cpuid, err);
	}
	if (r == 0)
		r = power_on(m, err);
	if (r == 0)
		r = msr_lists_init(&m->guest.msrs, &m->kvm, m->vcpus[0].fd, err);
	return r;
}

static int alloc_vcpus(struct machine *m, struct error *err)
{
	int r;

	m->crew = &m->crews[0];
	r = crew_init(m->crew, &vcpu_crew_ops, m, m->guest.cpus, err);
	if (r < 0)
		return r;
	crew_keep_awake(m->crew, m->incoming != NULL);
	m->vcpus = calloc(m->guest.cpus, sizeof(*m->vcpus));
	m->vcpu_states = calloc(m->guest.cpus, sizeof(*m->vcpu_states));
	if (m->rehearses)
		m->rehearsed = calloc(m->guest.cpus, sizeof(*m->rehearsed));
	if (!m->vcpus || !m->vcpu_states || (m->rehearses && !m->rehearsed))
		return err_set(err, ENOMEM, "no memory for %u vCPUs", m->guest.cpus);
	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		struct vcpu *v = &m->vcpus[i];

		v->machine = m;
		v->id = i;
		v->fd = -1;
		v->state = &m->vcpu_states[i];
	}
	return 0;
}

static void free_vcpus(struct machine *m)
{
	if (m->crew)
		crew_stop(m->crew);
	tear_down_vm(m);
	if (m->crew)
		crew_fini(m->crew);
	machine_forget_rehearsal(m);
	free(m->vcpu_states);
	free(m->vcpus);
	m->vcpu_states = NULL;
	m->vcpus = NULL;
}

static int configure(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	if (cfg->stream)
		return machine_load_config(m, cfg->stream, err);
	m->machine_version = cfg->machine_version ? cfg->machine_version : m->model->newest;
	m->guest.ram_size = cfg->ram_size;
	m->guest.cpus = cfg->cpus;
	m->guest.no_reboot = cfg->no_reboot;
	snprintf(m->guest.cpu_model, sizeof(m->guest.cpu_model), "%s",
		 cfg->cpu_model ? cfg->cpu_model : CPU_MODEL_HOST);
	m->guest.run_state = RUN_STATE_PRELAUNCH;
	if (getrandom(m->uuid, sizeof(m->uuid), 0) != (ssize_t)sizeof(m->uuid))
		return err_sys(err, errno, "getrandom");
	m->uuid[6] = (uint8_t)((m->uuid[6] & 0x0f) | 0x40); /* RFC 4122: version 4 */
	m->uuid[8] = (uint8_t)((m->uuid[8] & 0x3f) | 0x80);
	if (snprintf(m->guest.name, sizeof(m->guest.name), "%s", cfg->name) > MACHINE_NAME_MAX)
		return err_set(err, EINVAL, "name '%s' is longer than %d bytes", cfg->name,
			       MACHINE_NAME_MAX);
	return machine_check_config(m, err);
}

static int open_kvm(struct machine *m, const struct machine_config *cfg, int fd, struct error *err)
{
	if (!cfg->kvm)
		return kvm_open(&m->kvm, fd, err);
	m->kvm = *cfg->kvm;
	m->kvm.fd = fd >= 0 ? fd : fcntl(cfg->kvm->fd, F_DUPFD_CLOEXEC, 0);
	return kvm_probe(&m->kvm, err);
}

static int open_host(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	int fd = -1, r;

	if (cfg->fds) {
		fd = fdtable_take(cfg->fds, "kvm", 0, FD_KIND_CHAR, err);
		if (fd < 0)
			return fd;
	} else if (cfg->kvm_fd) {
		fd = *cfg->kvm_fd;
		*cfg->kvm_fd = -1;
	}
	r = open_kvm(m, cfg, fd, err);
	if (r == 0 && m->guest.cpus > m->kvm.max_vcpus)
		r = err_set(err, EINVAL, "%u vCPUs: this host's KVM allows %u", m->guest.cpus,
			    m->kvm.max_vcpus);
	if (r == 0)
		r = memory_create(&m->memory, m->guest.ram_size, &cfg->memory, cfg->fds, err);
	return r;
}

static int build(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	int r = configure(m, cfg, err);

	if (r == 0)
		r = open_host(m, cfg, err);
	if (r == 0)
		r = loop_wake_init(m->loop, &m->request_wake, machine_handle_requests, m, err);
	if (r == 0)
		r = alloc_vcpus(m, err);
	if (r == 0)
		r = devices_plan(m, cfg, err);
	if (r == 0)
		r = devices_create(m, cfg, true, err);
	if (r == 0)
		r = crew_start(m->crew, err);
	if (r == 0)
		r = build_vm(m, cfg, err);
	if (r == 0)
		r = cfg->stream ? machine_load(m, cfg->stream, cfg->fds, err) : cold_start(m, err);
	if (r == 0)
		crew_wait_parked(m->crew);
	/* What the guest asked of the predecessor just before it stopped. */
	if (r == 0 && atomic_load(&m->requests))
		loop_wake_signal(&m->request_wake);
	return r;
}

int machine_create(struct machine *m, const struct machine_config *cfg, struct error *err)
{
	int r;

	memset(m, 0, sizeof(*m));
	m->kvm.fd = m->vm.fd = -1;
	m->loop = cfg->loop;
	m->ops = cfg->ops;
	m->retry_ns = VCPU_RETRY_NS;
	m->incoming = cfg->stream;
	m->rehearses = cfg->rehearsal;
	m->avoid_vm_fd = cfg->fds ? (int)cfg->fds->vm_fd : -1;
	m->model = cfg->model ? cfg->model : &machine_model;
	r = build(m, cfg, err);
	m->incoming = NULL;
	if (r < 0)
		machine_destroy(m);
	return r;
}

void machine_destroy(struct machine *m)
{
	free_vcpus(m);
	devices_destroy(m);
	msi_routes_fini(&m->msi_routes);
	memory_destroy(&m->memory);
	loop_wake_fini(&m->request_wake);
	kvm_close(&m->kvm);
}

int machine_reset(struct machine *m, const char *reason, struct error *err)
{
	int r;

	machine_park_vcpus(m);
	r = devices_before_reset(m, err);
	tear_down_vm(m);
	msi_routes_forget_vm(&m->msi_routes);
	if (r == 0)
		r = memory_clear(&m->memory, err);
	if (r == 0)
		r = build_vm(m, NULL, err);
	if (r == 0)
		r = power_on(m, err);
	if (r < 0) {
		err_prefix(err, "resetting the machine");
		return r;
	}
	m->ops.event(m, m->ops.opaque, MACHINE_EVENT_RESET, reason);
	if (m->guest.run_state == RUN_STATE_RUNNING)
		machine_unpark_vcpus(m);
	return 0;
}

int machine_power_button(struct machine *m, struct error *err)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];

		if (!dev->cls->power_button)
			continue;
		pthread_mutex_lock(&dev->lock);
		dev->cls->power_button(dev);
		pthread_mutex_unlock(&dev->lock);
		m->ops.event(m, m->ops.opaque, MACHINE_EVENT_POWERDOWN, NULL);
		return 0;
	}
	return err_set(err, ENODEV, "this machine has no power button");
}
