/* SPDX-License-Identifier: MIT */
/*
 * The successor's program and how it is executed. Theory of operation.
 *
 * It is named by a path or is a descriptor that the client sent. An ELF file at a path is opened
 * once: what is asked is what is executed, though a deployment may replace the file meanwhile. A
 * client's descriptor is copied into a sealed memfd: nobody can write to that either, and neither a
 * chroot nor a sandbox nor a missing /proc is in the way, for nothing is looked up: execveat() takes
 * the descriptor itself. The kernel wants a close-on-exec descriptor only of programs that it opens
 * itself, so ELF; a script's interpreter would have to open /dev/fd/N, and so scripts go by path.
 *
 * Where the host makes no executable memfds (vm.memfd_noexec=2) the client's descriptor itself is
 * executed: the next best, for what it names cannot be another file, though somebody may still
 * write to it.
 *
 * The copy does not ask whether our own user may execute the file: who may send an update may
 * execute anything as our user. But a file that nobody may execute, or a mount that forbids it, is
 * a mistake.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

#define PROGRAM_MAX_BYTES (256u << 20)
#define COPY_BYTES (1u << 20)

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010u
#endif

int program_not_executed(int code, const char *name, struct error *err)
{
	return err_sys(err, code, "successor '%s'%s", name,
		       code == ENOENT ? " or its interpreter" : "");
}

static int check_file(int fd, const char *name, struct stat *st, struct error *err)
{
	int flags = fcntl(fd, F_GETFL);
	struct statvfs vfs;

	if (flags < 0 || fstat(fd, st) < 0)
		return err_sys(err, errno, "successor '%s'", name);
	if (S_ISDIR(st->st_mode))
		return err_set(err, EISDIR, "successor '%s' is a directory", name);
	if (!S_ISREG(st->st_mode))
		return err_set(err, EACCES, "successor '%s' is not a regular file", name);
	if ((flags & O_PATH) || (flags & O_ACCMODE) == O_WRONLY)
		return err_set(err, EBADF, "successor '%s': the descriptor is not open for reading",
			       name);
	if (!(st->st_mode & (S_IXUSR | S_IXGRP | S_IXOTH)))
		return err_set(err, EACCES,
			       "successor '%s': nobody may execute it (its mode is %04o)", name,
			       st->st_mode & 07777u);
	if (fstatvfs(fd, &vfs) == 0 && (vfs.f_flag & ST_NOEXEC))
		return err_set(err, EACCES,
			       "successor '%s': permission denied, its file system is "
			       "mounted noexec",
			       name);
	if ((uint64_t)st->st_size > PROGRAM_MAX_BYTES)
		return err_set(err, EFBIG,
			       "successor '%s': %lld bytes, more than the %u that it may "
			       "have",
			       name, (long long)st->st_size, PROGRAM_MAX_BYTES);
	return 0;
}

static int make_memfd(void)
{
	const unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	int fd = memfd_create("molt", flags | MFD_EXEC);

	/* Linux before 6.3 knows no MFD_EXEC, and makes them executable. */
	return fd < 0 && errno == EINVAL ? memfd_create("molt", flags) : fd;
}

static int copy(int from, int to, off_t size, const char *name, struct error *err)
{
	_cleanup_free_ char *buf = malloc(COPY_BYTES);
	ssize_t n = 1;

	if (!buf)
		return err_set(err, ENOMEM, "successor '%s': no memory to copy it", name);
	for (off_t at = 0; at < size && n > 0; at += n) {
		int r;

		n = pread(from, buf, COPY_BYTES, at);
		if (n < 0 && errno == EINTR)
			n = pread(from, buf, COPY_BYTES, at);
		if (n < 0)
			return err_sys(err, errno, "successor '%s': read", name);
		r = fd_write_all(to, buf, (size_t)n);
		if (r < 0)
			return err_sys(err, -r, "copying successor '%s'", name);
	}
	return 0;
}

int program_copy(int fd, const char *name, struct error *err)
{
	const int seals = F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE;
	_cleanup_close_ int out = -1;
	struct stat before, after;
	int r = check_file(fd, name, &before, err);

	if (r == 0 && !fd_is_elf(fd))
		r = err_set(err, ENOEXEC,
			    "successor '%s': exec format error: as a descriptor it "
			    "must be an ELF program; name a script by its path",
			    name);
	if (r < 0)
		return r;
	out = make_memfd();
	if (out < 0 && errno == EACCES) {
		r = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		return r < 0 ? err_sys(err, errno, "successor '%s'", name) : r;
	}
	if (out < 0)
		return err_sys(err, errno, "memfd_create for successor '%s'", name);
	r = copy(fd, out, before.st_size, name, err);
	if (r < 0)
		return r;
	if (fstat(fd, &after) < 0 || after.st_size != before.st_size ||
	    after.st_mtim.tv_sec != before.st_mtim.tv_sec ||
	    after.st_mtim.tv_nsec != before.st_mtim.tv_nsec)
		return err_set(err, ETXTBSY,
			       "successor '%s': text file busy, it is being written to", name);
	if (fcntl(out, F_ADD_SEALS, seals) < 0)
		return err_sys(err, errno, "sealing the copy of successor '%s'", name);
	r = out;
	out = -1;
	return r;
}
