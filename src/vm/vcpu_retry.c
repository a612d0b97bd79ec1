/* SPDX-License-Identifier: MIT */
/*
 * KVM_RUN that answers EAGAIN. Theory of operation.
 *
 * EAGAIN asks to be called again, and mostly the next call does something: a CPU of the guest that
 * waited for its INIT or SIPI has got it. But a VM's first KVM_RUN makes a kernel thread in our
 * name (NX huge page recovery), and where RLIMIT_NPROC or the control group leaves no room for one,
 * the answer is EAGAIN each time, at once. That may pass, so it is tried again for a while, without
 * keeping a CPU busy; the log says what is missing, and in the end the vCPU has failed.
 *
 * A CPU that was not started yet may get EAGAIN for as long as its guest likes: KVM does not block
 * where an NMI waits for it, which only comes after the start.
 *
 * Waiting is done on the park's futex, not by nanosleep(): it takes no other system call than
 * the park itself. Main does not signal it when it wants the vCPU to park, so the waits are short.
 *
 * #syscalls vcpu: futex
 */
#include <errno.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "vcpu_run.h"

#define TELL_NS 1000000000u
#define APART_NS 1000000000u /* what is further apart is no answer to the call before */
#define WAIT_NS 5000000u

static void tell(struct vcpu *v)
{
	v->retry.told = true;
	log_error("vCPU %u: KVM cannot run it for want of a kernel thread: too many processes by "
		  "RLIMIT_NPROC (ulimit -u) or the control group's pids.max (systemd: TasksMax); "
		  "trying for %u s",
		  v->id, (unsigned int)(v->machine->retry_ns / 1000000000));
}

bool vcpu_retry(struct vcpu *v)
{
	struct vcpu_retry *retry = &v->retry;
	uint64_t now = now_ns(), last = retry->last_ns;

	retry->last_ns = now;
	if (!last || now - last > APART_NS) {
		retry->since_ns = now;
		retry->told = false;
		return true;
	}
	if (now - retry->since_ns >= TELL_NS && !retry->told) {
		if (vcpu_state_is(&v->machine->kvm, v->fd, KVM_MP_STATE_UNINITIALIZED))
			retry->since_ns = now;
		else
			tell(v);
	}
	if (retry->told && now - retry->since_ns >= v->machine->retry_ns)
		return false;
	crew_nap(v->member, now + WAIT_NS);
	return true;
}
