/* SPDX-License-Identifier: MIT */
/*
 * Where an update stands, told by molt's own functions: each is wrapped like a library call, notes
 * the stage, and goes on. Only calls from another source file than the function's own come by here.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/control/control.h>
#include <molt/update/update.h>

#include "src/update/steps.h"

#include "faults.h"

#define SLOW_LOOKS 10

/* STAGE(type, name, (parameters), (arguments), action before, action after) */
#define STAGE(type, name, params, args, before, after) \
	type __real_##name params; \
	type __wrap_##name params; \
	type __wrap_##name params \
	{ \
		type r; \
		before; \
		r = __real_##name args; \
		after; \
		return r; \
	}
#define VOID_STAGE(name, params, args, before, after) \
	void __real_##name params; \
	void __wrap_##name params; \
	void __wrap_##name params \
	{ \
		before; \
		__real_##name args; \
		after; \
	}
#define REPLACED(type, name, params, unused, result) \
	type __wrap_##name params; \
	type __wrap_##name params \
	{ \
		unused; \
		return result; \
	}

static bool on(const char *side)
{
	return faults_now() && strcmp(faults_now_side(), side) == 0;
}

static void predecessor(const char *stage)
{
	if (on("predecessor"))
		faults_stage(stage);
}

/*
 * A vCPU thread's sandbox would not let it tell of points, nor look for one that is armed. Main's
 * is what an update has to cope with, and in force; MOLT_FAULTS_DIR must be one that it may write
 * to.
 */
REPLACED(int, sandbox_enter_thread, (struct error * err), (void)err, 0)

/* Who this image is. A molt that starts cold is nobody in an update until it is asked for one. */
__attribute__((constructor)) static void start(void)
{
	if (!getenv("MOLT_FAULTS_DIR"))
		return;
	if (getenv("MOLT_CHECK"))
		faults_begin("check", "start");
	else if (getenv("MOLT_FDTABLE"))
		faults_begin(getenv("MOLT_UPDATE_ERROR") ? "way-back" : "successor", "start");
}

/* ---- the predecessor ---- */

STAGE(int, step_prepare, (struct update * u, struct error *err), (u, err),
      faults_begin("predecessor", "prepare"), (void)0)
STAGE(int, check_start, (struct update * u, struct error *err), (u, err), predecessor("check"),
      if (r == 0) faults_pause())

static bool is_answer(const char *name)
{
	return strcmp(name, "the successor's answer") == 0;
}

/* A successor that does not say that it knows a stand-in is one that takes a stopped guest. */
static void choose_order(char *answer, size_t len)
{
	char *word = faults_old_order() ? memmem(answer, len, "stand-in", 8) : NULL;

	if (word)
		memcpy(word, "unsaid..", 8);
}

/* Not the event loop's: the child has ended. */
STAGE(int, fd_read_file,
      (int fd, const char *name, size_t max, void **buf, size_t *len, struct error *err),
      (fd, name, max, buf, len, err), if (is_answer(name)) faults_side("predecessor", "answer"),
      if (r == 0 && is_answer(name)) choose_order(*buf, *len))

/* Who waits for it is not seen: the event loop serves others then. */
static void rested(int r)
{
	if (r == -EBUSY)
		faults_pause();
	else if (r == 0 && faults_now_side() && strcmp(faults_now_side(), "predecessor") == 0)
		faults_side("predecessor", "rest");
}

/*
 * Where somebody wants it, for so many looks that the event loop has served what had come, also on
 * a slow host: it serves one event between two.
 */
static bool output_is_slow(void)
{
	static int looks;

	if (on("predecessor") && faults_slow_output()) {
		looks = SLOW_LOOKS;
		rested(-EBUSY);
	}
	return looks && looks--;
}

STAGE(int, machine_rest, (struct machine * m, struct error *err), (m, err),
      if (output_is_slow()) return -EBUSY, rested(r))
STAGE(int, stand_in_start, (struct stand_in * s, struct error *err), (s, err),
      predecessor("stand-in"), if (r == 0) faults_note_stand_in(s->child.pid))
STAGE(int, machine_read_vcpus, (struct machine * m, struct error *err), (m, err),
      predecessor("read-vcpus"), (void)0)
STAGE(int, machine_park_in_time,
      (struct machine * m, struct crew *next, uint64_t *stopped_ns, struct error *err),
      (m, next, stopped_ns, err), predecessor("pause"), (void)0)
STAGE(int, machine_quiesce, (struct machine * m, struct error *err), (m, err),
      predecessor("quiesce"), (void)0)
STAGE(int, machine_save,
      (struct machine * m, struct stream_writer *w, struct fdtable *fds, struct error *err),
      (m, w, fds, err), predecessor("save"), (void)0)
STAGE(int, handover_write, (struct hand_over * h, struct error *err), (h, err),
      predecessor("handover"), (void)0)
STAGE(int, handover_exec, (struct hand_over * h, struct machine *m, struct error *err), (h, m, err),
      predecessor("exec"), (void)0)
VOID_STAGE(handover_undo, (struct hand_over * h), (h), predecessor("undo"), (void)0)
VOID_STAGE(machine_hand_over, (struct machine * m), (m), predecessor("hand-off"), (void)0)

/* The guest is the stand-in's by then, and still parked. */
static void letting_go(void)
{
	if (on("predecessor") && strcmp(faults_now(), "hand-off") == 0)
		faults_stage("let-go");
}

VOID_STAGE(machine_unpark_vcpus, (struct machine * m), (m), letting_go(), (void)0)
VOID_STAGE(stand_in_dismiss, (struct stand_in * s), (s), predecessor("dismiss"), (void)0)

static void answering(void)
{
	if (on("predecessor") || on("stand-in"))
		faults_side(faults_now_side(), "tell");
}

VOID_STAGE(control_reply,
	   (struct control * c, uint32_t client, const char *id, json_t *result,
	    const struct error *err),
	   (c, client, id, result, err), answering(), (void)0)
VOID_STAGE(control_event, (struct control * c, const char *name, json_t *data), (c, name, data),
	   (void)0, if (strcmp(name, "UPDATE_FAILED") == 0 && !on("way-back")) faults_pause())

/* ---- the stand-in ---- */

STAGE(int, machine_make_stand_in, (struct machine * m, struct error *err), (m, err),
      faults_begin_stand_in(), faults_pause())
STAGE(int, update_save_final, (void *opaque, struct error *err), (opaque, err),
      faults_side("stand-in", "final-save"), faults_pause())
VOID_STAGE(update_committed, (void *opaque), (opaque), faults_begin("stand-in", "copy"), (void)0)

/* From here on it takes the guest back. */
VOID_STAGE(machine_take_back, (struct machine * m, bool stood_in), (m, stood_in),
	   (faults_bury(), faults_stage("revive")), (void)0)

/* ---- the successor ---- */

STAGE(int, incoming_arrive, (struct incoming * in, struct error *err), (in, err),
      faults_stage("adopt"), (void)0)
STAGE(int, incoming_adopt, (struct incoming * in, struct error *err), (in, err), (void)0,
      if (r == 0) faults_stage("build"))
STAGE(int, incoming_check_claimed, (struct incoming * in, struct error *err), (in, err), (void)0,
      if (r == 0) faults_stage("map-RAM"))
STAGE(int, stand_in_link_switch,
      (struct stand_in_link * link, void (*stops)(void *), void *opaque, struct error *err),
      (link, stops, opaque, err), faults_stage("switch"), (void)0)
STAGE(int, final_state_load, (struct machine * m, struct incoming *in, struct error *err),
      (m, in, err), faults_stage("final-load"), (void)0)
STAGE(int, stand_in_link_commit, (struct stand_in_link * link, struct error *err), (link, err),
      (void)0, if (r == 0) faults_stage("resume"))
STAGE(uint64_t, machine_wait_entered, (struct machine * m), (m), (void)0,
      if (on("successor") || on("way-back")) faults_stage("tell"))
VOID_STAGE(stand_in_link_release, (struct stand_in_link * link, const cpu_set_t *spare),
	   (link, spare), faults_stage("release"), faults_stage("reap"))
VOID_STAGE(update_give_up, (struct incoming * in, const struct error *err), (in, err),
	   faults_stage("give-up"), (void)0)
VOID_STAGE(update_incoming_fini, (struct incoming * in), (in), faults_stage("end"), faults_pause())
