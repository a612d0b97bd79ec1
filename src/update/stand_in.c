/* SPDX-License-Identifier: MIT */
/*
 * The stand-in, as the predecessor sees it; stand_in_self.c is its own side. Theory of operation.
 *
 * Before anything stops the predecessor makes a second process with clone(CLONE_VM), without
 * CLONE_THREAD and CLONE_FILES: it shares the predecessor's address space and has its own copies of
 * all descriptors, and threads of its own for the vCPUs. KVM's VM is bound to the address space, so
 * these run the guest as well as the predecessor's do. When the predecessor execs, the kernel gives
 * the new image a new address space and leaves the old one, with KVM's VM and vCPUs, to the
 * stand-in. That has three uses. The guest runs on while the successor is executed and built. If
 * the successor dies, hangs, or says that it cannot, the stand-in is the VMM from then on. And exec
 * need not take the old address space apart, which takes 15 ms per GiB of guest RAM that was
 * touched: the stand-in does when it ends.
 *
 * Who may run the guest is decided by compare-and-swap on a word in a page that stand-in and
 * successor share (enum guest_owner). It is the stand-in's from the hand-off on. For the switch the
 * stand-in stops the guest, saves it, and makes the word undecided; then the successor takes it
 * just before its first KVM_RUN, or the stand-in takes it back: when the process has died, or the
 * deadline is over. So there is never more than one owner, not even if a successor that was given
 * up wakes up again; and one that knows nothing of a stand-in finds no undecided word.
 *
 * In the old order the guest is stopped from before the exec on, and the word is undecided all the
 * time. Else all is the same.
 *
 * Thread-local memory. A process made without CLONE_SETTLS has the thread pointer of the thread
 * that made it. So that is a helper, which sleeps in a bare system call until the exec ends it:
 * errno, malloc, mutexes and pthread_create() work here while the predecessor still runs. Only the
 * cached thread id is the helper's, and 0 once that has ended, so nothing may rest on it (recursive
 * or robust mutexes, read-write locks and with them strerror(), raise()).
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "stand_in_impl.h"

#define STACK_BYTES (1u << 20)
#define HELPER_STACK_BYTES (256u << 10) /* malloc's and the C library's part of it, later */
#define MAKE_WAIT_NS 10000000000ull
#define DISMISS_WAIT_MS 2000
#define DISARM_WAIT_MS 10000
#define AT_WORK_WAIT_MS 100 /* the guest is stopped meanwhile */

/* Code that runs beside the stand-in: nothing that touches thread-local memory, errno included. */
#if defined(__clang__)
#define ALONGSIDE __attribute__((disable_sanitizer_instrumentation, no_stack_protector))
#else
#define ALONGSIDE \
	__attribute__((no_sanitize("address", "thread", "undefined"), \
		       optimize("no-stack-protector")))
#endif

ALONGSIDE static void bare_futex(const _Atomic uint32_t *word, long op, long value)
{
	static const struct timespec look = { .tv_nsec = STAND_IN_LOOK_NS };
	register long timeout __asm__("r10") = (long)&look;
	long ret;

	__asm__ volatile("syscall"
			 : "=a"(ret)
			 : "a"(SYS_futex), "D"(word), "S"(op), "d"(value), "r"(timeout)
			 : "rcx", "r11", "memory");
}

/* It is woken, and looks from time to time all the same. */
ALONGSIDE static void helper_sleeps(struct stand_in *s)
{
	atomic_store(&s->cloned, 1);
	bare_futex(&s->cloned, FUTEX_WAKE, INT32_MAX);
	while (!atomic_load(&s->helper_may_go))
		bare_futex(&s->helper_may_go, FUTEX_WAIT, 0);
}

static int open_descriptors(struct stand_in *s, struct error *err)
{
	void *page;

	s->page_fd = fd_memfd("molt-guard", 0);
	if (s->page_fd < 0)
		return err_sys(err, -s->page_fd, "memfd_create for the stand-in");
	if (ftruncate(s->page_fd, sizeof(*s->page)) < 0)
		return err_sys(err, errno, "the stand-in's page");
	page = mmap(NULL, sizeof(*s->page), PROT_READ | PROT_WRITE, MAP_SHARED, s->page_fd, 0);
	if (page == MAP_FAILED)
		return err_sys(err, errno, "mapping the stand-in's page");
	s->page = page;
	atomic_store(&s->page->predecessor, getpid());
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_fd < 0)
		return err_sys(err, errno, "eventfd for the stand-in");
	s->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (s->timer_fd < 0)
		return err_sys(err, errno, "timer for the stand-in");
	s->process_fd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	if (s->process_fd < 0)
		return err_sys(err, errno, "pidfd_open for the stand-in");
	s->status_fd = end_signals_open();
	return 0;
}

/* Until the process that has its thread-local memory is gone, this thread touches none of it. */
static void *helper_main(void *opaque)
{
	struct stand_in *s = opaque;

	/* No exit signal: a wrapper script must not find a child that it never started. */
	s->child.pid = __clone(stand_in_main, (char *)s->stack + STACK_BYTES,
			       CLONE_VM | CLONE_PIDFD, s, &s->child.fd);
	if (s->child.pid < 0) {
		err_sys(&s->trouble, errno, "clone for the stand-in");
		s->child = CHILD_NONE;
		atomic_store(&s->state, STATE_FAILED);
	}
	helper_sleeps(s);
	return NULL;
}

/* Signals for the process are main's. */
static int start_helper(struct stand_in *s, struct error *err)
{
	pthread_attr_t attr;
	int r = pthread_attr_init(&attr);
	sigset_t all;

	if (r)
		return err_sys(err, r, "thread for the stand-in");
	sigfillset(&all);
	pthread_attr_setstacksize(&attr, HELPER_STACK_BYTES);
	r = pthread_sigmask(SIG_SETMASK, &all, &s->signals);
	if (r == 0) {
		r = pthread_create(&s->helper, &attr, helper_main, s);
		s->helper_made = r == 0;
		pthread_sigmask(SIG_SETMASK, &s->signals, NULL);
	}
	pthread_attr_destroy(&attr);
	return r ? err_sys(err, r, "thread for the stand-in") : 0;
}

static bool has_ended(const struct stand_in *s)
{
	return fd_ready(s->child.fd, POLLIN);
}

/* The guest runs meanwhile. */
static int wait_until_made(struct stand_in *s, struct error *err)
{
	const uint64_t end = now_ns() + MAKE_WAIT_NS;
	uint32_t state;

	/* It may be through before the helper has noted its id. */
	while (!atomic_load(&s->cloned))
		wait_on(&s->cloned, 0);
	while ((state = atomic_load(&s->state)) == STATE_STARTING && now_ns() < end &&
	       !has_ended(s))
		wait_on(&s->state, STATE_STARTING);
	state = atomic_load(&s->state); /* it may have failed, said so, and ended just now */
	if (state == STATE_STANDS_BY)
		return 0;
	if (state == STATE_STARTING)
		return err_set(err, now_ns() < end ? ECHILD : ETIMEDOUT,
			       now_ns() < end ? "the stand-in has ended"
					      : "the stand-in is not there in time");
	*err = s->trouble;
	err_prefix(err, "the stand-in cannot be made");
	return -err->code;
}

int stand_in_start(struct stand_in *s, struct error *err)
{
	int r;

	atomic_store(&s->state, STATE_STARTING);
	r = open_descriptors(s, err);
	if (r < 0)
		return r;
	s->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK | MAP_NORESERVE, -1, 0);
	if (s->stack == MAP_FAILED) {
		s->stack = NULL;
		return err_sys(err, errno, "stack for the stand-in");
	}
	r = start_helper(s, err);
	return r < 0 ? r : wait_until_made(s, err);
}

void stand_in_arm(struct stand_in *s, bool saved)
{
	s->page->deadline_ms = s->deadline_ms;
	atomic_store(&s->page->saved, saved);
	atomic_store(&s->page->armed, now_ns());
	set_deadline(s, deadline_ms(s));
}

void stand_in_hand_over(struct stand_in *s)
{
	atomic_store(&s->page->owner, OWNER_STAND_IN);
	atomic_store(&s->state, STATE_STANDS_IN);
	wake(s->wake_fd);
}

int stand_in_wait_serving(struct stand_in *s, struct error *err)
{
	/* By then it would have taken the guest back, if it were not stopped. */
	const uint64_t end = now_ns() + s->deadline_ms * 1000000ull;

	while (!atomic_load(&s->serves) && !has_ended(s) && now_ns() < end) {
		wait_on(&s->serves, 0);
		wake(s->wake_fd); /* the guest has nobody until it has heard of it */
	}
	if (atomic_load(&s->serves))
		return 0;
	return has_ended(s) ? err_set(err, ECHILD, "the stand-in has ended")
			    : err_set(err, ETIMEDOUT, "the stand-in does not serve the guest");
}

/*
 * If it was itself killed just there, or is stopped, the guest is nobody's but ours: with a SIGKILL
 * on its way a process executes nothing any more, however long its end takes.
 */
static void make_sure(struct stand_in *s)
{
	if (child_wait(&s->child, DISARM_WAIT_MS))
		return;
	child_kill(&s->child, false);
	child_wait(&s->child, DISARM_WAIT_MS);
}

/* False: it has not stopped the guest, or something in it is still at work. */
static bool gives_guest_back(struct stand_in *s)
{
	const uint64_t end = now_ns() + DISARM_WAIT_MS * 1000000ull;

	atomic_store(&s->state, STATE_TO_GIVE_BACK);
	wake(s->wake_fd);
	while (atomic_load(&s->state) == STATE_TO_GIVE_BACK && now_ns() < end && !has_ended(s))
		wait_on(&s->state, STATE_TO_GIVE_BACK);
	return atomic_load(&s->state) != STATE_TO_GIVE_BACK && !s->at_work;
}

/*
 * It cannot take the guest any more. A thread that writes a device's output, and has not ended,
 * would end with it: the device would have one that nobody runs. And until then two would be at it.
 */
static void end_at_work(struct stand_in *s)
{
	bool is_stopped = atomic_load(&s->state) != STATE_TO_GIVE_BACK;

	s->is_gone = true;
	child_kill(&s->child, false);
	if (is_stopped)
		child_wait(&s->child, AT_WORK_WAIT_MS);
	else
		make_sure(s);
}

void stand_in_disarm(struct stand_in *s)
{
	bool is_at_rest = true;

	if (!s->child.pid || s->is_self)
		return;
	if (atomic_load(&s->state) == STATE_STANDS_IN)
		is_at_rest = gives_guest_back(s);
	/* Before it is killed: one that has decided kills us, and one of the two has to live. */
	if (!decide(s->page, OWNER_STAND_IN, OWNER_DISMISSED) &&
	    !decide(s->page, OWNER_UNDECIDED, OWNER_DISMISSED)) {
		make_sure(s); /* it kills us now */
		s->is_gone = true;
	} else if (!is_at_rest) {
		end_at_work(s);
	}
}

/* Ends it. Where it cannot be seen to end its memory stays: it may be standing on it. */
static bool end_process(struct stand_in *s)
{
	decide(s->page, OWNER_UNDECIDED, OWNER_DISMISSED);
	wake(s->wake_fd);
	if (!s->child.pid || child_wait(&s->child, DISMISS_WAIT_MS))
		return true;
	child_kill(&s->child, false);
	if (child_wait(&s->child, DISMISS_WAIT_MS))
		return true;
	log_error("the stand-in, process %d, does not end", (int)s->child.pid);
	return false;
}

/* The process that ended may have been a stand-in, too: nobody is left there on what it had. */
static void change_ground(struct stand_in *s)
{
	struct stand_in_ground *g = &s->ground;

	if (g->stack && fd_ready(s->process_fd, POLLIN)) {
		pthread_tryjoin_np(g->helper, NULL);
		munmap(g->stack, STACK_BYTES);
	}
	*g = (struct stand_in_ground){ .stack = s->stack, .helper = s->helper };
}

void stand_in_dismiss(struct stand_in *s)
{
	bool ended = !s->is_self && s->page && end_process(s);

	if (s->helper_made && ended) {
		set_and_wake(&s->helper_may_go, 1);
		pthread_join(s->helper, NULL);
	}
	if (s->stack && ended)
		munmap(s->stack, STACK_BYTES);
	/* Else it is the one we stand on, with the thread-local memory that we have. */
	if (s->is_self)
		change_ground(s);
	s->helper_made = s->is_self = false;
	s->stack = NULL;
	if (s->page)
		munmap(s->page, sizeof(*s->page));
	s->page = NULL;
	fd_close(&s->page_fd);
	fd_close(&s->wake_fd);
	fd_close(&s->timer_fd);
	fd_close(&s->process_fd);
	fd_close(&s->status_fd);
}

int stand_in_save_fds(const struct stand_in *s, struct fdtable *fds, struct error *err)
{
	int r = fdtable_add(fds, "guard-page", 0, s->page_fd, err);

	fds->guardian = (uint32_t)s->child.pid;
	return r < 0 ? r : fdtable_add(fds, "guard-wake", 0, s->wake_fd, err);
}
