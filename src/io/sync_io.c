/* SPDX-License-Identifier: MIT */
/* A request carried out in the calling thread, which waits for it. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "internal.h"

#define BOUNCE_BYTES (256u << 10)

bool io_request_is_aligned(const struct io_request *r)
{
	const struct io_disk *d = r->queue->disk;

	if (!d->direct || (r->op != IO_OP_READ && r->op != IO_OP_WRITE))
		return true;
	for (uint32_t i = 0; i < r->niov; i++)
		if (((uintptr_t)r->iov[i].iov_base | r->iov[i].iov_len) & (d->mem_align - 1) ||
		    r->iov[i].iov_len % d->block_size)
			return false;
	return true;
}

/* len bytes between a buffer and iovecs, from byte `from` of them on. */
static void copy(const struct io_request *r, uint64_t from, char *buf, size_t len, bool to_guest)
{
	for (uint32_t i = 0; i < r->niov && len; i++) {
		size_t have = r->iov[i].iov_len, part;
		char *p = (char *)r->iov[i].iov_base + from;

		if (from >= have) {
			from -= have;
			continue;
		}
		part = have - from < len ? have - from : len;
		memcpy(to_guest ? p : buf, to_guest ? buf : p, part);
		buf += part;
		len -= part;
		from = 0;
	}
}

static ssize_t bounce_part(const struct io_request *r, uint64_t done, char *buf, size_t len)
{
	off_t at = (off_t)(r->offset + done);
	ssize_t n;

	if (r->op == IO_OP_WRITE)
		copy(r, done, buf, len, false);
	do
		n = r->op == IO_OP_READ ? pread(r->queue->disk->file, buf, len, at)
					: pwrite(r->queue->disk->file, buf, len, at);
	while (n < 0 && errno == EINTR);
	if (n > 0 && r->op == IO_OP_READ)
		copy(r, done, buf, (size_t)n, true);
	return n < 0 ? -errno : n;
}

/* #syscalls io: mmap(,,!&PROT_EXEC) munmap pread64 pwrite64 */
int io_request_bounce(const struct io_request *r)
{
	char *buf = mmap(NULL, BOUNCE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	uint64_t done = 0, want = r->left < INT32_MAX / 2 ? r->left : INT32_MAX / 2 + 1;
	ssize_t n = 0;

	if (buf == MAP_FAILED)
		return -ENOMEM;
	while (done < want) {
		size_t len = want - done < BOUNCE_BYTES ? (size_t)(want - done) : BOUNCE_BYTES;

		n = bounce_part(r, done, buf, len);
		if (n <= 0)
			break;
		done += (uint64_t)n;
	}
	munmap(buf, BOUNCE_BYTES);
	return done ? (int)done : (int)n;
}

/* #syscalls io: preadv pwritev fdatasync fallocate */
int io_request_do(const struct io_request *r)
{
	int file = r->queue->disk->file;
	ssize_t n;

	if (!io_request_is_aligned(r))
		return io_request_bounce(r);
	switch (r->op) {
	case IO_OP_READ:
		n = preadv(file, r->iov, (int)r->niov, (off_t)r->offset);
		break;
	case IO_OP_WRITE:
	case IO_OP_ZERO:
		n = pwritev(file, r->iov, (int)r->niov, (off_t)r->offset);
		break;
	case IO_OP_SYNC:
		n = fdatasync(file);
		break;
	case IO_OP_ALLOCATE:
		n = fallocate(file, r->mode, (off_t)r->offset, (off_t)r->left);
		break;
	default:
		return 0;
	}
	return n < 0 ? -errno : (int)n;
}
