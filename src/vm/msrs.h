/* SPDX-License-Identifier: MIT */
/* MSRs of a vCPU, for the files of this room. */
#ifndef MOLT_VM_MSRS_H
#define MOLT_VM_MSRS_H

#include <molt/vm/vcpu_state.h>

/*
 * One MSR by KVM_GET_MSRS or KVM_SET_MSRS. -ENOENT: KVM does not have it, or not with this value.
 */
int msr_call(struct kvm *kvm, int fd, unsigned long request, uint32_t index, uint64_t *value);

/* Rows of the table in vcpu_state.c. */
int msrs_save(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
	      struct error *err);
int msrs_load(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err);
int msrs_load_tsc_deadline(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err);

/* Segments and control registers, by the best call that this KVM has. */
int sregs_get(struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err);
int sregs_set(const struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err);

#endif
