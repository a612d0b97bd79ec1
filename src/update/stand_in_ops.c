/* SPDX-License-Identifier: MIT */
/*
 * What the update does in the stand-in while that runs the guest: see struct stand_in_ops. What it
 * does when the successor is gone is in take_back.c.
 */
#include <molt/base/log.h>

#include "internal.h"

#define LEAVING_TELL_MS 60000

static int make(void *opaque, struct error *err)
{
	return machine_make_stand_in(((struct update *)opaque)->machine, err);
}

static void unmake(void *opaque)
{
	machine_unmake_stand_in(((struct update *)opaque)->machine);
}

/*
 * Not by the predecessor, which may die with a device's lock held. It lets the vCPUs go, as soon as
 * it has handed them over; but if it dies in between they are still parked.
 */
static void begin(void *opaque)
{
	struct update *u = opaque;

	if (u->hand_over.parked)
		machine_unpark_vcpus(u->machine);
	machine_serve(u->machine);
}

static void tell_progress(void *opaque)
{
	struct update *u = opaque;
	struct refault_progress *progress = &u->hand_over.stand_in.page->progress;

	u->ops.passing_event(u->ops.opaque, "UPDATE_PROGRESS",
			     json_pack("{s:I,s:I}", "mapped-bytes",
				       (json_int_t)atomic_load(&progress->mapped), "total-bytes",
				       (json_int_t)atomic_load(&progress->total)));
}

static bool spare_cpus(void *opaque, cpu_set_t *spare)
{
	struct update *u = opaque;

	if (!u->hand_over.parked)
		return false;
	machine_wait_entered(u->machine);
	return machine_spare_cpus(u->machine, spare);
}

static void serve(void *opaque)
{
	loop_turn(((struct update *)opaque)->machine->loop, 0);
}

static int rest(void *opaque, struct error *err)
{
	return machine_rest(((struct update *)opaque)->machine, err);
}

/* With this process's threads, which the predecessor would miss. */
static bool stop(void *opaque)
{
	struct machine *m = ((struct update *)opaque)->machine;
	struct error err = ERROR_INIT;

	machine_park_vcpus(m);
	if (machine_quiesce(m, &err) == 0 && machine_rest(m, &err) == 0)
		return true;
	log_warn("the stand-in gives the guest back: %s", err.text);
	return false;
}

static void run(void *opaque)
{
	const struct update *u = opaque;

	u->ops.run_on(u->ops.opaque);
}

/*
 * The service manager takes this process for the guest's, and must have heard of the successor's
 * when it ends. That has told it, but where its queue was full could not wait.
 */
static void leaving(void *opaque)
{
	const struct update *u = opaque;
	pid_t pid = atomic_load(&u->hand_over.stand_in.page->to_tell);

	if (pid)
		u->ops.main_pid(u->ops.opaque, pid, LEAVING_TELL_MS);
}

static void take_back(void *opaque, bool stood_in)
{
	struct update *u = opaque;

	u->server->take_back(u, stood_in);
}

const struct stand_in_ops update_stand_in_ops = {
	.make = make,
	.unmake = unmake,
	.begin = begin,
	.spare_cpus = spare_cpus,
	.serve = serve,
	.tell_progress = tell_progress,
	.stop = stop,
	.rest = rest,
	.save = update_save_final,
	.run_on = update_run_on,
	.leaving = leaving,
	.committed = update_committed,
	.take_back = take_back,
	.run = run,
};
