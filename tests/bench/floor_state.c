/* SPDX-License-Identifier: MIT */
/*
 * With "full": the rest of a vCPU's state as well, all of it, saved and loaded each time, each part
 * by its ioctl. It tells what the state costs a VMM that neither leaves out nor combines anything.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "floor.h"

#define CPUID_MAX 256

static const struct {
	const char *name;
	unsigned long get, set;
	size_t at;
} parts[] = {
	/* In the order in which they are loaded. */
	{ "XCRS", KVM_GET_XCRS, KVM_SET_XCRS, offsetof(struct vcpu_rest, xcrs) },
	{ "XSAVE", KVM_GET_XSAVE, KVM_SET_XSAVE, offsetof(struct vcpu_rest, xsave) },
	{ "LAPIC", KVM_GET_LAPIC, KVM_SET_LAPIC, offsetof(struct vcpu_rest, lapic) },
	{ "MSRS", KVM_GET_MSRS, KVM_SET_MSRS, offsetof(struct vcpu_rest, msrs) },
	{ "VCPU_EVENTS", KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS,
	  offsetof(struct vcpu_rest, events) },
	{ "DEBUGREGS", KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS,
	  offsetof(struct vcpu_rest, debugregs) },
};

/* What a guest has after the host's: its TSC goes by its offset, and kvmclock writes to RAM. */
static bool travels(uint32_t index)
{
	return index != 0x10 && index != 0x11 && index != 0x12 && index != 0x3b &&
	       index >> 8 != 0x4b564d;
}

static bool readable(int vcpu, uint32_t index)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} one = { .head.nmsrs = 1, .entry.index = index };

	return ioctl(vcpu, KVM_GET_MSRS, &one) == 1 && ioctl(vcpu, KVM_SET_MSRS, &one) == 1;
}

void rest_list(const struct floor *f)
{
	struct {
		struct kvm_msr_list head;
		uint32_t index[1024];
	} list = { .head.nmsrs = 1024 };
	struct vcpu_rest *first = &f->page->rest[0];

	kvm_call(f->kvm, KVM_GET_MSR_INDEX_LIST, (uintptr_t)&list, "KVM_GET_MSR_INDEX_LIST");
	first->msrs.nmsrs = 0;
	for (uint32_t i = 0; i < list.head.nmsrs && first->msrs.nmsrs < MSRS_MAX; i++)
		if (travels(list.index[i]) && readable(f->vcpu[0], list.index[i]))
			first->msr[first->msrs.nmsrs++].index = list.index[i];
	for (int i = 1; i < f->vcpus; i++)
		f->page->rest[i] = *first;
}

/* Without it some of the state below cannot be set. */
void rest_cpuid(const struct floor *f)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entry[CPUID_MAX];
	} cpuid = { .head.nent = CPUID_MAX };

	kvm_call(f->kvm, KVM_GET_SUPPORTED_CPUID, (uintptr_t)&cpuid, "KVM_GET_SUPPORTED_CPUID");
	for (int i = 0; i < f->vcpus; i++)
		kvm_call(f->vcpu[i], KVM_SET_CPUID2, (uintptr_t)&cpuid, "KVM_SET_CPUID2");
}

void rest_move(const struct floor *f, int i, bool set)
{
	char *rest = (char *)&f->page->rest[i];

	for (size_t p = 0; p < sizeof(parts) / sizeof(parts[0]); p++)
		kvm_call(f->vcpu[i], set ? parts[p].set : parts[p].get,
			 (uintptr_t)(rest + parts[p].at), parts[p].name);
}
