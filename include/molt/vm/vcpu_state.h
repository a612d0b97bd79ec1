/* SPDX-License-Identifier: MIT */
/*
 * All state of one vCPU as KVM gives it, and the order in which it is set. What is in here is what
 * survives an update; see docs/live-update.md for the order's reasons.
 */
#ifndef MOLT_VM_VCPU_STATE_H
#define MOLT_VM_VCPU_STATE_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <molt/base/error.h>
#include <molt/state/vmstate.h>
#include <molt/vm/kvm.h>

#define VCPU_CPUID_MAX 256
#define VCPU_MSRS_MAX 1024
#define VCPU_XSAVE_MAX 16384

struct vcpu_state {
	uint32_t ncpuid; /* in 32-bit words, 10 an entry: struct kvm_cpuid_entry2 */
	uint32_t cpuid[VCPU_CPUID_MAX * 10];
	uint32_t reserved_cpuid;
	uint64_t tsc_khz;
	uint64_t tsc_offset; /* guest TSC = host TSC + this (mod 2^64) */
	uint32_t nmsrs;
	uint32_t nmsr_values; /* equals nmsrs */
	uint32_t msr_index[VCPU_MSRS_MAX];
	uint64_t msr_value[VCPU_MSRS_MAX];
	struct kvm_regs regs;
	struct kvm_sregs2 sregs; /* from KVM_GET_SREGS where there is no KVM_GET_SREGS2 */
	uint32_t xsave_len;
	uint8_t xsave[VCPU_XSAVE_MAX];
	uint32_t reserved_xsave;
	struct kvm_xcrs xcrs;
	uint64_t lapic_ns; /* CLOCK_MONOTONIC when lapic was read */
	struct kvm_lapic_state lapic;
	struct kvm_mp_state mp_state;
	uint32_t reserved_mp_state;
	struct kvm_vcpu_events events;
	struct kvm_debugregs debugregs;
	uint64_t wall_clock; /* kvmclock's MSR, the VM's: read with the rest, set by hw/clock.c */
};

extern const struct vmstate vcpu_vmstate; /* section "vcpu", one instance a vCPU */

struct msr_list {
	uint32_t count;
	uint32_t index[VCPU_MSRS_MAX];
};

/*
 * The MSRs that this host's KVM has: those of KVM_GET_MSR_INDEX_LIST and some that it leaves out of
 * that (MTRRs, machine check banks). Not among them: the TSC, which travels as an offset, and
 * kvmclock's wall clock, which belongs to the VM (hw/clock.c).
 */
struct msr_lists {
	struct msr_list saved;   /* can be read and set */
	struct msr_list refused; /* cannot be, here: not to be tried again */
};

/* vcpu_fd: a fresh vCPU with its CPUID set; each MSR is read and written back once. */
int msr_lists_init(struct msr_lists *lists, struct kvm *kvm, int vcpu_fd, struct error *err);

/*
 * Adds what this host has and neither list knows: both come from a stream whose writer may not have
 * known it. If there is such an MSR it is tried on a vCPU in a VM of its own, with the CPUID of
 * like, which takes some milliseconds; else this is one ioctl. What was added is kept even where
 * there is an error.
 */
int msr_lists_complete(struct msr_lists *lists, struct kvm *kvm, const struct vcpu_state *like,
		       struct error *err);

/* Reads everything but CPUID, which molt itself chose and st keeps. The vCPU is parked. */
int vcpu_state_get(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, const struct msr_list *msrs,
		   struct error *err);

/*
 * What is known of a vCPU from its last reading, so that the next has less to do (vcpu_reading.c).
 * One with fd -1 and else zero knows nothing, and never will.
 */
struct vcpu_reading {
	int fd;               /* KVM's statistics of the vCPU, -1: there are none */
	uint64_t exits_at;    /* of the count of its exits in them */
	uint64_t blocking_at; /* of whether it is blocked; 0: it does not say */
	uint64_t exits;       /* then, and now */
	uint64_t now;
	bool counted;   /* now is valid, for one reading */
	uint32_t nmsrs; /* that were read */
	bool waited;    /* it executed nothing then, and would not by itself */
	bool first;     /* of the VM's vCPUs: it is asked what goes for all of them, too */
	bool is_told;   /* whoever has it all has been told it; vcpu_reading_note_told() */
};

/* Of a vCPU that was just created. Where KVM keeps no statistics that is no error. */
void vcpu_reading_open(struct vcpu_reading *reading, struct kvm *kvm, int vcpu_fd, bool first);
void vcpu_reading_close(struct vcpu_reading *reading);

/* Looks how often the vCPU was left. It has parked, and is read next. */
void vcpu_reading_count(struct vcpu_reading *reading);

/* The next reading is of all of it, and is told. */
void vcpu_reading_forget(struct vcpu_reading *reading);

/* Whether KVM says so of it, KVM_MP_STATE_..: on its thread, or parked. */
bool vcpu_state_is(struct kvm *kvm, int vcpu_fd, uint32_t mp_state);

/* Whether it executes nothing until somebody wakes it. */
bool vcpu_state_waits(const struct vcpu_state *st);

/* Whether it is blocked in KVM_RUN, halted; false where KVM does not say. It may run, or park. */
bool vcpu_reading_blocks(const struct vcpu_reading *reading);

/* What others than the vCPU itself change of its state. */
struct vcpu_part {
	struct kvm_vcpu_events events;
	struct kvm_lapic_state lapic;
	uint64_t tsc_khz;
	uint64_t tsc_offset;
	uint64_t wall_clock;
	uint64_t deadline;
};

void vcpu_part_of(struct vcpu_part *part, const struct vcpu_state *st);

/*
 * All of st was told to somebody: reading->is_told, until a vcpu_state_get_again() has read all of
 * it, or this finds that it is not as it was before that. When a LAPIC was read is no difference.
 */
void vcpu_reading_note_told(struct vcpu_reading *reading);
void vcpu_reading_compare(struct vcpu_reading *reading, const struct vcpu_part *was,
			  const struct vcpu_state *st);

/*
 * As vcpu_state_get(), by fewer calls where the vCPU has executed nothing since the last time: st
 * still has what was read then, and nobody but KVM has changed the vCPU since. Without a
 * vcpu_reading_count() before it all is read, and the next time as well. The TSC's offset is then
 * read of the first vCPU only: where that has moved, vcpu_state_get_tsc() is due for the others.
 */
int vcpu_state_get_again(struct vcpu_state *st, struct vcpu_reading *reading, struct kvm *kvm,
			 int vcpu_fd, const struct msr_list *msrs, struct error *err);

/* Sets CPUID alone: before the first KVM_RUN, and part of vcpu_state_set(). */
int vcpu_state_set_cpuid(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
			 struct error *err);

/*
 * Power-on state that firmware would have set up and KVM does not: memory is write-back cached
 * (IA32_MTRR_DEF_TYPE), without which Linux makes no use of the PAT. And no last branch record
 * (IA32_PERF_CAPABILITIES), which no update carries.
 */
int vcpu_state_power_on(struct kvm *kvm, int vcpu_fd, struct error *err);

/* Sets everything on a fresh vCPU, CPUID included, and nothing in guest RAM. */
int vcpu_state_set(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err);

/*
 * Sets everything on a fresh vCPU as vcpu_state_set() does, while the guest runs elsewhere on the
 * same RAM: with nothing by which KVM would act on its own before the vCPU runs. No timer is armed,
 * nothing is written to guest RAM. Where this succeeded vcpu_state_set_again() has little to do,
 * and hardly a way to fail.
 */
int vcpu_state_rehearse(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
			struct error *err);

/*
 * After vcpu_state_rehearse() of known on this vCPU, which has not run since: makes it what
 * vcpu_state_set() of st makes of a fresh one, by as few calls as that takes. It does not matter
 * what interrupts and NMIs the devices of the vCPU's VM have sent it meanwhile. If it fails the
 * vCPU is good for nothing. 0 or -errno, as vcpu_state_set().
 */
int vcpu_state_set_again(const struct vcpu_state *st, const struct vcpu_state *known,
			 struct kvm *kvm, int vcpu_fd, struct error *err);

/*
 * KVM compares the TSC of a vCPU that is set with that of the vCPU set before, and lets the guest
 * use kvmclock without a lock while all are alike. So where this is true of one vCPU the TSCs of
 * all are set, by vcpu_state_set_tsc(), after each was set again.
 */
bool vcpu_state_tsc_differs(const struct vcpu_state *st, const struct vcpu_state *known);
int vcpu_state_get_tsc(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err);
int vcpu_state_set_tsc(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
		       struct error *err);

/*
 * Puts MSR_KVM_STEAL_TIME as it was before accounting was stopped (vcpu->steal_time; 0: it was
 * not) into what was read, so that the next KVM VM accounts again. Not where the guest has
 * written another value since.
 */
void vcpu_state_keep_steal_time(struct vcpu_state *st, uint64_t value);

/* Tells the guest's watchdogs, at the next KVM_RUN, that it did not run for a while. */
void vcpu_state_tell_paused(struct kvm *kvm, int vcpu_fd);

#endif
