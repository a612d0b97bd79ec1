/* SPDX-License-Identifier: MIT */
/* Making the machine, cold or from a stream, and ending it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include <molt/base/fd.h>
#include <molt/vm/cpuid.h>
#include <molt/vm/machine.h>
#include <molt/vm/vcpu_kinds.h>

#include "device_list.h"
#include "machine_state.h"
#include "machine_vm.h"
#include "vcpu_run.h"

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
		r = machine_power_on(m, err);
	if (r == 0)
		r = msr_lists_init(&m->guest.msrs, &m->kvm, m->vcpus[0].fd, err);
	return r;
}

static int alloc_vcpus(struct machine *m, const cpu_set_t *cpus, struct error *err)
{
	int r = vcpu_catch_memory_errors(err);

	if (r < 0)
		return r;
	m->crew = &m->crews[0];
	r = crew_init(m->crew, &vcpu_crew_ops, m, m->guest.cpus, err);
	if (r < 0)
		return r;
	crew_keep_awake(m->crew, m->incoming && !m->rehearses);
	crew_leave_main_alone(m->crew, m->rehearses);
	if (cpus)
		crew_set_cpus(m->crew, cpus);
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
	machine_tear_down_vm(m);
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
	if (r == 0)
		r = vcpu_kinds_probe(&m->kvm, err);
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
		r = alloc_vcpus(m, cfg->vcpu_cpus, err);
	if (r == 0 && cfg->stream)
		r = machine_load_places(m, cfg->stream, err);
	if (r == 0)
		r = devices_plan(m, cfg, err);
	if (r == 0)
		r = devices_create(m, cfg, true, err);
	if (r == 0)
		r = crew_start(m->crew, machine_has_places(m), err);
	if (r == 0)
		r = machine_build_vm(m, cfg, err);
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
	m->model = cfg->model;
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
