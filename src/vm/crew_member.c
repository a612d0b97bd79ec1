/* SPDX-License-Identifier: MIT */
/*
 * Threads that park and run. Theory of operation.
 *
 * Each thread loops: wait in the park until its goal is to run, then run() until it is not. Main
 * sets the goal, and kicks with a signal whose handler calls kick(), which leaves a mark that the
 * blocking call of run() looks at (of KVM_RUN that is immediate_exit). If the signal comes before
 * that call is entered, the mark has it return at once; if it comes inside, the call ends with
 * EINTR; if it comes before run() takes the mark away, the goal that is read afterwards tells. So
 * no kick is ever lost.
 *
 * The lock is for the park alone: it guards what main waits for there, on a condition, and jobs.
 * Nobody holds it while work is done. So a process that dies with all members parked leaves nothing
 * half done but the lock and the condition themselves, and whoever has the memory then makes them
 * anew (crew_life.c).
 *
 * To sleep and be woken takes longer than most of what happens in an update's pause. So who waits
 * there stays awake for a while, where a CPU can be spared (crew_job.c).
 *
 * What a member that has confined itself still may do: wait, be kicked, and end (glibc's)
 * #syscalls vcpu: getcpu
 * #syscalls vcpu: futex rt_sigreturn rt_sigprocmask madvise exit
 */
#include <errno.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/thread.h>

#include "crew_impl.h"

#define AWAKE_NS 2000000 /* about as long as a successor takes to build the machine */

/* The handler has no other way to find the member whose thread it interrupted. */
static _Thread_local struct crew_member *kicked;

static void on_kick(int sig)
{
	(void)sig;
	if (kicked && kicked->crew->ops->kick)
		kicked->crew->ops->kick(kicked);
}

int crew_catch_kick(struct error *err)
{
	struct sigaction sa = { .sa_handler = on_kick };

	if (sigaction(CREW_KICK_SIGNAL, &sa, NULL) < 0)
		return err_sys(err, errno, "sigaction for the kick");
	return 0;
}

bool crew_may_run(struct crew_member *cm)
{
	struct crew *crew = cm->crew;

	return atomic_load(&cm->goal) == CREW_RUN && !(crew->ops->held && crew->ops->held(crew));
}

/*
 * Where a CPU can be spared. Called and left with the lock held; true where it was dropped
 * meanwhile, so that the caller looks again at what it waits for.
 */
static bool stay_awake(struct crew_member *cm, bool *awake, uint64_t until)
{
	struct crew *crew = cm->crew;

	if (!*awake || !atomic_load(&crew->awake) || !atomic_load(&cm->stays_awake))
		return false;
	pthread_mutex_unlock(&crew->lock);
	while (*awake && atomic_load(&crew->awake) && atomic_load(&cm->goal) == CREW_PARK &&
	       !crew_job_is_open(crew))
		*awake = crew_wait_awake(until);
	pthread_mutex_lock(&crew->lock);
	return true;
}

/* Called and left with the lock held. */
static bool receive_visit(struct crew_member *cm)
{
	struct crew_visit *visit = cm->visit;
	struct crew *crew = cm->crew;

	if (!visit)
		return false;
	cm->visit = NULL; /* from here on main waits for its end */
	pthread_mutex_unlock(&crew->lock);
	visit->result = visit->fn(visit->opaque, cm->id, visit->err);
	pthread_mutex_lock(&crew->lock);
	visit->is_over = true;
	atomic_store(&cm->goal, CREW_RUN);
	pthread_cond_broadcast(&crew->parked);
	return true;
}

static bool help(struct crew_member *cm)
{
	return !atomic_load(&cm->crew->alone) && crew_job_help(cm->crew, cm->confined);
}

/* Waits in the park. False when the thread is to end. */
static bool wait_in_park(struct crew_member *cm)
{
	struct crew *crew = cm->crew;
	uint64_t until = now_ns() + AWAKE_NS;
	bool awake = true;

	pthread_mutex_lock(&crew->lock);
	atomic_store(&cm->parked, true);
	pthread_cond_broadcast(&crew->parked);
	for (;;) {
		/* Before it is looked at what it may be woken for. */
		uint32_t seen = atomic_load(&cm->woken);

		if (atomic_load(&cm->goal) == CREW_QUIT || crew_may_run(cm))
			break;
		if (receive_visit(cm) || crew_get_ready(cm) || help(cm) ||
		    stay_awake(cm, &awake, until))
			continue;
		crew_sleep(cm, seen);
		awake = true;
		until = now_ns() + AWAKE_NS;
	}
	atomic_store(&cm->parked, false);
	/* That was for this time: when it parks again it may be confined. */
	atomic_store(&cm->to_prepare, false);
	pthread_mutex_unlock(&crew->lock);
	if (atomic_exchange(&crew->wakes_rest, false))
		crew_wake_rest(crew);
	return atomic_load(&cm->goal) != CREW_QUIT;
}

void *crew_thread(void *opaque)
{
	struct crew_member *cm = opaque;
	const struct crew_ops *ops = cm->crew->ops;
	char name[CREW_NAME_MAX + sizeof("4294967295")];

	snprintf(name, sizeof(name), "%s%u", ops->name, cm->id);
	pthread_setname_np(pthread_self(), name);
	cm->tid = (pid_t)syscall(SYS_gettid);
	if (cm->crew->has_cpus)
		thread_set_cpus(&cm->crew->cpus);
	if (ops->begun)
		ops->begun(cm);
	/* The handler's frame takes pages of the stack: they are there before somebody waits. */
	pthread_kill(pthread_self(), CREW_KICK_SIGNAL);
	cm->stopped_ns = now_ns();
	while (wait_in_park(cm)) {
		crew_unplace(cm);
		kicked = cm;
		atomic_store(&cm->host_cpu, sched_getcpu());
		atomic_store(&cm->entered_ns, now_ns());
		ops->run(cm);
		/* While parked what it marks may go, and a late kick must not touch it. */
		kicked = NULL;
		cm->stopped_ns = now_ns();
		if (ops->settle)
			ops->settle(cm);
	}
	return NULL;
}
