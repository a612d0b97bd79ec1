/* SPDX-License-Identifier: MIT */
/*
 * The predecessor's steps, in the order of the table in steps.c. Theory of operation.
 *
 * Everything that can be known or made before the pause is made before it: the successor is looked
 * up, the state file opened and its disk space reserved, memory for the stream and the fd table
 * allocated. Between `pause` and `hand-off` (in the old order: and the exec) the guest does not
 * run, and nothing is done there that could as well be done elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"
#include "room.h"
#include "steps.h"

#define MANAGER_NS 2500000000ull /* for a service manager, less than REST_NS */
#define UNDO_TELL_MS 3000        /* a service manager that would take the stand-in's end for ours */
#define STATE_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)

/* Our own section is known before the pause: who asked, and how to start us again. */
int step_prepare(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	struct update_request *req = &u->request;
	struct update_wire *wire = calloc(1, sizeof(*wire));
	int r;

	h->wire = wire;
	if (!wire)
		return err_set(err, ENOMEM, "no memory for the update's state");
	if (req->id)
		strcpy(wire->id, req->id);
	wire->client = req->client;
	wire->kind = req->kind;
	wire->keep_io = req->keep_io;
	wire->updates = u->updates;
	update_pack_last(u->last, wire);
	if (update_reap_stand_ins(u, wire, err) < 0)
		return -EBUSY;
	r = room_prepare(u, err);
	if (r < 0)
		return r;
	memcpy(wire->version, u->self->version,
	       strnlen(u->self->version, sizeof(wire->version) - 1));
	if (update_self_pack(u->self, wire, err) < 0)
		return -E2BIG;
	r = handover_prepare(h, req, u->self, u->machine->guest.cpus, err);
	if (r == 0)
		u->ops.flush(u->ops.opaque);
	if (r == 0 && handover_command(req, u->self))
		r = update_pack_command(h->argv[0], handover_command(req, u->self), wire, err);
	return r;
}

void undo_prepare(struct update *u)
{
	handover_fini(&u->hand_over);
	free(u->hand_over.wire);
	u->hand_over.wire = NULL;
	update_watch_stand_ins(u);
}

int step_check(struct update *u, struct error *err)
{
	int r;

	u->hand_over.stops_guest = machine_hands_over_slowly(u->machine);
	if (u->request.no_check && !u->request.check_only)
		return STEP_SKIPPED;
	r = check_start(u, err);
	return r < 0 ? r : STEP_WAITS;
}

void undo_check(struct update *u)
{
	check_end(u);
}

/* From here on there is an update, which succeeds or fails, and not only a question. */
int step_announce(struct update *u, struct error *err)
{
	struct update_request *req = &u->request;

	(void)err;
	if (req->kind != UPDATE_KIND_MIGRATE)
		return 0;
	u->ops.event(u->ops.opaque, "MIGRATION", json_pack("{s:s}", "status", "active"));
	req->told_stop = u->machine->guest.run_state == RUN_STATE_RUNNING;
	if (req->told_stop)
		u->ops.event(u->ops.opaque, "STOP", NULL);
	return 0;
}

/* They cost up to milliseconds, and the guest runs on without. */
int step_slow_paths(struct update *u, struct error *err)
{
	(void)err;
	machine_fast_paths(u->machine, false);
	return 0;
}

void undo_slow_paths(struct update *u)
{
	machine_fast_paths(u->machine, true);
}

/* Whoever was too busy to hear of this process in the last update hears of it from its stand-in. */
static bool is_untold(struct update *u)
{
	if (u->teller && !update_has_stand_in(u, u->teller))
		u->teller = 0;
	return u->teller;
}

/* -EBUSY: not yet. The log's reader has a moment, a file system until REST_NS is over. */
static int rest(struct update *u, struct error *err)
{
	int r;

	if (!log_drain(0) && now_ns() < u->hand_over.rest_since_ns + LOG_DRAIN_MS * 1000000ull)
		return err_set(err, EBUSY, "the log is being written");
	if (!way_back_is_forgotten(u))
		return err_set(err, EBUSY,
			       "what the last update left is not closed: a file system hangs");
	if (is_untold(u)) /* his word would come after those of this update */
		return err_set(err, EBUSY, "the service manager does not read what it is told");
	if (!u->ops.can_tell_main_pid(u->ops.opaque) &&
	    now_ns() < u->hand_over.rest_since_ns + MANAGER_NS)
		return err_set(err, EBUSY, "the service manager is busy");
	r = log_before_exec(err);
	return r < 0 ? r : machine_rest(u->machine, err);
}

static void look_again(struct update *u);

static void try_to_rest(void *opaque)
{
	struct update *u = opaque;
	struct error err = ERROR_INIT;
	int r = rest(u, &err);

	if (r == -EBUSY && now_ns() < u->hand_over.rest_since_ns + REST_NS)
		look_again(u);
	else
		u->server->waited(u, r < 0 ? &err : NULL);
}

static void look_again(struct update *u)
{
	loop_timer_set(u->machine->loop, &u->hand_over.rest, now_ns() + REST_LOOK_NS, try_to_rest,
		       u);
}

/* The event loop goes on meanwhile, with the guest's timers. */
int step_rest(struct update *u, struct error *err)
{
	int r;

	u->hand_over.rest_since_ns = now_ns();
	r = rest(u, err);
	if (r != -EBUSY)
		return r;
	look_again(u);
	return STEP_WAITS;
}

void undo_rest(struct update *u)
{
	loop_timer_cancel(&u->hand_over.rest);
	machine_go_on(u->machine);
}

static void somebody_waits(void *opaque)
{
	stand_in_hurry(&((struct update *)opaque)->hand_over.stand_in);
}

/*
 * A successor that dies must not be taken for a service that died. Nobody who does not listen keeps
 * the guest from being updated.
 */
static void tell_main_pid(struct update *u, pid_t pid)
{
	int r = update_tell_main_pid(u, pid, 0);

	atomic_store(&u->hand_over.stand_in.page->is_main, r == 0);
}

/*
 * From here on nobody turns the event loop in this process, and the stand-in is to serve nobody who
 * could change a descriptor.
 */
int step_stand_in(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	struct stand_in_ground ground = h->stand_in.ground;
	int r = h->stops_guest ? 0 : final_state_make(u, err);

	if (r < 0)
		return r;
	loop_hold(u->machine->loop, somebody_waits, u);
	h->stand_in = STAND_IN_NONE;
	h->stand_in.ground = ground;
	h->stand_in.ops = &update_stand_in_ops;
	h->stand_in.opaque = u;
	h->stand_in.loop = u->machine->loop;
	h->stand_in.deadline_ms = !u->request.timeout_given && h->stops_guest
					  ? STAND_IN_STOPPED_DEADLINE_MS
					  : u->request.timeout_ms;
	log_rest();
	r = stand_in_start(&h->stand_in, err);
	if (r == 0)
		tell_main_pid(u, h->stand_in.child.pid);
	return r;
}

void undo_stand_in(struct update *u)
{
	const struct stand_in *s = &u->hand_over.stand_in;
	struct error err = ERROR_INIT;

	/* From here on nothing is sent to the stand-in, which passes on what was: so this is first.
	 */
	if (s->page && atomic_load(&s->page->is_main))
		update_tell_main_pid(u, getpid(), s->is_self ? 0 : UNDO_TELL_MS);
	stand_in_dismiss(&u->hand_over.stand_in);
	update_keep_stand_in(u, &u->hand_over.stand_in.child);
	u->hand_over.stand_in.child = CHILD_NONE;
	machine_forget_stand_in(u->machine);
	loop_release(u->machine->loop);
	if (log_start(&err) < 0)
		log_error("the log is written by whoever has something to say: %s", err.text);
}

/*
 * For a rehearsal the state of a vCPU is good enough that it has some time before the others stop,
 * and then only devices are left to be saved in the pause. A vCPU that is alone would stop twice
 * for it.
 */
int step_read_vcpus(struct update *u, struct error *err)
{
	const struct machine *m = u->machine;
	struct hand_over *h = &u->hand_over;
	bool reads = m->guest.cpus > 1;
	int r;

	if (h->stops_guest || m->guest.run_state != RUN_STATE_RUNNING)
		return STEP_SKIPPED;
	r = reads ? machine_read_vcpus(u->machine, err) : 0;
	if (r == 0 && handover_keep_off(&u->hand_over, u->machine))
		machine_prepare_vcpus(u->machine, u->machine->stand_in, &h->stand_in.page->free);
	return r < 0 || reads ? r : STEP_SKIPPED;
}

void undo_read_vcpus(struct update *u)
{
	keep_off_end(&u->hand_over.keep_off);
	machine_forget_reading(u->machine);
}

/*
 * With all vCPUs parked the guest is in KVM and in memory, and in nobody's registers: if this
 * process dies or hangs from here on, the stand-in has it. So nothing from here to the exec may
 * leave shared memory in a state that the stand-in cannot live with: no allocation (malloc's lock
 * would die with us), and no lock but those that machine_take_back() makes anew.
 */
int step_pause(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	int r = 0;

	/* Paused by the user: it stays so, and there is no blackout to measure. */
	if (u->machine->guest.run_state == RUN_STATE_RUNNING) {
		h->parked = true;
		/* Who helps with the reading. In the new order the vCPUs have been read. */
		machine_keep_awake(u->machine, h->stops_guest);
		r = machine_park_in_time(u->machine, h->stops_guest ? NULL : u->machine->stand_in,
					 &h->fds->stopped_ns, err);
	}
	if (r == 0)
		stand_in_arm(&h->stand_in, false);
	return r;
}

void undo_pause(struct update *u)
{
	machine_keep_awake(u->machine, false);
	if (u->hand_over.parked)
		machine_unpark_vcpus(u->machine);
	u->hand_over.parked = false;
}

int step_quiesce(struct update *u, struct error *err)
{
	return machine_quiesce(u->machine, err);
}

void undo_quiesce(struct update *u)
{
	machine_unquiesce(u->machine);
}

/* A stream that its own writer cannot read must not be the guest's last word. */
static int verify(struct hand_over *h, struct error *err)
{
	int r = stream_parse_reserved(&h->verified, h->w.data, h->w.len, err);

	if (r < 0)
		err_prefix(err, "the state that was just written is bad");
	return r;
}

static int write_state(const struct hand_over *h, struct error *err)
{
	int r;

	if (lseek(h->state_fd, 0, SEEK_SET) < 0)
		return err_sys(err, errno, "state in memory");
	r = fd_write_all(h->state_fd, h->w.data, h->w.len);
	if (r == 0 && fcntl(h->state_fd, F_ADD_SEALS, STATE_SEALS) < 0)
		r = -errno;
	return r < 0 ? err_sys(err, -r, "writing %zu bytes of state to memory", h->w.len) : 0;
}

int step_save(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	struct machine *m = u->machine;
	struct stream_header header = { .machine_version = m->machine_version };
	int r;

	memcpy(header.producer, u->self->version,
	       strnlen(u->self->version, sizeof(header.producer) - 1));
	memcpy(header.uuid, m->uuid, sizeof(header.uuid));
	memcpy(header.nonce, h->fds->nonce, sizeof(header.nonce));
	stream_begin(&h->w, &header);
	r = u->ops.save(u->ops.opaque, &h->w, h->fds, false, err);
	if (r == 0)
		r = stream_end(&h->w, err);
	if (r == 0)
		r = verify(h, err);
	if (r == 0)
		r = write_state(h, err);
	return r;
}

/* The guest runs on there, if it is to. In the old order it stays stopped until the commit. */
int step_hand_off(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	struct machine *m = u->machine;

	(void)err;
	if (h->stops_guest)
		return 0;
	machine_hand_over(m);
	stand_in_hand_over(&h->stand_in);
	h->handed_over = true;
	if (h->parked)
		machine_unpark_vcpus(m);
	machine_keep_awake(m, false);
	sched_yield(); /* where there is one CPU alone, what follows would keep the stand-in off it */
	return 0;
}

/* stand_in_disarm() has brought it back, stopped. */
void undo_hand_off(struct update *u)
{
	struct hand_over *h = &u->hand_over;

	if (h->handed_over && !h->stand_in.is_self)
		machine_hand_back(u->machine);
	if (h->stand_in.is_gone)
		machine_lose_stand_in(u->machine);
	h->handed_over = false;
}

int step_handover(struct update *u, struct error *err)
{
	return handover_write(&u->hand_over, err);
}

void undo_handover(struct update *u)
{
	handover_undo(&u->hand_over);
}

int step_exec(struct update *u, struct error *err)
{
	return handover_exec(&u->hand_over, u->machine, err);
}
