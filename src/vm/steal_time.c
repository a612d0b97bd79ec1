/* SPDX-License-Identifier: MIT */
/*
 * Steal time, where another thread takes a vCPU over. Theory of operation.
 *
 * A guest that sets MSR_KVM_STEAL_TIME shares a page with KVM for each vCPU (struct
 * kvm_steal_time; Linux, Documentation/virt/kvm/x86/msr.rst). Two things are in it.
 *
 * The time that the vCPU waited for a CPU. KVM adds what the current thread waited since the last
 * time. A thread that has waited less than the one before would make it go back, and the clock by
 * which Linux schedules would stand still until it has caught up. So when the stand-in's threads
 * take over no more is accounted in this KVM VM; the next update's VM goes on with it.
 *
 * Whether the vCPU is preempted. Another vCPU that sees the mark sends it no interrupt to flush
 * its TLB, but leaves a note beside it that KVM reads before it runs the vCPU again. KVM will
 * read nothing any more. So the mark is taken away, and the TLB flushed: a vCPU that was still to
 * be parked may have asked that of one that was parked already, and with a stale entry a guest
 * writes to memory that is somebody else's by now. The note itself is not asked: KVM before Linux
 * 5.19 puts the mark in its place whenever it lets go of a vCPU, be it one of a successor that
 * never ran. The successor of an update turns steal time on at the switch, and may be given up
 * then: so a stand-in whose guest runs on clears the marks once more.
 *
 * The MSR keeps the page's address meanwhile, without the bit that enables it. So a guest that
 * writes the MSR itself is told from that: Linux sets it to 0 before a kexec, since the page is
 * then another kernel's memory. What the guest has written counts, and the page is left alone.
 *
 * Each vCPU's new thread does this before it runs the vCPU. Another that runs already may still
 * find the mark and leave a note: the flush comes after that, when the vCPU is entered.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stddef.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/vcpu_kinds.h>

#include "msrs.h"
#include "vcpu_run.h"

#define TRIES 3           /* of each step: nobody is left to try it after us */
#define CR3_PWT (1u << 3) /* no part of an address in any paging mode */

static uint64_t preempted_gpa(uint64_t msr)
{
	return (msr & KVM_STEAL_VALID_BITS) + offsetof(struct kvm_steal_time, preempted);
}

/* What the MSR has meanwhile. */
static uint64_t stopped(uint64_t msr)
{
	return msr & ~(uint64_t)KVM_MSR_ENABLED;
}

struct leaving {
	uint64_t msr; /* a gpa and flags; 0: the guest does not use it, or KVM does not have it */
	struct kvm_sregs2 sregs; /* as they were and are to be again */
};

static int read_msr(struct vcpu *v, struct leaving *l, struct error *err)
{
	int r = msr_call(&v->machine->kvm, v->fd, KVM_GET_MSRS, MSR_KVM_STEAL_TIME, &l->msr);

	if (r < 0 || !(l->msr & KVM_MSR_ENABLED))
		l->msr = 0;
	return r < 0 && r != -ENOENT ? err_sys(err, -r, "KVM_GET_MSRS: MSR_KVM_STEAL_TIME") : 0;
}

static int read_sregs(struct vcpu *v, struct leaving *l, struct error *err)
{
	return sregs_get(&l->sregs, &v->machine->kvm, v->fd, err);
}

/* KVM has no call that flushes the TLB, but does so when CR3 was set to another value. */
static int set_other_cr3(struct vcpu *v, struct leaving *l, struct error *err)
{
	struct kvm_sregs2 other = l->sregs;

	other.cr3 ^= CR3_PWT;
	return sregs_set(&other, &v->machine->kvm, v->fd, err);
}

static int set_own_cr3(struct vcpu *v, struct leaving *l, struct error *err)
{
	return sregs_set(&l->sregs, &v->machine->kvm, v->fd, err);
}

static int stop_accounting(struct vcpu *v, struct leaving *l, struct error *err)
{
	uint64_t off = stopped(l->msr);

	if (msr_call(&v->machine->kvm, v->fd, KVM_SET_MSRS, MSR_KVM_STEAL_TIME, &off) < 0)
		return err_set(err, EINVAL, "KVM_SET_MSRS: MSR_KVM_STEAL_TIME refused");
	return 0;
}

/* Once they are through, KVM reads no note of the guest's any more and accounts nothing. */
static int (*const steps[])(struct vcpu *v, struct leaving *l, struct error *err) = {
	read_msr, read_sregs, set_other_cr3, set_own_cr3, stop_accounting,
};

/* A step that fails is tried again; what is done stays done. Without steal time there is one. */
static int leave(struct vcpu *v, struct leaving *l, struct error *err)
{
	size_t step = 0;
	int failures = 0, r = 0;

	while (step < ARRAY_SIZE(steps) && (step == 0 || l->msr) && failures < TRIES) {
		r = steps[step](v, l, err);
		failures = r < 0 ? failures + 1 : 0;
		step += r == 0;
	}
	return r;
}

void vcpu_leave_steal_time(struct vcpu *v)
{
	struct error err = ERROR_INIT;
	struct leaving l = { 0 };
	const uint8_t no = 0;

	if (leave(v, &l, &err) < 0) {
		/* Then KVM goes on to read the notes, whatever becomes of the accounting. */
		log_error("vCPU %u: steal time may go back: %s", v->id, err.text);
		return;
	}
	if (!l.msr)
		return;
	v->steal_time = l.msr;
	/* Out of guest RAM no vCPU could have found a mark. */
	memory_write(&v->machine->memory, preempted_gpa(l.msr), &no, sizeof(no));
}

/* Rather than by the guest since. Where KVM does not tell, most likely. */
static bool is_stopped_by_us(struct vcpu *v)
{
	struct kvm *kvm = &v->machine->kvm;
	uint64_t msr = 0;
	int r = -1;

	if (!v->steal_time)
		return false;
	for (int try = 0; r < 0 && try < TRIES; try++)
		r = msr_call(kvm, v->fd, KVM_GET_MSRS, MSR_KVM_STEAL_TIME, &msr);
	return r < 0 || msr == stopped(v->steal_time);
}

void vcpu_clear_preempted(struct vcpu *v)
{
	const uint8_t no = 0;

	if (is_stopped_by_us(v))
		memory_write(&v->machine->memory, preempted_gpa(v->steal_time), &no, sizeof(no));
}

void vcpu_state_keep_steal_time(struct vcpu_state *st, uint64_t value)
{
	for (uint32_t i = 0; value && i < st->nmsrs; i++)
		if (st->msr_index[i] == MSR_KVM_STEAL_TIME && st->msr_value[i] == stopped(value))
			st->msr_value[i] = value;
}
