/* SPDX-License-Identifier: MIT */
/* The allow-list: the bits of CPUID that a guest may see. See cpuid_allow.c. */
#ifndef MOLT_VM_CPUID_ALLOW_H
#define MOLT_VM_CPUID_ALLOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <molt/vm/kvm.h>
#include <molt/vm/vcpu_kinds.h>

enum cpuid_reg { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX, CPUID_REGS };

#define CPUID_ANY_INDEX 0xffffffffu
#define CPUID_XSAVE_AREAS 0xfffffffeu /* subleaves of 0xd of components that the list has */
#define CPUID_NO_STATE VCPU_KINDS

/* A bit, or a field of several, that a guest may see. */
struct cpuid_bits {
	const char *name; /* Linux's, as in /proc/cpuinfo, where it has one; NULL ends the list */
	uint8_t first;
	uint8_t count;
	enum vcpu_kind_id needs; /* the kind of state that comes with it, or CPUID_NO_STATE */
};

struct cpuid_rule {
	uint32_t function;
	uint32_t index;     /* subleaf, or one of the names above */
	enum cpuid_reg reg; /* CPUID_REGS: all four */
	const struct cpuid_bits *bits;
};

/*
 * The allow-list of machine version 1, the only one there is. A version that offers more gets a
 * list of its own beside it, for what a machine version offers never changes.
 */
extern const struct cpuid_rule cpuid_rules[];
extern const size_t cpuid_rules_count;

/* Bits of a register that a guest may see on this host. reg: not CPUID_REGS. */
uint32_t cpuid_allowed(const struct kvm *kvm, uint32_t function, uint32_t index,
		       enum cpuid_reg reg);

/* Takes the rest off; false where the list has nothing of the leaf, which is then not offered. */
bool cpuid_filter(const struct kvm *kvm, struct kvm_cpuid_entry2 *e);

/* A single bit by its name: its rule, and which bit. NULL: there is none. */
const struct cpuid_rule *cpuid_find_bit(const char *name, uint32_t *mask);

/* The entry of a leaf among n; NULL: there is none. */
struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid_entry2 *e, uint32_t n, uint32_t function,
				    uint32_t index);

/* The register of an entry. reg: not CPUID_REGS. */
uint32_t *cpuid_reg(struct kvm_cpuid_entry2 *e, enum cpuid_reg reg);

#endif
