/* SPDX-License-Identifier: MIT */
/*
 * Steal time, where another thread takes a vCPU over. Theory of operation.
 *
 * A guest that sets MSR_KVM_STEAL_TIME shares a page with KVM for each vCPU (struct kvm_steal_time; Linux,
 * Documentation/virt/kvm/x86/msr.rst). Two things are in it.
 *
 * The time that the vCPU waited for a CPU. KVM adds what the current thread waited since the last
 * time. A thread that has waited less than the one before would make it go back, and the clock
 * by which Linux schedules would stand still until it has caught up. So when the guardian's threads take over
 * no more is accounted in this KVM VM; the next update's VM goes on with it.
 *
 * Whether the vCPU is preempted. Another vCPU that sees the mark sends it no interrupt to flush its TLB, but
 * leaves a note beside it that KVM reads before it runs the vCPU again. KVM will read nothing any more. So
 * the mark is taken away, and a flush that was asked for is done: a vCPU that was still to be parked may have
 * asked one that was parked already, and a stale TLB entry lets a guest write to memory that is somebody
 * else's by now.
 */
#include <asm/kvm_para.h>
#include <stddef.h>

#include <molt/base/log.h>

#include "vcpu_run.h"

static uint64_t preempted_gpa(uint64_t msr)
{
	return (msr & KVM_STEAL_VALID_BITS) + offsetof(struct kvm_steal_time, preempted);
}

void vcpu_leave_steal_time(struct vcpu *v)
{
	struct machine *m = v->machine;
	uint64_t msr = vcpu_state_steal_time(&m->kvm, v->fd);
	struct error err = ERROR_INIT;
	uint8_t preempted = 0;
	const uint8_t no = 0;

	if (!msr)
		return;
	/* Out of guest RAM neither KVM nor another vCPU could have left a note there. */
	if (memory_read(&m->memory, preempted_gpa(msr), &preempted, sizeof(preempted)) == 0 &&
	    (preempted & KVM_VCPU_FLUSH_TLB) && vcpu_state_flush_tlb(&m->kvm, v->fd, &err) < 0) {
		/* Then KVM has to do it, whatever becomes of the accounting. */
		log_error("vCPU %u: steal time may go back: %s", v->id, err.text);
		return;
	}
	if (!vcpu_state_stop_steal_time(&m->kvm, v->fd)) {
		log_error("vCPU %u: steal time may go back: the MSR cannot be written", v->id);
		return;
	}
	v->steal_time = msr;
	memory_write(&m->memory, preempted_gpa(msr), &no, sizeof(no));
}
