/* SPDX-License-Identifier: MIT */
/*
 * --user auto: a user of its own for each guest. Theory of operation.
 *
 * A guest that is started again must have the same user, whose files are there; so numbers are not
 * drawn anew, but written down: SANDBOX_USERS has a line "UID NAME" for each name, and is changed
 * under a lock (flock) by appending one. A name is never forgotten, since files of its user may be
 * anywhere; who has removed them may remove the line.
 *
 * The range is where a host's administrator reserves numbers for somebody already: /etc/subuid. No
 * other user gets them then, and no container.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/sandbox/sandbox.h>

#define SUBUID "/etc/subuid"
#define OWNER "molt"
#define USERS_DIR "/var/lib/molt"
#define LINE_MAX_BYTES 512
#define LOCK_WAIT_MS 5000 /* for others who start: one line is read or written each */

struct range {
	uint64_t first, count;
};

static int find_range(struct range *range, struct error *err)
{
	FILE *file = fopen(SUBUID, "re");
	char line[LINE_MAX_BYTES], end;
	bool found = false;

	while (file && !found && fgets(line, sizeof(line), file)) {
		int n = sscanf(line, OWNER ":%lu:%lu%c", &range->first, &range->count, &end);

		found = n == 2 || (n == 3 && end == '\n'); /* the last one's end may be missing */
	}
	if (file)
		fclose(file);
	if (!found)
		return err_set(err, ENOENT,
			       "--user auto: " SUBUID " has no line '" OWNER ":FIRST:COUNT', "
			       "the range of users that guests get");
	if (range->first == 0 || range->count == 0 || range->first >= UINT32_MAX ||
	    range->count > UINT32_MAX - range->first)
		return err_set(err, EINVAL,
			       "--user auto: " SUBUID ": " OWNER ":%lu:%lu is no range",
			       range->first, range->count);
	return 0;
}

/* Who could change it could make a guest root. */
static int check_own(int fd, const char *path, mode_t type, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "--user auto: %s", path);
	if ((st.st_mode & S_IFMT) != type || st.st_uid != 0 || (st.st_mode & 022) ||
	    (type == S_IFREG && st.st_nlink != 1))
		return err_set(err, EPERM,
			       "--user auto: %s must be root's alone, and nobody else may "
			       "write to it",
			       path);
	return 0;
}

/* Who can open it can lock it. Earlier versions let everybody. */
static int lock_users(int fd, struct error *err)
{
	int r;

	if (fchmod(fd, 0600) < 0)
		return err_sys(err, errno, "--user auto: " SANDBOX_USERS);
	r = fd_lock(fd, LOCK_WAIT_MS);
	if (r == -EWOULDBLOCK)
		return err_set(err, EWOULDBLOCK,
			       "--user auto: " SANDBOX_USERS " has been locked by another process "
			       "for %d s ('fuser -v' names it)",
			       LOCK_WAIT_MS / 1000);
	return r < 0 ? err_sys(err, -r, "--user auto: " SANDBOX_USERS) : 0;
}

/* The locked file, or an error. */
static int open_users(struct error *err)
{
	_cleanup_close_ int dir = -1;
	int fd, r;

	if (mkdir(USERS_DIR, 0755) < 0 && errno != EEXIST)
		return err_sys(err, errno, "--user auto: " USERS_DIR);
	dir = open(USERS_DIR, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return err_sys(err, errno, "--user auto: " USERS_DIR);
	r = check_own(dir, USERS_DIR, S_IFDIR, err);
	if (r < 0)
		return r;
	fd = openat(dir, strrchr(SANDBOX_USERS, '/') + 1,
		    O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
	if (fd < 0)
		return err_sys(err, errno, "--user auto: " SANDBOX_USERS);
	r = check_own(fd, SANDBOX_USERS, S_IFREG, err);
	if (r == 0)
		r = lock_users(fd, err);
	if (r < 0)
		close(fd);
	return r < 0 ? r : fd;
}

/* Whether a line of the table has that number or that name; *uid is the line's. */
static bool find_line(const char *table, const char *name, uint64_t wanted, uint64_t *uid)
{
	for (const char *line = table; *line; line += strcspn(line, "\n"), line += *line == '\n') {
		size_t len = strcspn(line, "\n");
		char *rest;

		*uid = strtoul(line, &rest, 10);
		if (*rest != ' ')
			continue;
		rest++;
		if (name ? strlen(name) == len - (size_t)(rest - line) &&
				    memcmp(name, rest, strlen(name)) == 0
			 : *uid == wanted)
			return true;
	}
	return false;
}

static int take_free(int fd, const char *table, const char *name, const struct range *range,
		     uint64_t *uid, struct error *err)
{
	const char *end = strrchr(table, '\n');
	/* An editor may have left the last line without its end. */
	bool whole = !*table || (end && !end[1]);
	char line[LINE_MAX_BYTES];
	uint64_t other;
	int len;

	for (*uid = range->first; *uid < range->first + range->count; ++*uid)
		if (!find_line(table, NULL, *uid, &other))
			break;
	if (*uid == range->first + range->count)
		return err_set(err, ENOSPC,
			       "--user auto: all %lu users of " SUBUID
			       " have guests; " SANDBOX_USERS " has those that may be removed",
			       range->count);
	len = snprintf(line, sizeof(line), "%s%lu %s\n", whole ? "" : "\n", *uid, name);
	if (len >= (int)sizeof(line))
		return err_set(err, ENAMETOOLONG, "--user auto: --name '%s' is too long", name);
	if (fd_write_all(fd, line, (size_t)len) == 0 && fsync(fd) == 0)
		return 0;
	err_sys(err, errno, "--user auto: " SANDBOX_USERS);
	(void)!ftruncate(fd, (off_t)strlen(table)); /* half a line would be the head of the next */
	return -err->code;
}

int sandbox_user_for_name(const char *name, struct sandbox_user *user, struct error *err)
{
	_cleanup_free_ void *data = NULL;
	_cleanup_close_ int fd = -1;
	_cleanup_free_ char *table = NULL;
	struct range range;
	uint64_t uid = 0;
	size_t len;
	int r;

	if (!name[0] || strpbrk(name, "\n"))
		return err_set(err, EINVAL,
			       "--user auto: each guest's user belongs to its --name, and there "
			       "is none");
	r = find_range(&range, err);
	if (r < 0)
		return r;
	fd = open_users(err);
	if (fd < 0)
		return fd;
	r = fd_read_file(fd, SANDBOX_USERS, 64 << 20, &data, &len, err);
	table = r == 0 ? strndup(data ? data : "", len) : NULL;
	if (!table)
		return r < 0 ? r : err_set(err, ENOMEM, "no memory for " SANDBOX_USERS);
	if (!find_line(table, name, 0, &uid))
		r = take_free(fd, table, name, &range, &uid, err);
	else if (uid < range.first || uid - range.first >= range.count)
		r = err_set(err, EINVAL,
			    "--user auto: " SANDBOX_USERS
			    " gives user %lu to '%s', which is not of "
			    "the range in " SUBUID,
			    uid, name);
	*user = (struct sandbox_user){ .uid = (uid_t)uid, .gid = (gid_t)uid };
	return r;
}
