/* SPDX-License-Identifier: MIT */
/*
 * In the stand-in whose successor is gone: this process is the VMM from now on. The predecessor's
 * steps are undone here, in its memory, as they would have been there.
 */
#include <errno.h>
#include <unistd.h>

#include <molt/base/log.h>

#include "internal.h"

#define REBORN_TRIES 20
#define REBORN_PAUSE_US 10000

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

void update_take_back(struct update *u, bool stood_in)
{
	struct error err = ERROR_INIT, deaf = ERROR_INIT;
	bool hears;

	if (stood_in)
		machine_park_vcpus(u->machine);
	/* Its lock is made anew: a vCPU that runs may be holding it. */
	log_revive();
	if (!stood_in)
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
