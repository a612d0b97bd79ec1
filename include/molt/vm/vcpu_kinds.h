/* SPDX-License-Identifier: MIT */
/*
 * The kinds of state that KVM keeps of a vCPU, one row each. What has no row here is lost in an
 * update, so the guest must not be offered what needs it: each bit of CPUID that a guest may see
 * names its row (cpuid.h).
 *
 * From the table come the order in which a vCPU is read and set (vcpu_state.c), the ioctls that a
 * confined vCPU thread may make for it (sandbox/mkfilter.c reads the table's text), what the tests
 * walk, and the table in docs/guest-abi.md.
 */
#ifndef MOLT_VM_VCPU_KINDS_H
#define MOLT_VM_VCPU_KINDS_H

#include <stdbool.h>
#include <stddef.h>

#include <molt/base/error.h>
#include <molt/vm/vcpu_state.h>

/* In the order in which they are set. */
enum vcpu_kind_id {
	VCPU_CPUID,
	VCPU_TSC,
	VCPU_SREGS,
	VCPU_MSRS,
	VCPU_REGS,
	VCPU_XCRS,
	VCPU_XSAVE,
	VCPU_LAPIC,
	VCPU_TSC_DEADLINE,
	VCPU_MP_STATE,
	VCPU_EVENTS,
	VCPU_DEBUGREGS,
	VCPU_KINDS
};

struct kvm_request {
	const char *name; /* NULL: none */
	unsigned long nr;
};

struct vcpu_kind {
	const char *name;
	const char *cap; /* the capability's name; NULL: no KVM is without it */
	unsigned long cap_nr;
	size_t has;    /* offset of its bool in struct kvm; 0: vcpu_kinds_probe() insists on it */
	bool optional; /* a host without the capability has no such state */
	unsigned int save_at;      /* place in the order of reading, from 1; 0: it is not read */
	struct kvm_request get[2]; /* the second is for KVMs without the first, or made as well */
	struct kvm_request set[2];
	size_t offset; /* in struct vcpu_state, of what get[0] and set[0] take */
	size_t size;   /* of it; 0: the kind is compared in a way of its own (vcpu_again.c) */
	/* NULL: the call get[0], or set[0], is all of it. */
	int (*save)(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
		    struct error *err);
	int (*load)(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err);
	/* Instead, while the guest runs elsewhere: does nothing but to set it. NULL: so do they. */
	int (*rehearse)(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err);
};

extern const struct vcpu_kind vcpu_kinds[VCPU_KINDS];

/* After kvm_probe(): refuses a host whose KVM lacks a kind that is not optional. */
int vcpu_kinds_probe(struct kvm *kvm, struct error *err);

/*
 * Whether this host's KVM lacks that kind of state, so that a vCPU is read and set without it.
 * (What is not optional is missed when a vCPU is read: then an update is refused.)
 */
bool vcpu_kind_is_left_out(const struct kvm *kvm, enum vcpu_kind_id id);

/* Reads one kind, if it is not left out. 0 or -errno with the call's name. */
int vcpu_kind_get(enum vcpu_kind_id id, struct vcpu_state *st, struct kvm *kvm, int fd,
		  const struct msr_list *msrs, struct error *err);

/* Sets one kind, if it is not left out. 0 or -errno with the call's name. */
int vcpu_kind_set(enum vcpu_kind_id id, const struct vcpu_state *st, struct kvm *kvm, int fd,
		  struct error *err);

/* Segments and control registers, by the best call that this KVM has. */
int sregs_get(struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err);
int sregs_set(const struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err);

#endif
