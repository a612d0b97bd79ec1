/* SPDX-License-Identifier: MIT */
/* Makes a restricted io_uring; see include/molt/virtio/io_ring.h and engine_uring.c. */
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/virtio/io_ring.h>

#define ENTRIES_MIN 8u

static const uint8_t allowed[] = {
	IORING_OP_NOP,         IORING_OP_READ,           IORING_OP_WRITE,
	IORING_OP_READV,       IORING_OP_WRITEV,         IORING_OP_READ_FIXED,
	IORING_OP_WRITE_FIXED, IORING_OP_FSYNC,          IORING_OP_FALLOCATE,
	IORING_OP_POLL_ADD,    IORING_OP_POLL_REMOVE,    IORING_OP_ASYNC_CANCEL,
	IORING_OP_TIMEOUT,     IORING_OP_TIMEOUT_REMOVE,
};

/* Without a list of register operations none is possible. */
static int restrict_to_allowed(int fd)
{
	struct io_uring_restriction list[ARRAY_SIZE(allowed)];

	memset(list, 0, sizeof(list));
	for (size_t i = 0; i < ARRAY_SIZE(allowed); i++) {
		list[i].opcode = IORING_RESTRICTION_SQE_OP;
		list[i].sqe_op = allowed[i];
	}
	if (syscall(SYS_io_uring_register, fd, IORING_REGISTER_RESTRICTIONS, list,
		    ARRAY_SIZE(list)) < 0)
		return -errno;
	return syscall(SYS_io_uring_register, fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0) < 0
		       ? -errno
		       : 0;
}

/* Beside the requests: a read of the kick's eventfd, and a cancel. */
static unsigned int entries_for(unsigned int queue_size)
{
	unsigned int n = ENTRIES_MIN;

	while (n < queue_size + 2)
		n *= 2;
	return n;
}

static int setup(unsigned int entries, unsigned int flags, struct io_uring_params *params)
{
	long fd;

	memset(params, 0, sizeof(*params));
	params->flags = flags;
	fd = syscall(SYS_io_uring_setup, entries, params);
	return fd < 0 ? -errno : (int)fd;
}

int io_ring_make(unsigned int queue_size, struct io_uring_params *params, struct error *err)
{
	unsigned int n = entries_for(queue_size);
	int fd, r;

	/*
	 * Linux 5.19: a completion waits for its thread to enter the kernel, and interrupts nobody;
	 * a flag in the ring says that it does.
	 */
	fd = setup(n,
		   IORING_SETUP_R_DISABLED | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
		   params);
	if (fd == -EINVAL)
		fd = setup(n, IORING_SETUP_R_DISABLED, params);
	if (fd < 0)
		return err_sys(err, -fd, "io_uring");
	r = restrict_to_allowed(fd);
	if (r < 0) {
		close(fd);
		return err_sys(err, -r, "io_uring: restrictions");
	}
	return fd;
}
