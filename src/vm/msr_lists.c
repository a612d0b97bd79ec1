/* SPDX-License-Identifier: MIT */
/* Which MSRs are a vCPU's state: what this host's KVM has, tried out. */
#include <errno.h>

#include <molt/base/fd.h>

#include "msrs.h"

#define MSR_DEBUGCTL 0x1d9u
#define MSR_MTRR_PHYS_BASE0 0x200u
#define MSR_MC0_CTL 0x400u
#define MTRR_VARIABLE_MSRS 16u
#define MC_BANK_MSRS (32u * 4u)

static bool has_msr(const struct msr_list *list, uint32_t index)
{
	for (uint32_t i = 0; i < list->count; i++)
		if (list->index[i] == index)
			return true;
	return false;
}

static void add_msr(struct msr_list *list, uint32_t index)
{
	if (!msr_is_special(index) && list->count < VCPU_MSRS_MAX && !has_msr(list, index))
		list->index[list->count++] = index;
}

static void add_msr_range(struct msr_list *list, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		add_msr(list, first + i);
}

/* All that a vCPU of this host may have; whether it can be read and set is another thing. */
static int list_hosts_msrs(struct msr_list *list, struct kvm *kvm, struct error *err)
{
	static const uint32_t fixed_mtrrs[] = {
		0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
	};
	struct {
		struct kvm_msr_list head;
		uint32_t indices[VCPU_MSRS_MAX];
	} host = { .head.nmsrs = VCPU_MSRS_MAX };
	int r = kvm_call(kvm, kvm->fd, KVM_GET_MSR_INDEX_LIST, &host);

	if (r < 0)
		return err_sys(err, -r, "KVM_GET_MSR_INDEX_LIST (%u MSRs)", host.head.nmsrs);
	list->count = 0;
	for (uint32_t i = 0; i < host.head.nmsrs; i++)
		add_msr(list, host.indices[i]);
	add_msr(list, MSR_DEBUGCTL);
	add_msr_range(list, MSR_MTRR_PHYS_BASE0, MTRR_VARIABLE_MSRS);
	for (size_t i = 0; i < ARRAY_SIZE(fixed_mtrrs); i++)
		add_msr(list, fixed_mtrrs[i]);
	add_msr(list, MSR_MTRR_DEF_TYPE);
	add_msr_range(list, MSR_MC0_CTL, MC_BANK_MSRS);
	return 0;
}

static bool is_usable(struct kvm *kvm, int fd, uint32_t index)
{
	uint64_t value = 0;

	return msr_call(kvm, fd, KVM_GET_MSRS, index, &value) == 0 &&
	       msr_call(kvm, fd, KVM_SET_MSRS, index, &value) == 0;
}

static void sort_out(const struct msr_list *from, struct msr_lists *lists, struct kvm *kvm, int fd)
{
	for (uint32_t i = 0; i < from->count; i++)
		add_msr(is_usable(kvm, fd, from->index[i]) ? &lists->saved : &lists->refused,
			from->index[i]);
}

int msr_lists_init(struct msr_lists *lists, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	struct msr_list host;
	int r = list_hosts_msrs(&host, kvm, err);

	if (r < 0)
		return r;
	lists->saved.count = lists->refused.count = 0;
	sort_out(&host, lists, kvm, vcpu_fd);
	return 0;
}

/* On a vCPU that nobody runs: one that runs would have to stop, and may have state there. */
static int sort_out_apart(const struct msr_list *from, struct msr_lists *lists, struct kvm *kvm,
			  const struct vcpu_state *like, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct kvm_vm vm;
	int r = kvm_vm_create(&vm, kvm, -1, err);

	if (r < 0)
		return r;
	r = kvm_call_num(kvm, vm.fd, KVM_CREATE_IRQCHIP, 0);
	if (r == 0)
		r = fd = kvm_call_num(kvm, vm.fd, KVM_CREATE_VCPU, 0);
	if (r < 0)
		err_sys(err, -r, "a vCPU to try MSRs on");
	else
		r = vcpu_state_set_cpuid(like, kvm, fd, err);
	if (r == 0)
		sort_out(from, lists, kvm, fd);
	kvm_vm_destroy(&vm);
	return r;
}

int msr_lists_complete(struct msr_lists *lists, struct kvm *kvm, const struct vcpu_state *like,
		       struct error *err)
{
	struct msr_list host, missing = { 0 };
	int r = list_hosts_msrs(&host, kvm, err);

	for (uint32_t i = 0; r == 0 && i < host.count; i++)
		if (!has_msr(&lists->saved, host.index[i]) &&
		    !has_msr(&lists->refused, host.index[i]))
			add_msr(&missing, host.index[i]);
	return r < 0 || !missing.count ? r : sort_out_apart(&missing, lists, kvm, like, err);
}
