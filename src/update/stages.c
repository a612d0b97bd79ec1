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
	struct update_wire *wire = calloc(1, sizeof(*wire));
	int r;

	u->wire = wire;
	if (!wire)
		return err_set(err, ENOMEM, "no memory for the update's state");
	if (u->id)
		strcpy(wire->id, u->id);
	wire->client = u->client;
	wire->kind = u->kind;
	wire->keep_io = u->keep_io;
	wire->updates = u->updates;
	if (update_reap_guardians(u, err) < 0)
		return -EBUSY;
	memcpy(wire->version, u->self->version,
	       strnlen(u->self->version, sizeof(wire->version) - 1));
	if (update_self_pack(u->self, wire, err) < 0)
		return -E2BIG;
	r = handover_prepare(u, err);
	if (r == 0 && handover_command(u))
		r = update_pack_command(u->argv[0], handover_command(u), wire, err);
	return r;
}

static void undo_prepare(struct update *u)
{
	handover_fini(u);
	free(u->wire);
	u->wire = NULL;
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

static int do_guard(struct update *u, struct error *err)
{
	int r;

	u->guardian.deadline_ms = u->timeout_ms;
	u->guardian.take_back = update_take_back;
	u->guardian.committed = update_committed;
	u->guardian.opaque = u;
	r = guardian_start(&u->guardian, err);
	/* A successor that dies must not be taken for a service that died. */
	if (r == 0)
		u->ops.main_pid(u->ops.opaque, u->guardian.child.pid);
	return r;
}

static void undo_guard(struct update *u)
{
	guardian_dismiss(&u->guardian);
	u->ops.main_pid(u->ops.opaque, getpid());
}

/*
 * With all vCPUs parked the guest is in KVM and in memory, and in nobody's registers: if this
 * process dies or hangs from here on, the guardian can take it back. So nothing from here to the
 * exec may leave shared memory in a state that the guardian cannot live with: no allocation
 * (malloc's lock would die with us), and no lock but those that machine_revive() makes anew.
 */
static int do_pause(struct update *u, struct error *err)
{
	(void)err;
	/* Paused by the user: it stays so, and there is no blackout to measure. */
	if (u->machine->guest.run_state == RUN_STATE_RUNNING) {
		u->parked = true;
		machine_keep_awake(u->machine, true);
		u->fds->stopped_ns = machine_park_vcpus(u->machine);
	}
	guardian_arm(&u->guardian, false);
	return 0;
}

static void undo_pause(struct update *u)
{
	machine_keep_awake(u->machine, false);
	if (u->parked)
		machine_unpark_vcpus(u->machine);
	u->parked = false;
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
static int verify(struct update *u, struct error *err)
{
	int r = stream_parse_reserved(&u->verified, u->w.data, u->w.len, err);

	if (r < 0)
		err_prefix(err, "the state that was just written is bad");
	return r;
}

static int write_state(struct update *u, struct error *err)
{
	int r;

	if (lseek(u->state_fd, 0, SEEK_SET) < 0)
		return err_sys(err, errno, "state in memory");
	r = fd_write_all(u->state_fd, u->w.data, u->w.len);
	if (r == 0 && fcntl(u->state_fd, F_ADD_SEALS, STATE_SEALS) < 0)
		r = -errno;
	return r < 0 ? err_sys(err, -r, "writing %zu bytes of state to memory", u->w.len) : 0;
}

static int do_save(struct update *u, struct error *err)
{
	struct machine *m = u->machine;
	struct stream_header header = { .machine_version = m->machine_version };
	int r;

	memcpy(header.producer, u->self->version,
	       strnlen(u->self->version, sizeof(header.producer) - 1));
	memcpy(header.uuid, m->uuid, sizeof(header.uuid));
	memcpy(header.nonce, u->fds->nonce, sizeof(header.nonce));
	stream_begin(&u->w, &header);
	r = machine_save(m, &u->w, u->fds, err);
	if (r == 0)
		vmstate_save(&u->w, &update_vmstate, 0, u->wire);
	if (r == 0)
		r = u->ops.save(u->ops.opaque, &u->w, u->fds, err);
	if (r == 0)
		r = stream_end(&u->w, err);
	if (r == 0)
		r = verify(u, err);
	if (r == 0)
		r = write_state(u, err);
	return r;
}

static const struct stage stages[] = {
	{ "prepare", do_prepare, undo_prepare },
	{ "slow paths", do_slow_paths, undo_slow_paths },
	{ "guard", do_guard, undo_guard },
	{ "pause", do_pause, undo_pause },
	{ "quiesce", do_quiesce, undo_quiesce },
	{ "save", do_save, NULL },
	{ "handover", handover_write, handover_undo },
	{ "exec", handover_exec, NULL },
};

static void undo_from(struct update *u, size_t failed)
{
	/* First of all: whatever is undone, two must not do it. */
	guardian_disarm(&u->guardian);
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

/*
 * Rather than lose it, the guest waits for threads as long as it takes, and its client knows why.
 */
static void wait_for_vcpus(struct update *u, bool ran)
{
	struct error err = ERROR_INIT;

	while (machine_revive_vcpus(u->machine, &err) < 0)
		log_error("the guest waits: %s", err.text);
	log_info("all vCPUs have their threads again");
	if (ran)
		machine_unpark_vcpus(u->machine);
}

void update_take_back(void *opaque)
{
	struct update *u = opaque;
	struct error err = ERROR_INIT, trouble = ERROR_INIT, deaf = ERROR_INIT;
	bool ran = u->parked, alive, hears;

	log_revive();
	alive = machine_revive(u->machine, &trouble) == 0;
	err_set(&err, EIO, "%s%s%s", u->guardian.page->reason,
		alive ? "" : "; on the way back the guest waits: ", alive ? "" : trouble.text);
	if (!alive)
		u->parked = false; /* by halves it must not run */
	undo_from(u, ARRAY_SIZE(stages) - 1);
	hears = catch_signals(u, &deaf);
	log_warn("the guardian %s: process %d", alive ? "runs the guest on" : "has the guest",
		 (int)getpid());
	update_failed(u, &err);
	if (!alive)
		wait_for_vcpus(u, ran);
	if (!hears && !catch_signals(u, &deaf))
		log_error("the guest runs on, but signals do not reach it: %s", deaf.text);
	u->ops.run_on(u->ops.opaque);
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
	update_mark(u->fds, stages[i].name, start, now_ns());
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
