/* SPDX-License-Identifier: MIT */
/* Paths of files, and command names. */
#ifndef MOLT_BASE_PATH_H
#define MOLT_BASE_PATH_H

/*
 * The path from the root directory on: one that is relative gets the working directory before it,
 * and loses a "./" at its head. No link is followed. NULL if memory ran out or the working
 * directory has no path; else the caller frees it.
 */
char *path_absolute(const char *path);

/*
 * Where a command name without a slash is, as a shell would find it: the first executable regular
 * file of that name in the directories of PATH (/usr/bin:/bin if there is no PATH), as an absolute
 * path. A directory named by nothing, which shells take for the working directory, is passed over.
 * NULL if it is nowhere, or as for path_absolute(); else the caller frees it.
 */
char *path_search(const char *name);

#endif
