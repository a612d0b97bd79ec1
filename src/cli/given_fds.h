/* SPDX-License-Identifier: MIT */
/* What `molt update` opens for the running molt; see given_fds.c. */
#ifndef MOLT_CLI_GIVEN_FDS_H
#define MOLT_CLI_GIVEN_FDS_H

#include <molt/base/new_file.h>

#include "client.h"

/* The state that an update leaves with its client. */
struct given_state {
	int fd;               /* a memfd that the running molt writes to, or -1 */
	struct new_file file; /* what the user named; a signal that ends us removes it */
};

#define GIVEN_STATE_NONE \
	(struct given_state) \
	{ \
		.fd = -1, .file = NEW_FILE_NONE \
	}

/*
 * Opens what the user named for `update`, hands it over, and names it in the arguments: the
 * successor's executable, which goes as a path where it cannot be handed over; memory for the
 * state, whose file is made here. *state is to be dropped in any case.
 */
int given_fds_give(struct client *c, json_t *arguments, struct given_state *state,
		   struct error *err);

/*
 * After the update: puts the state into its file, if it is a state stream; whatever else the other
 * side has written is not kept. Nothing to do where none was wanted.
 */
int given_state_keep(struct given_state *state, struct error *err);

void given_state_drop(struct given_state *state);

#endif
