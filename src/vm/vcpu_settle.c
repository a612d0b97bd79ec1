/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU's timer has become when it has stopped. Theory of operation.
 *
 * KVM makes an expired timer an interrupt in two steps: a note, which nobody is shown, and a bit in
 * the IRR, which it makes of the note in KVM_RUN. So a vCPU with such a timer (lapic_timer.c)
 * enters KVM_RUN once more before it parks, and leaves it where a kick would have it leave: with a
 * signal pending. Each thread has one for good, blocked at any time but in this KVM_RUN.
 * immediate_exit would not do: with it KVM_RUN turns round before it looks at timers.
 *
 * The note may be late, and that of a one-shot does not show in its count, which is 0 by the clock:
 * over and taken looks like over and to come. KVM makes the note in one of two ways.
 *
 *	A timer of the host's. It runs on the CPU on which the vCPU was last to enter the guest, and
 *	its interrupt comes late where that CPU is a virtual one and has to wait itself. A CPU's
 *	timers are run in the order of their times. So the thread enters KVM_RUN, which moves the
 *	timer to its own CPU, and sleeps there until a moment that comes after the timer's: when it
 *	wakes by that, KVM has its note.
 *
 *	VMX's preemption timer, which counts only while the CPU is in the guest. KVM exchanges it
 *	for a timer of the host's, and looks whether it is over, when a vCPU is to halt. So it is
 *	said to be halted for one KVM_RUN.
 *
 * A vCPU that is halted does not move its timer, so nothing can be proven of that. Where it is not
 * noted after a few looks, or cannot be, the interrupt is made pending: at worst it comes twice,
 * which a guest is used to from a timer that it sets anew while it expires. A guest that sleeps
 * until an interrupt that was lost sleeps for ever.
 *
 * #syscalls vcpu: ioctl(KVM_RUN) ioctl(KVM_SET_SIGNAL_MASK) ioctl(KVM_SET_MP_STATE)
 * #syscalls vcpu: getcpu futex
 */
#include <sched.h>
#include <signal.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/machine.h>

#include "vcpu_run.h"

#define KERNEL_SIGSET_BYTES 8u /* not glibc's 128 */
#define TRIES 3
#define PROOFS 10 /* the scheduler may have the thread wake on another CPU */
#define NAP_NS 20000

/* Which signals end a KVM_RUN; NULL: those that are not blocked anyway. */
static int set_signal_mask(struct vcpu *v, const sigset_t *blocked)
{
	union {
		struct kvm_signal_mask head;
		uint8_t bytes[sizeof(struct kvm_signal_mask) + KERNEL_SIGSET_BYTES];
	} mask = { .head.len = KERNEL_SIGSET_BYTES };

	if (blocked)
		memcpy(mask.head.sigset, blocked, KERNEL_SIGSET_BYTES);
	return kvm_call(&v->machine->kvm, v->fd, KVM_SET_SIGNAL_MASK, blocked ? &mask : NULL);
}

static int make(struct vcpu *v, uint32_t mp_state)
{
	struct kvm_mp_state mp = { .mp_state = mp_state };

	return kvm_call(&v->machine->kvm, v->fd, KVM_SET_MP_STATE, &mp);
}

/*
 * The vCPU may have got an INIT meanwhile, or an interrupt: then it is not halted any more. One
 * that was left halted might sleep for ever, so an answer that fails is not taken for that.
 */
static void take_out_of_halt(struct vcpu *v)
{
	for (int try = 0; try < TRIES; try++) {
		struct kvm_mp_state mp;

		if (kvm_call(&v->machine->kvm, v->fd, KVM_GET_MP_STATE, &mp) < 0)
			continue;
		if (mp.mp_state != KVM_MP_STATE_HALTED)
			return;
		make(v, KVM_MP_STATE_RUNNABLE);
	}
}

static bool run_as_halted(struct vcpu *v, bool *half_done)
{
	if (make(v, KVM_MP_STATE_HALTED) < 0)
		return false;
	*half_done = vcpu_run_once(v);
	take_out_of_halt(v);
	return true;
}

/* True where KVM has noted by then whatever there was to note. */
static bool wait_for_note(struct vcpu *v, bool may_prove, bool *half_done)
{
	int cpu = sched_getcpu();
	bool certain;

	*half_done = vcpu_run_once(v);
	certain = may_prove && run_as_halted(v, half_done);
	certain = crew_nap(v->member, now_ns() + NAP_NS) && certain;
	certain = sched_getcpu() == cpu && certain;
	*half_done = vcpu_run_once(v);
	return certain;
}

static bool settle(struct vcpu *v)
{
	bool half_done = vcpu_run_once(v), certain = false, runs;
	struct kvm *kvm = &v->machine->kvm;

	if (!lapic_timer_is_in_doubt(&v->timer, kvm, v->fd))
		return half_done;
	runs = vcpu_state_is(kvm, v->fd, KVM_MP_STATE_RUNNABLE);
	for (int try = 0; try < (runs ? PROOFS : TRIES) && !certain; try++) {
		certain = wait_for_note(v, runs, &half_done);
		if (!lapic_timer_is_in_doubt(&v->timer, kvm, v->fd))
			return half_done;
	}
	if (certain)
		lapic_timer_note_taken(&v->timer);
	return half_done;
}

void vcpu_settle(struct vcpu *v)
{
	bool half_done;
	sigset_t blocked;

	v->timer.marked = false;
	/* There its timer is of no use any more, and KVM_RUN may be what fails. */
	if (atomic_load(&v->machine->requests) & MACHINE_ENDING_REQUESTS ||
	    !lapic_timer_mark(&v->timer, &v->machine->kvm, v->fd))
		return;
	sigfillset(&blocked);
	sigdelset(&blocked, VCPU_SETTLE_SIGNAL);
	sigdelset(&blocked, CREW_KICK_SIGNAL);
	if (set_signal_mask(v, &blocked) < 0)
		return;
	v->run->immediate_exit = 0;
	half_done = settle(v);
	/* With the signal let through no KVM_RUN would ever get anywhere. */
	for (int try = 0; set_signal_mask(v, NULL) < 0 && try < TRIES; try++)
		;
	vcpu_complete(v, half_done);
}
