/* SPDX-License-Identifier: MIT */
/* --sandbox of `molt run`; see confine.c. */
#ifndef MOLT_CLI_CONFINE_H
#define MOLT_CLI_CONFINE_H

#include <molt/sandbox/sandbox.h>

#include "options.h"

#define CONFINE_DIRS_MAX 32

struct confinement {
	bool on;
	struct value_list options;                     /* owns what comes from --sandbox */
	struct sandbox_dir dirs[CONFINE_DIRS_MAX + 1]; /* paths are owned */
};

/* Takes --sandbox apart. Nothing is looked up and nothing changes yet. */
int confine_parse(struct confinement *c, const struct cli_args *args, struct error *err);
void confine_fini(struct confinement *c);

/*
 * For the end of a cold start, when everything is open: main's sandbox. control: the path of the
 * control socket, or NULL. back_ends: as for sandbox_enter().
 */
int confine_cold(struct confinement *c, const struct cli_args *args, const char *control,
		 bool back_ends, struct error *err);

/*
 * For a successor that runs the guest already: adds what is newer than what it came with. Failure
 * is for the log alone: the guest is not to be lost for it.
 */
void confine_successor(struct confinement *c, const struct cli_args *args, const char *control,
		       bool back_ends);

/* What each vCPU thread calls, NULL where the sandbox is off. */
int (*confine_thread(const struct confinement *c))(struct error *err);

#endif
