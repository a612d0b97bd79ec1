/* SPDX-License-Identifier: MIT */
/* The commands about disks; see block.c and block_change.c. */
#ifndef MOLT_CONTROL_BLOCK_H
#define MOLT_CONTROL_BLOCK_H

#include <molt/base/command.h>
#include <molt/vm/machine.h>

#include "internal.h"

/* block_schema.c */
extern const struct command_type block_list_type, block_stats_list_type;
extern const struct command_member block_stats_args[], block_resize_args[], block_throttle_args[];

/*
 * The disk that an argument names; there are two names for that argument, and one of them must be
 * given. NULL with the sentence.
 */
struct device *block_named(const struct machine *m, json_t *args, const char *one,
			   const char *other, struct error *err);

/* JSON's numbers end earlier. */
static inline json_int_t block_number(uint64_t value)
{
	return value > INT64_MAX ? INT64_MAX : (json_int_t)value;
}

/* block.c, block_change.c; opaque is a struct control. */
extern const struct command block_commands[];
extern const size_t block_commands_count;
int block_run_resize(void *opaque, const struct command_origin *origin, json_t *args,
		     json_t **result, struct error *err);
int block_run_throttle(void *opaque, const struct command_origin *origin, json_t *args,
		       json_t **result, struct error *err);

#endif
