/* SPDX-License-Identifier: MIT */
/*
 * What becomes of a request whose results are known, with an engine that carries nothing out; and
 * of a completion in a ring that no kernel has.
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "src/io/internal.h"

#define SIZE 8
#define BYTES 4096u

static struct io_disk_options opt;
static struct io_disk disk;
static struct io_queue queue;
static struct io_board_queue board;
static struct io_board disk_board;
static struct io_request request;
static struct iovec wide[SIZE * IO_IOVS];
static union {
	struct vring_used used;
	uint8_t bytes[sizeof(struct vring_used) + SIZE * sizeof(struct vring_used_elem)];
} ring;
static uint8_t status;
static unsigned int submitted;

static void submit(struct io_request *r)
{
	assert_ptr_equal(r, &request);
	submitted++;
}

static const struct io_engine engine = { .submit = submit };

static int setup(void **state)
{
	static struct io_process process;

	(void)state;
	log_set_level(LOG_LEVEL_ALWAYS);
	opt = (struct io_disk_options){ .id = "d" };
	disk_board = (struct io_board){ 0 };
	disk = (struct io_disk){ .opt = &opt,
				 .process = &process,
				 .capacity = BYTES,
				 .board = { .board = &disk_board } };
	memset(&queue, 0, sizeof(queue));
	queue.disk = &disk;
	queue.engine = &engine;
	queue.board = &board;
	queue.wide = wide;
	queue.vq = (struct virtqueue){ .used = &ring.used, .size = SIZE };
	submitted = 0;
	return 0;
}

static void begin(enum io_op op)
{
	static uint8_t data[BYTES];

	status = 0xff;
	request = (struct io_request){
		.queue = &queue,
		.op = op,
		.kind = IO_BOARD_WRITE,
		.left = BYTES,
		.bytes = BYTES,
		.status = &status,
		.must_zero = true,
		.busy = true
	};
	request.iov = request.few;
	request.niov = 1;
	request.few[0] = (struct iovec){ data, BYTES };
}

static void must_sync_first(int last)
{
	unsigned int before = submitted;

	io_request_result(&request, last);
	assert_int_equal(status, 0xff);
	assert_int_equal(submitted, before + 1);
	assert_int_equal(request.op, IO_OP_SYNC);
}

/* Virtio 1.2, 5.2.6.2: it has no other way to know that what it wrote is there to stay. */
static void test_without_flush_writes_are_stable(void **state)
{
	(void)state;
	begin(IO_OP_WRITE);
	io_request_result(&request, 512);
	assert_int_equal(request.op, IO_OP_WRITE);
	must_sync_first(BYTES - 512);
	io_request_result(&request, -EINTR);
	assert_int_equal(status, 0xff);
	io_request_result(&request, 0);
	assert_int_equal(status, VIRTIO_BLK_S_OK);
}

static void test_without_flush_a_failed_sync_is_told(void **state)
{
	(void)state;
	begin(IO_OP_WRITE);
	must_sync_first(BYTES);
	io_request_result(&request, -EIO);
	assert_int_equal(status, VIRTIO_BLK_S_IOERR);
}

static void test_without_flush_ranges_are_stable(void **state)
{
	(void)state;
	begin(IO_OP_ALLOCATE);
	must_sync_first(0);
	begin(IO_OP_ALLOCATE);
	io_request_result(&request, -EOPNOTSUPP);
	assert_int_equal(request.op, IO_OP_ZERO);
	must_sync_first(BYTES);
	io_request_result(&request, 0);
	assert_int_equal(status, VIRTIO_BLK_S_OK);
}

static void test_a_read_changes_nothing(void **state)
{
	(void)state;
	begin(IO_OP_READ);
	io_request_result(&request, BYTES);
	assert_int_equal(status, VIRTIO_BLK_S_OK);
	assert_int_equal(submitted, 0);
}

static void test_with_flush_nothing_is_synced(void **state)
{
	static const enum io_op ops[] = { IO_OP_WRITE, IO_OP_ZERO, IO_OP_ALLOCATE };

	(void)state;
	disk.features = 1ull << VIRTIO_BLK_F_FLUSH;
	for (unsigned int i = 0; i < 3; i++) {
		begin(ops[i]);
		io_request_result(&request, ops[i] == IO_OP_ALLOCATE ? 0 : BYTES);
		assert_int_equal(status, VIRTIO_BLK_S_OK);
	}
	assert_int_equal(submitted, 0);
}

/* block_resize, and the rest would make the file longer again. */
static void test_a_disk_that_is_made_smaller_meanwhile(void **state)
{
	(void)state;
	disk.features = 1ull << VIRTIO_BLK_F_FLUSH;
	begin(IO_OP_WRITE);
	io_request_result(&request, 512);
	assert_int_equal(submitted, 1);
	disk.capacity = BYTES / 2;
	io_request_result(&request, 512);
	assert_int_equal(submitted, 1);
	assert_int_equal(status, VIRTIO_BLK_S_IOERR);
}

static uint8_t flush(int result)
{
	begin(IO_OP_SYNC);
	io_request_result(&request, result);
	return status;
}

/* The kernel tells of what it has lost once, and another flush may ask for the same data. */
static void test_what_is_lost_is_told_to_each_flush(void **state)
{
	(void)state;
	disk.features = 1ull << VIRTIO_BLK_F_FLUSH;
	assert_int_equal(flush(0), VIRTIO_BLK_S_OK);
	assert_int_equal(flush(-EIO), VIRTIO_BLK_S_IOERR);
	assert_int_equal(flush(0), VIRTIO_BLK_S_IOERR);
	assert_int_equal(disk_board.sync_error, EIO);
	disk.features = 0;
	begin(IO_OP_WRITE);
	must_sync_first(BYTES);
	io_request_result(&request, 0);
	assert_int_equal(status, VIRTIO_BLK_S_IOERR);
	begin(IO_OP_READ);
	io_request_result(&request, BYTES);
	assert_int_equal(status, VIRTIO_BLK_S_OK);
}

static void test_without_a_page_cache_each_flush_is_its_own(void **state)
{
	(void)state;
	disk.direct = true;
	assert_int_equal(flush(-EIO), VIRTIO_BLK_S_IOERR);
	assert_int_equal(flush(0), VIRTIO_BLK_S_OK);
}

static struct {
	unsigned int head, tail, flags;
	struct io_uring_cqe cqe;
} completions;

static void complete(uint64_t user_data, int res)
{
	completions.cqe = (struct io_uring_cqe){ .user_data = user_data, .res = res };
	completions.head = 0;
	completions.tail = 1;
	queue.ring.sq.khead = &completions.tail; /* as many were submitted */
	queue.ring.sq.kflags = &completions.flags;
	queue.ring.cq.khead = &completions.head;
	queue.ring.cq.ktail = &completions.tail;
	queue.ring.cq.cqes = &completions.cqe;
	queue.ring.cq.ring_entries = 1;
}

/* As where RLIMIT_NPROC or pids.max is reached: the disk has no fault, and the flush loses nothing.
 */
static void test_what_the_kernel_has_no_thread_for(void **state)
{
	static const char text[] = "written";
	char now[sizeof(text)] = "";

	(void)state;
	opt.queue_size = 1;
	queue.requests = &request;
	queue.generation = 7;
	disk.features = 1ull << VIRTIO_BLK_F_FLUSH;
	disk.file = fd_memfd("disk", 0);
	assert_true(disk.file >= 0);
	begin(IO_OP_SYNC);
	complete(7ull << 32, -ECANCELED);
	io_engine_uring.reap(&queue);
	assert_int_equal(status, VIRTIO_BLK_S_OK);
	assert_int_equal(disk_board.sync_error, 0);
	begin(IO_OP_WRITE);
	memcpy(request.iov->iov_base, text, sizeof(text));
	complete(7ull << 32, -ECANCELED);
	io_engine_uring.reap(&queue);
	assert_int_equal(status, VIRTIO_BLK_S_OK);
	assert_int_equal(pread(disk.file, now, sizeof(now), 0), sizeof(now));
	assert_string_equal(now, text);
	close(disk.file);
}

static struct io_uring_sqe sqe;

static void make_ring(void)
{
	static unsigned int index, sq_flags;

	index = sq_flags = 0;
	queue.ring.sq = (struct io_uring_sq){
		.khead = &index,
		.ktail = &index,
		.kflags = &sq_flags,
		.array = &index,
		.sqes = &sqe,
		.ring_entries = 1
	};
}

/* As where a process was killed: what it left in its ring, as the next one finds it. */
static uint64_t left_in_the_ring(int result)
{
	opt.queue_size = 1;
	queue.requests = &request;
	queue.generation++;
	begin(IO_OP_SYNC);
	make_ring();
	io_engine_uring.submit(&request);
	complete(sqe.user_data, result);
	queue.generation++;
	io_engine_uring.settle(&queue);
	assert_int_equal(completions.head, completions.tail);
	return disk_board.sync_error;
}

/* The sync is done again, with success: the kernel has told already. */
static void test_what_was_lost_before_a_process_was_killed(void **state)
{
	(void)state;
	disk.features = 1ull << VIRTIO_BLK_F_FLUSH;
	assert_int_equal(left_in_the_ring(0), 0);
	assert_int_equal(left_in_the_ring(-ECANCELED), 0);
	assert_int_equal(left_in_the_ring(-EIO), EIO);
	assert_int_equal(flush(0), VIRTIO_BLK_S_IOERR);
}

/* A request that failed is done again, and says anew what becomes of it. */
static void test_other_failures_before_it_was_killed(void **state)
{
	(void)state;
	make_ring();
	complete(7ull << 32 | 3, -EIO);
	io_engine_uring.settle(&queue);
	complete(7ull << 32 | 0xffffffff, -EIO);
	io_engine_uring.settle(&queue);
	assert_int_equal(disk_board.sync_error, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, NULL)
	const struct CMUnitTest tests[] = {
		TEST(test_without_flush_writes_are_stable),
		TEST(test_without_flush_a_failed_sync_is_told),
		TEST(test_without_flush_ranges_are_stable),
		TEST(test_a_read_changes_nothing),
		TEST(test_with_flush_nothing_is_synced),
		TEST(test_a_disk_that_is_made_smaller_meanwhile),
		TEST(test_what_is_lost_is_told_to_each_flush),
		TEST(test_without_a_page_cache_each_flush_is_its_own),
		TEST(test_what_the_kernel_has_no_thread_for),
		TEST(test_what_was_lost_before_a_process_was_killed),
		TEST(test_other_failures_before_it_was_killed),
	};

	return cmocka_run_group_tests_name("request", tests, NULL, NULL);
}
