/* SPDX-License-Identifier: MIT */
/*
 * What could somebody still do who has taken over a vCPU thread, or with argument "io" the I/O
 * process? A child enters the very sandbox of it and then tries one thing; if it lives, the thing
 * is possible. All system calls are tried by number, with arguments that make no sense; requests of
 * ioctl by name, and attacks as they are made. What is possible is printed, for check-attack.py to
 * hold against docs/sandbox.md.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/kvm.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/sandbox/sandbox.h>
#include "molt_version.h"
#include "syscall_filters.h"

#define SYSCALLS 600
#define X32 0x40000000L
/*
 * uretprobe and uprobe, the kernel's own way back from probes that somebody has set: newer kernels
 * let them past every filter. Called from elsewhere they do nothing but end the caller.
 */
#define FIRST_PROBE 335
#define LAST_PROBE 336

static bool as_io;

static int enter(struct error *err)
{
	if (as_io)
		return sandbox_prepare_io(err) < 0 ? -1 : sandbox_enter_io(err);
	return sandbox_catch_forbidden_calls(err) < 0 ? -1 : sandbox_enter_thread(err);
}

static void call_as_i386(long arg)
{
	long nr = 20; /* getpid */

	(void)arg;
	__asm__ volatile("int $0x80" : "+a"(nr) : : "memory");
}

/* The filter's signal; or the CPU's fault, where a kernel (one in a PVM guest) has no such gate. */
static bool is_refusal(int sig, void (*attempt)(long arg))
{
	return sig == SIGSYS || (sig == SIGSEGV && attempt == call_as_i386);
}

/* In the child: 0 where the thread lives on, whatever the call said. */
static bool is_possible(void (*attempt)(long arg), long arg)
{
	struct error err = ERROR_INIT;
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		if (enter(&err) < 0)
			abort();
		attempt(arg);
		syscall(SYS_exit, 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid) {
		perror("attack");
		exit(1);
	}
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT) {
		fprintf(stderr, "attack: the sandbox could not be entered\n");
		exit(1);
	}
	return !WIFSIGNALED(status) || !is_refusal(WTERMSIG(status), attempt);
}

static void by_number(long nr)
{
	syscall(nr, -1L, -1L, -1L, -1L, -1L, -1L);
}

static void try_numbers(void)
{
	for (long nr = 0; nr < SYSCALLS; nr++) {
		bool known = (size_t)nr < ARRAY_SIZE(syscall_names) && syscall_names[nr];

		if ((nr >= FIRST_PROBE && nr <= LAST_PROBE) || !is_possible(by_number, nr))
			continue;
		if (known)
			printf("call %s\n", syscall_names[nr]);
		else
			printf("call %ld\n", nr);
	}
}

/* clang-format off */
#define REQUEST(name) { #name, name }
/* clang-format on */
static const struct {
	const char *name;
	unsigned long request;
} requests[] = {
	REQUEST(KVM_GET_API_VERSION),
	REQUEST(KVM_CREATE_VM),
	REQUEST(KVM_CHECK_EXTENSION),
	REQUEST(KVM_CREATE_VCPU),
	REQUEST(KVM_SET_USER_MEMORY_REGION),
	REQUEST(KVM_CREATE_IRQCHIP),
	REQUEST(KVM_IRQ_LINE),
	REQUEST(KVM_SET_GSI_ROUTING),
	REQUEST(KVM_IRQFD),
	REQUEST(KVM_IOEVENTFD),
	REQUEST(KVM_SIGNAL_MSI),
	REQUEST(KVM_RUN),
	REQUEST(KVM_SET_SIGNAL_MASK),
	REQUEST(KVM_GET_REGS),
	REQUEST(KVM_SET_REGS),
	REQUEST(KVM_GET_SREGS),
	REQUEST(KVM_SET_SREGS),
	REQUEST(KVM_GET_MSRS),
	REQUEST(KVM_SET_MSRS),
	REQUEST(KVM_GET_SREGS2),
	REQUEST(KVM_SET_SREGS2),
	REQUEST(KVM_GET_MP_STATE),
	REQUEST(KVM_SET_MP_STATE),
	REQUEST(KVM_GET_VCPU_EVENTS),
	REQUEST(KVM_SET_VCPU_EVENTS),
	REQUEST(KVM_GET_XCRS),
	REQUEST(KVM_SET_XCRS),
	REQUEST(KVM_GET_XSAVE),
	REQUEST(KVM_GET_XSAVE2),
	REQUEST(KVM_SET_XSAVE),
	REQUEST(KVM_GET_LAPIC),
	REQUEST(KVM_GET_DEBUGREGS),
	REQUEST(KVM_SET_DEBUGREGS),
	REQUEST(KVM_GET_TSC_KHZ),
	REQUEST(KVM_SET_TSC_KHZ),
	REQUEST(KVM_GET_DEVICE_ATTR),
	REQUEST(KVM_GET_CLOCK),
	REQUEST(KVM_GET_IRQCHIP),
	REQUEST(KVM_GET_SUPPORTED_CPUID),
	REQUEST(KVM_GET_MSR_INDEX_LIST),
	REQUEST(KVM_SET_CPUID2),
	REQUEST(KVM_SET_FPU),
	REQUEST(KVM_SET_LAPIC),
	REQUEST(KVM_ENABLE_CAP),
	REQUEST(KVM_CREATE_DEVICE),
	REQUEST(KVM_SET_DEVICE_ATTR),
	REQUEST(KVM_GET_DIRTY_LOG),
	REQUEST(KVM_SET_CLOCK),
	REQUEST(KVM_TRANSLATE),
	REQUEST(KVM_SET_GUEST_DEBUG),
	REQUEST(BLKGETSIZE64),
	REQUEST(BLKDISCARD),
	REQUEST(BLKROSET),
	REQUEST(FS_IOC_SETFLAGS),
	REQUEST(FIFREEZE),
	REQUEST(TIOCSTI),
	REQUEST(TIOCLINUX),
	REQUEST(TIOCGPTPEER),
	REQUEST(TIOCSCTTY),
	REQUEST(TCSETS),
	REQUEST(FIONREAD),
	REQUEST(FIOCLEX),
	REQUEST(FIONCLEX),
	REQUEST(FIOASYNC),
};

static void by_request(long i)
{
	/* The kernel ignores the upper half, so a filter must as well. */
	syscall(SYS_ioctl, -1L, requests[i].request | 0xabcdul << 32, 0L);
}

static void try_requests(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++)
		if (is_possible(by_request, (long)i))
			printf("ioctl %s\n", requests[i].name);
}

static void read_a_file(long arg)
{
	(void)arg;
	open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static void connect_somewhere(long arg)
{
	(void)arg;
	socket(AF_INET, SOCK_STREAM, 0);
}

static void start_a_program(long arg)
{
	(void)arg;
	execl("/bin/true", "true", (char *)NULL);
}

static void fork_away(long arg)
{
	(void)arg;
	if (syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0) == 0)
		_exit(0);
}

static void make_code(long arg)
{
	(void)arg;
	mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void patch_code(long arg)
{
	void *page = (void *)((uintptr_t)by_number & ~4095ul);

	(void)arg;
	mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC);
}

static void trace_the_parent(long arg)
{
	(void)arg;
	ptrace(PTRACE_ATTACH, getppid(), NULL, NULL);
}

static void signal_the_parent(long arg)
{
	(void)arg;
	kill(getppid(), 0);
}

static void take_a_descriptor(long arg)
{
	(void)arg;
	syscall(SYS_pidfd_getfd, -1, 0, 0);
}

static void read_a_descriptor(long arg)
{
	char ch;

	(void)arg;
	(void)!read(STDIN_FILENO, &ch, 0);
}

static void write_a_descriptor(long arg)
{
	(void)arg;
	(void)!write(STDOUT_FILENO, "", 0);
}

static void lift_the_handler(long arg)
{
	struct sigaction sa = { .sa_handler = SIG_IGN };

	(void)arg;
	sigaction(SIGSYS, &sa, NULL);
}

static void be_root(long arg)
{
	(void)arg;
	syscall(SYS_setresuid, 0, 0, 0);
}

static void call_as_x32(long arg)
{
	(void)arg;
	syscall(X32 | SYS_getpid);
}

static void drop_a_lock(long arg)
{
	struct flock lock = { .l_type = F_UNLCK };

	(void)arg;
	fcntl(STDIN_FILENO, F_OFD_SETLK, &lock);
}

static void own_a_descriptor(long arg)
{
	(void)arg;
	fcntl(STDIN_FILENO, F_SETOWN, getppid());
}

/* A terminal has an owner by itself: whoever is in its foreground. */
static void signal_by_a_terminal(long arg)
{
	(void)arg;
	fcntl(STDIN_FILENO, F_SETFL, O_ASYNC);
}

static const struct {
	const char *what;
	void (*attempt)(long arg);
} attacks[] = {
	{ "read a file", read_a_file },
	{ "connect to a network", connect_somewhere },
	{ "start a program", start_a_program },
	{ "make a process or thread", fork_away },
	{ "map new code", make_code },
	{ "make code writable", patch_code },
	{ "trace another process", trace_the_parent },
	{ "signal another process", signal_the_parent },
	{ "take another process's descriptor", take_a_descriptor },
	{ "read from an open descriptor", read_a_descriptor },
	{ "write to an open descriptor", write_a_descriptor },
	{ "drop the lock of an open file", drop_a_lock },
	{ "have a descriptor signal another process", own_a_descriptor },
	{ "have a terminal signal who is in its foreground", signal_by_a_terminal },
	{ "ignore the signal for forbidden calls", lift_the_handler },
	{ "become root again", be_root },
	{ "call the kernel as a 32-bit program", call_as_i386 },
	{ "call the kernel as an x32 program", call_as_x32 },
};

int main(int argc, char **argv)
{
	as_io = argc > 1 && strcmp(argv[1], "io") == 0;
	if (MOLT_SANITIZED) {
		fprintf(stderr, "vCPU threads are not confined in builds with a sanitizer\n");
		return 77;
	}
	log_set_fd(-1);
	try_numbers();
	try_requests();
	for (size_t i = 0; i < ARRAY_SIZE(attacks); i++)
		if (is_possible(attacks[i].attempt, 0))
			printf("attack: %s\n", attacks[i].what);
	return 0;
}
