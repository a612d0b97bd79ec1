/* SPDX-License-Identifier: MIT */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/memfd.h>
#include <poll.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>

#define INHERITED_MAX 4096
#define LOCK_POLL_NS 5000000

#ifndef MFD_NOEXEC_SEAL /* Linux 6.3 */
#define MFD_NOEXEC_SEAL 0x0008U
#endif

const char *fd_output_hint(const char *path, int code)
{
	int saved = errno;
	struct stat st;
	bool known = code == ENXIO && stat(path, &st) == 0;

	errno = saved;
	if (known && S_ISFIFO(st.st_mode))
		return " (a fifo needs its reader first)";
	return known && S_ISSOCK(st.st_mode) ? " (it is a socket)" : "";
}

void fd_close(int *fd)
{
	int saved = errno;

	if (*fd >= 0)
		close(*fd);
	*fd = -1;
	errno = saved;
}

int fd_set_cloexec(int fd, bool on)
{
	/* There is no other flag that would have to be read first. */
	return fcntl(fd, F_SETFD, on ? FD_CLOEXEC : 0) < 0 ? -errno : 0;
}

int fd_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -errno;
	if (((flags & O_NONBLOCK) != 0) == on)
		return 0;
	return fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK) < 0 ? -errno : 0;
}

/*
 * poll() tells which numbers are open at all, in one call and without /proc. Beyond those that
 * anybody uses, of which there may be a billion, or that RLIMIT_NOFILE allows by now, they are kept
 * from whatever is executed later.
 */
void fd_close_inherited(void)
{
	struct pollfd fds[INHERITED_MAX];
	long limit = sysconf(_SC_OPEN_MAX);
	int n = limit > 0 && limit < INHERITED_MAX ? (int)limit : INHERITED_MAX;

	for (int fd = 0; fd < n; fd++)
		fds[fd] = (struct pollfd){ .fd = fd };
	if (poll(fds, (nfds_t)n, 0) < 0)
		n = STDERR_FILENO + 1;
	for (int fd = STDERR_FILENO + 1; fd < n; fd++) {
		int flags = fds[fd].revents & POLLNVAL ? -1 : fcntl(fd, F_GETFD);

		if (flags >= 0 && !(flags & FD_CLOEXEC))
			close(fd);
	}
	close_range((unsigned int)n, ~0u, CLOSE_RANGE_CLOEXEC);
}

void fd_raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

int fd_memfd(const char *name, unsigned int flags)
{
	int fd;

	flags |= MFD_CLOEXEC | MFD_ALLOW_SEALING;
	fd = memfd_create(name, flags | MFD_NOEXEC_SEAL);
	if (fd < 0 && errno == EINVAL) /* an older kernel; or the flags are, and it says so again */
		fd = memfd_create(name, flags);
	return fd < 0 ? -errno : fd;
}

int fd_type(int fd)
{
	struct statx st;

	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return -errno;
	return st.stx_mode & S_IFMT;
}

bool fd_ready(int fd, short events)
{
	struct pollfd pfd = { .fd = fd, .events = events };

	return poll(&pfd, 1, 0) > 0;
}

bool fd_take_event(int fd)
{
	uint64_t count;
	struct iovec iov = { &count, sizeof(count) };
	ssize_t n = preadv2(fd, &iov, 1, -1, RWF_NOWAIT);

	if (n < 0 && errno == EOPNOTSUPP && fd_ready(fd, POLLIN)) /* before Linux 5.8 */
		n = read(fd, &count, sizeof(count));
	return n == sizeof(count);
}

/*
 * The kernel has no RWF_NOWAIT for this. Who fills it up after the look can still make us wait: but
 * by no accident, and not by the flag alone. #syscalls vcpu: poll write
 */
void fd_signal_event(int fd)
{
	const uint64_t one = 1;

	if (fd >= 0 && fd_ready(fd, POLLOUT) && write(fd, &one, sizeof(one)) < 0)
		return;
}

int fd_write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_read_file(int fd, const char *name, size_t max, void **buf, size_t *len, struct error *err)
{
	_cleanup_free_ char *data = NULL;
	size_t have = 0, want;
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "%s", name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, S_ISDIR(st.st_mode) ? EISDIR : EINVAL, "%s: not a regular file",
			       name);
	if ((uint64_t)st.st_size > max)
		return err_set(err, EFBIG, "%s: %lld bytes, more than the %zu that it may have",
			       name, (long long)st.st_size, max);
	want = (size_t)st.st_size;
	data = malloc(want + 1);
	if (!data)
		return err_set(err, ENOMEM, "%s: no memory for %zu bytes", name, want);
	while (have < want) {
		ssize_t n = pread(fd, data + have, want - have, (off_t)have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, errno, "%s: read", name);
		if (n == 0) /* it shrank meanwhile; the caller's checks see a cut file */
			break;
		have += (size_t)n;
	}
	*len = have;
	*buf = data;
	data = NULL;
	return 0;
}

bool fd_is_elf(int fd)
{
	char magic[SELFMAG];

	return pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
	       memcmp(magic, ELFMAG, SELFMAG) == 0;
}

int fd_lock(int fd, unsigned int ms)
{
	uint64_t deadline = now_ns() + ms * 1000000ull;

	while (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EINTR && (errno != EWOULDBLOCK || now_ns() >= deadline))
			return -errno;
		nanosleep(&(struct timespec){ .tv_nsec = LOCK_POLL_NS }, NULL);
	}
	return 0;
}

/* Without a system call where the host lets it. #syscalls vcpu: clock_gettime */
uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

struct timespec ns_to_timespec(uint64_t ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / 1000000000u),
				  .tv_nsec = (long)(ns % 1000000000u) };
}
