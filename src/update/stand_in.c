/* SPDX-License-Identifier: MIT */
/*
 * The stand-in, in its own process and as the predecessor sees it. Theory of operation.
 *
 * Before anything stops the predecessor makes a second process with clone(CLONE_VM), without
 * CLONE_THREAD and CLONE_FILES: it shares the predecessor's address space and has its own copies of
 * all descriptors, and threads of its own for the vCPUs. KVM's VM is bound to the address space, so
 * these run the guest as well as the predecessor's do. When the predecessor execs, the kernel gives
 * the new image a new address space and leaves the old one, with KVM's VM and vCPUs, to the
 * stand-in. That has three uses. The guest runs on while the successor is executed and built. If the
 * successor dies, hangs, or says that it cannot, the stand-in is the VMM from then on. And exec need
 * not take the old address space apart, which takes 15 ms per GiB of guest RAM that was touched: the
 * stand-in does when it ends.
 *
 * Who may run the guest is decided by compare-and-swap on a word in a page that stand-in and
 * successor share (enum guest_owner). It is the stand-in's from the hand-off on. For the switch the
 * stand-in stops the guest, saves it, and makes the word undecided; then the successor takes it just
 * before its first KVM_RUN, or the stand-in takes it back: when the process has died, or the deadline
 * is over. So there is never more than one owner, not even if a successor that was given up wakes up
 * again; and one that knows nothing of a stand-in finds no undecided word.
 *
 * In the old order the guest is stopped from before the exec on, and the word is undecided all the
 * time. Else all is the same.
 *
 * Thread-local memory. A process made without CLONE_SETTLS has the thread pointer of the thread that
 * made it. So that is a helper, which sleeps in a bare system call until the exec ends it: errno,
 * malloc, mutexes and pthread_create() work here while the predecessor still runs. Only the cached
 * thread id is the helper's, so nothing may rest on it (recursive or robust mutexes, raise()).
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "stand_in.h"

#define STACK_BYTES (1u << 20)
#define HELPER_STACK_BYTES (256u << 10) /* malloc's and the C library's part of it, later */
#define MAKE_WAIT_NS 10000000000ull
#define LOOK_NS 50000000 /* so often a wait looks whether the other side is still there */
#define KILL_WAIT_MS 2000
#define DISMISS_WAIT_MS 2000
#define DISARM_WAIT_MS 10000
#define SWITCH_MS 1000           /* for a successor that has rehearsed it */
#define HURRY_MS 3000            /* for one that others wait for */
#define PROGRESS_NS 500000000ull /* most updates are over before the first one */
#define TEARDOWN_NICE 10         /* not the lowest, or on a busy host it would take minutes */

enum state {
	STATE_STARTING,
	STATE_FAILED,
	STATE_STANDS_BY,
	STATE_STANDS_IN,
	STATE_TO_GIVE_BACK,
};

static bool decide(struct stand_in_page *page, uint32_t from, uint32_t owner)
{
	return atomic_compare_exchange_strong(&page->owner, &from, owner);
}

/* A shared one where the successor waits, too. Returns when it was woken, in LOOK_NS at the latest. */
static void wait_on(_Atomic uint32_t *word, uint32_t value)
{
	const struct timespec look = { .tv_nsec = LOOK_NS };

	syscall(SYS_futex, word, FUTEX_WAIT, value, &look, NULL, 0);
}

static void set_and_wake(_Atomic uint32_t *word, uint32_t value)
{
	atomic_store(word, value);
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

static void wake(int fd)
{
	const uint64_t one = 1;
	ssize_t n = write(fd, &one, sizeof(one));

	(void)n; /* full: it is awake */
}

static void set_deadline(const struct stand_in *s, uint64_t ms)
{
	const struct itimerspec its = {
		.it_value = { .tv_sec = (time_t)(ms / 1000),
			      .tv_nsec = (long)(ms % 1000) * 1000000 + 1 },
	};

	timerfd_settime(s->timer_fd, 0, &its, NULL);
}

/* ---- in the stand-in ---- */

static const char *reason(const struct stand_in_page *page, bool died)
{
	if (!atomic_load(&page->saved))
		return died ? "molt ended before it had handed the guest over"
			    : "molt did not hand the guest over in time";
	return died ? "the successor ended before it took the guest over"
		    : "the successor did not take the guest over in time";
}

/*
 * Nothing of the successor should run when the guest is ours for good: it could still be mapping its
 * RAM. But what cannot be killed (in an uninterruptible sleep, or in a container's process 1) does
 * not keep the guest: all that it can still do is to find out that it has lost it.
 */
static void end_successor(const struct stand_in *s)
{
	struct pollfd pfd = { .fd = s->process_fd, .events = POLLIN };

	syscall(SYS_pidfd_send_signal, s->process_fd, SIGKILL, NULL, 0);
	while (poll(&pfd, 1, KILL_WAIT_MS) < 0 && errno == EINTR)
		;
}

/*
 * The scheduler favours who has slept, whatever its priority: we would take the CPU from the vCPU
 * that has just been entered for up to a tick, which is longer than the blackout. Nobody else may do
 * this for us: main's sandbox leaves it no say over another process. The best is done that can be;
 * what fails is only a matter of speed.
 */
static void keep_from_vcpus(const struct stand_in_page *page)
{
	setpriority(PRIO_PROCESS, 0, TEARDOWN_NICE);
	if (atomic_load(&page->has_spare))
		syscall(SYS_sched_setaffinity, 0, sizeof(page->spare), &page->spare);
	sched_yield();
}

/*
 * What follows is the teardown of a VM and of an address space, which may take long: at a low
 * priority, and with no copy of a socket that somebody waits to see closed. KVM's VM stays until the
 * address space goes, in which its vCPUs are mapped. Taken apart before, it could mark a vCPU as
 * preempted (see vm/steal_time.c) in guest RAM, which is the successor's by now.
 */
static _Noreturn void leave(struct stand_in *s)
{
	if (atomic_load(&s->page->owner) == OWNER_SUCCESSOR) {
		keep_from_vcpus(s->page);
		s->ops->committed(s->opaque);
	}
	syscall(SYS_close_range, 0, UINT32_MAX, 0);
	s->ops->unmake(s->opaque);
	_exit(0);
}

/* Unless the successor was faster. Returns when the guest is ours for good. */
static void take_back(struct stand_in *s, bool died)
{
	bool stood_in = atomic_load(&s->state) == STATE_STANDS_IN;

	/* An unarmed predecessor that died was killed with its vCPUs running: nothing is left. */
	if (!atomic_load(&s->page->armed) || (!decide(s->page, OWNER_STAND_IN, OWNER_TAKEN_BACK) &&
					      !decide(s->page, OWNER_UNDECIDED, OWNER_TAKEN_BACK)))
		leave(s);
	end_successor(s);
	keep_off_end(&s->keep_off);
	prctl(PR_SET_NAME, "molt");
	s->is_self = true;
	s->child = CHILD_NONE; /* that is us, and its pidfd is in the dead process's table */
	if (!s->page->reason[0])
		strcpy(s->page->reason, reason(s->page, died));
	s->ops->take_back(s->opaque, stood_in);
	s->ops->run(s->opaque);
}

static void decline(struct stand_in *s, const struct error *err)
{
	snprintf(s->page->reason, STAND_IN_REASON_MAX, "%s", err->text);
	set_and_wake(&s->page->turn, TURN_DECLINED);
}

static void save_for_successor(struct stand_in *s)
{
	struct error err = ERROR_INIT;

	if (s->ops->save(s->opaque, &err) < 0) {
		decline(s, &err);
		return;
	}
	set_deadline(s, SWITCH_MS);
	atomic_store(&s->page->owner, OWNER_UNDECIDED);
	set_and_wake(&s->page->turn, TURN_SAVED);
}

/* The guest runs on until its devices are at rest. */
static void hand_over_to_successor(struct stand_in *s)
{
	struct error err = ERROR_INIT;
	int r = s->ops->rest(s->opaque, &err);

	if (r == -EBUSY && !s->rest_until_ns)
		s->rest_until_ns = now_ns() + REST_NS;
	if (r == -EBUSY && now_ns() < s->rest_until_ns)
		return;
	s->rest_until_ns = 0;
	if (r == 0) {
		save_for_successor(s);
		return;
	}
	s->ops->begin(s->opaque);
	decline(s, &err);
}

static void guest_runs_on(struct stand_in *s)
{
	if (!decide(s->page, OWNER_UNDECIDED, OWNER_STAND_IN))
		return;
	atomic_store(&s->page->stopping, false);
	atomic_store(&s->page->turn, TURN_REHEARSAL);
	set_deadline(s, s->deadline_ms);
	s->ops->run_on(s->opaque);
}

static void keep_off_guest(struct stand_in *s)
{
	cpu_set_t spare;

	if (s->ops->spare_cpus(s->opaque, &spare))
		keep_off_begin(&s->keep_off, &spare);
}

static void look_at_page(struct stand_in *s)
{
	uint64_t count;
	ssize_t n = read(s->wake_fd, &count, sizeof(count));
	uint32_t owner = atomic_load(&s->page->owner);
	bool is_ready = owner == OWNER_STAND_IN && atomic_load(&s->page->turn) == TURN_READY;

	(void)n;
	if (!is_ready)
		s->rest_until_ns = 0;
	if (owner == OWNER_SUCCESSOR || owner == OWNER_DISMISSED)
		leave(s);
	if (atomic_load(&s->state) == STATE_STANDS_IN && !atomic_load(&s->serves)) {
		s->ops->begin(s->opaque);
		set_and_wake(&s->serves, 1);
		s->progress_ns = now_ns() + PROGRESS_NS;
		keep_off_guest(s);
	}
	if (atomic_load(&s->state) == STATE_TO_GIVE_BACK) {
		s->progress_ns = 0;
		s->ops->stop(s->opaque);
		set_and_wake(&s->state, STATE_STANDS_BY);
	} else if (is_ready) {
		hand_over_to_successor(s);
	} else if (atomic_load(&s->page->turn) == TURN_REFUSED) {
		guest_runs_on(s);
	}
}

void stand_in_hurry(struct stand_in *s)
{
	struct itimerspec left = { 0 };

	atomic_store(&s->page->hurry, true);
	timerfd_gettime(s->timer_fd, &left);
	if (left.it_value.tv_sec * 1000 > HURRY_MS)
		set_deadline(s, HURRY_MS);
}

/* How long to wait until it is told again, in ms; -1: for ever. */
static int tell_progress(struct stand_in *s)
{
	uint64_t now = now_ns();

	if (!s->progress_ns || atomic_load(&s->page->owner) != OWNER_STAND_IN)
		return -1;
	if (now >= s->progress_ns) {
		s->ops->tell_progress(s->opaque);
		s->progress_ns = now + PROGRESS_NS;
	}
	return (int)((s->progress_ns - now + 999999) / 1000000);
}

static int look_again_ms(struct stand_in *s)
{
	int ms = tell_progress(s);

	return s->rest_until_ns ? REST_LOOK_NS / 1000000 : ms;
}

static _Noreturn void stand(struct stand_in *s)
{
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = s->wake_fd, .events = POLLIN },
			{ .fd = s->process_fd, .events = POLLIN },
			{ .fd = s->timer_fd, .events = POLLIN },
			{ .fd = atomic_load(&s->state) == STATE_STANDS_IN ? loop_fd(s->loop) : -1,
			  .events = POLLIN },
		};

		if (s->rest_until_ns)
			look_at_page(s);
		if (poll(fds, ARRAY_SIZE(fds), look_again_ms(s)) <= 0)
			continue;
		if (fds[0].revents)
			look_at_page(s);
		else if (fds[1].revents || fds[2].revents)
			take_back(s, fds[1].revents);
		else
			s->ops->serve(s->opaque);
	}
}

static int stand_in_main(void *opaque)
{
	struct stand_in *s = opaque;

	prctl(PR_SET_NAME, "molt-stand-in");
	pthread_sigmask(SIG_SETMASK, &s->signals, NULL);
	if (s->ops->make(s->opaque, &s->trouble) < 0) {
		s->ops->unmake(s->opaque);
		set_and_wake(&s->state, STATE_FAILED);
		_exit(1);
	}
	set_and_wake(&s->state, STATE_STANDS_BY);
	stand(s);
}

/* ---- in the predecessor ---- */

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
	static const struct timespec look = { .tv_nsec = LOOK_NS };
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
	set_deadline(s, s->deadline_ms);
}

void stand_in_hand_over(struct stand_in *s)
{
	atomic_store(&s->page->owner, OWNER_STAND_IN);
	atomic_store(&s->state, STATE_STANDS_IN);
	wake(s->wake_fd);
}

int stand_in_wait_serving(struct stand_in *s, struct error *err)
{
	while (!atomic_load(&s->serves) && !has_ended(s)) {
		wait_on(&s->serves, 0);
		wake(s->wake_fd); /* the guest has nobody until it has heard of it */
	}
	return atomic_load(&s->serves) ? 0 : err_set(err, ECHILD, "the stand-in has ended");
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

static void take_guest_from(struct stand_in *s)
{
	const uint64_t end = now_ns() + DISARM_WAIT_MS * 1000000ull;

	atomic_store(&s->state, STATE_TO_GIVE_BACK);
	wake(s->wake_fd);
	while (atomic_load(&s->state) == STATE_TO_GIVE_BACK && now_ns() < end && !has_ended(s))
		wait_on(&s->state, STATE_TO_GIVE_BACK);
	if (atomic_load(&s->state) == STATE_TO_GIVE_BACK) {
		s->is_gone = true;
		child_kill(&s->child, false);
		make_sure(s);
	}
}

void stand_in_disarm(struct stand_in *s)
{
	if (!s->child.pid || s->is_self)
		return;
	if (atomic_load(&s->state) == STATE_STANDS_IN)
		take_guest_from(s);
	if (!decide(s->page, OWNER_STAND_IN, OWNER_DISMISSED) &&
	    !decide(s->page, OWNER_UNDECIDED, OWNER_DISMISSED))
		make_sure(s); /* it kills us now */
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
	fd_close(&s->child.fd);
	return false;
}

void stand_in_dismiss(struct stand_in *s)
{
	bool ended = !s->is_self && s->page && end_process(s);

	if (s->helper_made && ended) {
		set_and_wake(&s->helper_may_go, 1);
		pthread_join(s->helper, NULL);
		munmap(s->stack, STACK_BYTES);
	}
	/* Else it is the one we stand on, with the thread-local memory that we have. */
	s->helper_made = s->is_self = false;
	s->stack = NULL;
	s->child = CHILD_NONE;
	if (s->page)
		munmap(s->page, sizeof(*s->page));
	s->page = NULL;
	fd_close(&s->page_fd);
	fd_close(&s->wake_fd);
	fd_close(&s->timer_fd);
	fd_close(&s->process_fd);
}

int stand_in_save_fds(const struct stand_in *s, struct fdtable *fds, struct error *err)
{
	int r = fdtable_add(fds, "guard-page", 0, s->page_fd, err);

	fds->guardian = (uint32_t)s->child.pid;
	return r < 0 ? r : fdtable_add(fds, "guard-wake", 0, s->wake_fd, err);
}
