/* SPDX-License-Identifier: MIT */
/* The guardian: who runs the guest on when the successor does not; see guardian.c. */
#ifndef MOLT_UPDATE_GUARDIAN_H
#define MOLT_UPDATE_GUARDIAN_H

#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <molt/base/error.h>
#include <molt/state/fdtable.h>

#include <molt/base/child.h>

#define GUARD_REASON_MAX 1024
#define GUARD_DEADLINE_MS 5000

enum guard_owner {
	GUARD_UNDECIDED,
	GUARD_SUCCESSOR, /* committed: the guardian only tears down */
	GUARD_GUARDIAN,  /* taken back: the successor must touch nothing */
	GUARD_DISMISSED, /* the predecessor needs no guardian any more */
};

/*
 * Shared by guardian and successor, a memfd of one page. Who sets `owner` first has the guest. They
 * may be of different versions: members are added at the end, and 0 is what an older one says.
 */
struct guard_page {
	_Atomic uint32_t owner; /* enum guard_owner */
	_Atomic uint64_t armed; /* CLOCK_MONOTONIC, when the deadline began; 0: not to act yet */
	_Atomic bool saved;     /* all is saved, exec was next */
	char reason[GUARD_REASON_MAX]; /* why the successor gave up, where it could say */
	/*
	 * The predecessor's process, which the successor goes on in; 0 from a predecessor that does
	 * not say.
	 */
	_Atomic int32_t predecessor;
	/* CPUs where no vCPU runs, from the successor; good once has_spare is set. */
	_Atomic bool has_spare;
	cpu_set_t spare;
};

struct guardian {
	struct guard_page *page;
	int page_fd;
	int wake_fd;    /* eventfd: the owner is decided */
	int process_fd; /* pidfd of the process that becomes the successor */
	struct child child;
	void *stack;
	uint32_t deadline_ms;
	bool is_self;                    /* we are the guardian, and have taken the guest back */
	void (*committed)(void *opaque); /* what is left to do when the guest is the successor's */
	void (*take_back)(void *opaque); /* runs on in the guardian; does not return */
	void *opaque;
};

/* Starts it. Every descriptor that a way back needs is open already. */
int guardian_start(struct guardian *g, struct error *err);

/*
 * From here on the guardian acts if the process ends or the deadline is over. First when all vCPUs
 * are parked; then again, with a deadline that begins anew, when all is saved and exec is next.
 */
void guardian_arm(struct guardian *g, bool saved);

/*
 * Before anything is undone: from here on the guardian acts no more. Where it has begun to, it is
 * about to kill this process, and this does not return, unless somebody has killed the guardian
 * first.
 */
void guardian_disarm(struct guardian *g);

/* Ends it (or what is left of it, where we are it ourselves). Harmless if there is none. */
void guardian_dismiss(struct guardian *g);

/* Lists what the successor needs. */
int guardian_save_fds(const struct guardian *g, struct fdtable *fds, struct error *err);

/* ---- the successor's side ---- */

struct guard_link {
	struct guard_page *page; /* NULL: no guardian */
	int wake_fd;
	struct child child; /* the guardian, which was our child before the exec */
};

int guard_link_open(struct guard_link *link, struct fdtable *fds, struct error *err);

/* From here on the guest is ours: 0, or -ECANCELED where the guardian was faster. */
int guard_link_commit(struct guard_link *link, struct error *err);

/*
 * Lets the guardian go; not urgent, so after the guest runs. It tears down on the CPUs in `spare`,
 * where no vCPU runs; NULL where there are none.
 */
void guard_link_release(struct guard_link *link, const cpu_set_t *spare);

/*
 * The predecessor's process where we are in another one, or 0: a wrapper did not execute us, but
 * start us.
 */
pid_t guard_link_left_process(const struct guard_link *link);

/* Leaves word of why we end without having committed. */
void guard_link_give_up(struct guard_link *link, const char *reason);

#endif
