/* SPDX-License-Identifier: MIT */
/* The files that `molt update` opens for the running molt; see given_fds.c. */
#ifndef MOLT_CLI_GIVEN_FDS_H
#define MOLT_CLI_GIVEN_FDS_H

#include <stdbool.h>

#include "client.h"

/*
 * Sends what `update` with these arguments will need and can be sent, and adds to the arguments
 * what was. *state_made: the state file was not there before, and is the caller's to remove if
 * nothing comes of it. An error only where the connection fails.
 */
int given_fds_give(struct client *c, json_t *arguments, bool *state_made, struct error *err);

#endif
