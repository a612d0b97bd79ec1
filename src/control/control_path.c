/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/unix_socket.h>
#include <molt/control/control_path.h>

#define SYSTEM_DIR "/run"
#define SOCKET "control"
#define NAME "name="
#define SHOWN_MAX 4096 /* of a directory: longer ones are too long for a socket */

/* NULL where it is a path. */
static const char *name_in(const char *named)
{
	return strncmp(named, NAME, strlen(NAME)) == 0 ? named + strlen(NAME) : NULL;
}

/* Where `molt` with its directories is. Root's environment may be an ordinary user's (su, sudo). */
static const char *runtime_dir(void)
{
	const char *own = geteuid() == 0 ? NULL : getenv("XDG_RUNTIME_DIR");

	return own && own[0] == '/' ? own : SYSTEM_DIR;
}

static char *path_of_name(const char *name, struct error *err)
{
	char *path;

	if (!name[0] || name[0] == '.' || strchr(name, '/')) {
		err_set(err, EINVAL,
			"control socket '" NAME
			"%s': a name has no slash in it and does not begin with "
			"a dot",
			name);
		return NULL;
	}
	if (asprintf(&path, "%s/molt/%s/" SOCKET, runtime_dir(), name) >= 0)
		return path;
	err_set(err, ENOMEM, "no memory for the path of a socket");
	return NULL;
}

char *control_path_of(const char *named, struct error *err)
{
	const char *name = name_in(named);
	char *path;

	if (name)
		return path_of_name(name, err);
	path = strdup(named);
	if (!path)
		err_set(err, ENOMEM, "no memory for the path of a socket");
	return path;
}

char *control_path_for_client(const char *named, struct error *err)
{
	struct error none = ERROR_INIT;
	char *path = NULL;

	if (!name_in(named) && !strchr(named, '/') && access(named, F_OK) < 0)
		path = path_of_name(named, &none);
	return path ? path : control_path_of(named, err);
}

/*
 * As in a container whose root is read-only, or in a user name space, whose root is none in /run;
 * or XDG_RUNTIME_DIR is that of the user who became this one (su), or of a session that is over.
 */
static int cannot_make(int code, const char *shown, struct error *err)
{
	const char *why = "";

	if (strcmp(runtime_dir(), SYSTEM_DIR) != 0)
		why = "that is what XDG_RUNTIME_DIR says: set it right or ";
	else if (geteuid() != 0)
		why = "without XDG_RUNTIME_DIR only root can make it: ";
	return err_set(err, code, "%s: %s; %sgive --control a path", shown, error_text(code), why);
}

/* The directory, made if missing; a link in its place is an error. */
static int make_dir(int parent, const char *name, mode_t mode, const char *shown, struct error *err)
{
	bool made = mkdirat(parent, name, mode) == 0;
	int fd;

	if (!made && (errno == EACCES || errno == EROFS))
		return cannot_make(errno, shown, err);
	if (!made && errno != EEXIST)
		return err_sys(err, errno, "%s", shown);
	fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "%s", shown);
	if (made)
		fchmod(fd, mode); /* whatever the umask is */
	return fd;
}

/* Who can change the directory above can put another in the place of ours. */
static int check_parent(int fd, const char *shown, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "%s", shown);
	if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & 022))
		return err_set(err, EPERM,
			       "%s: others may write to it (user %u, mode %03o); it must be "
			       "root's or your own alone",
			       shown, (unsigned int)st.st_uid, (unsigned int)st.st_mode & 0777);
	return 0;
}

/* What a guest of that name has left while it ran as root; its successor could not look at it. */
static int leave_to_another(const char *dir, struct error *err)
{
	char path[SHOWN_MAX + sizeof("/" SOCKET)];
	int r;

	snprintf(path, sizeof(path), "%s/" SOCKET, dir);
	r = unix_socket_remove_stale(path);
	if (r == -EADDRINUSE)
		return err_set(err, EADDRINUSE,
			       "control socket '%s': another process, of another user, listens there",
			       path);
	return r < 0 ? err_sys(err, -r, "control socket '%s'", path) : 0;
}

static int give_dir(int fd, const struct sandbox_user *user, const char *shown, struct error *err)
{
	struct stat st;
	int r;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "%s", shown);
	if (st.st_uid != user->uid && st.st_uid != geteuid())
		return err_set(err, EPERM,
			       "%s belongs to user %u, and this guest is user %u's: remove it, or "
			       "take another name",
			       shown, (unsigned int)st.st_uid, (unsigned int)user->uid);
	if (st.st_uid != user->uid) {
		r = leave_to_another(shown, err);
		if (r == 0 && fchown(fd, user->uid, user->gid) < 0)
			r = err_sys(err, errno, "%s", shown);
		if (r < 0)
			return r;
	}
	if ((st.st_mode & 0777) != 0700 && fchmod(fd, 0700) < 0)
		return err_sys(err, errno, "%s", shown);
	return 0;
}

int control_path_make_dir(const char *named, const struct sandbox_user *user, struct error *err)
{
	_cleanup_close_ int above = -1, parent = -1, dir = -1;
	const char *name = name_in(named);
	char shown[SHOWN_MAX];
	int r;

	if (!name)
		return 0;
	above = open(runtime_dir(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (above < 0)
		return cannot_make(errno, runtime_dir(), err);
	snprintf(shown, sizeof(shown), "%s/molt", runtime_dir());
	parent = make_dir(above, "molt", 0755, shown, err);
	if (parent < 0)
		return parent;
	r = check_parent(parent, shown, err);
	if (r < 0)
		return r;
	snprintf(shown, sizeof(shown), "%s/molt/%s", runtime_dir(), name);
	dir = make_dir(parent, name, 0700, shown, err);
	return dir < 0 ? dir : give_dir(dir, user, shown, err);
}
