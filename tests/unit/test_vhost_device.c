/* SPDX-License-Identifier: MIT */
/* What a driver asks of a device whose back-end is another process, without one. */
#include "machine_bench.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>
#include <molt/virtio/classes.h>
#include <molt/vm/msi_route.h>

#include "../../src/virtio/vhost_device.h"
#include "../../src/virtio/vhost_front_impl.h"
#include "../../src/vm/device_list.h"

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

static void write_common(uint64_t offset, uint64_t value, unsigned int size)
{
	pthread_mutex_lock(&dev.lock);
	vhost.virtio.pci.id.bar->write(&dev, offset, value, size);
	pthread_mutex_unlock(&dev.lock);
}

static void write_status(uint8_t status)
{
	write_common(VIRTIO_PCI_COMMON_STATUS, status, 1);
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

/*
 * The driver has reset a queue, taken bus mastering away and given it back, and the back-end died
 * before it had finished. The start that follows must not do again what the table has of the queue.
 */
static void test_a_start_forgets_a_queue_that_was_reset(void **state)
{
	(void)state;
	guest.front.has_inflight = true;
	guest.virtio.status = VIRTIO_CONFIG_S_DRIVER_OK;
	guest.virtio.resetting[0] = true;
	vhost.virtio.pci.guest->config[PCI_COMMAND] |= PCI_COMMAND_MASTER;
	vhost_device_hold(&vhost, false);
	assert_true(guest.started);
	assert_false(guest.virtio.resetting[0]);
	assert_true(guest.front.queue_flags[0] & QUEUE_DEAD);
}

static bool vector_asks_for_service(bool fast_paths)
{
	vhost_device_fast_path(&vhost, fast_paths);
	guest.started = true;
	atomic_store(&bench.m.requests, 0);
	write_common(VIRTIO_PCI_COMMON_Q_MSIX, 0, 2);
	guest.started = false;
	return atomic_load(&bench.m.requests) & MACHINE_REQ_SERVICE;
}

/* In a stand-in nobody serves, and the driver would wait until the switch. */
static void test_a_vector_is_nobodys_affair_while_fast_paths_are_off(void **state)
{
	(void)state;
	assert_true(vector_asks_for_service(true));
	assert_false(vector_asks_for_service(false));
}

static void block(int fd)
{
	assert_int_equal(fd_set_nonblock(fd, false), 0);
}

/* The flag is the back-end's as well, and QEMU's clears it. */
static void test_an_eventfd_that_blocks_stops_nobody(void **state)
{
	struct fast_queue *q = &vhost.path.queues[0];
	const uint64_t full = UINT64_MAX - 1;
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(fast_path_open(&vhost.path, 0, &err), 0);
	block(q->call_fd);
	block(q->kick_fd);
	block(vhost.path.error_fd);
	assert_int_equal(write(q->kick_fd, &full, sizeof(full)), sizeof(full));
	alarm(20);
	q->call_source.fn(q->call_source.opaque, EPOLLIN); /* somebody else has taken it */
	vhost.path.error_source.fn(vhost.path.error_source.opaque, EPOLLIN);
	fast_path_kick(&vhost.path, 0);
	alarm(0);
}

/* Virtio 1.2, 2.4.1: no notifications when it is done. The call comes before, and is seen after. */
static void test_a_last_call_is_not_for_the_next_driver(void **state)
{
	const struct vhost_front_setup *front = &vhost.front.setup;
	struct fast_queue *q = &vhost.path.queues[0];
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(fast_path_open(&vhost.path, 0, &err), 0);
	guest.virtio.status = VIRTIO_CONFIG_S_DRIVER_OK;
	guest.virtio.resetting_all = guest.started = guest.stopping = true;
	guest.given[0] = 1;
	fd_signal_event(q->call_fd);
	front->ops->queue_stopped(front->opaque, 0, 0);
	assert_int_equal(guest.virtio.isr, 1);
	front->ops->stopped(front->opaque);
	assert_int_equal(read_status(), 0);
	q->call_source.fn(q->call_source.opaque, EPOLLIN);
	assert_int_equal(guest.virtio.isr, 0);
}

static void want_fast_calls(void)
{
	static const uint8_t used[VIRTIO_QUEUES_MAX] = { 1 };
	struct pci_function *pci = &vhost.virtio.pci;
	struct error err = ERROR_INIT;

	assert_int_equal(fast_path_open(&vhost.path, 0, &err), 0);
	pci->guest->config[PCI_COMMAND] |= PCI_COMMAND_MASTER;
	pci->guest->config[pci->msix_cap + PCI_MSIX_FLAGS + 1] |= PCI_MSIX_FLAGS_ENABLE >> 8;
	pci->guest->msix_control[0] = 0;
	guest.virtio.vector[0] = 0;
	vhost.path.allowed = vhost.path.live = true;
	fast_path_update(&vhost.path, used);
}

/* It would be tried anew each 20 ms, and each time all vCPUs stop. */
static void test_a_full_table_of_routes_is_not_asked_again(void **state)
{
	int r;

	(void)state;
	while ((r = msi_route_alloc(&bench.m.msi_routes)) > 0)
		;
	assert_int_equal(r, -ENOSPC);
	want_fast_calls();
	assert_false(vhost.path.queues[0].call_fast);
	assert_non_null(vhost.path.queues[0].call_source.loop);
	assert_null(vhost.path.retry.loop);
	/* What a VM that goes still holds is asked for again. */
	msi_route_free(&bench.m.msi_routes, MSI_ROUTE_FIRST);
	bench.kvm->fail_request = KVM_IRQFD;
	bench.kvm->fail_error = EBUSY;
	want_fast_calls();
	assert_false(vhost.path.queues[0].call_fast);
	assert_non_null(vhost.path.retry.loop);
}

/* A device whose back-end has a queue, and says nothing. */
struct hung {
	struct device dev;
	struct vhost_device vhost;
	struct vhost_device_guest guest;
	int theirs;
};

static bool hung_before_reset(struct device *d, bool at_once)
{
	return vhost_device_before_reset(&container_of(d, struct hung, dev)->vhost, at_once);
}

static const struct device_class hung_class = { .name = "hung", .before_reset = hung_before_reset };

static void make_hung(struct hung *h, unsigned int drain_ms)
{
	const struct vhost_device_setup how = {
		.identity = { .type = VIRTIO_ID_BLOCK, .nqueues = 1, .queue_max = 64 },
	};
	struct vhost_front_guest *front = &h->guest.front;
	struct error err = ERROR_INIT;
	int ends[2];

	memset(h, 0, sizeof(*h));
	h->dev.cls = &hung_class;
	h->dev.machine = &bench.m;
	pthread_mutex_init(&h->dev.lock, NULL);
	assert_int_equal(vhost_device_create(&h->vhost, &h->dev, &h->guest, &how, &fds, NULL, 0,
					     &err),
			 0);
	vhost_device_reset(&h->vhost);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends),
			 0);
	h->theirs = ends[1];
	h->vhost.front.setup.drain_ms = drain_ms;
	vhost_front_give_socket(&h->vhost.front, ends[0]);
	front->step = STEP_SESSION;
	front->known = front->ready = front->started = front->running = true;
	front->queue_flags[0] = QUEUE_WANTED | QUEUE_LIVE;
	h->guest.started = true;
	h->guest.given[0] = 1;
	vhost_front_resume(&h->vhost.front);
}

static void end_hung(struct hung *h)
{
	vhost_device_destroy(&h->vhost);
	pthread_mutex_destroy(&h->dev.lock);
	close(h->theirs);
}

/* Storage that hangs behind two disks makes a guest's reset wait once. */
static void test_a_reset_waits_for_all_devices_at_once(void **state)
{
	static struct machine machine;
	static struct hung two[2];
	uint64_t since, ms;

	(void)state;
	for (unsigned int i = 0; i < 2; i++) {
		make_hung(&two[i], 1000);
		machine.devices[machine.ndevices++] = &two[i].dev;
	}
	since = now_ns();
	devices_before_reset(&machine);
	ms = (now_ns() - since) / 1000000;
	assert_in_range(ms, 1000, 1900);
	for (unsigned int i = 0; i < 2; i++) {
		assert_false(two[i].guest.started || two[i].guest.front.connected);
		end_hung(&two[i]);
	}
}

/* A back-end that takes longer than a reset may does not end the machine. */
static void test_a_reset_ends_with_a_back_end_that_does_not_stop(void **state)
{
	static struct hung h;

	(void)state;
	make_hung(&h, 3600000);
	assert_false(hung_before_reset(&h.dev, false));
	assert_true(h.guest.front.connected);
	assert_true(hung_before_reset(&h.dev, true));
	assert_false(h.guest.front.connected);
	end_hung(&h);
}

/* Nor is it in the way of whoever ends molt. */
static void test_a_signal_ends_the_wait_of_a_reset(void **state)
{
	static struct machine machine;
	static struct hung h;
	uint64_t since, ms;
	sigset_t set;

	(void)state;
	end_signals(&set);
	sigprocmask(SIG_BLOCK, &set, NULL);
	make_hung(&h, 2000);
	machine.devices[machine.ndevices++] = &h.dev;
	raise(SIGTERM);
	since = now_ns();
	devices_before_reset(&machine);
	ms = (now_ns() - since) / 1000000;
	assert_int_equal(sigwaitinfo(&set, NULL), SIGTERM);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	assert_in_range(ms, 0, 1000);
	assert_false(h.guest.started || h.guest.front.connected);
	end_hung(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_reset_before_any_start_is_done_at_once,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_reset_forgets_what_a_bad_stop_has_left,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_start_forgets_a_queue_that_was_reset, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			test_a_vector_is_nobodys_affair_while_fast_paths_are_off, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_last_call_is_not_for_the_next_driver, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_an_eventfd_that_blocks_stops_nobody, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_full_table_of_routes_is_not_asked_again,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_reset_waits_for_all_devices_at_once, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_signal_ends_the_wait_of_a_reset, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_reset_ends_with_a_back_end_that_does_not_stop,
						setup, teardown),
	};

	return cmocka_run_group_tests_name("vhost_device", tests, NULL, NULL);
}
