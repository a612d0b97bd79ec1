/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "disk_file.h"

#define SECTOR 512

static int check_kind(const char *path, int fd, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "disk %s", path);
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "disk %s is a directory", path);
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return err_set(err, EINVAL, "disk %s is neither a file nor a block device", path);
	if (S_ISREG(st.st_mode) && st.st_size < SECTOR)
		return err_set(err, EINVAL,
			       "disk %s has %lld bytes: that is no disk (truncate -s 10G makes one)",
			       path, (long long)st.st_size);
	return 0;
}

static int check_mode(const struct disk_options *o, int fd, struct error *err)
{
	int mode = fcntl(fd, F_GETFL);

	if (mode < 0)
		return err_sys(err, errno, "disk %s", o->path);
	if ((mode & O_ACCMODE) == O_WRONLY || (!o->readonly && (mode & O_ACCMODE) != O_RDWR))
		return err_set(err, EBADF, "disk %s: descriptor %d is not open for %s", o->path,
			       o->fd, o->readonly ? "reading" : "writing, too (readonly=on)");
	/* Linux heeds no offset then, whatever pwrite(2) is told. */
	if (!o->readonly && mode & O_APPEND)
		return err_set(err, EINVAL,
			       "disk %s: descriptor %d was opened to append: all that is written "
			       "would go to the end",
			       o->path, o->fd);
	if (o->direct && !(mode & O_DIRECT) && fcntl(fd, F_SETFL, mode | O_DIRECT) < 0)
		return err_sys(err, errno, "disk %s: direct=on", o->path);
	return 0;
}

static int lock(const struct disk_options *o, int fd, struct error *err)
{
	struct flock whole = {
		.l_type = o->readonly ? F_RDLCK : F_WRLCK,
		.l_whence = SEEK_SET,
	};

	if (fcntl(fd, F_OFD_SETLK, &whole) == 0)
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return err_set(err, EBUSY,
			       "disk %s is in use: another process, or another disk of this guest, "
			       "has it locked%s; see lslocks(8)",
			       o->path, o->readonly ? " for writing" : "");
	/* A file system without locks: whoever takes such a one has been told. */
	return err_sys(err, errno, "locking disk %s", o->path);
}

/*
 * O_NONBLOCK is there so that a FIFO does not hang us, or comes with a given descriptor. If it
 * stayed, io_uring of Linux before 6.5 would complete each request of a device that cannot promise
 * not to wait (dm-crypt) with -EAGAIN, and it would be made again for ever.
 */
static int let_it_wait(const struct disk_options *o, int fd, struct error *err)
{
	int r = fd_set_nonblock(fd, false);

	return r < 0 ? err_sys(err, -r, "disk %s", o->path) : 0;
}

static int open_path(const struct disk_options *o, struct error *err)
{
	int flags = (o->readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NONBLOCK |
		    (o->direct ? O_DIRECT : 0);
	int fd = open(o->path, flags);

	if (fd >= 0)
		return fd;
	if (errno == EINVAL && o->direct)
		return err_set(err, EINVAL, "disk %s: its file system has no direct=on", o->path);
	if (errno == EROFS)
		return err_sys(err, errno, "disk %s (readonly=on)", o->path);
	return err_sys(err, errno, "disk %s", o->path);
}

/* A number that was not given may be one of molt's own by now, the log's or guest RAM's. */
static int open_given(const struct disk_options *o, struct error *err)
{
	int flags = fcntl(o->fd, F_GETFD), fd;

	if (flags < 0 || flags & FD_CLOEXEC)
		return err_set(err, EBADF,
			       "--disk fd=%d: molt was not started with this descriptor", o->fd);
	fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? err_sys(err, errno, "--disk fd=%d", o->fd) : fd;
}

int disk_file_open(const struct disk_options *o, int *fd, struct error *err)
{
	int r;

	*fd = o->fd >= 0 ? open_given(o, err) : open_path(o, err);
	if (*fd < 0)
		return *fd;
	r = check_kind(o->path, *fd, err);
	if (r == 0)
		r = let_it_wait(o, *fd, err);
	if (r == 0)
		r = check_mode(o, *fd, err);
	if (r == 0)
		r = lock(o, *fd, err);
	if (r < 0)
		fd_close(fd);
	return r;
}
