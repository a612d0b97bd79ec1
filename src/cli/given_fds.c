/* SPDX-License-Identifier: MIT */
/*
 * What `molt update` opens itself and hands to the running molt as descriptors: the successor's
 * executable and the state file. So a path means what it means here, where the user typed it, and
 * the running molt needs no access to any file. A successor that is not named is the file at the
 * running molt's own path, and that is a path in *its* root directory: it is resolved beneath
 * /proc/PID/root.
 *
 * What cannot be opened here, or is a script (whose interpreter would have to open it once more),
 * goes as a path, as it does to a molt that takes no descriptors.
 */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "given_fds.h"

#define SUCCESSOR "molt-successor"
#define STATE "molt-state"
#define OPEN_FLAGS (O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

static bool is_elf(int fd)
{
	char magic[SELFMAG];

	return pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
	       memcmp(magic, ELFMAG, SELFMAG) == 0;
}

/* Gives it and says so in the arguments. 0 where there is nothing to give or nobody to take it. */
static int give(struct client *c, int fd, const char *name, json_t *arguments, const char *key,
		struct error *err)
{
	int r = client_give_fd(c, name, fd, err);

	if (r == -EREMOTEIO) /* it takes none */
		return 0;
	if (r == 0 && json_object_set_new(arguments, key, json_string(name)) < 0)
		r = err_set(err, ENOMEM, "no memory for a request");
	return r;
}

static int give_command(struct client *c, json_t *arguments, json_t *command, struct error *err)
{
	const char *path = json_string_value(json_array_get(command, 0));
	_cleanup_close_ int fd = path ? open(path, O_RDONLY | OPEN_FLAGS) : -1;

	if (fd < 0 || !is_elf(fd))
		return 0;
	return give(c, fd, SUCCESSOR, arguments, "command-fd", err);
}

static int open_in_root_of(pid_t pid, const char *path)
{
	const struct open_how how = { .flags = O_RDONLY | OPEN_FLAGS, .resolve = RESOLVE_IN_ROOT };
	_cleanup_close_ int root = -1;
	char name[32];

	snprintf(name, sizeof(name), "/proc/%d/root", (int)pid);
	root = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? -1 : (int)syscall(SYS_openat2, root, path, &how, sizeof(how));
}

static int give_own(struct client *c, json_t *arguments, struct error *err)
{
	_cleanup_close_ int fd = -1;
	json_t *status = NULL;
	const char *path;
	int r = client_call(c, json_pack("{s:s}", "execute", "query-update"), &status, err);

	if (r < 0)
		return r == -EREMOTEIO ? 0 : r;
	path = json_string_value(json_object_get(status, "path"));
	if (path && c->peer > 0)
		fd = open_in_root_of(c->peer, path);
	if (fd >= 0 && is_elf(fd))
		r = give(c, fd, SUCCESSOR, arguments, "command-fd", err);
	json_decref(status);
	return r;
}

static int give_state(struct client *c, json_t *arguments, bool *made, struct error *err)
{
	const char *path = json_string_value(json_object_get(arguments, "state-file"));
	_cleanup_close_ int fd = -1;
	int r;

	if (!path)
		return 0;
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | OPEN_FLAGS, 0600);
	*made = fd >= 0;
	if (fd < 0 && errno == EEXIST)
		fd = open(path, O_RDWR | OPEN_FLAGS);
	if (fd < 0)
		return 0;
	r = give(c, fd, STATE, arguments, "state-fd", err);
	if (*made && !json_object_get(arguments, "state-fd")) {
		*made = false;
		unlink(path);
	}
	return r;
}

int given_fds_give(struct client *c, json_t *arguments, bool *state_made, struct error *err)
{
	json_t *command = json_object_get(arguments, "command");
	int r;

	*state_made = false;
	r = command ? give_command(c, arguments, command, err) : give_own(c, arguments, err);
	return r < 0 ? r : give_state(c, arguments, state_made, err);
}
