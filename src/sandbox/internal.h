/* SPDX-License-Identifier: MIT */
/* What the files of the sandbox share. */
#ifndef MOLT_SANDBOX_INTERNAL_H
#define MOLT_SANDBOX_INTERNAL_H

#include <molt/sandbox/sandbox.h>

/* capabilities.c: the calling thread's bounding set, as far as it may; and all its capabilities. */
void capabilities_drop_bounding(void);
int capabilities_drop(struct error *err);
int capabilities_drop_thread(struct error *err); /* the same, but calls nothing that allocates */

/* landlock.c: the ABI that the kernel has, 0 where there is no Landlock. */
int landlock_abi(void);
/* Main's rules: nothing may be changed. A descriptor, and nothing is in force yet, or an error. */
int landlock_make_rules(struct error *err);
/* But beneath these; see sandbox_enter(). An error only where one must be had. */
int landlock_allow_dirs(int rules, const struct sandbox_dir *dirs, struct error *err);
int landlock_restrict_self(int rules, struct error *err);
/* No signal beyond this process and those that it starts from now on, where the kernel can do it. */
int landlock_scope_signals(struct error *err);
/* No access to any file, no TCP, no signal and no abstract socket beyond our own process. */
int landlock_confine_thread(struct error *err);

#endif
