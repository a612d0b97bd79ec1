/* SPDX-License-Identifier: MIT */
/*
 * The local APIC's timer in one-shot and periodic mode, over an update: src/vm/lapic_timer.c tells
 * how. In TSC deadline mode it is an MSR, in which nothing is hidden, and these functions do
 * nothing.
 */
#ifndef MOLT_VM_LAPIC_TIMER_H
#define MOLT_VM_LAPIC_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/vm/kvm.h>
#include <molt/vm/vcpu_state.h>

/* One vCPU's. All zero: nothing is known of its timer. */
struct lapic_timer {
	/* After the vCPU's last instruction. */
	bool marked;
	uint64_t marked_ns; /* CLOCK_MONOTONIC */
	uint32_t count;     /* TMCCT */
	bool settled;       /* what was over then is in the IRR, or was taken */
	/* As it came with the last update; target_ns is 0 where it did not run. */
	uint64_t target_ns; /* an expiry, CLOCK_MONOTONIC */
	uint32_t lvtt, initial, divide;
};

/*
 * Takes the mark: the vCPU has stopped, and executes nothing until it is saved. True where KVM may
 * have an expired timer that it shows to nobody yet, so that the vCPU is to be settled
 * (src/vm/vcpu_settle.c).
 */
bool lapic_timer_mark(struct lapic_timer *t, struct kvm *kvm, int vcpu_fd);

/*
 * Whether the timer was over at the mark, and its interrupt may be still to come: it is not in the
 * IRR, and nobody has said that it was taken.
 */
bool lapic_timer_is_in_doubt(struct lapic_timer *t, struct kvm *kvm, int vcpu_fd);

/* It was taken. Where that is not said, lapic_timer_save() makes it pending. */
void lapic_timer_note_taken(struct lapic_timer *t);

/* The mark of a vCPU that was loaded from st and has not run yet. */
void lapic_timer_loaded(struct lapic_timer *t, const struct vcpu_state *st);

/* Reads st's lapic and lapic_ns. 0 or -errno. */
int lapic_timer_get(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err);

/* Whether the timer counts by the MSR TSC deadline. */
bool lapic_timer_has_deadline(const struct kvm_lapic_state *lapic);

/*
 * Makes of what lapic_timer_get() read what is to be set: with the interrupt that is due, and
 * without one that was taken already.
 */
void lapic_timer_save(const struct lapic_timer *t, struct vcpu_state *st);

/*
 * Sets st's lapic on a vCPU that has not run yet. The timer fires when it would have fired; at
 * once, if that has passed. 0 or -errno.
 */
int lapic_timer_set(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err);

/* Sets st's lapic with its timer as after a reset: one-shot, not started. 0 or -errno. */
int lapic_timer_rehearse(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
			 struct error *err);

/*
 * Takes elapsed_ns off a running timer's current count. A one-shot timer keeps at least 1. A
 * periodic one that is overdue has its interrupt pending (once, however often it was due) and
 * keeps its phase.
 */
void lapic_timer_age(struct kvm_lapic_state *lapic, uint64_t elapsed_ns);

#endif
