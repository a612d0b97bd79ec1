/* SPDX-License-Identifier: MIT */
/* The rings that the VMM makes: what they let through, and who may use them. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <liburing.h>

#include <molt/base/fd.h>
#include <molt/virtio/io_ring.h>

#include "../../src/io/internal.h"

static struct error err;
static struct io_uring_params params;
static int ring_fd = -1;

static int setup(void **state)
{
	(void)state;
	ring_fd = io_ring_make(128, &params, &err);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fd_close(&ring_fd);
	return 0;
}

static void need_a_ring(void)
{
	if (ring_fd >= 0)
		return;
	print_message("%s\n", err.text);
	skip();
}

static void attach(struct io_uring *ring)
{
	memset(ring, 0, sizeof(*ring));
	assert_int_equal(io_uring_queue_mmap(ring_fd, &params, ring), 0);
	ring->enter_ring_fd = ring_fd;
	ring->flags = params.flags;
	ring->features = params.features;
	for (unsigned int i = 0; i < params.sq_entries; i++)
		ring->sq.array[i] = i;
	ring->sq.sqe_head = ring->sq.sqe_tail = *ring->sq.ktail;
}

/* The result of one submission. */
static int do_one(struct io_uring *ring)
{
	struct io_uring_cqe *cqe = NULL;
	int res;

	assert_int_equal(io_uring_submit_and_wait(ring, 1), 1);
	assert_int_equal(io_uring_peek_cqe(ring, &cqe), 0);
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	return res;
}

static void test_sizes(void **state)
{
	(void)state;
	need_a_ring();
	assert_true(params.sq_entries >= 128 + 2);
	assert_true(params.cq_entries >= 2 * params.sq_entries);
	assert_int_equal(fcntl(ring_fd, F_GETFD), FD_CLOEXEC);
}

/* Whatever opens, connects, sends, makes or moves descriptors, or reaches into another ring. */
static void test_is_restricted(void **state)
{
	static const uint8_t allowed[] = {
		IORING_OP_NOP,         IORING_OP_READ,           IORING_OP_WRITE,
		IORING_OP_READV,       IORING_OP_WRITEV,         IORING_OP_READ_FIXED,
		IORING_OP_WRITE_FIXED, IORING_OP_FSYNC,          IORING_OP_FALLOCATE,
		IORING_OP_POLL_ADD,    IORING_OP_POLL_REMOVE,    IORING_OP_ASYNC_CANCEL,
		IORING_OP_TIMEOUT,     IORING_OP_TIMEOUT_REMOVE,
	};
	struct io_uring ring;

	(void)state;
	need_a_ring();
	attach(&ring);
	for (int op = 0; op < 60; op++) {
		struct io_uring_sqe *sqe;
		int res;

		if (memchr(allowed, op, sizeof(allowed)))
			continue;
		sqe = io_uring_get_sqe(&ring);
		if (!sqe)
			fail_msg("no room for operation %d", op);
		else
			memset(sqe, 0, sizeof(*sqe));
		sqe->opcode = (uint8_t)op;
		sqe->fd = -1;
		res = do_one(&ring);
		if (res != -EACCES && res != -EINVAL)
			fail_msg("operation %d: %d", op, res);
	}
	io_uring_prep_nop(io_uring_get_sqe(&ring));
	assert_int_equal(do_one(&ring), 0);
}

static void test_nothing_can_be_registered(void **state)
{
	(void)state;
	need_a_ring();
	/* All that Linux 5.13 has; what a kernel does not know is EINVAL. */
	for (unsigned int op = 0; op <= IORING_UNREGISTER_IOWQ_AFF; op++) {
		assert_int_equal(syscall(SYS_io_uring_register, ring_fd, op, NULL, 0), -1);
		assert_int_equal(errno, EACCES);
	}
}

/* Another process uses it, and then its maker does. */
static void test_is_inherited(void **state)
{
	struct io_uring ring;
	int ends[2], status;
	char buf[8] = "";
	pid_t child;

	(void)state;
	need_a_ring();
	assert_int_equal(pipe(ends), 0);
	child = fork();
	if (child == 0) {
		attach(&ring);
		io_uring_prep_write(io_uring_get_sqe(&ring), ends[1], "hello", 5, 0);
		_exit(do_one(&ring) == 5 ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	attach(&ring);
	io_uring_prep_read(io_uring_get_sqe(&ring), ends[0], buf, sizeof(buf), 0);
	assert_int_equal(do_one(&ring), 5);
	assert_string_equal(buf, "hello");
	close(ends[0]);
	close(ends[1]);
}

/* The process before, which may have been the guest's, has left it on the board. */
static void test_a_board_that_leads_out_of_the_ring(void **state)
{
	static const struct io_disk_options opt = { .id = "d", .queue_size = 128 };
	static struct io_disk disk = { .opt = &opt };
	static struct io_board_queue board;
	static struct io_queue q = { .disk = &disk, .board = &board };
	static const size_t offsets[] = {
		offsetof(struct io_uring_params, sq_off.head),
		offsetof(struct io_uring_params, sq_off.flags),
		offsetof(struct io_uring_params, cq_off.tail),
		offsetof(struct io_uring_params, cq_off.ring_entries),
		offsetof(struct io_uring_params, flags),
	};

	(void)state;
	need_a_ring();
	for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
		memcpy(board.ring, &params, sizeof(params));
		memset((char *)board.ring + offsets[i], 0x7c, sizeof(uint32_t));
		assert_int_equal(io_engine_uring_attach(&q, ring_fd, &err), -EINVAL);
	}
	memcpy(board.ring, &params, sizeof(params));
	assert_int_equal(io_engine_uring_attach(&q, ring_fd, &err), 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_sizes),
		TEST(test_is_restricted),
		TEST(test_nothing_can_be_registered),
		TEST(test_is_inherited),
		TEST(test_a_board_that_leads_out_of_the_ring),
	};

	return cmocka_run_group_tests_name("ring", tests, NULL, NULL);
}
