/* SPDX-License-Identifier: MIT */
/* A vCPU that runs: what the machine needs of vcpu.c, and vcpu.c of its neighbours. */
#ifndef MOLT_VM_VCPU_RUN_H
#define MOLT_VM_VCPU_RUN_H

#include <signal.h>
#include <stdbool.h>

#include <molt/base/error.h>
#include <molt/vm/crew.h>
#include <molt/vm/machine.h>
#include <molt/vm/vcpu.h>

#include "requests.h"

#define VCPU_RETRY_NS 60000000000ull /* machine->retry_ns */
/*
 * Pending in every vCPU thread for good. Not a real-time one: RLIMIT_SIGPENDING can refuse these.
 */
#define VCPU_SETTLE_SIGNAL SIGUSR1

/* The threads that run vCPUs; the crew's opaque is the machine. */
extern const struct crew_ops vcpu_crew_ops;

/* The KVM side of a vCPU; again after the machine's KVM VM was replaced. */
int vcpu_open(struct vcpu *v, struct error *err);
void vcpu_close(struct vcpu *v);

/*
 * Memory errors of the host's in guest RAM, see memory_error.c: the handler of SIGBUS, for the
 * process; KVM_RUN, whose answer is -EINTR where it met one; and whether it did, which is told to
 * the log and then forgotten.
 */
int vcpu_catch_memory_errors(struct error *err);
int vcpu_enter(struct vcpu *v);
bool vcpu_lost_memory(struct vcpu *v);

/* One KVM_RUN; false when it was interrupted before the guest did anything we must serve. */
bool vcpu_run_once(struct vcpu *v);

/*
 * Enters KVM_RUN until nothing is half done any more. After EINTR nothing is, nor where KVM cannot
 * run the vCPU any more: then half_done is false.
 */
void vcpu_complete(struct vcpu *v, bool half_done);

/*
 * Has KVM make interrupts of the timers that are over, without executing anything; see
 * vcpu_settle.c. On the vCPU's thread, when it has executed its last instruction.
 */
void vcpu_settle(struct vcpu *v);

/*
 * Has KVM do now what it would do when a fresh vCPU is first run, and nothing else; see
 * vcpu_warm.c. On the thread that will run it, with its state set. A matter of speed alone.
 */
void vcpu_warm_up(struct vcpu *v);

/*
 * KVM_RUN answered EAGAIN: true where it is to be called again, after a little wait if need be;
 * false where it has answered nothing else for machine->retry_ns. On the vCPU's thread.
 */
bool vcpu_retry(struct vcpu *v);

/*
 * A vCPU's thread takes over where and how the one before was run, where that was not like main;
 * see vcpu_place.c. On the new thread, first of all.
 */
void vcpu_take_place(struct vcpu *v);

/*
 * Before another thread than the one so far runs this vCPU, in the same KVM VM; see steal_time.c.
 */
void vcpu_leave_steal_time(struct vcpu *v);

/*
 * After that, while it is parked: another VM may have marked it as preempted in guest RAM. Not
 * where the guest has set the MSR since: the page may be something else by now.
 */
void vcpu_clear_preempted(struct vcpu *v);

#endif
