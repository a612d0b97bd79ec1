/* SPDX-License-Identifier: MIT */
/*
 * The predecessor's half of an update, as a table of stages. Theory of operation.
 *
 * Each stage has a `do` and an `undo`. If a stage fails, its own undo and those of all stages
 * before it run, last first, and the guest runs on as if nothing had been asked. So every undo must
 * cope with a `do` that stopped anywhere. The last stage execs and so never returns in success;
 * from there the successor has the word (incoming.c).
 *
 * Everything that can be known or made before the pause is made before it: the successor is looked
 * up, the state file opened and its disk space reserved, memory for the stream and the fd table
 * allocated. Between pause and exec the guest does not run, and nothing is done there that could as
 * well be done elsewhere.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"
#include "room.h"

#define STATE_SEALS (F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW)
#define REBORN_TRIES 20
#define REBORN_PAUSE_US 10000

struct stage {
	const char *name;
	int (*run)(struct update *u, struct error *err);
	void (*undo)(struct update *u);
};

void update_mark(struct fdtable *fds, const char *name, uint64_t start_ns, uint64_t end_ns)
{
	struct update_mark *mark;

	if (fds->nmarks == UPDATE_MARKS_MAX)
		return;
	mark = &fds->marks[fds->nmarks++];
	memset(mark, 0, sizeof(*mark));
	memcpy(mark->name, name, strnlen(name, sizeof(mark->name) - 1));
	mark->start_ns = start_ns;
	mark->end_ns = end_ns;
}

/* Our own section is known before the pause: who asked, and how to start us again. */
static int do_prepare(struct update *u, struct error *err)
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

static void undo_prepare(struct update *u)
{
	handover_fini(&u->hand_over);
	free(u->hand_over.wire);
	u->hand_over.wire = NULL;
}

/* They cost up to milliseconds, and the guest runs on without. */
static int do_slow_paths(struct update *u, struct error *err)
{
	(void)err;
	machine_fast_paths(u->machine, false);
	return 0;
}

static void undo_slow_paths(struct update *u)
{
	machine_fast_paths(u->machine, true);
}

/* ---- in the stand-in: see struct stand_in_ops ---- */

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

static void somebody_waits(void *opaque)
{
	stand_in_hurry(&((struct update *)opaque)->hand_over.stand_in);
}

static void run(void *opaque)
{
	const struct update *u = opaque;

	u->ops.run_on(u->ops.opaque);
}

static const struct stand_in_ops stand_in_ops = {
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

/*
 * From here on nobody turns the event loop in this process, and the stand-in is to serve nobody who
 * could change a descriptor.
 */
static int do_stand_in(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	int r = h->stops_guest ? 0 : final_state_make(u, err);

	if (r < 0)
		return r;
	loop_hold(u->machine->loop, somebody_waits, u);
	h->stand_in = STAND_IN_NONE;
	h->stand_in.ops = &stand_in_ops;
	h->stand_in.opaque = u;
	h->stand_in.loop = u->machine->loop;
	h->stand_in.deadline_ms = !u->request.timeout_given && h->stops_guest
					  ? STAND_IN_STOPPED_DEADLINE_MS
					  : u->request.timeout_ms;
	log_rest();
	r = machine_rest(u->machine, err);
	if (r == 0)
		r = stand_in_start(&h->stand_in, err);
	/* A successor that dies must not be taken for a service that died. */
	if (r == 0)
		u->ops.main_pid(u->ops.opaque, h->stand_in.child.pid);
	return r;
}

static void undo_stand_in(struct update *u)
{
	struct error err = ERROR_INIT;

	stand_in_dismiss(&u->hand_over.stand_in);
	machine_forget_stand_in(u->machine);
	loop_release(u->machine->loop);
	if (log_start(&err) < 0)
		log_error("the log is written by whoever has something to say: %s", err.text);
	u->ops.main_pid(u->ops.opaque, getpid());
}

/*
 * With all vCPUs parked the guest is in KVM and in memory, and in nobody's registers: if this
 * process dies or hangs from here on, the stand-in has it. So nothing from here to the exec may leave
 * shared memory in a state that the stand-in cannot live with: no allocation (malloc's lock would die
 * with us), and no lock but those that machine_take_back() makes anew.
 */
static int do_pause(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;

	(void)err;
	/* Paused by the user: it stays so, and there is no blackout to measure. */
	if (u->machine->guest.run_state == RUN_STATE_RUNNING) {
		h->parked = true;
		machine_keep_awake(u->machine, true);
		h->fds->stopped_ns = machine_park_vcpus(u->machine);
	}
	stand_in_arm(&h->stand_in, false);
	return 0;
}

static void undo_pause(struct update *u)
{
	machine_keep_awake(u->machine, false);
	if (u->hand_over.parked)
		machine_unpark_vcpus(u->machine);
	u->hand_over.parked = false;
}

static int do_quiesce(struct update *u, struct error *err)
{
	return machine_quiesce(u->machine, err);
}

static void undo_quiesce(struct update *u)
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

static int do_save(struct update *u, struct error *err)
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
	r = machine_save(m, &h->w, h->fds, err);
	if (r == 0)
		vmstate_save(&h->w, &update_vmstate, 0, h->wire);
	if (r == 0)
		r = u->ops.save(u->ops.opaque, &h->w, h->fds, err);
	if (r == 0)
		r = stream_end(&h->w, err);
	if (r == 0)
		r = verify(h, err);
	if (r == 0)
		r = write_state(h, err);
	return r;
}

/* The guest runs on there, if it is to. In the old order it stays stopped until the commit. */
static int do_hand_off(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	struct machine *m = u->machine;

	(void)err;
	if (h->stops_guest)
		return 0;
	machine_keep_awake(m, false);
	machine_hand_over(m);
	stand_in_hand_over(&h->stand_in);
	h->handed_over = true;
	if (h->parked)
		machine_unpark_vcpus(m);
	return 0;
}

/* stand_in_disarm() has brought it back, stopped. */
static void undo_hand_off(struct update *u)
{
	struct hand_over *h = &u->hand_over;

	if (h->handed_over && !h->stand_in.is_self)
		machine_hand_back(u->machine);
	if (h->stand_in.is_gone)
		machine_lose_stand_in(u->machine);
	h->handed_over = false;
}

static int do_handover(struct update *u, struct error *err)
{
	return handover_write(&u->hand_over, err);
}

static void undo_handover(struct update *u)
{
	handover_undo(&u->hand_over);
}

static int do_exec(struct update *u, struct error *err)
{
	return handover_exec(&u->hand_over, u->machine, err);
}

static const struct stage stages[] = {
	{ "prepare", do_prepare, undo_prepare },
	{ "slow paths", do_slow_paths, undo_slow_paths },
	{ "stand-in", do_stand_in, undo_stand_in },
	{ "pause", do_pause, undo_pause },
	{ "quiesce", do_quiesce, undo_quiesce },
	{ "save", do_save, NULL },
	{ "hand-off", do_hand_off, undo_hand_off },
	{ "handover", do_handover, undo_handover },
	{ "exec", do_exec, NULL },
};

static void undo_from(struct update *u, size_t failed)
{
	/* First of all: whatever is undone, two must not do it. */
	stand_in_disarm(&u->hand_over.stand_in);
	for (size_t i = failed + 1; i-- > 0;)
		if (stages[i].undo)
			stages[i].undo(u);
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
	undo_from(u, ARRAY_SIZE(stages) - 1);
	hears = catch_signals(u, &deaf);
	log_warn("the stand-in runs the guest on: process %d", (int)getpid());
	update_failed(u, &err);
	if (!hears && !catch_signals(u, &deaf))
		log_error("the guest runs on, but signals do not reach it: %s", deaf.text);
}

static int run_stage(struct update *u, size_t i, struct error *err)
{
	uint64_t start = now_ns();
	int r = stages[i].run(u, err);

	if (r < 0) {
		err_prefix(err, "%s", stages[i].name);
		undo_from(u, i);
		return r;
	}
	update_mark(u->hand_over.fds, stages[i].name, start, now_ns());
	return 0;
}

int update_prepare(struct update *u, struct error *err)
{
	return run_stage(u, 0, err);
}

void update_unprepare(struct update *u)
{
	undo_from(u, 0);
}

int update_run_stages(struct update *u, struct error *err)
{
	for (size_t i = 1; i < ARRAY_SIZE(stages); i++) {
		int r = run_stage(u, i, err);

		if (r < 0)
			return r;
	}
	return err_set(err, EIO, "exec returned without an error");
}
