/* SPDX-License-Identifier: MIT */
/*
 * vCPU threads. Theory of operation.
 *
 * Each thread loops: wait in the park until its goal is to run, then KVM_RUN until it is not. Main
 * sets the goal, and kicks with a signal whose handler sets run->immediate_exit: if the signal
 * comes before KVM_RUN is entered, KVM_RUN returns at once; if it comes inside, KVM leaves with
 * EINTR; if it comes before the loop clears immediate_exit, the goal that is read after the
 * clearing tells. So no kick is ever lost.
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
 * where it runs (mostly no system call), waiting, being kicked, and its end (glibc's)
 * #syscalls vcpu: getcpu
 * #syscalls vcpu: futex rt_sigreturn rt_sigprocmask madvise exit
 */
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "vcpu_run.h"

#define PARK_SPIN_NS 200000
#define AWAKE_NS 2000000 /* about as long as a successor takes to build the machine */

/* The kick handler has no other way to find the vCPU of the thread it interrupted. */
static _Thread_local struct kvm_run *kick_run;

static void on_kick(int sig)
{
	(void)sig;
	if (kick_run)
		kick_run->immediate_exit = 1;
}

int vcpu_install_kick(struct error *err)
{
	struct sigaction sa = { .sa_handler = on_kick };

	if (sigaction(VCPU_KICK_SIGNAL, &sa, NULL) < 0)
		return err_sys(err, errno, "sigaction for the vCPU kick");
	return 0;
}

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

	v->confined = true;
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
	if (!v->confined)
		confine(v);
	if (r < 0) {
		log_error("vCPU %u: KVM_RUN: %s", v->id, strerror(-r));
		stop_machine(v, MACHINE_REQ_VCPU_ERROR);
		return false;
	}
	handle_exit(v);
	return true;
}

static bool may_run(struct vcpu *v)
{
	return atomic_load(&v->goal) == VCPU_RUN && !machine_is_stopping(v->machine);
}

/* After EINTR there is nothing to complete, nor where KVM cannot run the vCPU any more. */
static void complete(struct vcpu *v, bool half_done)
{
	while (half_done) {
		v->run->immediate_exit = 1;
		half_done = run_once(v);
	}
}

static void run_until_parked(struct vcpu *v)
{
	bool half_done = false;

	atomic_store(&v->host_cpu, sched_getcpu());
	atomic_store(&v->entered_ns, now_ns());
	for (;;) {
		v->run->immediate_exit = 0;
		atomic_signal_fence(memory_order_seq_cst);
		if (!may_run(v))
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

static void settle(struct vcpu *v)
{
	bool half_done;
	sigset_t blocked;

	v->timer.marked = false;
	if (machine_is_stopping(v->machine) ||
	    !lapic_timer_mark(&v->timer, &v->machine->kvm, v->fd))
		return;
	sigfillset(&blocked);
	sigdelset(&blocked, VCPU_SETTLE_SIGNAL);
	sigdelset(&blocked, VCPU_KICK_SIGNAL);
	if (set_signal_mask(v, &blocked) < 0)
		return;
	v->run->immediate_exit = 0;
	half_done = run_once(v);
	/* With the signal let through no KVM_RUN would ever get anywhere. */
	for (int try = 0; set_signal_mask(v, NULL) < 0 && try < MASK_TRIES; try++)
		;
	complete(v, half_done);
}

/*
 * Where a CPU can be spared. Called and left with the lock held; true where it was dropped
 * meanwhile, so that the caller looks again at what it waits for.
 */
static bool stay_awake(struct vcpu *v, bool *awake, uint64_t until)
{
	struct machine *m = v->machine;

	if (!*awake || !m->awake || v->id + 1 >= m->host_cpus)
		return false;
	pthread_mutex_unlock(&m->vcpu_lock);
	while (*awake && atomic_load(&v->goal) == VCPU_PARK && !vcpu_job_is_open(m))
		*awake = vcpu_wait_awake(until);
	pthread_mutex_lock(&m->vcpu_lock);
	return true;
}

/* Waits in the park. False when the thread is to end. */
static bool wait_in_park(struct vcpu *v)
{
	struct machine *m = v->machine;
	uint64_t now = now_ns();
	bool awake = true;

	pthread_mutex_lock(&m->vcpu_lock);
	atomic_store(&v->parked, true);
	pthread_cond_broadcast(&m->vcpu_parked);
	while (atomic_load(&v->goal) != VCPU_QUIT && !may_run(v))
		if (!vcpu_job_help(m, v->confined) && !stay_awake(v, &awake, now + AWAKE_NS))
			pthread_cond_wait(&m->vcpu_unpark, &m->vcpu_lock);
	atomic_store(&v->parked, false);
	pthread_mutex_unlock(&m->vcpu_lock);
	return atomic_load(&v->goal) != VCPU_QUIT;
}

static void *vcpu_thread(void *opaque)
{
	struct vcpu *v = opaque;
	char name[16];

	snprintf(name, sizeof(name), "vcpu%u", v->id);
	pthread_setname_np(pthread_self(), name);
	v->tid = (pid_t)syscall(SYS_gettid);
	v->stopped_ns = now_ns();
	while (wait_in_park(v)) {
		kick_run = v->run;
		run_until_parked(v);
		/* While parked the mapping may go (reset), and a late kick must not touch it. */
		kick_run = NULL;
		v->stopped_ns = now_ns();
		settle(v);
	}
	return NULL;
}

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
	return 0;
}

void vcpu_close(struct vcpu *v)
{
	if (v->run)
		munmap(v->run, v->run_size);
	v->run = NULL;
	fd_close(&v->fd);
}

int vcpu_start(struct vcpu *v, struct error *err)
{
	sigset_t all, old;
	int r;

	/*
	 * Signals for the process go to main; only the kick reaches a vCPU thread, and what it gets
	 * for a forbidden system call.
	 */
	sigfillset(&all);
	sigdelset(&all, VCPU_KICK_SIGNAL);
	sigdelset(&all, SIGSYS);
	atomic_store(&v->goal, VCPU_PARK);
	atomic_store(&v->parked, false);
	v->confined = false;
	r = pthread_sigmask(SIG_SETMASK, &all, &old);
	if (r)
		return err_sys(err, r, "signals of vCPU %u's thread", v->id);
	r = pthread_create(&v->thread, NULL, vcpu_thread, v);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return err_sys(err, r, "thread for vCPU %u", v->id);
	v->started = true;
	pthread_kill(v->thread, VCPU_SETTLE_SIGNAL);
	return 0;
}

void vcpu_stop(struct vcpu *v)
{
	if (!v->started)
		return;
	pthread_mutex_lock(&v->machine->vcpu_lock);
	atomic_store(&v->goal, VCPU_QUIT);
	pthread_cond_broadcast(&v->machine->vcpu_unpark);
	pthread_mutex_unlock(&v->machine->vcpu_lock);
	pthread_kill(v->thread, VCPU_KICK_SIGNAL);
	pthread_join(v->thread, NULL);
	v->started = false;
}

void vcpu_forget_thread(struct vcpu *v)
{
	/*
	 * The kernel clears a dying thread's id, so this frees its stack; if not, that is all we
	 * lose.
	 */
	if (v->started)
		pthread_tryjoin_np(v->thread, NULL);
	v->started = false;
}

static bool all_parked(struct machine *m)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		if (!atomic_load(&m->vcpus[i].parked))
			return false;
	return true;
}

void vcpus_wait_parked(struct machine *m)
{
	const uint64_t give_up = now_ns() + PARK_SPIN_NS;

	/*
	 * Most are there at once, sooner than this thread would have gone to sleep and come back.
	 */
	while (m->host_cpus > 1 && !all_parked(m) && vcpu_wait_awake(give_up))
		;
	pthread_mutex_lock(&m->vcpu_lock);
	while (!all_parked(m))
		pthread_cond_wait(&m->vcpu_parked, &m->vcpu_lock);
	pthread_mutex_unlock(&m->vcpu_lock);
}

uint64_t machine_park_vcpus(struct machine *m)
{
	uint64_t last = 0;

	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		atomic_store(&m->vcpus[i].goal, VCPU_PARK);
		pthread_kill(m->vcpus[i].thread, VCPU_KICK_SIGNAL);
	}
	vcpus_wait_parked(m);
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		if (m->vcpus[i].stopped_ns > last)
			last = m->vcpus[i].stopped_ns;
	return last;
}

void machine_keep_awake(struct machine *m, bool on)
{
	pthread_mutex_lock(&m->vcpu_lock);
	m->awake = on;
	pthread_mutex_unlock(&m->vcpu_lock);
}

void machine_unpark_vcpus(struct machine *m)
{
	pthread_mutex_lock(&m->vcpu_lock);
	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		atomic_store(&m->vcpus[i].entered_ns, 0);
		atomic_store(&m->vcpus[i].goal, VCPU_RUN);
	}
	pthread_mutex_unlock(&m->vcpu_lock);
	/* Not before: who is awake already needs the lock. */
	pthread_cond_broadcast(&m->vcpu_unpark);
}

uint64_t machine_wait_entered(struct machine *m)
{
	for (;;) {
		uint64_t first = UINT64_MAX;

		for (uint32_t i = 0; i < m->guest.cpus; i++) {
			uint64_t t = atomic_load(&m->vcpus[i].entered_ns);

			if (t && t < first)
				first = t;
		}
		if (first != UINT64_MAX || machine_is_stopping(m))
			return first == UINT64_MAX ? now_ns() : first;
		sched_yield();
	}
}

bool machine_spare_cpus(struct machine *m, cpu_set_t *spare)
{
	if (sched_getaffinity(0, sizeof(*spare), spare) < 0)
		return false;
	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		int cpu = atomic_load(&m->vcpus[i].host_cpu);

		if (cpu >= 0)
			CPU_CLR((size_t)cpu, spare);
	}
	return CPU_COUNT(spare) > 0;
}
