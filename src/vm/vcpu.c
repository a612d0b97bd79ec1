/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU's thread does. Theory of operation.
 *
 * It is a member of a crew (crew.h), which parks it and lets it go. The kick sets
 * run->immediate_exit, with which KVM_RUN returns at once.
 *
 * A vCPU may only be saved at an instruction boundary: after a PIO or MMIO exit KVM completes the
 * instruction at the *next* KVM_RUN. Parking therefore enters KVM_RUN with immediate_exit set until
 * it answers EINTR; a string instruction may bring further exits on the way, which are served.
 *
 * KVM makes an expired timer an interrupt only when the vCPU enters KVM_RUN (lapic_timer.c). So a
 * vCPU with such a timer enters it once more before it parks, and leaves it where a kick would have
 * it leave: with a signal pending. Each thread has one for good, blocked at any time but in this
 * KVM_RUN. immediate_exit would not do: with it KVM_RUN turns round before it looks at timers.
 *
 * The thread gives up what it does not need (machine_ops.confine) when the guest wants something
 * for the first time, and before it looks at what: until then nothing of the guest's has been
 * touched, and so it costs an update nothing before the guest runs. What it still may do, itself:
 * #syscalls vcpu: ioctl(KVM_RUN) ioctl(KVM_SET_SIGNAL_MASK) ioctl(KVM_GET_REGS)
 * #syscalls vcpu: ioctl(KVM_GET_SREGS)
 */
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include <molt/base/fd.h>
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

/* One KVM_RUN; false when it was interrupted before the guest did anything we must serve. */
static bool run_once(struct vcpu *v)
{
	struct kvm *kvm = &v->machine->kvm;
	int r = kvm_call_num(kvm, v->fd, KVM_RUN, 0);

	if (r != -EAGAIN)
		v->retry.last_ns = 0;
	/*
	 * Nothing of the guest's is in that, and it may be the kick that begins an update's pause.
	 */
	if (r == -EINTR || (r == -EAGAIN && vcpu_retry(v)))
		return false;
	if (!v->member->confined)
		confine(v);
	if (r < 0) {
		log_error("vCPU %u: KVM_RUN: %s", v->id, strerror(-r));
		stop_machine(v, MACHINE_REQ_VCPU_ERROR);
		return false;
	}
	handle_exit(v);
	return true;
}

/* After EINTR there is nothing to complete, nor where KVM cannot run the vCPU any more. */
static void complete(struct vcpu *v, bool half_done)
{
	while (half_done) {
		v->run->immediate_exit = 1;
		half_done = run_once(v);
	}
}

static struct vcpu *vcpu_of(struct crew_member *cm)
{
	struct machine *m = cm->crew->opaque;

	return &m->vcpus[cm->id];
}

static void run_until_parked(struct crew_member *cm)
{
	struct vcpu *v = vcpu_of(cm);
	bool half_done = false;

	v->member = cm;
	if (v->leaves_thread) {
		v->leaves_thread = false;
		vcpu_leave_steal_time(v);
	}
	for (;;) {
		v->run->immediate_exit = 0;
		atomic_signal_fence(memory_order_seq_cst);
		if (!crew_may_run(cm))
			break;
		half_done = run_once(v);
	}
	complete(v, half_done);
}

#define KERNEL_SIGSET_BYTES 8u /* not glibc's 128 */
#define MASK_TRIES 3

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

static void settle(struct crew_member *cm)
{
	struct vcpu *v = vcpu_of(cm);
	bool half_done;
	sigset_t blocked;

	v->timer.marked = false;
	if (machine_is_stopping(v->machine) ||
	    !lapic_timer_mark(&v->timer, &v->machine->kvm, v->fd))
		return;
	sigfillset(&blocked);
	sigdelset(&blocked, VCPU_SETTLE_SIGNAL);
	sigdelset(&blocked, CREW_KICK_SIGNAL);
	if (set_signal_mask(v, &blocked) < 0)
		return;
	v->run->immediate_exit = 0;
	half_done = run_once(v);
	/* With the signal let through no KVM_RUN would ever get anywhere. */
	for (int try = 0; set_signal_mask(v, NULL) < 0 && try < MASK_TRIES; try++)
		;
	complete(v, half_done);
}

static void prepare(struct crew_member *cm)
{
	struct vcpu *v = vcpu_of(cm);

	if (v->machine->rehearses && !vcpu_state_waits(v->state))
		vcpu_warm_up(v);
}

static void kick(struct crew_member *cm)
{
	vcpu_of(cm)->run->immediate_exit = 1;
}

static void started(struct crew_member *cm)
{
	pthread_kill(cm->thread, VCPU_SETTLE_SIGNAL);
}

static bool held(struct crew *crew)
{
	return machine_is_stopping(crew->opaque);
}

static bool waits(struct crew_member *cm)
{
	return vcpu_reading_blocks(&vcpu_of(cm)->reading);
}

const struct crew_ops vcpu_crew_ops = {
	.name = "vcpu",
	.title = "vCPU",
	.run = run_until_parked,
	.kick = kick,
	.prepare = prepare,
	.settle = settle,
	.started = started,
	.held = held,
	.waits = waits,
};

int vcpu_open(struct vcpu *v, struct error *err)
{
	struct machine *m = v->machine;
	int r = kvm_call_num(&m->kvm, m->vm.fd, KVM_CREATE_VCPU, v->id);
	void *run;

	if (r < 0)
		return err_sys(err, -r, "KVM_CREATE_VCPU %u", v->id);
	v->fd = r;
	v->steal_time = 0;
	v->timer = (struct lapic_timer){ 0 };
	fd_set_cloexec(v->fd, true);
	v->run_size = m->kvm.run_size;
	run = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED) {
		fd_close(&v->fd);
		return err_sys(err, errno, "mapping kvm_run of vCPU %u", v->id);
	}
	v->run = run;
	vcpu_reading_open(&v->reading, &m->kvm, v->fd, v->id == 0);
	return 0;
}

void vcpu_close(struct vcpu *v)
{
	if (v->run) {
		munmap(v->run, v->run_size);
		vcpu_reading_close(&v->reading);
	}
	v->run = NULL;
	fd_close(&v->fd);
}
