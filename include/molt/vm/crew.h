/* SPDX-License-Identifier: MIT */
/*
 * A crew: threads of this process that work, and park together when they are told to. A parked
 * member waits; what it works on is complete, and may be read and changed. A crew knows no machine:
 * the threads of the vCPUs are one.
 *
 * All functions are for the thread that owns the crew, here called main, unless they say otherwise.
 * The kick is a signal and reaches the caller's process only. So where two processes share this
 * memory (CLONE_VM), each has crews of its own, be it for the same work: one parks, then the other
 * is let go.
 */
#ifndef MOLT_VM_CREW_H
#define MOLT_VM_CREW_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <molt/base/error.h>

/* Not a real-time one: of those RLIMIT_SIGPENDING allows a user but so many in all processes. */
#define CREW_KICK_SIGNAL SIGUSR2
#define CREW_NAME_MAX 11 /* with the member's number behind it the kernel keeps 15 bytes */

enum crew_goal {
	CREW_PARK,
	CREW_RUN,
	CREW_QUIT,
};

struct crew;

/* A share of a job: one item, 0 to the number of those offered - 1. On any thread of the crew. */
typedef int crew_job_fn(void *opaque, uint32_t item, struct error *err);

/* What a member is to do for itself: crew_visit(). */
struct crew_visit {
	crew_job_fn *fn;
	void *opaque;
	int result;
	bool is_over;
	struct error *err;
};

struct crew_member {
	struct crew *crew;
	uint32_t id; /* 0 to crew->count - 1 */
	pthread_t thread;
	_Atomic bool started; /* by whoever does so: main, or a member that helps it */
	pid_t tid;            /* of its latest thread */
	bool confined;        /* the thread has given up what it does not need; run() sets it */
	_Atomic int goal;     /* enum crew_goal, set by main */
	_Atomic bool parked;  /* set under crew->lock; true where there is no thread */
	uint64_t stopped_ns;  /* CLOCK_MONOTONIC when run() last returned */
	_Atomic uint64_t
		entered_ns;       /* when it last left the park for run(); 0: not since told to */
	_Atomic int host_cpu;     /* and on which CPU of the host; -1: not yet */
	bool waited;              /* main's: so crew_park() found it, or who knows it said so */
	_Atomic int sleeps_on;    /* the host's CPU where its thread went to sleep; -1: awake */
	_Atomic uint32_t woken;   /* how often; a futex, on which its thread waits while parked */
	_Atomic bool stays_awake; /* one of those that crew_keep_awake() is about */
	struct crew_visit *visit; /* under crew->lock; NULL: none, or it has begun */
	_Atomic bool to_prepare;  /* see crew_prepare() */
	_Atomic bool prepares;    /* is in ops->prepare() */
	bool moves;               /* to one of these then */
	cpu_set_t wake_on;
	bool is_placed; /* its thread's own: it is there, and may usually be elsewhere */
	cpu_set_t usual;
};

/* What a kind of crew does. Called on the member's own thread, unless it says otherwise. */
struct crew_ops {
	const char *name;  /* of its threads, followed by the member's number; see CREW_NAME_MAX */
	const char *title; /* the same for the user: "vCPU" */

	/* First of all, when its thread has begun; or NULL. */
	void (*begun)(struct crew_member *cm);
	/*
	 * Works, until crew_may_run() says no; may return sooner, and is called again. Where it
	 * blocks it does these in this order, and no kick is lost: takes back what kick() has done,
	 * asks crew_may_run(), blocks.
	 */
	void (*run)(struct crew_member *cm);
	/*
	 * In the signal handler, while run() is running: makes the call in which it blocks, or is
	 * about to, return at once. NULL: the signal alone does, for instance with ppoll().
	 */
	void (*kick)(struct crew_member *cm);
	/* In the park, while nobody waits: what run() would begin with. See crew_prepare(); or
	 * NULL. */
	void (*prepare)(struct crew_member *cm);
	/* run() has returned: what else there is to do before it counts as parked; or NULL. */
	void (*settle)(struct crew_member *cm);
	/*
	 * On the thread that has just started this one, in main's place or a member's; or NULL.
	 */
	void (*started)(struct crew_member *cm);
	/* On any thread, often: true while nobody is to run, whatever main says; or NULL. */
	bool (*held)(struct crew *crew);
	/*
	 * On main's thread: whether run() is blocked, with nothing to do. Who is loses nothing in
	 * the park, so they are parked first and let go last; or NULL.
	 */
	bool (*waits)(struct crew_member *cm);
};

struct crew {
	const struct crew_ops *ops;
	void *opaque; /* the user's */
	struct crew_member *members;
	uint32_t count;
	cpu_set_t cpus; /* see crew_set_cpus(), if has_cpus */
	bool has_cpus;
	uint32_t host_cpus; /* that this process may use; 1: nobody waits awake */
	pthread_mutex_t lock;
	pthread_cond_t parked;   /* main waits here for the last to park */
	_Atomic bool alone;      /* see crew_leave_main_alone() */
	_Atomic bool wakes_rest; /* see crew_unpark() in crew_wake.c */
	_Atomic bool awake;      /* see crew_keep_awake() */
	struct {
		crew_job_fn *fn;
		void *opaque;
		bool reads;             /* confined members may help */
		_Atomic uint32_t next;  /* the first item that nobody has taken */
		_Atomic uint32_t count; /* 0: no job */
		_Atomic uint32_t left;  /* not yet done */
		int result;
		struct error err;
	} job; /* under lock; see crew_job.c */
};

/* ---- its life ---- */

/*
 * Of count members, without threads. Catches CREW_KICK_SIGNAL for the process. -ENOMEM, or what
 * sigaction() says.
 */
int crew_init(struct crew *crew, const struct crew_ops *ops, void *opaque, uint32_t count,
	      struct error *err);

/* Where its threads may run, from their start on; else it is where who starts them may. */
void crew_set_cpus(struct crew *crew, const cpu_set_t *cpus);

/* Without threads: after crew_stop(). A crew of zeroes is left as it is. */
void crew_fini(struct crew *crew);

/*
 * Starts the threads, which park: the first one, and it starts the others as a job, while main does
 * something else; or all by main itself, where begun() makes of a thread what others must not
 * inherit. crew_job_finish() says whether they are all there; it is to be called if this
 * returned 0, and before any other job. With all signals blocked but the kick and SIGSYS, which is
 * what a forbidden system call brings. -errno of pthread_create(). crew_stop() after an error.
 */
int crew_start(struct crew *crew, bool by_main, struct error *err);

/* Ends the threads that there are, wherever they are, one after the other. */
void crew_stop(struct crew *crew);

/*
 * The threads have gone with the process that they were in, and this one has its memory (CLONE_VM).
 * They may have held the lock, and died on the conditions: they are made again. Nobody runs then.
 * To be followed by crew_start() or crew_fini().
 */
void crew_forget(struct crew *crew);

/* ---- running and parking ---- */

/*
 * Kicks all, first those that wait, waits until every one is parked, and returns the time when the
 * last one stopped (CLOCK_MONOTONIC, ns). One that was parked already counts with the time of then.
 */
uint64_t crew_park(struct crew *crew);

/*
 * The same, and meanwhile, where next is not NULL, crew_rouse(next): who is to run after it. Where
 * one does not park in time all run on: -ETIMEDOUT then, with its name in *err.
 */
int crew_park_for(struct crew *crew, struct crew *next, uint64_t timeout_ns, uint64_t *stopped_ns,
		  struct error *err);

/* Waits the same, but kicks nobody: they were started, or told, before. */
void crew_wait_parked(struct crew *crew);

/*
 * Those that did not wait first. Takes no lock, and may be done again, also by another process: who
 * runs already runs on.
 */
void crew_unpark(struct crew *crew);

/* What a member did that another crew parked: whether it waited. */
void crew_note_waited(struct crew *crew, uint32_t id, bool waited);

/*
 * Has a member that runs come to the park, do fn there for itself (item: its number), and run on,
 * while the others do not stop: it waits for nobody, and main for it. What fn says. As a job's, fn
 * allocates nothing; it may be run by a member that is confined. One that has not come to the park
 * in time runs on without: -ETIMEDOUT then, with its name in *err.
 */
int crew_visit(struct crew *crew, uint32_t id, crew_job_fn *fn, void *opaque, uint64_t timeout_ns,
	       struct error *err);

/* Waits until the first has left the park after crew_unpark(), or held() is true; its time. */
uint64_t crew_wait_entered(struct crew *crew);

/* The same without waiting: 0 where none has yet. */
uint64_t crew_entered(struct crew *crew);

/*
 * While it is on, members that park stay awake for some milliseconds, to help with jobs and to run
 * soon; but for the main thread's sake one CPU less than there are, and those that did not wait
 * before others.
 */
void crew_keep_awake(struct crew *crew, bool on);

/*
 * Keeps a crew awake whose members are asleep in the park: they are to run within some milliseconds,
 * and are woken now. (Those that crew_prepare() has placed stay awake where they are.)
 */
void crew_rouse(struct crew *crew);

/*
 * The host's CPUs that the calling thread may use and where no member was when it last left the
 * park, but for those that waited before. False where there are none, or that cannot be known (a
 * host with more CPUs than a cpu_set_t).
 */
bool crew_spare_cpus(const struct crew *crew, cpu_set_t *spare);

/*
 * Has a parked member, which is not confined, get ready to be let go soon: ops->prepare(), on its
 * own thread; and where cpus is not NULL it wakes up on one of these CPUs then, after which it may
 * run where it might before. Waits for nothing. What cannot be had makes no difference but in time.
 */
void crew_prepare(struct crew *crew, uint32_t id, const cpu_set_t *cpus);

/*
 * Waits until nobody is in ops->prepare() any more, or has still to begin with it, timeout_ns at
 * most: -ETIMEDOUT then, with the member's name in *err.
 */
int crew_wait_prepared(struct crew *crew, uint64_t timeout_ns, struct error *err);

/* For run(): whether it is to go on. */
bool crew_may_run(struct crew_member *cm);

/*
 * For run(): waits until then (CLOCK_MONOTONIC, ns) on the futex of the park, so by no other
 * system call than the park itself. Nothing ends it early for sure, so it is to be short. True
 * where the time has ended it.
 */
bool crew_nap(struct crew_member *cm, uint64_t until_ns);

/* ---- jobs: work that main shares with the parked members ---- */

/*
 * The next count items are ready for the job that was started. Until it finishes, main is free to
 * do something else. A member that is confined helps with none of it. fn takes no lock that could
 * be left behind, and allocates nothing where the process may die meanwhile.
 */
void crew_job_start(struct crew *crew, crew_job_fn *fn, void *opaque);
void crew_job_offer(struct crew *crew, uint32_t count);

/*
 * While it is on, main does jobs alone: the host's CPUs are somebody else's. And who helps a lot is
 * behind in the scheduler's eyes when it is to run.
 */
void crew_leave_main_alone(struct crew *crew, bool on);

/* Does what is left, and waits for the others; the first failure is the job's. */
int crew_job_finish(struct crew *crew, struct error *err);

/* All in one step. */
int crew_job(struct crew *crew, uint32_t count, crew_job_fn *fn, void *opaque, struct error *err);

/* The same for a job of which members that are confined may do a share, too. */
int crew_job_read(struct crew *crew, uint32_t count, crew_job_fn *fn, void *opaque,
		  struct error *err);

#endif
