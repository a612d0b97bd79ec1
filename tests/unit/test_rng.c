/* SPDX-License-Identifier: MIT */
/* virtio-rng and the order in which a driver does things. */
#include "machine_bench.h"

#include <endian.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/syscall.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>
#include <molt/virtio/classes.h>
#include <molt/virtio/virtio.h>

#define DESC 0x20000u
#define AVAIL 0x21000u
#define USED 0x22000u
#define BUFFER 0x23000u
#define SIZE 8u
#define BYTES 64u
#define RING_RESET_BIT 40 /* VIRTIO_F_RING_RESET */
#define QUEUE_RESET 0x3a

static struct bench bench;

static unsigned int kicks; /* so many of the next getrandom() are interrupted */

long syscall(long nr, ...)
{
	long a[6], r;
	va_list ap;

	va_start(ap, nr);
	for (size_t i = 0; i < ARRAY_SIZE(a); i++)
		a[i] = va_arg(ap, long);
	va_end(ap);
	if (nr == SYS_getrandom && kicks) {
		kicks--;
		errno = EINTR;
		return -1;
	}
	{
		register long r10 __asm__("r10") = a[3];
		register long r8 __asm__("r8") = a[4];
		register long r9 __asm__("r9") = a[5];

		__asm__ volatile("syscall"
				 : "=a"(r)
				 : "a"(nr), "D"(a[0]), "S"(a[1]), "d"(a[2]), "r"(r10), "r"(r8),
				   "r"(r9)
				 : "rcx", "r11", "memory");
	}
	if (r < 0)
		errno = (int)-r;
	return r < 0 ? -1 : r;
}

static struct virtio *rng(void)
{
	for (unsigned int i = 0; i < bench.m.ndevices; i++)
		if (bench.m.devices[i]->cls == &virtio_rng_class)
			return bench.m.devices[i]->transport;
	fail();
	return NULL;
}

static int setup(void **state)
{
	static const struct device_request devices[] = {
		{ .cls = &serial_class, .args = "null" },
		{ .cls = &virtio_rng_class, .args = "host" },
	};
	struct error err = ERROR_INIT;
	int r;

	(void)state;
	bench_prepare(&bench, 1);
	bench.cfg.devices = devices;
	bench.cfg.ndevices = ARRAY_SIZE(devices);
	r = bench_create(&bench, &err);
	if (r == 0) /* its firmware is not there to do it */
		rng()->guest->pci.config[PCI_COMMAND] |= PCI_COMMAND_MASTER;
	return r;
}

static int teardown(void **state)
{
	(void)state;
	bench_fini(&bench);
	return 0;
}

static void write_bar(uint64_t offset, uint64_t value, unsigned int size)
{
	struct virtio *v = rng();

	pthread_mutex_lock(&v->dev->lock);
	v->pci.id.bar->write(v->dev, offset, value, size);
	pthread_mutex_unlock(&v->dev->lock);
}

static uint64_t read_bar(uint64_t offset, unsigned int size)
{
	struct virtio *v = rng();
	uint64_t value;

	pthread_mutex_lock(&v->dev->lock);
	value = v->pci.id.bar->read(v->dev, offset, size);
	pthread_mutex_unlock(&v->dev->lock);
	return value;
}

static void set_status(uint8_t status)
{
	write_bar(VIRTIO_PCI_COMMON_STATUS, status, 1);
}

static void notify(void)
{
	write_bar(VIRTIO_BAR_NOTIFY, 0, 4);
}

/* Up to DRIVER_OK, with one queue. */
static void negotiate(void)
{
	set_status(VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
	write_bar(VIRTIO_PCI_COMMON_GFSELECT, 1, 4);
	write_bar(VIRTIO_PCI_COMMON_GF, 1u << (VIRTIO_F_VERSION_1 - 32), 4);
	set_status(VIRTIO_CONFIG_S_FEATURES_OK);
	write_bar(VIRTIO_PCI_COMMON_Q_SIZE, SIZE, 2);
	write_bar(VIRTIO_PCI_COMMON_Q_DESCLO, DESC, 8);
	write_bar(VIRTIO_PCI_COMMON_Q_AVAILLO, AVAIL, 8);
	write_bar(VIRTIO_PCI_COMMON_Q_USEDLO, USED, 8);
	write_bar(VIRTIO_PCI_COMMON_Q_ENABLE, 1, 2);
}

static void add_buffer(uint16_t idx)
{
	const struct vring_desc desc = { htole64(BUFFER), htole32(BYTES),
					 htole16(VRING_DESC_F_WRITE), 0 };
	const uint16_t avail[] = { 0, htole16(idx) };

	assert_int_equal(memory_write(&bench.m.memory, DESC, &desc, sizeof(desc)), 0);
	assert_int_equal(memory_write(&bench.m.memory, AVAIL, avail, sizeof(avail)), 0);
}

static unsigned int used(void)
{
	const uint16_t *idx = memory_ptr(&bench.m.memory, USED + 2, sizeof(*idx));

	return le16toh(*idx);
}

/* As the driver of Linux 5.16 does it, which then waits for ever. */
static void test_a_buffer_from_before_driver_ok(void **state)
{
	(void)state;
	negotiate();
	add_buffer(1);
	notify();
	assert_int_equal(used(), 0); /* 3.1.1: not before */
	set_status(VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(used(), 1);
	assert_int_equal(rng()->guest->isr, 1);
	add_buffer(2);
	notify();
	assert_int_equal(used(), 2);
}

static void forget_calls(void)
{
	bench.kvm->ncalls = 0;
}

static bool was_interrupted(void)
{
	for (unsigned int i = 0; i < bench.kvm->ncalls; i++)
		if (bench.kvm->calls[i].request == KVM_SIGNAL_MSI)
			return true;
	return false;
}

static void unmask(uint32_t vector)
{
	write_bar(VIRTIO_BAR_MSIX_TABLE + vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL,
		  0, 4);
}

/* Up to an interrupt that waits for vector 1, which is masked as at power-on. */
static void have_one_wait(void)
{
	rng()->pci.guest
		->config[rng()->pci.msix_cap + PCI_MSIX_FLAGS + 1] |= PCI_MSIX_FLAGS_ENABLE >> 8;
	negotiate();
	write_bar(VIRTIO_PCI_COMMON_Q_MSIX, 1, 2);
	add_buffer(1);
	set_status(VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(read_bar(VIRTIO_BAR_MSIX_PBA, 8), 1 << 1);
	forget_calls();
}

/*
 * Virtio 1.2, 2.4.1: no notifications after a reset. What waited for its vector to be unmasked
 * would go out by the message that the next driver has there.
 */
static void test_a_reset_forgets_interrupts_that_wait(void **state)
{
	(void)state;
	have_one_wait();
	set_status(0);
	assert_int_equal(read_bar(VIRTIO_BAR_MSIX_PBA, 8), 0);
	unmask(1);
	assert_false(was_interrupted());
}

static void reset_queue(void)
{
	rng()->guest->driver_features |= 1ull << RING_RESET_BIT;
	write_bar(QUEUE_RESET, 1, 2);
	assert_int_equal(read_bar(VIRTIO_PCI_COMMON_Q_ENABLE, 2), 0);
	unmask(1);
}

/* Virtio 1.2, 2.6.1.1.1. */
static void test_a_queue_reset_forgets_its_own(void **state)
{
	(void)state;
	have_one_wait();
	reset_queue();
	assert_false(was_interrupted());
}

/* It may be the configuration's. */
static void test_a_queue_reset_keeps_a_shared_vectors(void **state)
{
	(void)state;
	have_one_wait();
	write_bar(VIRTIO_PCI_COMMON_MSIX, 1, 2);
	reset_queue();
	assert_true(was_interrupted());
}

static uint32_t used_bytes(unsigned int at)
{
	const struct vring_used_elem *e = memory_ptr(&bench.m.memory, USED + 4 + at * sizeof(*e),
						     sizeof(*e));

	return le32toh(e->len);
}

/* 5.4.6.1: a buffer that is used has one byte or more. */
static void test_a_kick_costs_no_buffer(void **state)
{
	(void)state;
	negotiate();
	set_status(VIRTIO_CONFIG_S_DRIVER_OK);
	add_buffer(1);
	kicks = 2;
	notify();
	assert_int_equal(kicks, 0);
	assert_int_equal(used(), 1);
	assert_int_equal(used_bytes(0), BYTES);
}

/* Another CPU, which each interrupt has add a buffer, up to so many of them. */
static int (*real_ioctl)(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg);
static unsigned int added, added_at_most;

static int interrupt_another_cpu(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	if (request == KVM_SIGNAL_MSI && added < added_at_most)
		add_buffer((uint16_t)++added);
	return real_ioctl(kvm, fd, request, arg);
}

static bool asks_for_service(unsigned int at_most)
{
	have_one_wait();
	added = 1;
	added_at_most = at_most;
	real_ioctl = bench.m.kvm.ioctl;
	bench.m.kvm.ioctl = interrupt_another_cpu;
	atomic_store(&bench.m.requests, 0);
	unmask(1);
	notify();
	bench.m.kvm.ioctl = real_ioctl;
	return atomic_load(&bench.m.requests) & MACHINE_REQ_SERVICE;
}

/* Service stops all CPUs, and nobody gives it while a stand-in has the guest. */
static void test_another_cpus_next_buffer_stops_nobody(void **state)
{
	(void)state;
	assert_false(asks_for_service(4));
	assert_int_equal(added, 4);
	assert_int_equal(used(), 4);
}

static void test_buffers_without_end_wait_for_service(void **state)
{
	(void)state;
	assert_true(asks_for_service(10 * SIZE));
	assert_int_equal(used(), 1 + SIZE);
	assert_int_equal(added, 2 + SIZE);
}

static void test_nothing_is_done_where_there_is_nothing(void **state)
{
	(void)state;
	negotiate();
	set_status(VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(used(), 0);
	assert_int_equal(rng()->guest->isr, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_buffer_from_before_driver_ok, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_reset_forgets_interrupts_that_wait, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_queue_reset_forgets_its_own, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_queue_reset_keeps_a_shared_vectors, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_kick_costs_no_buffer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_cpus_next_buffer_stops_nobody, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_buffers_without_end_wait_for_service, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_nothing_is_done_where_there_is_nothing, setup,
						teardown),
	};

	return cmocka_run_group_tests_name("rng", tests, NULL, NULL);
}
