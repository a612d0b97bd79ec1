/* SPDX-License-Identifier: MIT */
/*
 * A vCPU that is to run soon, in a VM that has never run. Theory of operation.
 *
 * What KVM puts off until a VM or a vCPU first runs falls into the switch of an update, 100 us of
 * it:
 *
 *	a thread for the VM, which splits huge pages (kvm_mmu_post_init_vm() in Linux); KVM_RUN
 *	begins with that, also where immediate_exit has it turn round right after
 *	memory from which the vCPU's second-level tables will be made, 100 pages and more
 *	(mmu_topup_memory_caches()). KVM_PRE_FAULT_MEMORY begins with that, also where it then has
 *	nothing to map, and where it cannot map, as without nested paging
 *
 * So both are called at the end of the rehearsal, while the guest runs elsewhere. Nothing is
 * executed. Without nested paging KVM also makes the root of the tables that shadow those which CR3
 * names. It is empty; what is below comes when the guest needs it, from guest RAM as that is then.
 *
 * On the thread that will run the vCPU: before Linux 6.13 KVM_RUN on another one waits for an RCU
 * grace period (vcpu->pid in kvm_vcpu_ioctl()), 10 ms and more. What fails, or is unknown to an
 * older KVM, happens later.
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
