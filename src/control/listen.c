/* SPDX-License-Identifier: MIT */
/*
 * The control socket's file. It is made with its final mode: Linux takes the mode of a new socket
 * file from the socket's own inode, so fchmod() before bind() leaves no moment in which others
 * could connect. A file that is there already is replaced only if it is a socket that nobody
 * listens on.
 */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

static int set_address(struct sockaddr_un *sun, const char *path, struct error *err)
{
	size_t len = strlen(path);

	*sun = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (len == 0)
		return err_set(err, EINVAL, "the control socket's path is empty");
	if (len >= sizeof(sun->sun_path))
		return err_set(err, ENAMETOOLONG,
			       "control socket '%s': the path has %zu bytes, a Unix socket's may "
			       "have %zu; take a shorter directory", path, len,
			       sizeof(sun->sun_path) - 1);
	memcpy(sun->sun_path, path, len + 1);
	return 0;
}

/* 0 where nobody listens there (any more), an error where somebody does or cannot be asked. */
static int check_stale(const struct sockaddr_un *sun, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (lstat(sun->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "control socket '%s'",
						     sun->sun_path);
	if (!S_ISSOCK(st.st_mode))
		return err_set(err, EEXIST, "control socket '%s': another kind of file is there, "
			       "it is not touched", sun->sun_path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(err, errno, "control socket '%s'", sun->sun_path);
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 && errno != EAGAIN)
		return errno == ECONNREFUSED || errno == ENOENT
			       ? 0
			       : err_sys(err, errno, "control socket '%s'", sun->sun_path);
	return err_set(err, EADDRINUSE, "control socket '%s': another process listens there",
		       sun->sun_path);
}

static int remove_stale(const struct sockaddr_un *sun, struct error *err)
{
	int r = check_stale(sun, err);

	if (r < 0)
		return r;
	if (unlink(sun->sun_path) == 0)
		log_info("control: replaced the stale socket '%s'", sun->sun_path);
	else if (errno != ENOENT)
		return err_sys(err, errno, "control socket '%s': cannot remove the stale one",
			       sun->sun_path);
	return 0;
}

static int bind_to(int fd, const struct sockaddr_un *sun, struct error *err)
{
	const struct sockaddr *addr = (const struct sockaddr *)sun;
	int r;

	if (bind(fd, addr, sizeof(*sun)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return err_sys(err, errno, "control socket '%s'", sun->sun_path);
	r = remove_stale(sun, err);
	if (r == 0 && bind(fd, addr, sizeof(*sun)) < 0)
		r = err_sys(err, errno, "control socket '%s'", sun->sun_path);
	return r;
}

int control_listen(struct control *c, const char *path, struct error *err)
{
	struct sockaddr_un sun;
	struct stat st;
	int r = set_address(&sun, path, err);

	if (r < 0)
		return r;
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->fd < 0 || fchmod(c->fd, 0600) < 0)
		return err_sys(err, errno, "control socket '%s'", path);
	r = bind_to(c->fd, &sun, err);
	if (r < 0)
		return r;
	memcpy(c->guest.path, sun.sun_path, sizeof(sun.sun_path));
	if (lstat(path, &st) < 0)
		return err_sys(err, errno, "control socket '%s'", path);
	c->guest.dev = st.st_dev;
	c->guest.ino = st.st_ino;
	c->owner = true;
	if (listen(c->fd, CONTROL_MAX_CLIENTS) < 0)
		return err_sys(err, errno, "control socket '%s': listen", path);
	return 0;
}

void control_unlink(const struct control *c)
{
	struct stat st;

	/* Somebody may have put another file there meanwhile: that one is not ours. */
	if (lstat(c->guest.path, &st) < 0 || st.st_dev != c->guest.dev || st.st_ino != c->guest.ino)
		return;
	if (unlink(c->guest.path) < 0)
		log_warn("control: cannot remove '%s': %s", c->guest.path, strerror(errno));
}
