/* SPDX-License-Identifier: MIT */
/* What machine.c needs of vcpu.c. */
#ifndef MOLT_VM_VCPU_RUN_H
#define MOLT_VM_VCPU_RUN_H

#include <signal.h>
#include <stdbool.h>

#include <molt/base/error.h>
#include <molt/vm/machine.h>
#include <molt/vm/vcpu.h>

#define VCPU_KICK_SIGNAL (SIGRTMIN + 1)
#define VCPU_RETRY_NS 60000000000ull /* machine->retry_ns */
/*
 * Pending in every vCPU thread for good. Not a real-time one: RLIMIT_SIGPENDING can refuse these.
 */
#define VCPU_SETTLE_SIGNAL SIGUSR1

/* Once a process, before the first thread. */
int vcpu_install_kick(struct error *err);

/* The KVM side of a vCPU; again after the machine's KVM VM was replaced. */
int vcpu_open(struct vcpu *v, struct error *err);
void vcpu_close(struct vcpu *v);

/* The thread, parked at first. vcpu_stop() ends it wherever it is. */
int vcpu_start(struct vcpu *v, struct error *err);
void vcpu_stop(struct vcpu *v);

/*
 * KVM_RUN answered EAGAIN: true where it is to be called again, after a little wait if need be;
 * false where it has answered nothing else for machine->retry_ns. On the vCPU's thread.
 */
bool vcpu_retry(struct vcpu *v);

/* The thread has gone with the process it was in. */
void vcpu_forget_thread(struct vcpu *v);

/*
 * Before another thread than the one so far runs this vCPU, in the same KVM VM; see steal_time.c.
 */
void vcpu_leave_steal_time(struct vcpu *v);

/* Waits until every thread is in the park, without a kick: they were started, or told, before. */
void vcpus_wait_parked(struct machine *m);

/* Work on every vCPU, shared among main and the parked threads; see vcpu_job.c. */
typedef int vcpu_job_fn(struct vcpu *v, struct error *err);

/*
 * The next count vCPUs are ready for the job that was started. Until it finishes, main is free to
 * do something else; the first failure is the job's.
 */
void vcpu_job_start(struct machine *m, vcpu_job_fn *fn);
void vcpu_job_offer(struct machine *m, uint32_t count);
int vcpu_job_finish(struct machine *m, struct error *err);
/* The same in one step, for a job that only reads vCPUs: threads that are confined help, too. */
int vcpu_job_read(struct machine *m, vcpu_job_fn *fn, struct error *err);

/* A thread in the park: does one vCPU's share if there is one left. Called with vcpu_lock held. */
bool vcpu_job_help(struct machine *m, bool confined);
bool vcpu_job_is_open(struct machine *m);

/*
 * Waits for an instant without going to sleep. False: do so now, it is past until or the CPU is
 * wanted.
 */
bool vcpu_wait_awake(uint64_t until);

/* CPUs that this process may use. */
uint32_t vcpu_count_host_cpus(void);

/* Whether a request is pending for which every vCPU has to stop by itself. */
bool machine_is_stopping(struct machine *m);

#endif
