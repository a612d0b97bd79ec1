/* SPDX-License-Identifier: MIT */
/* A VMM's sandbox; see confine.c. */
#ifndef MOLT_VMM_CONFINE_H
#define MOLT_VMM_CONFINE_H

#include <molt/vmm/vmm.h>

/*
 * For the end of a cold start, when everything is open: main's sandbox. control: the path of the
 * control socket, or NULL. back_ends: as for sandbox_enter().
 */
int confine_cold(const struct vmm_config *cfg, const char *control, bool back_ends,
		 struct error *err);

/*
 * For a successor that runs the guest already: adds what is newer than what it came with. Failure
 * is for the log alone: the guest is not to be lost for it.
 */
void confine_successor(const struct vmm_config *cfg, const char *control, bool back_ends);

/* What each vCPU thread calls, NULL where the sandbox is off. */
int (*confine_thread(const struct vmm_config *cfg))(struct error *err);

#endif
