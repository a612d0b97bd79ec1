/* SPDX-License-Identifier: MIT */
/*
 * The one door to KVM. `struct kvm` is the system (/dev/kvm) and what it can do; `struct kvm_vm` is
 * one virtual machine made from it. Every ioctl goes through `struct kvm`'s function pointer, so
 * that unit tests can put a fake behind it. Numbers are those of the KVM API document
 * (Documentation/virt/kvm/api.rst).
 */
#ifndef MOLT_VM_KVM_H
#define MOLT_VM_KVM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <molt/base/error.h>

/*
 * Linux 6.12 (api.rst, KVM_PRE_FAULT_MEMORY), for older headers: fills second-level tables as a
 * read by the vCPU would. gpa and size are what is left when it returns.
 */
#ifndef KVM_CAP_PRE_FAULT_MEMORY
#define KVM_CAP_PRE_FAULT_MEMORY 236
#define KVM_PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct kvm_pre_fault_memory)
struct kvm_pre_fault_memory {
	__u64 gpa;
	__u64 size;
	__u64 flags;
	__u64 padding[5];
};
#endif

struct kvm {
	int fd;
	/* As ioctl(2) but returns -errno on failure; arg is a pointer or a number. */
	int (*ioctl)(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg);
	void *opaque; /* for a fake */
	/* Capabilities, asked once. */
	size_t run_size;
	size_t xsave_size; /* for KVM_GET_XSAVE2, 4096 without KVM_CAP_XSAVE2 */
	uint32_t max_vcpus;
	bool has_sregs2;
	bool has_xsave2;
	bool has_xcrs;
	bool has_tsc_offset; /* KVM_VCPU_TSC_CTRL attribute group */
	bool has_tsc_deadline;
	bool has_exception_payload;
	bool has_triple_fault_event;
	bool has_kvmclock_ctrl;
	bool has_pre_fault_memory; /* not with shadow paging */
};

/* Opens /dev/kvm, or takes the descriptor given (>= 0, becomes kvm's), and asks what it can do. */
int kvm_open(struct kvm *kvm, int fd, struct error *err);

/* /dev/kvm, for kvm_open(): the caller's descriptor, or -errno with the sentence. */
int kvm_open_device(struct error *err);

/* The second half of kvm_open(): fd, ioctl and opaque are set. On failure fd is closed. */
int kvm_probe(struct kvm *kvm, struct error *err);

/* Refuses a host whose KVM lacks the capability: -ENOTSUP with its name, or why it cannot be asked.
 */
int kvm_insist_on(struct kvm *kvm, unsigned long cap, const char *name, struct error *err);

void kvm_close(struct kvm *kvm);

static inline int kvm_call(struct kvm *kvm, int fd, unsigned long request, const void *arg)
{
	return kvm->ioctl(kvm, fd, request, (uintptr_t)arg);
}

static inline int kvm_call_num(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	return kvm->ioctl(kvm, fd, request, arg);
}

/* One VM. It is replaced as a whole when the machine resets, so nobody keeps a copy of its fd. */
struct kvm_vm {
	struct kvm *kvm;
	int fd;
};

/*
 * Not with the descriptor number avoid (-1: any): KVM names a VM's directory in debugfs after
 * process and number, and would complain on the host's console of a predecessor's that is still
 * there.
 */
int kvm_vm_create(struct kvm_vm *vm, struct kvm *kvm, int avoid, struct error *err);
void kvm_vm_destroy(struct kvm_vm *vm);

/*
 * How long KVM_RUN takes at least where another thread ran the vCPU before: 10 us, or an RCU grace
 * period (thread_change.c). Tries it, which takes a millisecond and six times as long. In ns; 0: it
 * cannot be tried.
 */
uint64_t kvm_thread_change_ns(struct kvm *kvm);

static inline int kvm_vm_call(struct kvm_vm *vm, unsigned long request, const void *arg)
{
	return kvm_call(vm->kvm, vm->fd, request, arg);
}

#endif
