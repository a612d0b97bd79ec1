/* SPDX-License-Identifier: MIT */
/*
 * The successor's steps, in the order of the table in steps.c. Theory of operation.
 *
 * The fd table first, for nothing else may take a number that is in it. What stands above this room,
 * and what it is made of, are the callbacks' of struct take_over_ops. Until `resume` nothing is
 * written to guest RAM and nothing done that anybody outside can see; from there on nothing fails.
 */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/thread.h>

#include "internal.h"
#include "steps.h"

enum device_update update_of_devices(const struct incoming *in)
{
	if (in->failure)
		return DEVICE_GIVEN_BACK;
	return in->wire->keep_io ? DEVICE_UPDATED_ALONE : DEVICE_UPDATED;
}

bool update_is_lazy(const struct incoming *in)
{
	return in->wire->lazily;
}

bool update_is_rehearsal(const struct incoming *in)
{
	return in->is_rehearsal;
}

const cpu_set_t *update_usual_cpus(const struct incoming *in)
{
	const struct stand_in_page *page = in->link->page;

	return page && atomic_load(&page->has_free) ? &page->usual : NULL;
}

/* Which it does with its main(). */
int step_arrive(struct incoming *in, struct error *err)
{
	int r = incoming_arrive(in, err);

	if (r < 0)
		return r;
	in->began_ns = in->fds->exec_ns;
	in->ended_ns = in->main_ns;
	return 0;
}

int step_adopt(struct incoming *in, struct error *err)
{
	int r = incoming_adopt(in, err);

	if (r < 0)
		return r;
	/* Once for all steps: what is built as a rehearsal is to be loaded again, else not. */
	in->is_rehearsal = stand_in_link_runs_guest(in->link);
	if (in->final && !in->is_rehearsal)
		return err_set(err, ECANCELED,
			       "too late: the guest has run on since its state was saved, and "
			       "nobody is there to save it again");
	return in->ops->adopt(in->opaque, in, err);
}

int step_build(struct incoming *in, struct error *err)
{
	const struct stand_in_page *page = in->link->page;
	int r = in->ops->build(in->opaque, in, &in->update, err);

	if (r == 0)
		r = incoming_load_wire(in, err);
	if (r == 0 && update_is_rehearsal(in))
		machine_prepare_vcpus(in->update->machine, in->update->machine->crew,
				      atomic_load(&page->has_free) ? &page->free : NULL);
	return r < 0 ? r : incoming_check_claimed(in, err);
}

/* A signal to this process is nothing that the stand-in sees. */
static bool hurry(void *opaque)
{
	struct stand_in_link *link = opaque;

	if (end_signals_pending())
		atomic_store(&link->page->hurry, true);
	return stand_in_link_hurry(link);
}

int update_map_ram(struct update *u, struct incoming *in, struct refault *r, uint64_t limit_ns,
		   struct error *err)
{
	struct stand_in_page *page = in->link->page;
	uint64_t left = stand_in_link_left_ns(in->link) / 2;
	const struct refault_plan plan = {
		.limit_ns = limit_ns < left ? limit_ns : left,
		.hurry = hurry,
		.opaque = in->link,
		.spare = atomic_load(&page->has_free) ? &page->free : NULL,
		.vcpu = &u->machine->vcpus[0],
		.progress = &page->progress,
	};

	int ret;

	in->maps_ram = true;
	ret = refault_before(r, &u->machine->memory, &plan, err);
	in->mapped = r->before;
	return ret;
}

int step_map_ram(struct incoming *in, struct error *err)
{
	(void)err;
	if (update_is_rehearsal(in))
		in->ops->map_ram(in->opaque, in);
	return in->maps_ram ? 0 : STEP_SKIPPED;
}

static void rouse(void *machine)
{
	machine_rouse_vcpus(machine);
}

/* The guest runs until the stand-in stops it for us. Where it was paused it has not to be stopped. */
int step_stop(struct incoming *in, struct error *err)
{
	const struct stand_in_page *page = in->link->page;
	int r;

	in->stopped_ns = in->fds->stopped_ns;
	if (!update_is_rehearsal(in))
		return STEP_SKIPPED;
	if (!in->final)
		return err_set(err, EPROTO, "there is no memory for the final state");
	/* One that hangs in KVM would hang with the guest: it gives back instead. */
	r = crew_wait_prepared(in->update->machine->crew, stand_in_link_left_ns(in->link), err);
	if (r < 0)
		return r;
	r = stand_in_link_switch(in->link, rouse, in->update->machine, err);
	if (r < 0)
		return r;
	in->is_switch = true;
	in->handed_ns = page->entered_ns;
	in->stopped_ns = in->ended_ns = page->stopped_ns;
	return in->stopped_ns ? 0 : STEP_SKIPPED;
}

/* Which is over by now: the stand-in said so with the same word. */
int step_final_save(struct incoming *in, struct error *err)
{
	(void)err;
	in->ended_ns = in->link->page->saved_ns;
	return in->is_switch ? 0 : STEP_SKIPPED;
}

int step_final_load(struct incoming *in, struct error *err)
{
	int r = in->is_switch ? final_state_load(in->update->machine, in, err) : STEP_SKIPPED;

	if (r < 0)
		stand_in_link_refuse(in->link);
	return r;
}

int step_resume(struct incoming *in, struct error *err)
{
	struct machine *m = in->update->machine;
	int r = stand_in_link_commit(in->link, err);

	if (r < 0)
		return r;
	machine_unquiesce(m);
	if (m->guest.run_state != RUN_STATE_RUNNING)
		return STEP_SKIPPED;
	machine_unpark_vcpus(m);
	in->entered_ns = in->ended_ns = machine_wait_entered(m);
	return 0;
}

/*
 * The guest runs in this process again, on the binary it had: for everybody else the update failed.
 */
static void answer_failure(struct update *u, const struct incoming *in,
			   const struct update_wire *wire)
{
	struct update_request *req = &u->request;
	struct error err = ERROR_INIT;

	err_set(&err, EIO, "%s", in->failure);
	u->updates = wire->updates;
	u->last = update_unpack_last(wire);
	req->client = wire->client;
	req->kind = (enum update_kind)wire->kind;
	req->told_stop = true; /* or there would have been no exec */
	req->id = wire->id[0] ? strdup(wire->id) : NULL;
	update_restore_migrate(u, wire);
	update_failed(u, &err);
	unsetenv(UPDATE_ERROR_ENV);
}

static void answer(struct update *u, const struct update_wire *wire)
{
	void *opaque = u->ops.opaque;

	if (wire->kind == UPDATE_KIND_UPDATE) {
		u->ops.reply(opaque, wire->client, wire->id[0] ? wire->id : NULL,
			     json_incref(u->last), NULL);
	} else {
		if (u->machine->guest.run_state == RUN_STATE_RUNNING)
			u->ops.event(opaque, "RESUME", NULL);
		u->ops.event(opaque, "MIGRATION", json_pack("{s:s}", "status", "completed"));
	}
	u->ops.event(opaque, "UPDATE_COMPLETED", json_incref(u->last));
}

static void tell_end(struct update *u, const struct incoming *in)
{
	const struct update_wire *wire = in->wire;
	pid_t left = stand_in_link_left_process(in->link);

	if (left)
		log_warn("the guest runs in process %d, not in %d any more: the wrapper started molt as a "
			 "child and did not execute it",
			 (int)getpid(), (int)left);
	if (in->failure) {
		answer_failure(u, in, wire);
		return;
	}
	u->updates = wire->updates + 1;
	u->status = UPDATE_STATUS_COMPLETED;
	u->last = update_report(u, in);
	answer(u, wire);
	if (in->entered_ns)
		log_info("update %llu from %s: blackout %lld us", (unsigned long long)u->updates,
			 wire->version,
			 (long long)json_integer_value(json_object_get(u->last, "blackout-us")));
	else
		log_info("update %llu from %s, the guest being paused",
			 (unsigned long long)u->updates, wire->version);
}

static void tell_main_pid(struct update *u, struct incoming *in)
{
	int r = update_tell_main_pid(u, getpid(), 0);

	if (r == -EAGAIN && stand_in_link_have_told(in->link))
		u->teller = in->link->child.pid;
}

int step_tell(struct incoming *in, struct error *err)
{
	struct update *u = in->update;

	(void)err;
	machine_keep_awake(u->machine, false);
	tell_main_pid(u, in);
	tell_end(u, in);
	return 0;
}

/* The guest runs, and nobody waits for this. */
int step_after(struct incoming *in, struct error *err)
{
	struct update *u = in->update;
	const cpu_set_t *usual = update_usual_cpus(in);
	cpu_set_t spare;

	(void)err;
	if (usual)
		thread_set_cpus(usual);
	machine_forget_rehearsal(u->machine);
	machine_fast_paths(u->machine, true);
	stand_in_link_release(in->link, machine_spare_cpus(u->machine, &spare) ? &spare : NULL);
	update_keep_stand_in(u, &in->link->child);
	for (uint32_t i = 0; i < in->wire->nguardians; i++) {
		struct child older = { .pid = (pid_t)in->wire->guardians[i], .fd = -1 };

		update_keep_stand_in(u, &older);
	}
	in->ops->after(in->opaque, in);
	return 0;
}
