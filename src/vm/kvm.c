/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/vm/kvm.h>

#define KVM_PATH "/dev/kvm"
#define CREATE_TRIES 100

static int real_ioctl(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	int r = ioctl(fd, request, arg);

	(void)kvm;
	return r < 0 ? -errno : r;
}

/*
 * What KVM_CHECK_EXTENSION says. One that cannot be asked is not one that is missing: the guest
 * would lose it for good. So the first error stays in *failed.
 */
static int ask(struct kvm *kvm, unsigned long cap, int *failed)
{
	int r = kvm_call_num(kvm, kvm->fd, KVM_CHECK_EXTENSION, cap);

	if (r < 0 && !*failed)
		*failed = r;
	return r < 0 ? 0 : r;
}

static const struct {
	unsigned long cap;
	const char *name;
} required[] = {
	{ KVM_CAP_IRQ_INJECT_STATUS, "KVM_CAP_IRQ_INJECT_STATUS" },
	{ KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT" },
	{ KVM_CAP_ADJUST_CLOCK, "KVM_CAP_ADJUST_CLOCK" },
	{ KVM_CAP_GET_TSC_KHZ, "KVM_CAP_GET_TSC_KHZ" },
};

static int not_asked(int failed, struct error *err)
{
	return failed ? err_sys(err, -failed, "%s: KVM_CHECK_EXTENSION", KVM_PATH) : 0;
}

int kvm_insist_on(struct kvm *kvm, unsigned long cap, const char *name, struct error *err)
{
	int failed = 0;

	if (ask(kvm, cap, &failed) || failed)
		return not_asked(failed, err);
	return err_set(err, ENOTSUP, "%s: this host's KVM lacks %s", KVM_PATH, name);
}

static int ask_required(struct kvm *kvm, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(required) && r == 0; i++)
		r = kvm_insist_on(kvm, required[i].cap, required[i].name, err);
	return r;
}

static int ask_capabilities(struct kvm *kvm, struct error *err)
{
	int size, failed = 0, r = ask_required(kvm, err);

	if (r < 0)
		return r;
	size = kvm_call_num(kvm, kvm->fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run))
		return err_set(err, ENOTSUP, "%s: KVM_GET_VCPU_MMAP_SIZE gave %d", KVM_PATH, size);
	kvm->run_size = (size_t)size;
	size = ask(kvm, KVM_CAP_XSAVE2, &failed);
	kvm->has_xsave2 = size > 0;
	kvm->xsave_size = size > (int)sizeof(struct kvm_xsave) ? (size_t)size
							       : sizeof(struct kvm_xsave);
	kvm->max_vcpus = (uint32_t)ask(kvm, KVM_CAP_MAX_VCPUS, &failed);
	kvm->has_sregs2 = ask(kvm, KVM_CAP_SREGS2, &failed);
	kvm->has_xcrs = ask(kvm, KVM_CAP_XCRS, &failed);
	kvm->has_tsc_offset = ask(kvm, KVM_CAP_VCPU_ATTRIBUTES, &failed);
	kvm->has_tsc_deadline = ask(kvm, KVM_CAP_TSC_DEADLINE_TIMER, &failed);
	kvm->has_exception_payload = ask(kvm, KVM_CAP_EXCEPTION_PAYLOAD, &failed);
	kvm->has_triple_fault_event = ask(kvm, KVM_CAP_X86_TRIPLE_FAULT_EVENT, &failed);
	kvm->has_kvmclock_ctrl = ask(kvm, KVM_CAP_KVMCLOCK_CTRL, &failed);
	kvm->has_pre_fault_memory = ask(kvm, KVM_CAP_PRE_FAULT_MEMORY, &failed);
	return not_asked(failed, err);
}

int kvm_open_device(struct error *err)
{
	int fd = open(KVM_PATH, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return err_sys(err, errno, "%s (is KVM enabled, and may this user open it?)",
			       KVM_PATH);
	return fd;
}

int kvm_open(struct kvm *kvm, int fd, struct error *err)
{
	*kvm = (struct kvm){ .fd = fd, .ioctl = real_ioctl };
	if (fd < 0)
		kvm->fd = kvm_open_device(err);
	if (kvm->fd < 0)
		return kvm->fd;
	return kvm_probe(kvm, err);
}

int kvm_probe(struct kvm *kvm, struct error *err)
{
	int version = kvm_call_num(kvm, kvm->fd, KVM_GET_API_VERSION, 0);
	int r;

	if (version != KVM_API_VERSION)
		r = err_set(err, ENOTSUP, "%s: KVM API version %d, molt needs %d", KVM_PATH,
			    version, KVM_API_VERSION);
	else
		r = ask_capabilities(kvm, err);
	if (r < 0)
		kvm_close(kvm);
	return r;
}

void kvm_close(struct kvm *kvm)
{
	fd_close(&kvm->fd);
}

/*
 * Intel hosts without unrestricted guest need three pages for a TSS and one for an identity map in
 * a place the guest has no use for; harmless elsewhere. docs/guest-abi.md lists them as reserved.
 */
#define TSS_GPA 0xfffbd000ul
#define IDENTITY_MAP_GPA 0xfffbc000ull

static int set_host_pages(struct kvm_vm *vm, struct error *err)
{
	uint64_t gpa = IDENTITY_MAP_GPA;
	int r = 0, failed = 0;

	if (ask(vm->kvm, KVM_CAP_SET_IDENTITY_MAP_ADDR, &failed))
		r = kvm_vm_call(vm, KVM_SET_IDENTITY_MAP_ADDR, &gpa);
	if (r < 0)
		return err_sys(err, -r, "KVM_SET_IDENTITY_MAP_ADDR");
	if (ask(vm->kvm, KVM_CAP_SET_TSS_ADDR, &failed))
		r = kvm_call_num(vm->kvm, vm->fd, KVM_SET_TSS_ADDR, TSS_GPA);
	if (r < 0)
		return err_sys(err, -r, "KVM_SET_TSS_ADDR");
	return failed ? err_sys(err, -failed, "KVM_CHECK_EXTENSION") : 0;
}

/*
 * Without these a vCPU's pending exceptions and triple faults are told in a form that loses
 * information when it is set again.
 */
static int enable_event_capabilities(struct kvm_vm *vm, struct error *err)
{
	struct kvm_enable_cap cap = { .args = { 1 } };
	int r = 0;

	if (vm->kvm->has_exception_payload) {
		cap.cap = KVM_CAP_EXCEPTION_PAYLOAD;
		r = kvm_vm_call(vm, KVM_ENABLE_CAP, &cap);
	}
	if (r == 0 && vm->kvm->has_triple_fault_event) {
		cap.cap = KVM_CAP_X86_TRIPLE_FAULT_EVENT;
		r = kvm_vm_call(vm, KVM_ENABLE_CAP, &cap);
	}
	return r < 0 ? err_sys(err, -r, "KVM_ENABLE_CAP %u", cap.cap) : 0;
}

/*
 * It is the one call that a process which is stopped in it has to make again, be it by SIGSTOP, the
 * cgroup freezer (`docker pause`), a debugger or a live patch: mm_take_all_locks() in Linux. A
 * guest that resets would end.
 */
static int create_vm(struct kvm *kvm)
{
	int r = -EINTR;

	for (int try = 0; try < CREATE_TRIES && r == -EINTR; try++)
		r = kvm_call_num(kvm, kvm->fd, KVM_CREATE_VM, 0);
	return r;
}

int kvm_vm_create(struct kvm_vm *vm, struct kvm *kvm, int avoid, struct error *err)
{
	int taken = avoid < 0 ? -1 : fcntl(kvm->fd, F_DUPFD_CLOEXEC, avoid);
	int r;

	vm->kvm = kvm;
	vm->fd = -1;
	r = create_vm(kvm);
	fd_close(&taken);
	if (r < 0)
		return err_sys(err, -r, "KVM_CREATE_VM");
	vm->fd = r;
	fd_set_cloexec(vm->fd, true);
	r = set_host_pages(vm, err);
	if (r == 0)
		r = enable_event_capabilities(vm, err);
	if (r < 0)
		kvm_vm_destroy(vm);
	return r;
}

void kvm_vm_destroy(struct kvm_vm *vm)
{
	fd_close(&vm->fd);
}
