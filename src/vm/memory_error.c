/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM that the host has lost to a memory error. Theory of operation.
 *
 * The kernel gives a page with an uncorrectable error up ("hwpoison"), and tells who wants it by
 * SIGBUS. Who is named in the signal may have been KVM, for the guest: it sends the signal to the
 * vCPU's thread, without force, and would fault again and again while that is blocked. So it is
 * not. The handler makes a note and KVM_RUN returns by it; then the thread ends the guest as where
 * KVM cannot run it. Molt offers guests no machine check to pass on.
 *
 * Where molt itself wanted the page it cannot go on. The signal is blocked while its handler runs,
 * so to read there once more ends the process by it, as it would have ended without a handler. That
 * takes no system call, of which a confined thread may make few.
 *
 * An early notice (BUS_MCEERR_AO, to main, where the host or the user has it switched on) is
 * nothing to act by: the page may never be used.
 */
#include <errno.h>
#include <signal.h>

#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "vcpu_run.h"

/* The handler has no other way to find the vCPU whose KVM_RUN it interrupted. */
static _Thread_local struct vcpu *volatile running;

static void end(int sig, const siginfo_t *info)
{
	const struct sigaction usual = { .sa_handler = SIG_DFL };

	if (info->si_code <= 0) { /* from a process, not for an address */
		sigaction(sig, &usual, NULL);
		raise(sig);
		return;
	}
	log_error("memory at %p cannot be used (SIGBUS, code %d), which ends molt: a memory error "
		  "of the host's, or a file that became shorter",
		  info->si_addr, info->si_code);
	log_drain(LOG_END_MS);
	(void)*(const volatile char *)info->si_addr;
}

static void on_bus_error(int sig, siginfo_t *info, void *context)
{
	struct vcpu *v = running;

	(void)context;
	if (info->si_code == BUS_MCEERR_AO)
		return;
	if (!v || info->si_code != BUS_MCEERR_AR) {
		end(sig, info);
		return;
	}
	atomic_store(&v->lost_hva, (uintptr_t)info->si_addr);
	v->run->immediate_exit = 1;
}

int vcpu_catch_memory_errors(struct error *err)
{
	const struct sigaction sa = {
		.sa_sigaction = on_bus_error,
		.sa_flags = SA_SIGINFO | SA_RESTART,
	};

	if (sigaction(SIGBUS, &sa, NULL) < 0)
		return err_sys(err, errno, "sigaction for SIGBUS");
	return 0;
}

int vcpu_enter(struct vcpu *v)
{
	int r;

	running = v;
	r = kvm_call_num(&v->machine->kvm, v->fd, KVM_RUN, 0);
	running = NULL;
	return r;
}

bool vcpu_lost_memory(struct vcpu *v)
{
	uintptr_t hva = atomic_exchange(&v->lost_hva, 0);
	const struct memory *mem = &v->machine->memory;
	uint64_t gpa = 0;

	if (!hva)
		return false;
	for (unsigned int i = 0; i < mem->count; i++)
		if (hva - (uintptr_t)mem->regions[i].hva < mem->regions[i].size)
			gpa = mem->regions[i].gpa + (hva - (uintptr_t)mem->regions[i].hva);
	log_error("vCPU %u: the host has lost the guest's RAM at 0x%llx to a memory error", v->id,
		  (unsigned long long)gpa);
	return true;
}
