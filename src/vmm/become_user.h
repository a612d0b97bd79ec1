/* SPDX-License-Identifier: MIT */
/* Which user a VMM becomes; see become_user.c. */
#ifndef MOLT_VMM_BECOME_USER_H
#define MOLT_VMM_BECOME_USER_H

#include <molt/vmm/vmm.h>

/* Who this molt is: of a cold start alone, a successor stays who its predecessor was. */
struct chosen_user {
	struct sandbox_user user;
	const char *name; /* as it was chosen; NULL: as started */
	bool by_default;  /* nobody asked for it */
	bool is;          /* molt has become him */
};

/*
 * For the beginning of a cold start: the user that the configuration names; of a molt that root
 * started without one `molt`, if there is one. -EPERM where this process cannot become him.
 */
int choose_user(struct chosen_user *u, const struct vmm_config *cfg, struct error *err);

/*
 * Then, before anything that the configuration names is opened: makes the control socket's
 * directory, where that is molt's to make, and becomes him. On failure privileges may be gone
 * already.
 */
int become_user(struct chosen_user *u, const struct vmm_config *cfg, struct error *err);

/* After a start that failed with that -errno: says as whom files were opened, where it may be why. */
void become_user_explain(const struct chosen_user *u, int code);

#endif
