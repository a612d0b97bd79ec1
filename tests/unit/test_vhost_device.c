/* SPDX-License-Identifier: MIT */
/* What a driver asks of a device whose back-end is another process, without one. */
#include "machine_bench.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/virtio/classes.h>

#include "../../src/virtio/vhost_device.h"
#include "../../src/virtio/vhost_front_impl.h"

static struct bench bench;
static struct fdtable fds;
static struct device dev;
static struct vhost_device vhost;
static struct vhost_device_guest guest;

static int setup(void **state)
{
	const struct vhost_device_setup how = {
		.identity = { .type = VIRTIO_ID_BLOCK, .nqueues = 1, .queue_max = 64 },
	};
	struct error err = ERROR_INIT;
	int r;

	(void)state;
	bench_init(&bench, 1);
	memset(&dev, 0, sizeof(dev));
	memset(&vhost, 0, sizeof(vhost));
	memset(&guest, 0, sizeof(guest));
	dev.cls = &vhost_user_class;
	dev.machine = &bench.m;
	pthread_mutex_init(&dev.lock, NULL);
	/* As an update's successor makes it: nobody is waited for. */
	r = vhost_device_create(&vhost, &dev, &guest, &how, &fds, NULL, 0, &err);
	if (r == 0)
		vhost_device_reset(&vhost);
	return r;
}

static int teardown(void **state)
{
	(void)state;
	vhost_device_destroy(&vhost);
	pthread_mutex_destroy(&dev.lock);
	bench_fini(&bench);
	return 0;
}

static void write_status(uint8_t status)
{
	pthread_mutex_lock(&dev.lock);
	vhost.virtio.pci.id.bar->write(&dev, VIRTIO_PCI_COMMON_STATUS, status, 1);
	pthread_mutex_unlock(&dev.lock);
}

static uint8_t read_status(void)
{
	uint64_t value;

	pthread_mutex_lock(&dev.lock);
	value = vhost.virtio.pci.id.bar->read(&dev, VIRTIO_PCI_COMMON_STATUS, 1);
	pthread_mutex_unlock(&dev.lock);
	return (uint8_t)value;
}

static void test_a_reset_before_any_start_is_done_at_once(void **state)
{
	(void)state;
	guest.base[0] = 7;
	write_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
	write_status(0);
	assert_int_equal(read_status(), 0);
	assert_int_equal(guest.base[0], 0);
}

/*
 * The device was stopped without a reset (NEEDS_RESET, no bus mastering any more), and the back-end
 * died before it had finished. The next start must not do again what the table has.
 */
static void test_a_reset_forgets_what_a_bad_stop_has_left(void **state)
{
	(void)state;
	write_status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
	guest.base[0] = 7;
	guest.front.has_inflight = true;
	write_status(0);
	assert_int_not_equal(read_status(), 0);
	vhost_device_hold(&vhost, false); /* as main settles it, in its own time */
	assert_int_equal(read_status(), 0);
	assert_int_equal(guest.base[0], 0);
	assert_true(guest.front.queue_flags[0] & QUEUE_DEAD);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_reset_before_any_start_is_done_at_once,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_reset_forgets_what_a_bad_stop_has_left,
						setup, teardown),
	};

	return cmocka_run_group_tests_name("vhost_device", tests, NULL, NULL);
}
