/* SPDX-License-Identifier: MIT */
/*
 * All state of one vCPU as KVM gives it, and the order in which it is set. What is in here is what
 * survives an update; see docs/live-update.md for the order's reasons.
 */
#ifndef MOLT_VM_VCPU_STATE_H
#define MOLT_VM_VCPU_STATE_H

#include <stdint.h>

#include <linux/kvm.h>

#include <molt/base/error.h>
#include <molt/state/vmstate.h>
#include <molt/vm/kvm.h>

#define VCPU_CPUID_MAX 256
#define VCPU_MSRS_MAX 1024
#define VCPU_XSAVE_MAX 16384

struct vcpu_state {
	uint32_t ncpuid;                    /* in 32-bit words, 10 an entry: struct kvm_cpuid_entry2 */
	uint32_t cpuid[VCPU_CPUID_MAX * 10];
	uint32_t reserved_cpuid;
	uint64_t tsc_khz;
	uint64_t tsc_offset;                /* guest TSC = host TSC + this (mod 2^64) */
	uint32_t nmsrs;
	uint32_t nmsr_values;               /* equals nmsrs */
	uint32_t msr_index[VCPU_MSRS_MAX];
	uint64_t msr_value[VCPU_MSRS_MAX];
	struct kvm_regs regs;
	struct kvm_sregs2 sregs;            /* from KVM_GET_SREGS where there is no KVM_GET_SREGS2 */
	uint32_t xsave_len;
	uint8_t xsave[VCPU_XSAVE_MAX];
	uint32_t reserved_xsave;
	struct kvm_xcrs xcrs;
	uint64_t lapic_ns;                  /* CLOCK_MONOTONIC when lapic was read */
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	uint32_t reserved_mp_state;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
};

extern const struct vmstate vcpu_vmstate; /* section "vcpu", one instance a vCPU */

/*
 * The MSRs to save: those of KVM_GET_MSR_INDEX_LIST and some that KVM leaves out of it (MTRRs,
 * machine check banks), as far as this host can read and set them. Not among them: the TSC, which
 * travels as an offset, and kvmclock's wall clock, which belongs to the VM (hw/clock.c).
 */
struct msr_list {
	uint32_t count;
	uint32_t index[VCPU_MSRS_MAX];
};

/* vcpu_fd: a fresh vCPU with its CPUID set; each MSR is read and written back once. */
int msr_list_init(struct msr_list *list, struct kvm *kvm, int vcpu_fd, struct error *err);

/* Reads everything but CPUID, which molt itself chose and st keeps. The vCPU is parked. */
int vcpu_state_get(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
		   const struct msr_list *msrs, struct error *err);

/* Sets CPUID alone: before the first KVM_RUN, and part of vcpu_state_set(). */
int vcpu_state_set_cpuid(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
			 struct error *err);

/*
 * CPUID for vCPU id of cpus, from what the host's KVM supports: one socket, one thread a core, TSC
 * frequency in leaf 0x40000010, no VMX or SVM (docs/guest-abi.md).
 */
int vcpu_state_init_cpuid(struct vcpu_state *st, struct kvm *kvm, uint32_t id, uint32_t cpus,
			  uint32_t tsc_khz, struct error *err);

/*
 * Power-on state that firmware would have set up and KVM does not: memory is write-back cached
 * (IA32_MTRR_DEF_TYPE), without which Linux makes no use of the PAT.
 */
int vcpu_state_power_on(struct kvm *kvm, int vcpu_fd, struct error *err);

/* Sets everything on a fresh vCPU, CPUID included, and nothing in guest RAM. */
int vcpu_state_set(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err);

/*
 * *value: MSR_KVM_STEAL_TIME, a gpa and flags (Linux, Documentation/virt/kvm/x86/msr.rst). 0 where the guest
 * does not use it, or KVM does not have it.
 */
int vcpu_state_steal_time(struct kvm *kvm, int vcpu_fd, uint64_t *value, struct error *err);

/* From here on KVM accounts no steal time for this vCPU. */
int vcpu_state_stop_steal_time(struct kvm *kvm, int vcpu_fd, struct error *err);

/*
 * Nothing that the guest has unmapped is in the vCPU's TLB any more when it runs again. KVM has no call for
 * that, but flushes when CR3 was set to another value: so it is, and back. The vCPU must be parked.
 * An error leaves CR3 as it was, unless KVM refuses that, too, again and again.
 */
int vcpu_state_flush_tlb(struct kvm *kvm, int vcpu_fd, struct error *err);

/* Puts that value into what was read, so that the next KVM VM accounts again. */
void vcpu_state_keep_steal_time(struct vcpu_state *st, uint64_t value);

/* Tells the guest's watchdogs, at the next KVM_RUN, that it did not run for a while. */
void vcpu_state_tell_paused(struct kvm *kvm, int vcpu_fd);

#endif
