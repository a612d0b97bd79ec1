/* SPDX-License-Identifier: MIT */
/*
 * In which order parked members are woken. Theory of operation.
 *
 * To wake a thread that sleeps on another CPU takes 55 us where that CPU is itself a virtual one:
 * with 16 members the last is woken a millisecond after the first. So who was busy comes before
 * those that have nothing to do.
 *
 * The scheduler may put a woken thread on our own CPU, even where another is idle: it does not
 * count on a virtual CPU that has halted. Then it runs at once, and we have no CPU until the next
 * tick, 4 ms later, and nor has whoever we were still to wake. So where a busy member sleeps on our
 * CPU, the first to be woken is one that sleeps on another and has nothing to do. That one wakes
 * the rest, and so do we, if we can; who is awake by then is not woken twice.
 *
 * And the busy ones wake elsewhere if who lets them go has said so in time (crew_prepare()): else,
 * on our CPU, they may have to wait for the rest of our slice.
 *
 * Who is woken waits on a futex of its own and not on a condition: to let a crew go takes no lock,
 * and whoever does it may be killed in the middle and leaves nothing behind. Done again, it is
 * done.
 *
 * Help with a job is asked of those first that have nothing else to do, for who has worked has to
 * wait for the CPU when it is to run; and of them first those that sleep elsewhere.
 */
#include <errno.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/thread.h>

#include "crew_impl.h"

#define PREPARED_LOOK_US 200

/*
 * A timed wait that a SIGSTOP or the cgroup freezer (`docker pause`) interrupts goes on as another
 * system call when the thread does. #syscalls vcpu: restart_syscall
 */
static bool wait_woken(struct crew_member *cm, uint32_t seen, const struct timespec *until)
{
	return syscall(SYS_futex, &cm->woken, FUTEX_WAIT_BITSET_PRIVATE, seen, until, NULL,
		       FUTEX_BITSET_MATCH_ANY) < 0 &&
	       errno == ETIMEDOUT;
}

void crew_sleep(struct crew_member *cm, uint32_t seen)
{
	atomic_store(&cm->sleeps_on, sched_getcpu());
	pthread_mutex_unlock(&cm->crew->lock);
	wait_woken(cm, seen, NULL);
	pthread_mutex_lock(&cm->crew->lock);
	atomic_store(&cm->sleeps_on, -1);
}

bool crew_nap(struct crew_member *cm, uint64_t until_ns)
{
	const struct timespec until = ns_to_timespec(until_ns);

	return wait_woken(cm, atomic_load(&cm->woken), &until);
}

void crew_wake(struct crew_member *cm)
{
	atomic_fetch_add(&cm->woken, 1);
	syscall(SYS_futex, &cm->woken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void crew_note_waited(struct crew *crew, uint32_t id, bool waited)
{
	crew->members[id].waited = waited;
}

void crew_prepare(struct crew *crew, uint32_t id, const cpu_set_t *cpus)
{
	struct crew_member *cm = &crew->members[id];

	cm->moves = cpus != NULL;
	if (cpus)
		cm->wake_on = *cpus;
	atomic_store(&cm->to_prepare, true);
	crew_wake(cm);
}

static void place(struct crew_member *cm)
{
	if (!cm->is_placed && !thread_get_cpus(&cm->usual))
		return;
	cm->is_placed = sched_setaffinity(0, sizeof(cm->wake_on), &cm->wake_on) == 0;
}

bool crew_get_ready(struct crew_member *cm)
{
	struct crew *crew = cm->crew;

	if (!atomic_load(&cm->to_prepare))
		return false;
	atomic_store(&cm->prepares, true);
	atomic_store(&cm->to_prepare, false);
	pthread_mutex_unlock(&crew->lock);
	if (crew->ops->prepare)
		crew->ops->prepare(cm);
	if (cm->moves)
		place(cm);
	atomic_store(&cm->prepares, false);
	pthread_mutex_lock(&crew->lock);
	return true;
}

static bool is_prepared(const struct crew_member *cm)
{
	return !atomic_load(&cm->to_prepare) && !atomic_load(&cm->prepares);
}

int crew_wait_prepared(struct crew *crew, uint64_t timeout_ns, struct error *err)
{
	const uint64_t end = now_ns() + timeout_ns;

	for (uint32_t i = 0; i < crew->count; i++)
		while (!is_prepared(&crew->members[i])) {
			if (now_ns() >= end)
				return err_set(err, ETIMEDOUT, "%s %u does not get ready",
					       crew->ops->title, i);
			usleep(PREPARED_LOOK_US);
		}
	return 0;
}

void crew_unplace(struct crew_member *cm)
{
	if (cm->is_placed)
		sched_setaffinity(0, sizeof(cm->usual), &cm->usual);
	cm->is_placed = false;
}

static bool sleeps_here(const struct crew_member *cm, int cpu)
{
	return atomic_load(&cm->sleeps_on) == cpu;
}

static void wake_busy(struct crew *crew, int cpu, bool here)
{
	for (uint32_t i = 0; i < crew->count; i++) {
		struct crew_member *cm = &crew->members[i];

		if (!cm->waited && sleeps_here(cm, cpu) == here)
			crew_wake(cm);
	}
}

static bool some_busy_sleep_here(const struct crew *crew, int cpu)
{
	for (uint32_t i = 0; i < crew->count; i++)
		if (!crew->members[i].waited && sleeps_here(&crew->members[i], cpu))
			return true;
	return false;
}

static void have_rest_woken(struct crew *crew, int cpu)
{
	for (uint32_t i = 0; i < crew->count; i++) {
		struct crew_member *cm = &crew->members[i];

		if (!cm->waited || sleeps_here(cm, cpu))
			continue;
		atomic_store(&crew->wakes_rest, true);
		crew_wake(cm);
		return;
	}
}

void crew_wake_rest(struct crew *crew)
{
	for (uint32_t i = 0; i < crew->count; i++)
		if (crew->members[i].waited)
			crew_wake(&crew->members[i]);
}

static bool is_awake(const struct crew_member *cm)
{
	return atomic_load(&cm->started) && atomic_load(&cm->parked) &&
	       atomic_load(&cm->sleeps_on) < 0;
}

void crew_wake_helpers(struct crew *crew, uint32_t wanted)
{
	int cpu = sched_getcpu();

	for (uint32_t i = 0; i < crew->count && wanted; i++)
		wanted -= is_awake(&crew->members[i]);
	for (int choice = 0; choice < 4; choice++)
		for (uint32_t i = 0; i < crew->count && wanted; i++) {
			struct crew_member *cm = &crew->members[i];
			bool busy = !cm->waited, here = sleeps_here(cm, cpu);

			if (atomic_load(&cm->sleeps_on) < 0 || 2 * busy + here != choice)
				continue;
			crew_wake(cm);
			wanted--;
		}
}

void crew_unpark(struct crew *crew)
{
	int cpu = sched_getcpu();

	for (uint32_t i = 0; i < crew->count; i++)
		atomic_store(&crew->members[i].goal, CREW_RUN);
	if (some_busy_sleep_here(crew, cpu))
		have_rest_woken(crew, cpu);
	wake_busy(crew, cpu, false);
	wake_busy(crew, cpu, true);
	crew_wake_rest(crew);
	atomic_store(&crew->wakes_rest, false);
}
