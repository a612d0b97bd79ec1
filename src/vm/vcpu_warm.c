/* SPDX-License-Identifier: MIT */
/*
 * A vCPU that is to run soon, in a VM that has never run. Theory of operation.
 *
 * What KVM puts off until a VM or a vCPU first runs falls into the switch of an update, 150 us of it:
 *
 *	a thread for the VM, which splits huge pages (kvm_mmu_post_init_vm() in Linux); KVM_RUN
 *	begins with that, also where immediate_exit has it turn round right after
 *	memory from which the vCPU's second-level tables will be made, 100 pages and more
 *	(mmu_topup_memory_caches()). KVM_PRE_FAULT_MEMORY begins with that, also where it then has
 *	nothing to map, and where it cannot map, as without nested paging
 *
 * So both are called while the guest runs elsewhere, on a vCPU that has its power-on state still: it
 * executes nothing, no page of guest RAM is looked at, and the tables of a vCPU without paging are
 * forgotten when its state is set. What fails, or is unknown to an older KVM, happens later.
 */
#include "vcpu_run.h"

/* Below 4 GiB, where real machines have firmware and this one nothing. */
#define NO_RAM 0xfffff000u

void vcpu_warm_up(struct vcpu *v)
{
	struct kvm *kvm = &v->machine->kvm;
	struct kvm_pre_fault_memory page = { .gpa = NO_RAM, .size = 4096 };

	kvm_call(kvm, v->fd, KVM_PRE_FAULT_MEMORY, &page);
	v->run->immediate_exit = 1;
	kvm_call_num(kvm, v->fd, KVM_RUN, 0);
}
