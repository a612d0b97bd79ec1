/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/new_file.h>

/* Whether what is there may give way. */
static int check_old(const char *path, struct error *err)
{
	struct stat st;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "%s", path);
	if (S_ISDIR(st.st_mode))
		return err_sys(err, EISDIR, "%s", path);
	if (S_ISLNK(st.st_mode))
		return err_set(err, ELOOP, "%s: a symbolic link; name the file itself", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s: not a regular file", path);
	if (st.st_uid != geteuid())
		return err_set(err, EPERM, "%s: belongs to user %u; it is not replaced", path,
			       (unsigned int)st.st_uid);
	if (st.st_nlink != 1)
		return err_set(err, EMLINK, "%s: has %lu names; it is not replaced", path,
			       (unsigned long)st.st_nlink);
	return 0;
}

/* A file system that can promise nothing (NFS) says so only when it is written. */
static int reserve(int fd, const char *path, off_t room, struct error *err)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur < (rlim_t)room)
		return err_sys(err, EFBIG, "%s: %lld bytes, and RLIMIT_FSIZE is %llu", path,
			       (long long)room, (unsigned long long)limit.rlim_cur);
	if (fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, room) < 0 && errno != EOPNOTSUPP)
		return err_sys(err, errno, "%s: no room for %lld bytes", path, (long long)room);
	return 0;
}

int new_file_open(struct new_file *f, const char *path, off_t room, struct error *err)
{
	int r = check_old(path, err);

	*f = NEW_FILE_NONE;
	if (r < 0)
		return r;
	f->path = strdup(path);
	if (!f->path || asprintf(&f->temp, "%s.XXXXXX", path) < 0) {
		f->temp = NULL;
		return err_set(err, ENOMEM, "%s: no memory", path);
	}
	f->fd = mkostemp(f->temp, O_CLOEXEC);
	return f->fd < 0 ? err_sys(err, errno, "%s", path) : reserve(f->fd, path, room, err);
}

int new_file_keep(struct new_file *f, const void *data, size_t len, struct error *err)
{
	int r = reserve(f->fd, f->path, (off_t)len, err);

	if (r < 0) /* before SIGXFSZ says so */
		return r;
	r = fd_write_all(f->fd, data, len);
	if (r == 0 && ftruncate(f->fd, (off_t)len) < 0)
		r = -errno;
	if (r == 0 && rename(f->temp, f->path) < 0)
		r = -errno;
	if (r < 0)
		return err_sys(err, -r, "%s", f->path);
	free(f->temp);
	f->temp = NULL;
	return 0;
}

void new_file_drop(struct new_file *f)
{
	if (f->fd >= 0 && f->temp)
		unlink(f->temp);
	fd_close(&f->fd);
	free(f->temp);
	free(f->path);
	*f = NEW_FILE_NONE;
}
