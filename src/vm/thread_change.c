/* SPDX-License-Identifier: MIT */
/*
 * What it costs to go on with a vCPU on another thread. Theory of operation.
 *
 * KVM keeps the id of the thread that last ran a vCPU. Before Linux 6.13 KVM_RUN on another one
 * waits until nobody can look at the old id any more (synchronize_rcu() in kvm_vcpu_ioctl()): 13 to
 * 24 ms, or 0.1 ms where the host expedites that (/sys/kernel/rcu_expedited). The hand-off to a
 * stand-in is such a change, of all vCPUs, and the guest waits for it.
 *
 * No capability tells, and distributions take such changes into older kernels. So it is tried: on a
 * vCPU of a VM of its own, that executes nothing, on two threads.
 */
#include <sys/mman.h>

#include <molt/base/fd.h>
#include <molt/base/thread.h>
#include <molt/vm/kvm.h>

#define STACK_BYTES (64u << 10)
/* A busy host is slow at times, a grace period always. */
#define TRIES 3

struct trial {
	struct kvm *kvm;
	int vcpu_fd;
	uint64_t took_ns;
};

static void *run(void *opaque)
{
	struct trial *t = opaque;
	uint64_t before = now_ns();

	kvm_call_num(t->kvm, t->vcpu_fd, KVM_RUN, 0);
	t->took_ns = now_ns() - before;
	return NULL;
}

static bool run_elsewhere(struct trial *t)
{
	pthread_t other;

	if (thread_create(&other, STACK_BYTES, run, t))
		return false;
	pthread_join(other, NULL);
	return true;
}

static uint64_t least(struct trial *t)
{
	uint64_t ns = 0;

	run(t);
	for (int i = 0; i < TRIES && run_elsewhere(t); i++) {
		ns = ns && ns < t->took_ns ? ns : t->took_ns;
		run(t);
		ns = ns < t->took_ns ? ns : t->took_ns;
	}
	return ns;
}

uint64_t kvm_thread_change_ns(struct kvm *kvm)
{
	struct trial t = { .kvm = kvm };
	struct error err = ERROR_INIT;
	struct kvm_run *page;
	struct kvm_vm vm;
	uint64_t ns = 0;

	if (kvm_vm_create(&vm, kvm, -1, &err) < 0)
		return 0;
	t.vcpu_fd = kvm_call_num(kvm, vm.fd, KVM_CREATE_VCPU, 0);
	page = t.vcpu_fd < 0 ? MAP_FAILED
			     : mmap(NULL, kvm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED,
				    t.vcpu_fd, 0);
	if (page != MAP_FAILED) {
		page->immediate_exit = 1;
		ns = least(&t);
		munmap(page, kvm->run_size);
	}
	fd_close(&t.vcpu_fd);
	kvm_vm_destroy(&vm);
	return ns;
}
