/* SPDX-License-Identifier: MIT */
/*
 * What names a control socket on a command line, of `run` and of clients alike: its path, or
 * "name=NAME" for `control` in a directory of its own: /run/molt/NAME, or
 * $XDG_RUNTIME_DIR/molt/NAME for a user who has that. Nobody but its owner can do anything in
 * there, and there is nothing else that a molt might change.
 */
#ifndef MOLT_CONTROL_CONTROL_PATH_H
#define MOLT_CONTROL_CONTROL_PATH_H

#include <molt/sandbox/sandbox.h>

/*
 * The path that it names, which may be too long for a socket; the caller frees it. NULL with
 * -EINVAL in err->code for a name that is none, or -ENOMEM.
 */
char *control_path_of(const char *named, struct error *err);

/* The same for clients, to whom a NAME is enough where no file of that name is here. */
char *control_path_for_client(const char *named, struct error *err);

/*
 * For `run`, before it becomes another user: makes the directory of a name where it is missing, and
 * gives it to that user (mode 0700). Nothing is done for a path. -EPERM where the directory, or the
 * one above it, is somebody else's; or what the kernel says.
 */
int control_path_make_dir(const char *named, const struct sandbox_user *user, struct error *err);

#endif
