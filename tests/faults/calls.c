/* SPDX-License-Identifier: MIT */
/* A call of a function that can fail, as the wrappers see it that wraps.py makes. */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>

#include <linux/futex.h>
#include <linux/kvm.h>

#include "faults.h"

#define REQUEST(name) { name, #name },
#define SYSCALL(name)
static const struct {
	unsigned long request;
	const char *name;
} requests[] = {
#include "request_names.h"
};
#undef REQUEST
#undef SYSCALL

#define REQUEST(name)
#define SYSCALL(name) { SYS_##name, #name },
static const struct {
	unsigned long number;
	const char *name;
} syscalls[] = {
#include "request_names.h"
};

#define NAME_OF(table, key, value, otherwise) \
	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) \
		if (table[i].key == (value)) \
			return table[i].name; \
	return otherwise

static const char *request_name(unsigned long request)
{
	NAME_OF(requests, request, request, "ioctl");
}

static bool is_endless_wait(const unsigned long *args)
{
	int op = (int)args[2] & FUTEX_CMD_MASK;

	return args[0] == SYS_futex && !args[4] && (op == FUTEX_WAIT || op == FUTEX_WAIT_BITSET);
}

static const char *syscall_name(const unsigned long *args)
{
	if (is_endless_wait(args))
		return "futex-wait";
	NAME_OF(syscalls, number, args[0], "syscall");
}

static int request_error(unsigned long request)
{
	switch (request) {
	case KVM_RUN: /* what fails there is the guest, not the update */
		return NO_POINT;
	case KVM_CREATE_VM:
	case KVM_CREATE_VCPU:
		return EMFILE;
	case KVM_SET_USER_MEMORY_REGION:
	case KVM_CREATE_IRQCHIP:
		return ENOMEM;
	default:
		return EIO;
	}
}

/* The errno of the call where that is not the same for all arguments. */
static int error_of(const struct call *call, const unsigned long *args)
{
	if (strcmp(call->name, "ioctl") == 0)
		return request_error(args[1]);
	if (strcmp(call->name, "epoll_ctl") == 0)
		return args[1] == EPOLL_CTL_ADD ? ENOMEM : 0;
	if (strcmp(call->name, "fcntl64") == 0)
		return args[1] == F_DUPFD_CLOEXEC ? EMFILE : EIO;
	/* Eight bytes go to an eventfd, which has nothing to run out of, and nobody expects it. */
	if (strcmp(call->name, "write") == 0 && args[2] == sizeof(uint64_t))
		return 0;
	if (strcmp(call->name, "syscall") == 0 && args[0] == SYS_gettid)
		return NO_POINT;
	if (strcmp(call->name, "syscall") == 0 && args[0] == SYS_futex)
		return EINTR; /* it needs nothing that could run out */
	return call->code;
}

static const char *name_of(const struct call *call, const unsigned long *args)
{
	if (strcmp(call->name, "ioctl") == 0)
		return request_name(args[1]);
	if (strcmp(call->name, "syscall") == 0)
		return syscall_name(args);
	return call->name;
}

int fault_of_call(const struct call *call, const unsigned long *args, uintptr_t site)
{
	int code;

	/* Also in programs' first steps, when there is no thread-local memory yet. */
	if (!faults_now())
		return 0;
	code = error_of(call, args);
	return code != NO_POINT && fault(name_of(call, args), code, site) ? code : 0;
}
