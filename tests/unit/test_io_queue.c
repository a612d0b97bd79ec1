/* SPDX-License-Identifier: MIT */
/*
 * A queue's thread against a driver that offers another request as soon as one is done, against
 * kicks that come just before it sleeps, and against what an earlier process has left.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "src/io/internal.h"

#define SIZE 8
#define DESC 0x1000
#define AVAIL 0x2000
#define USED 0x3000
#define DATA 0x10000
#define MANY 1000

static struct io_disk_options opt;
static struct io_disk disk;
static struct io_queue queues[6]; /* the thread of each stays */
static struct io_queue *queue;
static struct io_process process;
static unsigned int taken;
static unsigned int sleeps;
static bool without_end;           /* the driver offers another request as soon as one is done */
static void (*before_sleep)(void); /* once; then the kick that goes with it is taken */

static void *at(uint64_t gpa, uint64_t len)
{
	return memory_ptr(&disk.mem, gpa, len);
}

static void offer(void)
{
	struct vring_avail *avail = at(AVAIL, 6 + 2 * SIZE);

	avail->ring[avail->idx % SIZE] = 0;
	avail->idx++;
}

/* Done at once. Without an end, main wishes that the queue stops when the first one is. */
static void submit(struct io_request *r)
{
	io_request_finish(r, VIRTIO_BLK_S_OK);
	if (++taken == 1 && without_end)
		io_queue_stop(queue);
	if (taken < MANY && without_end)
		offer();
}

static void nothing(struct io_queue *q)
{
	(void)q;
}

static bool none_ready(struct io_queue *q)
{
	(void)q;
	return false;
}

static void reap(struct io_queue *q)
{
	void (*act)(void) = before_sleep;
	uint64_t count;

	if (!act || q->pushed)
		return;
	before_sleep = NULL;
	act();
	assert_int_equal(read(q->kick_fd, &count, sizeof(count)), sizeof(count));
	io_queue_kicked(q);
}

/* A real one would not be woken again; so that a test that fails ends, the queue stops here. */
static void no_wait(struct io_queue *q, int64_t timeout_ns)
{
	(void)timeout_ns;
	sleeps++;
	__atomic_store_n(&q->run, false, __ATOMIC_RELAXED);
}

static const struct io_engine engine = {
	.submit = submit,
	.flush = nothing,
	.reap = reap,
	.ready = none_ready,
	.wait = no_wait,
	.settle = nothing,
};

static int under_way = -1; /* an eventfd, signalled when it is not any more */

/* Of another queue's ring an earlier process's write is under way. */
static void settle_late(struct io_queue *q)
{
	uint64_t count;

	if (q != queue)
		assert_int_equal(read(under_way, &count, sizeof(count)), sizeof(count));
}

static const struct io_engine late_engine = {
	.submit = submit,
	.flush = nothing,
	.reap = reap,
	.ready = none_ready,
	.wait = no_wait,
	.settle = settle_late,
};

static void stopped(void *opaque)
{
	(void)opaque;
}

static void set_up(void)
{
	struct error err = ERROR_INIT;
	struct vring_desc *desc;
	int board;

	queue = queue ? queue + 1 : queues;
	opt = (struct io_disk_options){ .id = "d", .queue_size = SIZE };
	disk = (struct io_disk){ .opt = &opt, .process = &process, .capacity = 512 };
	process.nowhere = eventfd(0, EFD_CLOEXEC);
	assert_int_equal(loop_create(&process.loop, &err), 0);
	assert_int_equal(loop_wake_init(process.loop, &process.stopped, stopped, NULL, &err), 0);
	board = io_board_make(1, &err);
	assert_int_equal(io_board_map(&disk.board, board, 1, &err), 0);
	assert_int_equal(memory_create(&disk.mem, MEMORY_MIN_BYTES, NULL, NULL, &err), 0);
	assert_int_equal(io_queue_init(queue, &disk, 0, &err), 0);
	queue->engine = &engine;
	taken = sleeps = 0;
	without_end = false;
	queue->config = (struct virtqueue_config){ .size = SIZE,
						   .desc_gpa = DESC,
						   .avail_gpa = AVAIL,
						   .used_gpa = USED };
	desc = at(DESC, sizeof(*desc) * SIZE);
	desc[0] = (struct vring_desc){ DATA, 16, VRING_DESC_F_NEXT, 1 };
	desc[1] = (struct vring_desc){ DATA + 512, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 2 };
	desc[2] = (struct vring_desc){ DATA + 16, 1, VRING_DESC_F_WRITE, 0 };
	((struct virtio_blk_outhdr *)at(DATA, 16))->type = VIRTIO_BLK_T_IN;
}

static void run_until_stopped(void)
{
	struct error err = ERROR_INIT;

	offer();
	io_queue_begin(queue);
	assert_int_equal(io_queue_start(queue, &err), 0);
	assert_int_equal(io_queue_start_thread(queue, &err), 0);
	while (io_queue_running(queue))
		usleep(1000);
}

static void test_a_driver_without_a_pause_does_not_keep_the_queue(void **state)
{
	(void)state;
	set_up();
	without_end = true;
	run_until_stopped();
	assert_in_range(taken, 1, SIZE);
}

static void stop(void)
{
	io_queue_stop(queue);
}

static void test_a_stop_just_before_it_sleeps(void **state)
{
	(void)state;
	set_up();
	before_sleep = stop;
	run_until_stopped();
	assert_int_equal(taken, 1);
	assert_int_equal(sleeps, 0);
}

static void lift_limit(void)
{
	disk.board.board->limits[IO_BOARD_OPS].rate = 0;
	io_queue_poke(queue);
}

static void hold_until(void (*lift)(void))
{
	disk.board.board->limits[IO_BOARD_OPS] = (struct io_board_limit){
		.rate = 1,
		.burst = 1,
		.busy_ns = now_ns() + 3600000000000
	};
	before_sleep = lift;
}

static void test_a_limit_lifted_just_before_it_sleeps(void **state)
{
	(void)state;
	set_up();
	hold_until(lift_limit);
	run_until_stopped();
	assert_int_equal(taken, 1);
	assert_int_equal(sleeps, 1);
}

static void make_it_smaller(void)
{
	disk.capacity = 0;
	lift_limit();
}

static void test_a_disk_made_smaller_while_a_limit_holds_a_request(void **state)
{
	const uint8_t *status;

	(void)state;
	set_up();
	status = at(DATA + 16, 1);
	hold_until(make_it_smaller);
	run_until_stopped();
	assert_int_equal(taken, 0);
	assert_int_equal(*status, VIRTIO_BLK_S_IOERR);
}

/* The driver has reset the device since, and writes the same block by the queue that it has. */
static void test_no_queue_runs_before_what_another_has_under_way(void **state)
{
	struct error err = ERROR_INIT;
	struct io_queue *other;

	(void)state;
	set_up();
	other = queue + 1;
	opt.nqueues = 2;
	disk.queues = queue;
	assert_int_equal(io_queue_init(other, &disk, 0, &err), 0);
	queue->engine = other->engine = &late_engine;
	under_way = eventfd(0, EFD_CLOEXEC);
	offer();
	io_queue_begin(queue);
	io_queue_begin(other);
	assert_int_equal(io_queue_start_thread(other, &err), 0);
	assert_int_equal(io_queue_start_thread(queue, &err), 0);
	assert_int_equal(io_queue_start(queue, &err), 0);
	usleep(50000);
	assert_true(io_queue_running(queue));
	assert_int_equal(taken, 0);
	fd_signal_event(under_way);
	while (io_queue_running(queue))
		usleep(1000);
	assert_int_equal(taken, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_driver_without_a_pause_does_not_keep_the_queue),
		cmocka_unit_test(test_a_stop_just_before_it_sleeps),
		cmocka_unit_test(test_a_limit_lifted_just_before_it_sleeps),
		cmocka_unit_test(test_a_disk_made_smaller_while_a_limit_holds_a_request),
		cmocka_unit_test(test_no_queue_runs_before_what_another_has_under_way),
	};

	return cmocka_run_group_tests_name("io_queue", tests, NULL, NULL);
}
