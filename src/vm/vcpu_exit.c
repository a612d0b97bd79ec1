/* SPDX-License-Identifier: MIT */
/*
 * One KVM_RUN, and what it comes back with. Theory of operation.
 *
 * A vCPU may only be saved at an instruction boundary: after a PIO or MMIO exit KVM completes the
 * instruction at the *next* KVM_RUN. Parking therefore enters KVM_RUN with immediate_exit set until
 * it answers EINTR; a string instruction may bring further exits on the way, which are served.
 *
 * The thread gives up what it does not need (machine_ops.confine) when the guest wants something
 * for the first time, and before it looks at what: until then nothing of the guest's has been
 * touched, and so it costs an update nothing before the guest runs. What it still may do, itself:
 * #syscalls vcpu: ioctl(KVM_RUN) ioctl(KVM_GET_REGS) ioctl(KVM_GET_SREGS)
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "vcpu_run.h"

static void log_registers(struct vcpu *v)
{
	struct kvm_sregs s;
	struct kvm_regs r;
	struct kvm *kvm = &v->machine->kvm;

	if (kvm_call(kvm, v->fd, KVM_GET_REGS, &r) < 0 ||
	    kvm_call(kvm, v->fd, KVM_GET_SREGS, &s) < 0)
		return;
	log_error("vCPU %u: rip=%016llx rflags=%016llx rsp=%016llx rbp=%016llx", v->id, r.rip,
		  r.rflags, r.rsp, r.rbp);
	log_error("vCPU %u: rax=%016llx rbx=%016llx rcx=%016llx rdx=%016llx rsi=%016llx rdi=%016llx",
		  v->id, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi);
	log_error("vCPU %u: r8=%016llx r9=%016llx r10=%016llx r11=%016llx", v->id, r.r8, r.r9,
		  r.r10, r.r11);
	log_error("vCPU %u: r12=%016llx r13=%016llx r14=%016llx r15=%016llx", v->id, r.r12, r.r13,
		  r.r14, r.r15);
	log_error("vCPU %u: cr0=%llx cr2=%llx cr3=%llx cr4=%llx efer=%llx cs=%04x ss=%04x cpl=%u",
		  v->id, s.cr0, s.cr2, s.cr3, s.cr4, s.efer, s.cs.selector, s.ss.selector,
		  s.ss.dpl);
	log_error("vCPU %u: gdt=%llx/%x idt=%llx/%x tr=%04x", v->id, s.gdt.base, s.gdt.limit,
		  s.idt.base, s.idt.limit, s.tr.selector);
}

static void log_internal_error(struct vcpu *v)
{
	char data[16 * 17 + 1] = "";
	size_t len = 0;
	uint32_t n = v->run->internal.ndata;

	for (uint32_t i = 0; i < n && i < 16; i++)
		len += (size_t)snprintf(data + len, sizeof(data) - len, " %llx",
					v->run->internal.data[i]);
	log_error("vCPU %u: KVM internal error, suberror %u, data:%s", v->id,
		  v->run->internal.suberror, data);
}

static void stop_machine(struct vcpu *v, enum machine_request req)
{
	log_registers(v);
	machine_request(v->machine, req);
}

static void handle_io(struct vcpu *v)
{
	struct kvm_run *run = v->run;
	char *data = (char *)run + run->io.data_offset;

	for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size)
		bus_access(&v->machine->bus, BUS_PIO, run->io.port, data, run->io.size,
			   run->io.direction == KVM_EXIT_IO_OUT);
}

static void handle_exit(struct vcpu *v)
{
	struct kvm_run *run = v->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		handle_io(v);
		break;
	case KVM_EXIT_MMIO:
		bus_access(&v->machine->bus, BUS_MMIO, run->mmio.phys_addr, run->mmio.data,
			   run->mmio.len, run->mmio.is_write);
		break;
	case KVM_EXIT_INTR:
		break;
	case KVM_EXIT_SHUTDOWN:
		log_error("vCPU %u: triple fault", v->id);
		stop_machine(v, MACHINE_REQ_TRIPLE_FAULT);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		log_internal_error(v);
		stop_machine(v, MACHINE_REQ_VCPU_ERROR);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		log_error("vCPU %u: KVM could not enter the guest, hardware reason 0x%llx", v->id,
			  run->fail_entry.hardware_entry_failure_reason);
		stop_machine(v, MACHINE_REQ_VCPU_ERROR);
		break;
	default:
		log_error("vCPU %u: unexpected KVM exit reason %u", v->id, run->exit_reason);
		stop_machine(v, MACHINE_REQ_VCPU_ERROR);
		break;
	}
}

/* A guest that runs is not stopped because it could be better locked up. */
static void confine(struct vcpu *v)
{
	struct error err = ERROR_INIT;

	v->member->confined = true;
	if (v->machine->ops.confine && v->machine->ops.confine(&err) < 0)
		log_error("vCPU %u runs without its sandbox: %s", v->id, err.text);
}

bool vcpu_run_once(struct vcpu *v)
{
	int r = vcpu_enter(v);

	if (r != -EAGAIN)
		v->retry.last_ns = 0;
	if (r == -EINTR && vcpu_lost_memory(v)) {
		stop_machine(v, MACHINE_REQ_VCPU_ERROR);
		return false;
	}
	/*
	 * Nothing of the guest's is in that, and it may be the kick that begins an update's pause.
	 */
	if (r == -EINTR || (r == -EAGAIN && vcpu_retry(v)))
		return false;
	if (!v->member->confined)
		confine(v);
	if (r < 0) {
		log_error("vCPU %u: KVM_RUN: %s", v->id, error_text(-r));
		stop_machine(v, MACHINE_REQ_VCPU_ERROR);
		return false;
	}
	handle_exit(v);
	return true;
}

void vcpu_complete(struct vcpu *v, bool half_done)
{
	while (half_done) {
		v->run->immediate_exit = 1;
		half_done = vcpu_run_once(v);
	}
}
