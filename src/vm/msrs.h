/* SPDX-License-Identifier: MIT */
/* MSRs of a vCPU, for the files of this room. */
#ifndef MOLT_VM_MSRS_H
#define MOLT_VM_MSRS_H

#include <stdbool.h>

#include <molt/vm/vcpu_state.h>

#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_TSC_DEADLINE 0x6e0u

/*
 * MSRs that must not be written back: the TSC travels as an offset; writing the wall clock makes
 * KVM write to guest RAM, see hw/clock.c; the old kvmclock numbers are second names for the new.
 */
bool msr_is_special(uint32_t index);

/*
 * One MSR by KVM_GET_MSRS or KVM_SET_MSRS. -ENOENT: KVM does not have it, or not with this value.
 */
int msr_call(struct kvm *kvm, int fd, unsigned long request, uint32_t index, uint64_t *value);

/* Rows of the table in vcpu_kinds.c. */
int msrs_save(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
	      struct error *err);
int msrs_load(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err);
int msrs_load_tsc_deadline(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err);

/*
 * The same, where nothing may act yet: what KVM writes to guest RAM by is set switched off, and the
 * TSC deadline is not set.
 */
int msrs_rehearse(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err);
int msrs_rehearse_tsc_deadline(const struct vcpu_state *st, struct kvm *kvm, int fd,
			       struct error *err);

/*
 * After msrs_rehearse() of known, which has the same MSRs: those of st that have another value now,
 * the TSC deadline as the last of them, by at most one call. After the LAPIC.
 */
int msrs_load_again(const struct vcpu_state *st, const struct vcpu_state *known, struct kvm *kvm,
		    int fd, struct error *err);

/*
 * Of a vCPU that has executed nothing since msrs_save(): those of its MSRs that may have another
 * value all the same, by at most one call.
 */
int msrs_save_again(struct vcpu_state *st, struct kvm *kvm, int fd, bool tsc_deadline,
		    bool wall_clock, struct error *err);

/* Whether an MSR has another value in st than in known, which has the same MSRs. */
bool msrs_differ(const struct vcpu_state *st, const struct vcpu_state *known, uint32_t index);

/* 0 where it is not in st. */
uint64_t msr_value_of(const struct vcpu_state *st, uint32_t index);

#endif
