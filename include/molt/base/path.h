/* SPDX-License-Identifier: MIT */
/* Command names. */
#ifndef MOLT_BASE_PATH_H
#define MOLT_BASE_PATH_H

/*
 * Where a command name without a slash is, as a shell would find it: the first executable of that name in
 * the directories of PATH (/usr/bin:/bin if there is no PATH). A directory named by nothing, which shells
 * take for the working directory, is passed over. NULL if it is nowhere, or memory ran out; else the
 * caller frees it.
 */
char *path_search(const char *name);

#endif
