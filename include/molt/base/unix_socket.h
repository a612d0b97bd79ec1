/* SPDX-License-Identifier: MIT */
/* Listening Unix sockets that have a file: made, made anew by who serves them, and removed. */
#ifndef MOLT_BASE_UNIX_SOCKET_H
#define MOLT_BASE_UNIX_SOCKET_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>

/* Of the file, as lstat() gives them: what is at the path is ours only if both are the same. */
struct unix_socket_id {
	uint64_t dev;
	uint64_t ino; /* 0: not known */
};

/*
 * Whether path can be that of a socket at all: not empty, and at most 107 bytes. what ("control
 * socket") begins the sentence. 0, -EINVAL, -ENAMETOOLONG.
 */
int unix_socket_check_path(const char *what, const char *path, struct error *err);

/*
 * Makes a stream socket that listens at path with mode 0600 from its first moment, close-on-exec
 * and non-blocking. A socket that no process has any more is replaced; nothing else is, and no
 * process that has one notices. Of several that try at once one gets it. The descriptor is the
 * caller's; id is what unix_socket_close() wants.
 *
 * -EADDRINUSE: another process is there (or came first); -EEXIST: another kind of file is; as
 * unix_socket_check_path(); or what the kernel says. Waits at most two seconds.
 */
int unix_socket_listen(const char *what, const char *path, int backlog, struct unix_socket_id *id,
		       struct error *err);

/*
 * Removes the file of a socket that no process has. 0 also where there is none; -EADDRINUSE where
 * a process has it, -EEXIST where it is another kind of file, or what the kernel says.
 */
int unix_socket_remove_stale(const char *path);

/*
 * listen(2) once more on a socket that listens already: peers who connect from now on see this
 * process's credentials (SO_PEERCRED), no longer those of the one that made it; see unix(7). Who
 * waits in the backlog stays there. 0 or -errno.
 */
int unix_socket_listen_again(int fd, int backlog);

/* An id that is not known becomes that of the socket at the listener's path, if there is one. */
void unix_socket_recognise(int fd, struct unix_socket_id *id);

/*
 * Closes a listener and makes *fd -1. With remove its file goes first, if it is still there: of an
 * id that is not known, once it is closed, if no process has the socket at the path. A failure is
 * logged.
 */
void unix_socket_close(int *fd, const struct unix_socket_id *id, bool remove);

#endif
