/* SPDX-License-Identifier: MIT */
/*
 * The guardian. Theory of operation.
 *
 * Before the pause the predecessor makes a second process with clone(CLONE_VM), without
 * CLONE_THREAD and CLONE_FILES: it shares the predecessor's address space and has its own copies of
 * all descriptors. When the predecessor execs, the kernel gives the new image a new address space
 * and leaves the old one, with KVM's VM and vCPUs, which are bound to it, to the guardian. That has
 * two uses. If the successor dies, hangs, or says that it cannot, the guardian has everything that
 * is needed to run the guest on as it was. And exec need not take the old address space apart,
 * which takes 15 ms per GiB of guest RAM that was touched: the guardian does when it ends, off the
 * pause.
 *
 * Who owns the guest is decided by one compare-and-swap on a word in a page that guardian and
 * successor share. The successor does it just before its first KVM_RUN; the guardian, when the
 * process has died or the deadline is over. So there is never more than one owner, not even if a
 * successor that was given up wakes up again.
 *
 * While the predecessor lives the guardian shares its memory, and its *thread-local* memory too:
 * the thread pointer is the parent's main thread's. So until it takes over it must not call
 * anything that writes there, errno included. It makes system calls directly and touches only its
 * own stack and the shared page. Once the predecessor has gone into its exec nobody else uses that
 * memory, and the guardian is for glibc the main thread: malloc, mutexes and pthread_create work.
 * Only the cached thread id is that of the dead process, so nothing may rest on it (recursive or
 * robust mutexes, raise()).
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "guardian.h"

#define STACK_BYTES (1u << 20)
#define KILL_WAIT_S 2
#define DISMISS_WAIT_MS 2000
#define DISARM_WAIT_MS 10000
#define TEARDOWN_NICE 10 /* not the lowest, or on a busy host it would take minutes */

/* Code that runs beside the parent: no instrumentation that keeps books in thread-local memory. */
#if defined(__clang__)
#define ALONGSIDE __attribute__((disable_sanitizer_instrumentation, no_stack_protector))
#else
#define ALONGSIDE \
	__attribute__((no_sanitize("address", "thread", "undefined"), \
		       optimize("no-stack-protector")))
#endif

/* A system call that leaves errno, which is the parent's, alone. */
ALONGSIDE static long raw(long nr, long a, long b, long c, long d, long e)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return ret;
}

ALONGSIDE static bool decide(struct guard_page *page, uint32_t owner)
{
	uint32_t undecided = GUARD_UNDECIDED;

	return atomic_compare_exchange_strong(&page->owner, &undecided, owner);
}

enum verdict {
	VERDICT_DECIDED,
	VERDICT_DIED,
	VERDICT_DEADLINE,
};

ALONGSIDE static uint64_t raw_now(void)
{
	struct timespec ts;

	raw(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&ts, 0, 0, 0);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Until something is decided or has to be. Before it is armed there is no deadline. */
ALONGSIDE static enum verdict watch(const struct guardian *g)
{
	const uint64_t limit = g->deadline_ms * 1000000ull;
	uint64_t wait = limit;

	for (;;) {
		struct pollfd fds[2] = {
			{ .fd = g->wake_fd, .events = POLLIN },
			{ .fd = g->process_fd, .events = POLLIN },
		};
		struct timespec timeout = {
			.tv_sec = (time_t)(wait / 1000000000u),
			.tv_nsec = (long)(wait % 1000000000u),
		};
		long n = raw(SYS_ppoll, (long)fds, 2, (long)&timeout, 0, 0);
		uint64_t armed, now;

		if (n == -EINTR)
			continue;
		if (n > 0 && fds[0].revents)
			return VERDICT_DECIDED;
		if (n > 0 && fds[1].revents)
			return VERDICT_DIED;
		armed = atomic_load(&g->page->armed);
		now = raw_now();
		if (armed && now - armed >= limit)
			return VERDICT_DEADLINE;
		wait = armed ? limit - (now - armed) : limit;
	}
}

ALONGSIDE static const char *reason(const struct guard_page *page, enum verdict verdict)
{
	if (!atomic_load(&page->saved))
		return verdict == VERDICT_DIED ? "molt ended before it had handed the guest over"
					       : "molt did not hand the guest over in time";
	return verdict == VERDICT_DIED ? "the successor ended before it took the guest over"
				       : "the successor did not take the guest over in time";
}

/*
 * Nothing of the successor should run when the guest runs on: it could still be mapping its RAM.
 * But what cannot be killed (in an uninterruptible sleep, or in a container's process 1) does not
 * keep the guest: it has lost the guest already, and all that it can still do is to find that out.
 */
ALONGSIDE static void end_successor(const struct guardian *g)
{
	struct pollfd pfd = { .fd = g->process_fd, .events = POLLIN };
	struct timespec limit = { .tv_sec = KILL_WAIT_S };

	raw(SYS_pidfd_send_signal, g->process_fd, SIGKILL, 0, 0, 0);
	while (raw(SYS_ppoll, (long)&pfd, 1, (long)&limit, 0, 0) == -EINTR)
		; /* the kernel has taken from the limit what is over */
}

/*
 * The scheduler favours who has slept, whatever its priority: we would take the CPU from the vCPU
 * that has just been entered for up to a tick, which is longer than the blackout. Nobody else may do
 * this for us: main's sandbox leaves it no say over another process. The best is done that can be;
 * what fails is only a matter of speed.
 */
ALONGSIDE static void keep_from_vcpus(const struct guard_page *page)
{
	raw(SYS_setpriority, PRIO_PROCESS, 0, TEARDOWN_NICE, 0, 0);
	if (atomic_load(&page->has_spare))
		raw(SYS_sched_setaffinity, 0, sizeof(page->spare), (long)&page->spare, 0, 0);
	raw(SYS_sched_yield, 0, 0, 0, 0, 0);
}

ALONGSIDE static int guardian_main(void *opaque)
{
	static const char name[] = "molt-guardian";
	static const char comm[] = "molt";
	struct guardian *g = opaque;
	enum verdict verdict;

	raw(SYS_prctl, PR_SET_NAME, (long)name, 0, 0, 0);
	verdict = watch(g);
	/*
	 * An unarmed predecessor that died was killed with its vCPUs running: nothing to go on
	 * from.
	 */
	if (verdict == VERDICT_DECIDED || !atomic_load(&g->page->armed) ||
	    !decide(g->page, GUARD_GUARDIAN)) {
		/*
		 * What follows is the teardown of a VM and of an address space, which may take
		 * long: at a low priority, and with no copy of a socket that somebody waits to see
		 * closed. KVM's VM stays until the address space goes, in which its vCPUs are
		 * mapped. Taken apart before, it could mark a vCPU as preempted (see
		 * vm/steal_time.c) in guest RAM, which is the successor's by now.
		 */
		keep_from_vcpus(g->page);
		if (atomic_load(&g->page->owner) == GUARD_SUCCESSOR)
			g->committed(g->opaque);
		raw(SYS_close_range, 0, (long)UINT32_MAX, 0, 0, 0);
		raw(SYS_exit_group, 0, 0, 0, 0, 0);
	}
	end_successor(g);
	raw(SYS_prctl, PR_SET_NAME, (long)comm, 0, 0, 0);
	g->is_self = true;
	g->child = CHILD_NONE; /* that is us, and its pidfd is in the dead process's table */
	if (!g->page->reason[0])
		strcpy(g->page->reason, reason(g->page, verdict));
	g->take_back(g->opaque);
	return 1;
}

static int open_descriptors(struct guardian *g, struct error *err)
{
	void *page;

	g->page_fd = fd_memfd("molt-guard", 0);
	if (g->page_fd < 0)
		return err_sys(err, -g->page_fd, "memfd_create for the guardian");
	if (ftruncate(g->page_fd, sizeof(*g->page)) < 0)
		return err_sys(err, errno, "the guardian's page");
	page = mmap(NULL, sizeof(*g->page), PROT_READ | PROT_WRITE, MAP_SHARED, g->page_fd, 0);
	if (page == MAP_FAILED)
		return err_sys(err, errno, "mapping the guardian's page");
	g->page = page;
	atomic_store(&g->page->predecessor, getpid());
	g->wake_fd = eventfd(0, EFD_CLOEXEC);
	if (g->wake_fd < 0)
		return err_sys(err, errno, "eventfd for the guardian");
	g->process_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (g->process_fd < 0)
		return err_sys(err, errno, "pidfd_open for the guardian");
	return 0;
}

int guardian_start(struct guardian *g, struct error *err)
{
	int r;

	g->page_fd = g->wake_fd = g->process_fd = -1;
	r = open_descriptors(g, err);
	if (r < 0)
		return r;
	g->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
	if (g->stack == MAP_FAILED) {
		g->stack = NULL;
		return err_sys(err, errno, "stack for the guardian");
	}
	/* No exit signal: a wrapper script must not find a child that it never started. */
	g->child.pid = __clone(guardian_main, (char *)g->stack + STACK_BYTES,
			       CLONE_VM | CLONE_PIDFD, g, &g->child.fd);
	if (g->child.pid < 0) {
		g->child = CHILD_NONE;
		return err_sys(err, errno, "clone for the guardian");
	}
	return 0;
}

void guardian_arm(struct guardian *g, bool saved)
{
	atomic_store(&g->page->saved, saved);
	atomic_store(&g->page->armed, now_ns());
}

void guardian_disarm(struct guardian *g)
{
	if (!g->child.pid || g->is_self || decide(g->page, GUARD_DISMISSED))
		return;
	/*
	 * It kills us now. If it was itself killed just there, or is stopped, the guest is nobody's
	 * but ours: with a SIGKILL on its way a process executes nothing any more, however long its
	 * end takes.
	 */
	if (child_wait(&g->child, DISARM_WAIT_MS))
		return;
	child_kill(&g->child, false);
	child_wait(&g->child, DISARM_WAIT_MS);
}

/* Ends it. Where it cannot be seen to end its stack stays: it may be standing on it. */
static void end_guardian(struct guardian *g)
{
	const uint64_t one = 1;

	decide(g->page, GUARD_DISMISSED);
	/* It has nothing to lose; to wait for its deadline would block the main thread. */
	if (write(g->wake_fd, &one, sizeof(one)) < 0)
		child_kill(&g->child, false);
	if (child_wait(&g->child, DISMISS_WAIT_MS))
		return;
	child_kill(&g->child, false);
	if (child_wait(&g->child, DISMISS_WAIT_MS))
		return;
	log_error("the guardian, process %d, does not end", (int)g->child.pid);
	fd_close(&g->child.fd);
	g->stack = NULL;
}

void guardian_dismiss(struct guardian *g)
{
	if (g->is_self) {
		g->stack = NULL; /* it is the one we stand on */
		g->is_self = false;
	} else if (g->child.pid) {
		end_guardian(g);
	}
	g->child = CHILD_NONE;
	if (g->stack)
		munmap(g->stack, STACK_BYTES);
	g->stack = NULL;
	if (g->page)
		munmap(g->page, sizeof(*g->page));
	g->page = NULL;
	fd_close(&g->page_fd);
	fd_close(&g->wake_fd);
	fd_close(&g->process_fd);
}

int guardian_save_fds(const struct guardian *g, struct fdtable *fds, struct error *err)
{
	int r = fdtable_add(fds, "guard-page", 0, g->page_fd, err);

	fds->guardian = (uint32_t)g->child.pid;
	return r < 0 ? r : fdtable_add(fds, "guard-wake", 0, g->wake_fd, err);
}

int guard_link_open(struct guard_link *link, struct fdtable *fds, struct error *err)
{
	int fd = fdtable_take(fds, "guard-page", 0, FD_KIND_MEMFD, err);
	void *page;

	*link = (struct guard_link){ .wake_fd = -1, .child = CHILD_NONE };
	link->child.pid = (pid_t)fds->guardian;
	child_hold(&link->child);
	if (fd < 0)
		return fd;
	link->wake_fd = fdtable_take(fds, "guard-wake", 0, 0, err);
	if (link->wake_fd < 0)
		return link->wake_fd;
	page = mmap(NULL, sizeof(*link->page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (page == MAP_FAILED)
		return err_sys(err, errno, "mapping the guardian's page");
	link->page = page;
	return 0;
}

int guard_link_commit(struct guard_link *link, struct error *err)
{
	if (link->page && !decide(link->page, GUARD_SUCCESSOR))
		return err_set(err, ECANCELED, "too late: the guardian has taken the guest back");
	return 0;
}

pid_t guard_link_left_process(const struct guard_link *link)
{
	pid_t predecessor = link->page ? atomic_load(&link->page->predecessor) : 0;

	return predecessor == getpid() ? 0 : predecessor;
}

void guard_link_release(struct guard_link *link, const cpu_set_t *spare)
{
	const uint64_t one = 1;

	if (!link->page)
		return;
	if (spare) {
		link->page->spare = *spare;
		atomic_store(&link->page->has_spare, true);
	}
	if (write(link->wake_fd, &one, sizeof(one)) < 0)
		log_warn("the guardian cannot be woken: %s", strerror(errno));
	munmap(link->page, sizeof(*link->page));
	link->page = NULL;
	fd_close(&link->wake_fd);
}

void guard_link_give_up(struct guard_link *link, const char *reason)
{
	const char *first;
	size_t len;

	if (!link->page)
		return;
	/* A way back that fails, too, has more to say, but the first reason is what it is about. */
	first = link->page->reason;
	len = strnlen(first, GUARD_REASON_MAX);
	if (strcmp(first, reason) != 0)
		snprintf(link->page->reason + len, GUARD_REASON_MAX - len, "%s%s",
			 len ? "; on the way back: " : "", reason);
}
