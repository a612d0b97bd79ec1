/* SPDX-License-Identifier: MIT */
/*
 * The steps of an update, each told by the name in the table of steps.c that it stands under there.
 * docs/live-update.md has the same table in words.
 */
#ifndef MOLT_UPDATE_STEPS_H
#define MOLT_UPDATE_STEPS_H

#include "internal.h"

/* What a step returns beside 0 and -errno. */
#define STEP_SKIPPED 1 /* there was nothing to do: it is not in the report */
#define STEP_WAITS 2   /* of the predecessor's: update_step_over() is called when it is over */

/* predecessor.c */
int step_prepare(struct update *u, struct error *err);
void undo_prepare(struct update *u);
int step_check(struct update *u, struct error *err);
void undo_check(struct update *u);
int step_announce(struct update *u, struct error *err);
int step_slow_paths(struct update *u, struct error *err);
void undo_slow_paths(struct update *u);
int step_rest(struct update *u, struct error *err);
void undo_rest(struct update *u);
int step_stand_in(struct update *u, struct error *err);
void undo_stand_in(struct update *u);
int step_read_vcpus(struct update *u, struct error *err);
void undo_read_vcpus(struct update *u);
int step_pause(struct update *u, struct error *err);
void undo_pause(struct update *u);
int step_quiesce(struct update *u, struct error *err);
void undo_quiesce(struct update *u);
int step_save(struct update *u, struct error *err);
int step_hand_off(struct update *u, struct error *err);
void undo_hand_off(struct update *u);
int step_handover(struct update *u, struct error *err);
void undo_handover(struct update *u);
int step_exec(struct update *u, struct error *err);

/* successor.c */
int step_arrive(struct incoming *in, struct error *err);
int step_adopt(struct incoming *in, struct error *err);
int step_build(struct incoming *in, struct error *err);
int step_map_ram(struct incoming *in, struct error *err);
int step_stop(struct incoming *in, struct error *err);
int step_final_save(struct incoming *in, struct error *err);
int step_final_load(struct incoming *in, struct error *err);
int step_resume(struct incoming *in, struct error *err);
int step_tell(struct incoming *in, struct error *err);
int step_after(struct incoming *in, struct error *err);

#endif
