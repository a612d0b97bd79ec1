/* SPDX-License-Identifier: MIT */
/* The wrappers of calls.h: each is a failure point, and else the real thing. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <termios.h>

#include <linux/kvm.h>

#include "faults.h"
#include "real.h"

#define CALL(type, name, params, args, code, failed) \
	type __wrap_##name params; \
	type __wrap_##name params \
	{ \
		return fault(#name, (code)) ? (failed) : __real_##name args; \
	}
#define VARIADIC(type, name, params) type __wrap_##name params;
#include "calls.h"

#define OPEN(name) \
	int __wrap_##name(const char *path, int flags, ...) \
	{ \
		va_list ap; \
		unsigned int mode; \
		va_start(ap, flags); \
		mode = va_arg(ap, unsigned int); \
		va_end(ap); \
		return fault(#name, EMFILE) ? -1 : __real_##name(path, flags, mode); \
	}
OPEN(open)
OPEN(open64)

int __wrap_fcntl64(int fd, int cmd, ...)
{
	va_list ap;
	long arg;

	va_start(ap, cmd);
	arg = va_arg(ap, long);
	va_end(ap);
	if (fault("fcntl", cmd == F_DUPFD_CLOEXEC ? EMFILE : EIO))
		return -1;
	return __real_fcntl64(fd, cmd, arg);
}

static const struct {
	unsigned long request;
	const char *name;
} requests[] = {
#define R(request) { request, #request }
	R(KVM_CHECK_EXTENSION), R(KVM_CREATE_IRQCHIP), R(KVM_CREATE_PIT2), R(KVM_CREATE_VCPU),
	R(KVM_CREATE_VM), R(KVM_ENABLE_CAP), R(KVM_GET_API_VERSION), R(KVM_GET_CLOCK),
	R(KVM_GET_DEBUGREGS), R(KVM_GET_DEVICE_ATTR), R(KVM_GET_IRQCHIP), R(KVM_GET_LAPIC),
	R(KVM_GET_MP_STATE), R(KVM_GET_MSRS), R(KVM_GET_MSR_INDEX_LIST), R(KVM_GET_PIT2),
	R(KVM_GET_REGS), R(KVM_GET_SREGS), R(KVM_GET_SREGS2), R(KVM_GET_SUPPORTED_CPUID),
	R(KVM_GET_TSC_KHZ), R(KVM_GET_VCPU_EVENTS), R(KVM_GET_VCPU_MMAP_SIZE), R(KVM_GET_XCRS),
	R(KVM_GET_XSAVE), R(KVM_GET_XSAVE2), R(KVM_IRQ_LINE), R(KVM_KVMCLOCK_CTRL),
	R(KVM_SET_CLOCK), R(KVM_SET_CPUID2), R(KVM_SET_DEBUGREGS), R(KVM_SET_DEVICE_ATTR),
	R(KVM_SET_GSI_ROUTING), R(KVM_SET_IDENTITY_MAP_ADDR), R(KVM_SET_IRQCHIP),
	R(KVM_SET_LAPIC), R(KVM_SET_MP_STATE), R(KVM_SET_MSRS), R(KVM_SET_PIT2), R(KVM_SET_REGS),
	R(KVM_SET_SREGS), R(KVM_SET_SREGS2), R(KVM_SET_TSC_KHZ), R(KVM_SET_TSS_ADDR),
	R(KVM_SET_USER_MEMORY_REGION), R(KVM_SET_VCPU_EVENTS), R(KVM_SET_XCRS), R(KVM_SET_XSAVE),
#undef R
};

static const char *request_name(unsigned long request)
{
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++)
		if (requests[i].request == request)
			return requests[i].name;
	return "ioctl";
}

static int request_error(unsigned long request)
{
	if (request == KVM_CREATE_VM || request == KVM_CREATE_VCPU)
		return EMFILE;
	return request == KVM_SET_USER_MEMORY_REGION || request == KVM_CREATE_IRQCHIP ? ENOMEM : EIO;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	long arg;

	va_start(ap, request);
	arg = va_arg(ap, long);
	va_end(ap);
	/* What fails there is the guest, not the update. */
	if (request != KVM_RUN && fault(request_name(request), request_error(request)))
		return -1;
	return __real_ioctl(fd, request, arg);
}

static const char *syscall_name(long number)
{
	switch (number) {
	case SYS_execve:
		return "execve";
	case SYS_execveat:
		return "execveat";
	case SYS_pidfd_open:
		return "pidfd_open";
	default:
		return "syscall";
	}
}

long __wrap_syscall(long number, ...)
{
	va_list ap;
	long a[6];

	va_start(ap, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (number != SYS_gettid && fault(syscall_name(number), EMFILE))
		return -1;
	return __real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
