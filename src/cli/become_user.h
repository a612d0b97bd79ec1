/* SPDX-License-Identifier: MIT */
/* --user of `molt run`; see become_user.c. */
#ifndef MOLT_CLI_BECOME_USER_H
#define MOLT_CLI_BECOME_USER_H

#include <molt/sandbox/sandbox.h>

#include "options.h"

/* Who this molt is: of a cold start alone, a successor stays who its predecessor was. */
struct chosen_user {
	struct sandbox_user user;
	const char *name; /* as it was chosen; NULL: as started */
	bool by_default;  /* nobody asked for it */
	bool is;          /* molt has become him */
};

/*
 * For the beginning of a cold start: the user that --user names; of a molt that root started
 * without it `molt`, if there is one. -EPERM where this process cannot become him.
 */
int choose_user(struct chosen_user *u, const struct cli_args *args, struct error *err);

/*
 * Then, before anything that an option names is opened: makes the control socket's directory, where
 * that is molt's to make, and becomes him. On failure privileges may be gone already.
 */
int become_user(struct chosen_user *u, const struct cli_args *args, struct error *err);

/* After a start that failed with that -errno: says as whom files were opened, where it may be why. */
void become_user_explain(const struct chosen_user *u, int code);

#endif
