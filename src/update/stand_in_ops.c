/* SPDX-License-Identifier: MIT */
/*
 * What the update does in the stand-in, while that runs the guest and when it has taken it back: see
 * struct stand_in_ops.
 */
#include <errno.h>
#include <unistd.h>

#include <molt/base/log.h>

#include "internal.h"
#include "steps.h"

#define REBORN_TRIES 20
#define REBORN_PAUSE_US 10000

static int make(void *opaque, struct error *err)
{
	return machine_make_stand_in(((struct update *)opaque)->machine, err);
}

static void unmake(void *opaque)
{
	machine_unmake_stand_in(((struct update *)opaque)->machine);
}

/* Not by the predecessor, which may die with a device's lock held. */
static void begin(void *opaque)
{
	machine_serve(((struct update *)opaque)->machine);
}

static void serve(void *opaque)
{
	loop_turn(((struct update *)opaque)->machine->loop, 0);
}

/* With this process's threads, which the predecessor would miss. */
static void stop(void *opaque)
{
	struct machine *m = ((struct update *)opaque)->machine;
	struct error err = ERROR_INIT;

	machine_park_vcpus(m);
	if (machine_quiesce(m, &err) < 0 || machine_rest(m, &err) < 0)
		log_warn("the stand-in gives the guest back: %s", err.text);
}

static void run(void *opaque)
{
	const struct update *u = opaque;

	u->ops.run_on(u->ops.opaque);
}

/*
 * Without it no SIGTERM would ever end this guest: worth a few tries, and the guest runs meanwhile.
 */
static bool catch_signals(struct update *u, struct error *err)
{
	for (int try = 0; try < REBORN_TRIES; try++) {
		if (u->ops.reborn(u->ops.opaque, err) == 0)
			return true;
		usleep(REBORN_PAUSE_US);
	}
	return false;
}

void update_take_back(void *opaque, bool stood_in)
{
	struct update *u = opaque;
	struct error err = ERROR_INIT, deaf = ERROR_INIT;
	bool hears;

	log_revive();
	if (stood_in)
		machine_park_vcpus(u->machine);
	else
		machine_hand_over(u->machine);
	machine_take_back(u->machine, stood_in);
	err_set(&err, EIO, "%s", u->hand_over.stand_in.page->reason);
	update_undo_all(u);
	hears = catch_signals(u, &deaf);
	log_warn("the stand-in runs the guest on: process %d", (int)getpid());
	update_failed(u, &err);
	if (!hears && !catch_signals(u, &deaf))
		log_error("the guest runs on, but signals do not reach it: %s", deaf.text);
}

const struct stand_in_ops update_stand_in_ops = {
	.make = make,
	.unmake = unmake,
	.begin = begin,
	.serve = serve,
	.stop = stop,
	.save = update_save_final,
	.run_on = update_run_on,
	.committed = update_committed,
	.take_back = update_take_back,
	.run = run,
};
