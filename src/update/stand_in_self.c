/* SPDX-License-Identifier: MIT */
/*
 * The stand-in in its own process: what it is and how it comes to be is told in stand_in.c.
 *
 * It waits for whichever comes first: word in the page or from the predecessor, the end of the
 * process that becomes the successor, the deadline, and, while it has the guest, what the event
 * loop has.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>

#include "stand_in_impl.h"

#define KILL_WAIT_MS 2000
#define SWITCH_MS 1000           /* for a successor that has rehearsed it */
#define PROGRESS_NS 500000000ull /* most updates are over before the first one */
#define LATE_NS 1000000000ull    /* no CPU is waited for so long */
#define TEARDOWN_NICE 10         /* not the lowest, or on a busy host it would take minutes */

static const char *reason(const struct stand_in_page *page, bool died)
{
	if (!atomic_load(&page->saved))
		return died ? "molt ended before it had handed the guest over"
			    : "molt did not hand the guest over in time";
	return died ? "the successor ended before it took the guest over"
		    : "the successor did not take the guest over in time";
}

/*
 * Nothing of the successor should run when the guest is ours for good: it could still be mapping
 * its RAM. But what cannot be killed (in an uninterruptible sleep, or in a container's process 1)
 * does not keep the guest: all that it can still do is to find out that it has lost it.
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
 * that has just been entered for up to a tick, which is longer than the blackout. Nobody else may
 * do this for us: main's sandbox leaves it no say over another process. The best is done that can
 * be; what fails is only a matter of speed.
 */
static void keep_from_vcpus(const struct stand_in_page *page)
{
	setpriority(PRIO_PROCESS, 0, TEARDOWN_NICE);
	if (atomic_load(&page->has_spare))
		syscall(SYS_sched_setaffinity, 0, sizeof(page->spare), &page->spare);
	sched_yield();
}

/*
 * A service manager has heard of this process as the main one, and whoever it told to end it has
 * sent the signal here. What a terminal sends it has sent to the other process, too.
 */
static void pass_signals_on(const struct stand_in *s)
{
	const struct timespec at_once = { 0 };
	siginfo_t info;
	sigset_t ending;
	int sig;

	end_signals(&ending);
	while ((sig = sigtimedwait(&ending, &info, &at_once)) > 0)
		if (info.si_code != SI_KERNEL)
			syscall(SYS_pidfd_send_signal, s->process_fd, sig, NULL, 0);
}

/*
 * Who leads a terminal's session may be molt itself, where nothing else was started there (tmux,
 * ssh -t, a service's TTYPath=). When he ends the kernel tells the terminal's foreground group, as
 * of a hang-up, and this process is in it: no reason to end the guest, for he was ended for its
 * sake. Where another one leads it is a hang-up, and what somebody has sent stays in any case.
 */
static void forget_end_of_session(const struct stand_in *s)
{
	const struct timespec at_once = { 0 };
	siginfo_t info;
	sigset_t hangup;

	if (getsid(0) != atomic_load(&s->page->predecessor))
		return;
	sigemptyset(&hangup);
	sigaddset(&hangup, SIGHUP);
	if (sigtimedwait(&hangup, &info, &at_once) > 0 && info.si_code != SI_KERNEL)
		kill(getpid(), SIGHUP);
}

/*
 * Whoever told the guest's process to end has sent that to the one that was to become its
 * successor, which has it blocked, as we have, and is about to be killed.
 */
static void take_signals_over(const sigset_t *pending)
{
	for (int sig = 1; sig < SIGRTMIN; sig++)
		if (sigismember(pending, sig))
			kill(getpid(), sig);
}

/*
 * What follows is the teardown of a VM and of an address space, which may take long: at a low
 * priority, and with no copy of a socket that somebody waits to see closed. KVM's VM stays until
 * the address space goes, in which its vCPUs are mapped. Taken apart before, it could mark a vCPU
 * as preempted (see vm/steal_time.c) in guest RAM, which is the successor's by now.
 */
static _Noreturn void leave(struct stand_in *s)
{
	bool committed = atomic_load(&s->page->owner) == OWNER_SUCCESSOR;

	pass_signals_on(s);
	if (committed) {
		keep_from_vcpus(s->page);
		s->ops->leaving(s->opaque);
	}
	pass_signals_on(s); /* nobody takes this process for the guest's any more */
	if (committed)
		s->ops->committed(s->opaque);
	syscall(SYS_close_range, 0, UINT32_MAX, 0);
	s->ops->unmake(s->opaque);
	_exit(0);
}

/* Unless the successor was faster. Returns when the guest is ours for good. */
static void take_back(struct stand_in *s, bool died)
{
	uint32_t state;
	sigset_t before, pending;

	/* An unarmed predecessor that died was killed with its vCPUs running: nothing is left. */
	if (!atomic_load(&s->page->armed) || (!decide(s->page, OWNER_STAND_IN, OWNER_TAKEN_BACK) &&
					      !decide(s->page, OWNER_UNDECIDED, OWNER_TAKEN_BACK)))
		leave(s);
	end_signals_of(s->status_fd, &before); /* it may be waited for as soon as it ends */
	end_successor(s);
	end_signals_of(s->status_fd, &pending);
	sigorset(&pending, &pending, &before);
	forget_end_of_session(s);
	take_signals_over(&pending);
	/* Only now: a predecessor may have handed the guest over until its end. */
	state = atomic_load(&s->state);
	keep_off_end(&s->keep_off);
	prctl(PR_SET_NAME, "molt");
	s->is_self = true;
	s->child = CHILD_NONE; /* that is us, and its pidfd is in the dead process's table */
	if (!s->page->reason[0])
		strcpy(s->page->reason, reason(s->page, died));
	s->ops->take_back(s->opaque, state == STATE_STANDS_IN || state == STATE_TO_GIVE_BACK);
	s->ops->run(s->opaque);
}

/* For whoever comes on the way back. He is told: he goes by what is in the page. */
static void begin_anew(struct stand_in *s)
{
	atomic_store(&s->page->armed, now_ns());
	set_deadline(s, deadline_ms(s));
}

/*
 * With this process the successor has been stopped, by the cgroup freezer (`docker pause`) say: it
 * has not had its time. But while the guest is stopped it does not wait once more.
 */
static bool has_been_stopped(const struct stand_in *s)
{
	return atomic_load(&s->page->owner) == OWNER_STAND_IN &&
	       now_ns() > atomic_load(&s->due_ns) + LATE_NS;
}

static void decline(struct stand_in *s, const struct error *err)
{
	snprintf(s->page->reason, STAND_IN_REASON_MAX, "%s", err->text);
	atomic_store(&s->page->stopping, false);
	begin_anew(s);
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
	begin_anew(s);
	set_and_wake(&s->page->turn, TURN_REHEARSAL);
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
		s->at_work = !s->ops->stop(s->opaque);
		if (s->at_work) /* then it is killed */
			pass_signals_on(s);
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
	if (left.it_value.tv_sec * 1000 > STAND_IN_HURRY_MS)
		set_deadline(s, STAND_IN_HURRY_MS);
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
		else if (fds[2].revents && !fds[1].revents && has_been_stopped(s))
			begin_anew(s);
		else if (fds[1].revents || fds[2].revents)
			take_back(s, fds[1].revents);
		else
			s->ops->serve(s->opaque);
	}
}

int stand_in_main(void *opaque)
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
