/* SPDX-License-Identifier: MIT */
/*
 * What CPUID tells a guest: the allow-list of bits (cpuid_allow.c), models of CPUs that are the
 * same on every host (cpuid_model.c), and the leaves of one vCPU made from both (cpuid.c). All of
 * it is for a cold start. A guest keeps the CPUID of its stream, whatever molt or the host would
 * offer now.
 */
#ifndef MOLT_VM_CPUID_H
#define MOLT_VM_CPUID_H

#include <stdint.h>

#include <molt/base/error.h>
#include <molt/vm/cpuid_allow.h>
#include <molt/vm/cpuid_model.h>
#include <molt/vm/kvm.h>
#include <molt/vm/vcpu_state.h>

struct cpuid_config {
	uint32_t id; /* the vCPU, which is its APIC id, of cpus */
	uint32_t cpus;
	uint32_t tsc_khz;
	const char *model;
};

/*
 * st->cpuid of a vCPU: one socket, one thread a core, TSC frequency in leaf 0x40000010
 * (docs/guest-abi.md). -ENOTSUP: see cpu_model_apply(); -E2BIG, -ENOMEM, KVM's own.
 */
int cpuid_make(struct vcpu_state *st, struct kvm *kvm, const struct cpuid_config *cfg,
	       struct error *err);

#endif
