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
 * the mark is taken away, and the TLB flushed: a vCPU that was still to be parked may have asked that of
 * one that was parked already, and with a stale entry a guest writes to memory that is somebody else's by now.
 * The note itself is not asked: KVM before Linux 5.19 puts the mark in its place whenever it lets go of
 * a vCPU, be it one of a successor that never ran.
 */
#include <asm/kvm_para.h>
#include <stddef.h>

#include <molt/base/log.h>

#include "vcpu_run.h"

#define TRIES 3 /* nobody is left to try it after us */

static uint64_t preempted_gpa(uint64_t msr)
{
	return (msr & KVM_STEAL_VALID_BITS) + offsetof(struct kvm_steal_time, preempted);
}

static int leave(struct vcpu *v, uint64_t *msr, struct error *err)
{
	struct kvm *kvm = &v->machine->kvm;
	int r = vcpu_state_steal_time(kvm, v->fd, msr, err);

	if (r < 0 || !*msr)
		return r;
	r = vcpu_state_flush_tlb(kvm, v->fd, err);
	return r < 0 ? r : vcpu_state_stop_steal_time(kvm, v->fd, err);
}

void vcpu_leave_steal_time(struct vcpu *v)
{
	struct error err = ERROR_INIT;
	const uint8_t no = 0;
	uint64_t msr = 0;
	int r = -1;

	for (int try = 0; r < 0 && try < TRIES; try++)
		r = leave(v, &msr, &err);
	if (r < 0) {
		/* Then KVM goes on to read the notes, whatever becomes of the accounting. */
		log_error("vCPU %u: steal time may go back: %s", v->id, err.text);
		return;
	}
	if (!msr)
		return;
	v->steal_time = msr;
	/* Out of guest RAM no vCPU could have found a mark. */
	memory_write(&v->machine->memory, preempted_gpa(msr), &no, sizeof(no));
}
