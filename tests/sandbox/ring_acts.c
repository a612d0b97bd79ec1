/* SPDX-License-Identifier: MIT */
/*
 * Acts of attempts.c by an io_uring. Theory of operation.
 *
 * A main with a disk may enter rings and make none. The rings of its disk's queues are among its
 * open descriptors, so an attacker looks there, maps the first and submits to it. Where there is
 * none, he makes one: that is what happens without a sandbox, and shows that the operations work.
 *
 * The offsets in a ring's memory come from io_uring_setup, which whoever finds a ring has not
 * called. The victim, who is not confined, does it for him and leaves them in a file.
 *
 * The I/O process may take a completion away, so it is looked for in the ring's memory wherever the
 * head is, by its user_data. One that never comes would look like a refusal; it ends the program.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "acts.h"

#define OFFSETS "ring"
#define ENTRIES 8
#define WAIT_MS 2000

struct ring {
	int fd;
	struct io_uring_params p;
	char *memory;
	struct io_uring_sqe *sqes;
	uint32_t sq_entries, cq_entries;
};

static int make_ring(struct io_uring_params *p)
{
	memset(p, 0, sizeof(*p));
	return (int)syscall(SYS_io_uring_setup, ENTRIES, p);
}

bool start_io_uring(void)
{
	struct io_uring_params p;

	return make_ring(&p) >= 0;
}

void leave_ring_offsets(void)
{
	struct io_uring_params p;
	int ring = make_ring(&p), fd;

	if (ring < 0)
		return;
	close(ring);
	fd = open(OFFSETS, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd < 0 || write(fd, &p, sizeof(p)) != (ssize_t)sizeof(p))
		exit(1);
	close(fd);
}

/* -1: none. */
static int find_ring(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	char target[64];
	int found = -1;

	while (dir && found < 0 && (entry = readdir(dir))) {
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);

		target[n < 0 ? 0 : n] = '\0';
		if (strcmp(target, "anon_inode:[io_uring]") == 0)
			found = atoi(entry->d_name);
	}
	if (dir)
		closedir(dir);
	return found;
}

static void *map(int fd, size_t bytes, off_t what)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, what);

	return p == MAP_FAILED ? NULL : p;
}

static uint32_t *word(const struct ring *ring, uint32_t offset)
{
	return (uint32_t *)(void *)(ring->memory + offset);
}

static bool open_ring(struct ring *ring)
{
	int fd = open(OFFSETS, O_RDONLY | O_CLOEXEC);
	struct io_uring_params own;

	if (fd < 0 || read(fd, &ring->p, sizeof(ring->p)) != (ssize_t)sizeof(ring->p))
		return false;
	ring->fd = find_ring();
	if (ring->fd < 0)
		ring->fd = make_ring(&own);
	ring->memory = ring->fd < 0 ? NULL : map(ring->fd, 1024, IORING_OFF_SQ_RING);
	if (!ring->memory)
		return false;
	ring->sq_entries = *word(ring, ring->p.sq_off.ring_entries);
	ring->cq_entries = *word(ring, ring->p.cq_off.ring_entries);
	ring->memory = map(ring->fd,
			   ring->p.cq_off.cqes + ring->cq_entries * sizeof(struct io_uring_cqe),
			   IORING_OFF_SQ_RING);
	ring->sqes = map(ring->fd, ring->sq_entries * sizeof(struct io_uring_sqe), IORING_OFF_SQES);
	return ring->memory && ring->sqes;
}

static const struct io_uring_cqe *completion(const struct ring *ring, uint64_t user_data)
{
	const struct io_uring_cqe *cqes = (const void *)(ring->memory + ring->p.cq_off.cqes);

	for (uint32_t i = 0; i < ring->cq_entries; i++)
		if (__atomic_load_n(&cqes[i].user_data, __ATOMIC_ACQUIRE) == user_data)
			return &cqes[i];
	return NULL;
}

static long enter(const struct ring *ring, unsigned int submit)
{
	return syscall(SYS_io_uring_enter, ring->fd, submit, 0, IORING_ENTER_GETEVENTS, NULL, 0);
}

/* Whatever the array of indices says, it is this one: it is in every place. */
static bool submit(const struct ring *ring, const struct io_uring_sqe *sqe)
{
	uint32_t *tail = word(ring, ring->p.sq_off.tail);

	for (uint32_t i = 0; i < ring->sq_entries; i++)
		ring->sqes[i] = *sqe;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	return enter(ring, 1) == 1;
}

static bool done_by_ring(struct io_uring_sqe sqe)
{
	const struct timespec ms = { .tv_nsec = 1000000 };
	const struct io_uring_cqe *cqe;
	struct ring ring;

	if (!open_ring(&ring))
		return false;
	sqe.user_data = 0x6d6f6c7400000000u | (uint32_t)getpid();
	if (!submit(&ring, &sqe))
		return false;
	for (int i = 0; i < WAIT_MS; i++) {
		cqe = completion(&ring, sqe.user_data);
		if (cqe)
			return cqe->res >= 0;
		nanosleep(&ms, NULL);
		enter(&ring, 0);
	}
	abort();
}

bool read_by_ring(void)
{
	char byte;

	return done_by_ring((struct io_uring_sqe){
		.opcode = IORING_OP_READ,
		.fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC),
		.addr = (uintptr_t)&byte,
		.len = 1,
	});
}

bool open_by_ring(void)
{
	return done_by_ring((struct io_uring_sqe){
		.opcode = IORING_OP_OPENAT,
		.fd = AT_FDCWD,
		.addr = (uintptr_t) "/etc/passwd",
		.open_flags = O_RDONLY | O_CLOEXEC,
	});
}

bool socket_by_ring(void)
{
	return done_by_ring((struct io_uring_sqe){
		.opcode = IORING_OP_SOCKET,
		.fd = AF_INET,
		.off = SOCK_STREAM,
	});
}

bool connect_by_ring(void)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX, .sun_path = "stream" };

	return done_by_ring((struct io_uring_sqe){
		.opcode = IORING_OP_CONNECT,
		.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
		.addr = (uintptr_t)&sun,
		.off = sizeof(sun),
	});
}

bool send_by_ring(void)
{
	struct iovec iov = { (void *)(uintptr_t) "x", 1 };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	int ends[2];

	return socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0 &&
	       done_by_ring((struct io_uring_sqe){
		       .opcode = IORING_OP_SENDMSG,
		       .fd = ends[0],
		       .addr = (uintptr_t)&msg,
		       .len = 1,
	       });
}

bool register_with_ring(void)
{
	struct ring ring;
	int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);

	return open_ring(&ring) &&
	       syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_FILES, &fd, 1) == 0;
}
