/* SPDX-License-Identifier: MIT */
/* The stand-in: who runs the guest while its VMM is replaced; see stand_in.c. */
#ifndef MOLT_UPDATE_STAND_IN_H
#define MOLT_UPDATE_STAND_IN_H

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <molt/base/child.h>
#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/state/fdtable.h>
#include <molt/vm/refault.h>

#include "keep_off.h"

#define STAND_IN_REASON_MAX 1024
/* Of a successor, from the exec: nobody waits for it. */
#define STAND_IN_DEADLINE_MS 30000
/* The same where the guest is stopped meanwhile. */
#define STAND_IN_STOPPED_DEADLINE_MS 5000

/* Who may run the guest. Who sets it, by compare-and-swap, has it. */
enum guest_owner {
	OWNER_UNDECIDED,  /* nobody: it is stopped, for its successor or the stand-in to take */
	OWNER_SUCCESSOR,  /* committed: the stand-in only tears down */
	OWNER_TAKEN_BACK, /* the stand-in has it for good: the successor must touch nothing */
	OWNER_DISMISSED,  /* the predecessor has it, and needs no stand-in any more */
	OWNER_STAND_IN,   /* the stand-in, until the switch; who does not know it cannot commit */
};

/* The switch: whose turn it is. A futex, which both wait on. */
enum switch_turn {
	TURN_REHEARSAL, /* the successor builds */
	TURN_READY,     /* it could take over now: the stand-in is to save */
	TURN_SAVED, /* the guest is stopped, its final state is there: the successor is to commit */
	TURN_REFUSED,  /* the successor cannot load it */
	TURN_DECLINED, /* the stand-in cannot hand it over: `reason` */
};

/*
 * Shared by stand-in and successor, a memfd of one page. They may be of different versions: members
 * are added at the end, and 0 is what an older one says.
 */
struct stand_in_page {
	_Atomic uint32_t owner; /* enum guest_owner */
	_Atomic uint64_t armed; /* CLOCK_MONOTONIC, when the deadline began; 0: not to act yet */
	_Atomic bool saved;     /* all is saved, exec was next */
	char reason[STAND_IN_REASON_MAX]; /* why the successor gave up, where it could say */
	/*
	 * The predecessor's process, which the successor goes on in; 0 from a predecessor that does
	 * not say.
	 */
	_Atomic int32_t predecessor;
	/* CPUs where no vCPU runs, from the successor; good once has_spare is set. */
	_Atomic bool has_spare;
	cpu_set_t spare;
	/* All that follows: 0 where the guest is stopped from before the exec until the commit. */
	_Atomic uint32_t turn; /* enum switch_turn */
	_Atomic bool hurry;    /* a client, or the guest itself, waits for somebody to act */
	uint64_t entered_ns;   /* when the first vCPU ran after the hand-off */
	uint64_t final_len;    /* bytes of the final state */
	uint64_t stopped_ns;   /* when the last vCPU stopped, for the switch */
	uint64_t saved_ns;     /* and when its state was there */
	_Atomic bool has_free;
	cpu_set_t free; /* CPUs where the stand-in's vCPUs do not run, good once has_free is set */
	uint32_t deadline_ms;             /* from armed on */
	struct refault_progress progress; /* of guest RAM, by the successor before the switch */
	/* Where main may run, good once has_free is set: until the guest is its, it keeps to free. */
	cpu_set_t usual;
	_Atomic bool stopping; /* from when the stand-in stops the guest for the switch */
	_Atomic bool is_main;  /* for the service manager, which has heard of the stand-in */
	/* The successor's process, if the manager had no time to hear of it; else 0. */
	_Atomic int32_t to_tell;
};

struct stand_in;

/*
 * How long devices may take to come to rest while the guest runs, and how often they are asked,
 * here and in the predecessor: a disk that others write to takes its time.
 */
#define REST_NS 3000000000ull
#define REST_LOOK_NS 2000000

/* What the update does in the stand-in. All but make() with the stand-in's own thread-local memory.
 */
struct stand_in_ops {
	/* Before it is needed: threads for the vCPUs. 0 or -errno. unmake() undoes it. */
	int (*make)(void *opaque, struct error *err);
	void (*unmake)(void *opaque);
	/* It stands in, and the guest runs: its devices serve. */
	void (*begin)(void *opaque);
	/* When its first vCPU runs: the CPUs where none does. False: it is not to run, or there are
	 * none. */
	bool (*spare_cpus)(void *opaque, cpu_set_t *spare);
	/* Serves what the loop has, for one turn. */
	void (*serve)(void *opaque);
	/* The guest has run here for a while, and still does. */
	void (*tell_progress)(void *opaque);
	/*
	 * Back to the predecessor, which goes on when this returns: stops the guest. False: a
	 * thread of this process is still at work on the memory of both.
	 */
	bool (*stop)(void *opaque);
	/*
	 * Before the switch, while the guest runs: its devices come to rest. -EBUSY: something is
	 * still being written, ask again. begin() has them go on.
	 */
	int (*rest)(void *opaque, struct error *err);
	/* The switch: stops the guest and saves its final state; 0, or -errno: it runs on. */
	int (*save)(void *opaque, struct error *err);
	/* The successor did not like it: the guest runs on. */
	void (*run_on)(void *opaque);
	/* The guest is the successor's, and whoever takes this process for its own has to know. */
	void (*leaving)(void *opaque);
	/* What else there is to do then; it closes what it does not need. */
	void (*committed)(void *opaque);
	/* There is no successor: this process is the VMM from now on. stands_in: the guest runs. */
	void (*take_back)(void *opaque, bool stood_in);
	/* Then: the event loop, to its end. Does not return. */
	void (*run)(void *opaque);
};

/* What a stand-in's main thread runs on, and by whose thread-local memory. */
struct stand_in_ground {
	void *stack; /* NULL: none */
	pthread_t helper;
};

struct stand_in {
	const struct stand_in_ops *ops;
	void *opaque;
	struct loop *loop;
	uint32_t deadline_ms;

	struct stand_in_page *page;
	int page_fd;
	int wake_fd;    /* eventfd: there is something new in the page, or below */
	int process_fd; /* pidfd of the process that becomes the successor */
	int status_fd;  /* the signals that wait for it; -1: not to be seen */
	int timer_fd;   /* the deadline */
	struct keep_off keep_off;
	uint64_t progress_ns;   /* when it is told next; 0: never */
	uint64_t rest_until_ns; /* the successor is ready and waits for devices; 0: it does not */
	struct child child;
	bool at_work; /* it has given the guest back, and a thread of it is still at work */
	bool is_gone; /* it has ended while it had the guest, or was at work */
	bool is_self; /* we are the stand-in, and have taken the guest back */
	/* Ours, where we were the stand-in of an earlier update; it outlives all that follow. */
	struct stand_in_ground ground;

	/* Between predecessor and stand-in, which share this memory. */
	_Atomic uint32_t state;  /* enum stand_in_state; a futex */
	_Atomic uint64_t due_ns; /* when the deadline that timer_fd waits for is over */
	struct error trouble;    /* why it could not be made */
	sigset_t signals;        /* main's mask, and the stand-in's */
	pthread_t helper;        /* whose thread-local memory it has */
	_Atomic uint32_t cloned; /* child says what has come of it; a futex */
	_Atomic uint32_t helper_may_go;
	_Atomic uint32_t serves; /* it has seen that it stands in; a futex */
	bool helper_made;
	void *stack;
};

#define STAND_IN_NONE \
	((struct stand_in){ .page_fd = -1, \
			    .wake_fd = -1, \
			    .process_fd = -1, \
			    .status_fd = -1, \
			    .timer_fd = -1, \
			    .child = { .fd = -1 } })

/*
 * Makes it, with all that it needs, and waits until it is there. Every descriptor that a way back
 * needs is open already. -errno with the sentence where it cannot be; stand_in_dismiss() is to
 * follow in any case.
 */
int stand_in_start(struct stand_in *s, struct error *err);

/*
 * From here on it acts if the process ends or the deadline is over. First when all vCPUs are
 * parked; then again, with a deadline that begins anew, when all is saved and exec is next.
 */
void stand_in_arm(struct stand_in *s, bool saved);

/* The guest is the stand-in's from now on, and may run: call before it does. */
void stand_in_hand_over(struct stand_in *s);

/*
 * Before the exec: waits until it has seen that it has the guest, which runs meanwhile. -ECHILD
 * where it has ended instead, -ETIMEDOUT where it is stopped, or hangs.
 */
int stand_in_wait_serving(struct stand_in *s, struct error *err);

/*
 * Before anything is undone: the guest comes back, stopped, and the stand-in acts no more. Where it
 * has begun to act it is about to kill this process, and this does not return, unless somebody has
 * killed the stand-in first. In the stand-in itself this does nothing.
 */
void stand_in_disarm(struct stand_in *s);

/*
 * Ends it (or what is left of it, where we are it ourselves). Harmless if there is none. What is in
 * s->child then has not ended, and is to be waited for.
 */
void stand_in_dismiss(struct stand_in *s);

/* Lists what the successor needs. */
int stand_in_save_fds(const struct stand_in *s, struct fdtable *fds, struct error *err);

/* In the stand-in: somebody waits who is not served. Shortens the deadline. */
void stand_in_hurry(struct stand_in *s);

/* ---- the successor's side ---- */

struct stand_in_link {
	struct stand_in_page *page; /* NULL: no stand-in */
	int wake_fd;
	struct child child; /* which was our child before the exec */
};

int stand_in_link_open(struct stand_in_link *link, struct fdtable *fds, struct error *err);

/* Whether the guest runs there, and there is to be a switch. */
bool stand_in_link_runs_guest(const struct stand_in_link *link);

/* Whether somebody waits for the update to be over; safe on any thread. */
bool stand_in_link_hurry(const struct stand_in_link *link);

/* How much of the deadline is left, in ns. */
uint64_t stand_in_link_left_ns(const struct stand_in_link *link);

/*
 * The rehearsal is over: has the stand-in stop the guest and save it. stops: called when it does,
 * or would be expected to have begun. 0, -ECANCELED where it has taken the guest back, has ended or
 * has not answered for as long as the deadline is, or -EIO where it cannot, with its reason.
 */
int stand_in_link_switch(struct stand_in_link *link, void (*stops)(void *opaque), void *opaque,
			 struct error *err);

/*
 * What it saved cannot be loaded: the guest runs on there, until something else happens. Returns
 * when it does, or the stand-in has taken it back or has ended, or the deadline is over: whoever
 * comes next in this process must not find the guest to be had, for all he has is the state of the
 * hand-off.
 */
void stand_in_link_refuse(struct stand_in_link *link);

/* From here on the guest is ours: 0, or -ECANCELED where the stand-in was faster. */
int stand_in_link_commit(struct stand_in_link *link, struct error *err);

/*
 * Lets the stand-in go; not urgent, so after the guest runs. It tears down on the CPUs in `spare`,
 * where no vCPU runs; NULL where there are none.
 */
void stand_in_link_release(struct stand_in_link *link, const cpu_set_t *spare);

/*
 * The predecessor's process where we are in another one, or 0: a wrapper did not execute us, but
 * start us.
 */
pid_t stand_in_link_left_process(const struct stand_in_link *link);

/*
 * The stand-in is to tell the service manager of this process before it ends. False: it need not,
 * the manager has not heard of it.
 */
bool stand_in_link_have_told(struct stand_in_link *link);

/* Leaves word of why we end without having committed. */
void stand_in_link_give_up(struct stand_in_link *link, const char *reason);

#endif
