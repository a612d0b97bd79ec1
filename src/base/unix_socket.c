/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * The file of a Unix socket outlives a process that was killed, and bind() refuses a path that is
 * there. So a start has to tell such a stale file from one that is in use, and to put its own in
 * its place, while others do the same.
 *
 * *The mode.* bind() makes the file with all rights less the umask, so a umask leaves no moment in
 * which others could connect. It is the whole process's, but only main makes files: threads that
 * write have theirs open already, and a stand-in has a umask of its own. fchmod() before bind()
 * would do as well, but for the sandbox, which refuses it.
 *
 * *Is it in use?* A datagram socket asks: connect() finds the socket by its file first and compares
 * the types then (unix_find_bsd() in net/unix/af_unix.c). ECONNREFUSED means that no process has
 * it, EPROTOTYPE that one has and it is of another type. The other side gets no connection by that,
 * and its backlog no entry; a socket that is bound and does not listen yet counts as one that is in
 * use.
 *
 * *Exclusive.* bind() itself is: of all who bind to a path that is free one gets it. What must not
 * happen is that somebody removes the file that another has just put there, in the belief that it
 * is the stale one seen before. So who replaces holds a lock (flock) on the directory from that
 * question to its bind(). The lock is no file that could be left over, the kernel frees it with the
 * process, and it excludes across mount, pid and network name spaces. While one holds it nobody
 * else removes a stale file; a file that is not stale is removed by its owner alone, and it has the
 * socket open then, so it is never taken for stale: the file that is removed is the one that was
 * asked about. A bind() of a third between the removal and ours makes ours fail. Who is killed
 * leaves nothing, or a stale file.
 *
 * A directory that may not be read cannot be locked, and in one that all may read anybody can hold
 * the lock. Then nothing is replaced, and the user is told to remove the file; a path that is free
 * needs no lock.
 *
 * *Removal.* Somebody may have put another file there by hand meanwhile: device and inode are
 * compared. Where they are not known (the state of a molt that did not save them), what is at the
 * path when the state is loaded is taken for ours. Where nothing was to be seen there, the socket
 * is closed first; what is stale afterwards is ours, or another's who has died, and goes under the
 * lock. In main's sandbox that cannot be found out, for nothing connects there, and the file stays.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/unix_socket.h>

#define LOCK_WAIT_MS 2000
#define POLL_NS 5000000

int unix_socket_check_path(const char *what, const char *path, struct error *err)
{
	const size_t max = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;
	size_t len = strlen(path);

	if (len == 0)
		return err_set(err, EINVAL, "the %s's path is empty", what);
	if (len > max)
		return err_set(err, ENAMETOOLONG,
			       "%s '%s': the path has %zu bytes, a Unix "
			       "socket's may have %zu; take a shorter directory or a relative path",
			       what, path, len, max);
	return 0;
}

/* 0 where no process has that socket (any more), or nothing is there; -errno. */
static int check_stale(const struct sockaddr_un *sun)
{
	_cleanup_close_ int fd = -1;
	struct stat st;

	if (lstat(sun->sun_path, &st) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EEXIST;
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (const struct sockaddr *)sun, sizeof(*sun)) == 0 || errno == EPROTOTYPE)
		return -EADDRINUSE;
	return errno == ECONNREFUSED || errno == ENOENT ? 0 : -errno;
}

/* For what another is about to give up: false when the time is over. */
static bool wait_a_little(uint64_t deadline)
{
	if (now_ns() >= deadline)
		return false;
	nanosleep(&(struct timespec){ .tv_nsec = POLL_NS }, NULL);
	return true;
}

/* A descriptor that holds the lock on the path's directory, or -errno. */
static int lock_directory(const char *path)
{
	char dir[sizeof(((struct sockaddr_un *)NULL)->sun_path)] = ".";
	const char *slash = strrchr(path, '/');
	int fd, r;

	if (slash) {
		size_t len = slash == path ? 1 : (size_t)(slash - path);

		memcpy(dir, path, len);
		dir[len] = '\0';
	}
	fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	r = fd_lock(fd, LOCK_WAIT_MS);
	if (r < 0)
		close(fd);
	return r < 0 ? r : fd;
}

static int remove_stale(const struct sockaddr_un *sun)
{
	int r = check_stale(sun);

	if (r == 0 && unlink(sun->sun_path) < 0 && errno != ENOENT)
		r = -errno;
	return r;
}

static int say_why_not(int code, const char *what, const char *path, struct error *err)
{
	if (code == EADDRINUSE)
		return err_set(err, code, "%s '%s': another process listens there", what, path);
	if (code == EEXIST)
		return err_set(err, code,
			       "%s '%s': another kind of file is there, it is not "
			       "touched",
			       what, path);
	return err_sys(err, code, "%s '%s'", what, path);
}

static int bind_to(int fd, const struct sockaddr_un *sun)
{
	mode_t mask = umask(S_IXUSR | S_IRWXG | S_IRWXO);
	int r = bind(fd, (const struct sockaddr *)sun, sizeof(*sun)) < 0 ? -errno : 0;

	umask(mask);
	return r;
}

static int bind_in_place_of_stale(int fd, const char *what, const struct sockaddr_un *sun,
				  struct error *err)
{
	const char *path = sun->sun_path;
	_cleanup_close_ int lock = -1;
	int r = check_stale(sun);

	if (r < 0)
		return say_why_not(-r, what, path, err);
	lock = lock_directory(path);
	if (lock < 0)
		return err_sys(err, -lock,
			       "%s '%s' is a stale one; to replace it takes a lock on "
			       "its directory, so remove it yourself",
			       what, path);
	r = remove_stale(sun);
	if (r < 0 && r != -EADDRINUSE && r != -EEXIST)
		return err_sys(err, -r, "%s '%s': cannot remove the stale one", what, path);
	if (r == 0)
		r = bind_to(fd, sun);
	if (r < 0)
		return say_why_not(-r, what, path, err);
	log_info("%s '%s': replaced a stale one", what, path);
	return 0;
}

/* Binds, listens, and tells what the file is; on failure no file of ours is left. */
static int start(int fd, const char *what, const struct sockaddr_un *sun, int backlog,
		 struct unix_socket_id *id, struct error *err)
{
	const char *path = sun->sun_path;
	struct stat st;
	int r = bind_to(fd, sun);

	if (r == -EADDRINUSE)
		r = bind_in_place_of_stale(fd, what, sun, err);
	else if (r < 0)
		err_sys(err, -r, "%s '%s'", what, path);
	if (r < 0)
		return r;
	if (lstat(path, &st) < 0)
		return err_sys(err, errno, "%s '%s'", what, path);
	*id = (struct unix_socket_id){ .dev = st.st_dev, .ino = st.st_ino };
	if (listen(fd, backlog) == 0)
		return 0;
	r = err_sys(err, errno, "%s '%s': listen", what, path);
	unlink(path);
	return r;
}

int unix_socket_listen(const char *what, const char *path, int backlog, struct unix_socket_id *id,
		       struct error *err)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	_cleanup_close_ int fd = -1;
	int r = unix_socket_check_path(what, path, err);

	if (r < 0)
		return r;
	memcpy(sun.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_sys(err, errno, "%s '%s'", what, path);
	r = start(fd, what, &sun, backlog, id, err);
	if (r == 0) {
		r = fd;
		fd = -1;
	}
	return r;
}

int unix_socket_listen_again(int fd, int backlog)
{
	return listen(fd, backlog) < 0 ? -errno : 0;
}

/* The kernel knows the path; there is none where bind() never succeeded. */
static bool has_path(int fd, struct sockaddr_un *sun)
{
	socklen_t len = sizeof(*sun) - 1;

	memset(sun, 0, sizeof(*sun));
	return getsockname(fd, (struct sockaddr *)sun, &len) == 0 && sun->sun_family == AF_UNIX &&
	       sun->sun_path[0];
}

void unix_socket_recognise(int fd, struct unix_socket_id *id)
{
	struct sockaddr_un sun;
	struct stat st;

	if (!id->ino && has_path(fd, &sun) && lstat(sun.sun_path, &st) == 0 && S_ISSOCK(st.st_mode))
		*id = (struct unix_socket_id){ .dev = st.st_dev, .ino = st.st_ino };
}

static int remove_own(const char *path, const struct unix_socket_id *id)
{
	struct stat st;

	if (lstat(path, &st) < 0 || st.st_dev != id->dev || st.st_ino != id->ino)
		return 0;
	return unlink(path) < 0 ? -errno : 0;
}

static int lock_and_remove_stale(const struct sockaddr_un *sun)
{
	_cleanup_close_ int lock = lock_directory(sun->sun_path);

	return lock < 0 ? lock : remove_stale(sun);
}

int unix_socket_remove_stale(const char *path)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	if (strlen(path) >= sizeof(sun.sun_path))
		return -ENAMETOOLONG;
	strcpy(sun.sun_path, path);
	return lock_and_remove_stale(&sun);
}

/*
 * Whoever an update has left behind (a stand-in that takes memory apart) has the socket, too. The
 * lock is not held meanwhile: others start in that directory.
 */
static int remove_unknown(const struct sockaddr_un *sun)
{
	uint64_t deadline = now_ns() + LOCK_WAIT_MS * 1000000ull;
	int r;

	do
		r = lock_and_remove_stale(sun);
	while (r == -EADDRINUSE && wait_a_little(deadline));
	return r == -EADDRINUSE || r == -EEXIST ? 0 : r;
}

void unix_socket_close(int *fd, const struct unix_socket_id *id, bool remove)
{
	struct sockaddr_un sun;
	int r = 0;

	remove = remove && *fd >= 0 && has_path(*fd, &sun);
	if (remove && id->ino)
		r = remove_own(sun.sun_path, id);
	fd_close(fd);
	if (remove && !id->ino)
		r = remove_unknown(&sun);
	if (r < 0)
		log_warn("cannot remove the socket '%s': %s", sun.sun_path, error_text(-r));
}
