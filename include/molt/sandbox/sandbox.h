/* SPDX-License-Identifier: MIT */
/*
 * The sandbox: what this process and its threads give up once everything is open. docs/sandbox.md
 * says what each thread may still do and why; src/sandbox/sandbox.c has the theory of operation.
 */
#ifndef MOLT_SANDBOX_SANDBOX_H
#define MOLT_SANDBOX_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <molt/base/error.h>

struct sandbox_user {
	uid_t uid;
	gid_t gid;
};

/*
 * "NAME", "UID", "NAME:GROUP" or "UID:GID"; without a group it is the user's own. Names are looked
 * up in /etc/passwd and /etc/group. A bare UID that is not there is its own group's number.
 * -ENOENT, -EINVAL.
 */
int sandbox_find_user(const char *text, struct sandbox_user *user, struct error *err);

/* -EPERM with the way out where sandbox_become() would fail: neither root nor that user already. */
int sandbox_may_become(const struct sandbox_user *user, struct error *err);

/* Whether this process has what becoming another user takes, and giving him a directory. */
bool sandbox_can_change_user(void);

/*
 * The user that --user auto gives to a guest of that name: the one that it had before, else the
 * lowest of the range that no name has. The range is the line of `molt` in /etc/subuid (subuid(5)),
 * and each number of it is a group's as well; who has which is in SANDBOX_USERS. For root alone.
 * Waits for others who do the same, -EWOULDBLOCK when it takes too long. -EINVAL, -ENOENT, -ENOSPC,
 * -EPERM where the file is not root's own, or what the kernel says.
 */
#define SANDBOX_USERS "/var/lib/molt/users"
int sandbox_user_for_name(const char *name, struct sandbox_user *user, struct error *err);

/*
 * Makes the whole process that user, without supplementary groups. The bounding set of capabilities
 * is emptied, too. Nothing happens where it is that user already.
 */
int sandbox_become(const struct sandbox_user *user, struct error *err);

/*
 * Whether other processes of the same user may look into this one's memory and descriptors, guest
 * RAM first of all, and whether it leaves a core file (prctl(2), PR_SET_DUMPABLE). An exec makes it
 * so again: each image asks anew, before it has anything to hide. Threads, stand-in included, share
 * it. No-op in builds with a sanitizer, whose leak checker looks in from a child.
 */
void sandbox_hide(bool hide);

/*
 * The lists of the main thread that are in force: the newest level, 0 for none. It is the kernel
 * that answers, so this is true whatever images came before; see lists.h.
 */
unsigned int sandbox_level(void);

/* Whether sandbox_enter() has nothing to add. */
bool sandbox_in_force(void);

/* What main may go on changing beneath a directory. */
enum sandbox_dir_use {
	SANDBOX_DIR_WRITE,  /* all files, of whatever name */
	SANDBOX_DIR_SOCKET, /* remove files: its socket, in the end */
	SANDBOX_DIR_LOG,    /* make and write regular files: a log after its rotation */
};

struct sandbox_dir {
	const char *path; /* NULL ends an array */
	enum sandbox_dir_use use;
	bool must; /* that this cannot be had is an error; else nothing can be changed there */
};

/*
 * For the main thread, before it starts a process that it may have to kill: it can send signals to
 * itself, and to what it starts from now on, to nobody else. Of what sandbox_enter() does this has
 * to come first; where it was not called, that does it. Needs Landlock's ABI 6; where it cannot be
 * had the log says so.
 */
void sandbox_scope_signals(void);

/*
 * For the main thread, once everything is open: no capability, no new privilege, Landlock (files
 * may be changed only beneath dirs, as these say; all may be read and executed), and a list of the
 * system calls that are left (src/sandbox/main.list). All of that survives exec, is inherited by
 * threads made from now on, and can never be taken back. Adds nothing where this level or a newer
 * one is in force. Landlock may be missing or old, which the log tells, as it does of a directory
 * that cannot be had; one that does not exist is passed over. An error is only what must be had.
 *
 * back_ends: the guest has devices of vhost-user back-ends, for which the list has some calls more.
 */
int sandbox_enter(const struct sandbox_dir *dirs, bool back_ends, struct error *err);

/*
 * For a process whose threads will call sandbox_enter_thread(): says in the log which call it was
 * when one of them is ended for it.
 */
int sandbox_catch_forbidden_calls(struct error *err);

/*
 * For a thread that handles a guest's data: from now on it has no access to files and the network,
 * no capability, and only the system calls that the sources declare for list "vcpu". Any other ends
 * the process. In builds with a sanitizer, whose run-time library makes calls of its own, nothing
 * happens.
 */
int sandbox_enter_thread(struct error *err);

/*
 * For the I/O process, before it makes any thread: no capability, no new privilege, and no access
 * to files, network and other processes by name.
 */
int sandbox_prepare_io(struct error *err);

/*
 * Then, with all threads made: for all of them, only the system calls that the sources declare for
 * list "io" are left. Any other ends the process, and the log says which. Not in builds with a
 * sanitizer.
 */
int sandbox_enter_io(struct error *err);

#endif
