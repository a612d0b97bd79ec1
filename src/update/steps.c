/* SPDX-License-Identifier: MIT */
/*
 * An update, from top to bottom. Theory of operation.
 *
 * The table below is the update: both sides run it, each its own column. What each step does stands
 * in words in docs/live-update.md, its code in predecessor.c or successor.c.
 *
 * Each step of the predecessor has a `do` and an `undo`. If one fails, its own undo and those of
 * all steps before it run, last first, and the guest runs on as if nothing had been asked. So every
 * undo must cope with a `do` that stopped anywhere. `exec` never returns in success.
 *
 * Its row is the one where the sides change: the successor goes on in it, and then with the rows
 * below. If one of its steps fails it gives back (way_back.c). If it does not even come to that,
 * the stand-in takes back: it undoes the predecessor's steps, whose memory it has (take_back.c).
 * After `resume`, in which the guest becomes the successor's, nothing can fail.
 *
 * The loops note when each step began and ended, for the report (report.c): the predecessor's notes
 * travel in the fd table. A step that another process did says when that was.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/probe.h>

#include "internal.h"
#include "steps.h"

struct step {
	const char *name;
	int (*predecessor)(struct update *u, struct error *err);
	void (*undo)(struct update *u);
	int (*successor)(struct incoming *in, struct error *err);
};

/* clang-format off */
static const struct step steps[] = {
	/* name         predecessor's do  its undo          successor's do */

	/* The guest runs in the predecessor. */
	{ "prepare",    step_prepare,     undo_prepare,     NULL },
	{ "check",      step_check,       undo_check,       NULL },
	{ "rest",       step_rest,        undo_rest,        NULL },
	{ "announce",   step_announce,    NULL,             NULL },
	{ "slow paths", step_slow_paths,  undo_slow_paths,  NULL },
	{ "stand-in",   step_stand_in,    undo_stand_in,    NULL },
	{ "read vCPUs", step_read_vcpus,  undo_read_vcpus,  NULL },

	/* It does not run. */
	{ "pause",      step_pause,       undo_pause,       NULL },
	{ "quiesce",    step_quiesce,     undo_quiesce,     NULL },
	{ "save",       step_save,        NULL,             NULL },
	{ "hand-off",   step_hand_off,    undo_hand_off,    NULL },

	/* It runs in the stand-in; in the old order it does not. */
	{ "handover",   step_handover,    undo_handover,    NULL },
	{ "exec",       step_exec,        NULL,             step_arrive },
	{ "adopt",      NULL,             NULL,             step_adopt },
	{ "build",      NULL,             NULL,             step_build },
	{ "map RAM",    NULL,             NULL,             step_map_ram },

	/* It does not run: the stand-in stops and saves it. */
	{ "stop",       NULL,             NULL,             step_stop },
	{ "final save", NULL,             NULL,             step_final_save },
	{ "final load", NULL,             NULL,             step_final_load },
	{ "resume",     NULL,             NULL,             step_resume },

	/* It runs in the successor. */
	{ "tell",       NULL,             NULL,             step_tell },
	{ "after",      NULL,             NULL,             step_after },
};
/* clang-format on */

static void mark(struct fdtable *fds, const char *name, uint64_t start_ns, uint64_t end_ns)
{
	struct update_mark *m;

	if (fds->nmarks == UPDATE_MARKS_MAX)
		return;
	m = &fds->marks[fds->nmarks++];
	memset(m, 0, sizeof(*m));
	memcpy(m->name, name, strnlen(name, sizeof(m->name) - 1));
	m->start_ns = start_ns;
	m->end_ns = end_ns;
}

/* ---- the predecessor's column ---- */

void update_undo(struct update *u)
{
	/* First of all: whatever is undone, two must not do it. */
	stand_in_disarm(&u->hand_over.stand_in);
	for (size_t i = u->hand_over.step + 1; i-- > 0;)
		if (steps[i].undo)
			steps[i].undo(u);
}

/* At whatever step the predecessor ended: devices that were made anew are to be resumed in any
 * case. */
void update_undo_all(struct update *u)
{
	u->hand_over.step = ARRAY_SIZE(steps) - 1;
	update_undo(u);
}

int update_step_over(struct update *u, int r, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	const struct step *step = &steps[h->step];

	PROBE2(step_end, step->name, r);
	if (r < 0) {
		err_prefix(err, "%s", step->name);
		update_undo(u);
	} else if (r != STEP_SKIPPED) {
		mark(h->fds, step->name, h->step_ns, now_ns());
	}
	return r;
}

static int run_from(struct update *u, size_t first, struct error *err)
{
	struct hand_over *h = &u->hand_over;

	for (h->step = first; h->step < ARRAY_SIZE(steps) && steps[h->step].predecessor;
	     h->step++) {
		int r;

		h->step_ns = now_ns();
		PROBE1(step_begin, steps[h->step].name);
		r = steps[h->step].predecessor(u, err);
		if (r == STEP_WAITS)
			return r;
		r = update_step_over(u, r, err);
		if (r < 0)
			return r;
	}
	return err_set(err, EIO, "exec returned without an error");
}

int update_run_steps(struct update *u, struct error *err)
{
	return run_from(u, 0, err);
}

int update_go_on(struct update *u, struct error *err)
{
	return run_from(u, u->hand_over.step + 1, err);
}

/* ---- the successor's column ---- */

/* Each begins when the one before has ended, and no moment is left out. */
static int run_step(struct incoming *in, const struct step *step, struct error *err)
{
	int r;

	in->ended_ns = 0;
	PROBE1(step_begin, step->name);
	r = step->successor(in, err);
	PROBE2(step_end, step->name, r);
	if (r != 0)
		return r;
	if (!in->ended_ns)
		in->ended_ns = now_ns();
	mark(in->fds, step->name, in->began_ns, in->ended_ns);
	in->began_ns = in->ended_ns;
	return 0;
}

int update_take_over(struct incoming *in, const struct take_over_ops *ops, void *opaque,
		     struct error *err)
{
	int r = 0;

	in->ops = ops;
	in->opaque = opaque;
	in->table_fd = -1;
	for (size_t i = 0; i < ARRAY_SIZE(steps) && r >= 0; i++)
		if (steps[i].successor)
			r = run_step(in, &steps[i], err);
	return r < 0 ? r : 0;
}
