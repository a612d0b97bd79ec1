/* SPDX-License-Identifier: MIT */
/* When a disk of an update's successor starts an I/O process of its own binary. */
#include "machine_bench.h"

#include <errno.h>
#include <linux/virtio_blk.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/virtio/classes.h>

#include "../../src/virtio/blk.h"
#include "../../src/virtio/disk.h"

static struct bench bench;
static struct disk *disk;
static unsigned int asked; /* for what a process is started with */

static void add(struct fdtable *fds, const char *name, int fd)
{
	struct error err = ERROR_INIT;

	assert_true(fd >= 0);
	assert_int_equal(fdtable_add(fds, name, 0, fd, &err), 0);
}

static char *no_arguments(void *opaque, int socket, int *fds, size_t *nfds)
{
	(void)opaque;
	(void)socket;
	(void)fds;
	(void)nfds;
	asked++;
	return NULL;
}

static int setup(void **state)
{
	static struct fdtable fds;
	struct error err = ERROR_INIT;
	struct value_list list = { .pairs = { { "path", "/nowhere" } }, .count = 1 };
	struct device_env env = { .machine = &bench.m, .list = &list, .fds = &fds };

	(void)state;
	log_set_level(LOG_LEVEL_ERROR);
	bench_init(&bench, 1);
	fds.count = fds.ntaken = 0;
	add(&fds, "disk-file", fd_memfd("disk", 0));
	add(&fds, "disk-board", io_board_make(1, &err));
	add(&fds, "disk-event", eventfd(0, EFD_CLOEXEC));
	disk = calloc(1, sizeof(*disk));
	assert_non_null(disk);
	disk->dev.cls = &disk_class;
	disk->dev.machine = &bench.m;
	pthread_mutex_init(&disk->dev.lock, NULL);
	if (disk_class.create(&disk->dev, &env, &err) < 0)
		fail_msg("%s", err.text);
	disk_class.reset(&disk->dev);
	disk->host.process.arguments = no_arguments;
	asked = 0;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	disk_class.destroy(&disk->dev);
	pthread_mutex_destroy(&disk->dev.lock);
	free(disk);
	bench_fini(&bench);
	return 0;
}

/* ends[1] is the process's. */
static void connect_process(int ends[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
	vhost_front_give_socket(&disk->host.device.front, ends[0]);
}

/*
 * The update is done, and there is a process of the binary before, for whom ends[1] stands. None
 * of this one can be started here: so the other one's queues stay where they are.
 */
static void test_a_process_goes_on_until_there_is_another(void **state)
{
	int ends[2];

	(void)state;
	connect_process(ends);
	disk->host.process.child.pid = getpid(); /* it serves somebody */
	disk_class.updated(&disk->dev, DEVICE_UPDATED_ALONE);
	assert_true(disk->guest.outdated);
	disk_class.go_on(&disk->dev);
	assert_int_equal(asked, 0);
	disk_class.updated(&disk->dev, DEVICE_UPDATED);
	assert_int_equal(asked, 1);
	assert_true(disk->guest.outdated);
	assert_false(disk->guest.device.held);
	disk_class.rest(&disk->dev, NULL); /* the next update, which fails */
	disk_class.go_on(&disk->dev);
	assert_int_equal(asked, 2);
	disk->host.process.child.pid = 0;
	close(ends[1]);
}

/* What gives back is the binary of before: its process is what it was for that. */
static void test_an_update_that_is_given_back(void **state)
{
	int ends[2];

	(void)state;
	connect_process(ends);
	disk->host.process.child.pid = getpid();
	disk_class.updated(&disk->dev, DEVICE_GIVEN_BACK);
	assert_false(disk->guest.outdated);
	assert_int_equal(asked, 0);
	disk->guest.outdated = disk->guest.renew = true; /* as it came in the stream */
	disk_class.updated(&disk->dev, DEVICE_GIVEN_BACK);
	assert_true(disk->guest.outdated);
	assert_int_equal(asked, 1);
	disk->host.process.child.pid = 0;
	close(ends[1]);
}

/* No driver has set up a queue, so they are back at once. */
static void test_a_process_that_is_ready_takes_the_place(void **state)
{
	int ends[2], next[2];

	(void)state;
	connect_process(ends);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, next), 0);
	disk->guest.outdated = disk->guest.renew = true;
	vhost_user_conn_init(&disk->host.process.next.conn, VHOST_USER_FRONT_END, next[0]);
	disk->host.process.next.answered = true;
	disk->host.process.prepared(disk);
	assert_true(disk->host.replace);
	disk_class.service(&disk->dev);
	assert_false(disk->host.replace);
	assert_false(disk->guest.outdated);
	assert_false(disk->guest.device.held);
	assert_int_equal(disk->host.device.front.conn.fd, next[0]);
	close(next[1]);
	close(ends[1]);
}

/* The next one has died before the queues were back. */
static void test_a_process_gets_its_queues_again(void **state)
{
	int ends[2];

	(void)state;
	connect_process(ends);
	disk->host.process.prepared(disk);
	disk_class.service(&disk->dev);
	assert_false(disk->guest.device.held);
	assert_int_equal(disk->host.device.front.conn.fd, ends[0]);
	close(ends[1]);
}

/*
 * Its connection was dropped, for it did not finish in time: it may still be in the middle of what
 * the next one would do again. That one comes when it has ended.
 */
static void test_a_process_that_has_not_finished_is_waited_for(void **state)
{
	(void)state;
	disk_class.updated(&disk->dev, DEVICE_UPDATED);
	assert_int_equal(asked, 0);
	disk->host.process.next.answered = true;
	disk->host.process.prepared(disk);
	disk_class.service(&disk->dev);
	assert_int_equal(asked, 0);
	assert_int_equal(disk->host.device.front.guest->connected, false);
	assert_false(disk->guest.device.held);
}

/* By a process that has gone wrong: the next one, and an update's successor, have to map it. */
static void test_a_board_that_was_spoilt(void **state)
{
	struct io_board_view *v = &disk->host.board, again;
	struct error err = ERROR_INIT;

	(void)state;
	memset(v->board, 0xff, offsetof(struct io_board, limits_seq));
	assert_int_equal(disk_class.rest(&disk->dev, &err), 0);
	assert_int_equal(io_board_map(&again, disk->host.board_fd, 1, &err), 0);
	assert_int_equal(again.size, v->size);
	io_board_unmap(&again);
}

/*
 * The next process finds the disk on other devices than the one before: pvmove has changed what
 * works well. Its size and such hints may change, and nothing that a driver relies on.
 */
static void test_what_of_a_configuration_may_change(void **state)
{
	const struct virtio_blk_config old = { .capacity = 100, .seg_max = 126, .blk_size = 512 };
	struct virtio_blk_config now = old;
	struct error err = ERROR_INIT;

	(void)state;
	now.capacity = 200;
	now.physical_block_exp = 3;
	now.alignment_offset = 1;
	now.min_io_size = 8;
	now.opt_io_size = 128;
	now.discard_sector_alignment = 128;
	assert_int_equal(blk_check_config(NULL, (const uint8_t *)&old, (const uint8_t *)&now,
					  BLK_CONFIG_BYTES, &err),
			 0);
	for (uint32_t i = sizeof(now.capacity); i < BLK_CONFIG_BYTES; i++) {
		bool hint = (i >= 24 && i < 32) || (i >= 44 && i < 48); /* virtio 1.2, 5.2.4 */

		now = old;
		((uint8_t *)&now)[i] ^= 1;
		assert_int_equal(blk_check_config(NULL, (const uint8_t *)&old,
						  (const uint8_t *)&now, BLK_CONFIG_BYTES, &err),
				 hint ? 0 : -EINVAL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_process_goes_on_until_there_is_another,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_update_that_is_given_back, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_process_that_is_ready_takes_the_place, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_process_gets_its_queues_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_process_that_has_not_finished_is_waited_for,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_board_that_was_spoilt, setup, teardown),
		cmocka_unit_test(test_what_of_a_configuration_may_change),
	};

	return cmocka_run_group_tests_name("disk", tests, NULL, NULL);
}
