/* SPDX-License-Identifier: MIT */
/* Interrupt lines: when KVM hears of a change, and what an update does to them. */
#include "fake_kvm.h"

#include <errno.h>
#include <stdlib.h>

#include <molt/base/log.h>
#include <molt/pci/bus.h>
#include <molt/virtio/virtio.h>
#include <molt/vm/irq.h>
#include <molt/vm/msi_route.h>

struct fixture {
	struct fake_kvm *kvm;
	struct kvm_vm vm;
	struct fake_vm *fake;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct error err = ERROR_INIT;

	assert_non_null(f);
	f->kvm = fake_kvm_new();
	assert_int_equal(kvm_probe(&f->kvm->kvm, &err), 0);
	assert_int_equal(kvm_vm_create(&f->vm, &f->kvm->kvm, -1, &err), 0);
	assert_int_equal(kvm_vm_call(&f->vm, KVM_CREATE_IRQCHIP, NULL), 0);
	f->fake = fake_kvm_vm(f->kvm, f->vm.fd);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	kvm_vm_destroy(&f->vm);
	fake_kvm_free(f->kvm);
	free(f);
	return 0;
}

static unsigned int calls(const struct fixture *f)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < f->kvm->ncalls; i++)
		n += f->kvm->calls[i].request == KVM_IRQ_LINE;
	return n;
}

static void test_only_changes_are_told(void **state)
{
	struct fixture *f = *state;
	struct irq_line line;

	irq_line_init(&line, &f->vm, 4, false);
	irq_line_set(&line, false);
	assert_int_equal(calls(f), 0);
	irq_line_set(&line, true);
	irq_line_set(&line, true);
	assert_int_equal(calls(f), 1);
	assert_true(f->fake->level[4]);
	irq_line_set(&line, false);
	irq_line_set(&line, true);
	assert_int_equal(calls(f), 3);
	assert_int_equal(f->fake->edges[4], 2);
	assert_false(f->fake->level[5]);
}

static void test_restored_edge_makes_no_second_one(void **state)
{
	struct fixture *f = *state;
	struct irq_line line;

	irq_line_init(&line, &f->vm, 4, false);
	irq_line_restore(&line, true);
	assert_int_equal(calls(f), 0);
	assert_true(line.level);
	irq_line_set(&line, true);
	assert_int_equal(calls(f), 0);
	irq_line_set(&line, false);
	assert_int_equal(calls(f), 1);
}

static void test_restored_level_is_asserted_again(void **state)
{
	struct fixture *f = *state;
	struct irq_line line;

	irq_line_init(&line, &f->vm, 9, true);
	irq_line_restore(&line, true);
	assert_true(f->fake->level[9]);
	/* From a later state. */
	irq_line_restore(&line, false);
	assert_false(f->fake->level[9]);
	assert_false(line.level);
	irq_line_restore(&line, false);
	assert_int_equal(calls(f), 2);
}

static void test_refusal_is_survived(void **state)
{
	struct fixture *f = *state;
	struct irq_line line;
	int old = log_get_fd();

	log_set_fd(-1);
	irq_line_init(&line, &f->vm, 99, false);
	irq_line_set(&line, true);
	assert_int_equal(calls(f), 1);
	assert_true(line.level);
	log_set_fd(old);
}

/* One that got none would be tried again all the time, with every vCPU parked for it. */
static void test_there_is_a_route_for_each_queue(void **state)
{
	const uint32_t queues = (PCI_SLOTS - 1) * VIRTIO_QUEUES_MAX;
	struct msi_routes routes = { 0 };

	(void)state;
	for (uint32_t i = 0; i < queues; i++)
		assert_int_equal(msi_route_alloc(&routes), MSI_ROUTE_FIRST + i);
	msi_routes_fini(&routes);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_only_changes_are_told, setup, teardown),
		cmocka_unit_test_setup_teardown(test_restored_edge_makes_no_second_one, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_restored_level_is_asserted_again, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_refusal_is_survived, setup, teardown),
		cmocka_unit_test(test_there_is_a_route_for_each_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
