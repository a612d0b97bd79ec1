/* SPDX-License-Identifier: MIT */
/*
 * Filling KVM's second-level tables before the guest is taken over: the pages that are there and no
 * others, whatever KVM says to it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/vm/machine.h>

#include "fake_kvm.h"
#include "refault_bench.h"

static struct error err;

/* RAM as in the other tests, and a VM of the successor with one vCPU. */
struct bench {
	struct refault_bench *ram;
	struct fake_kvm *fake;
	struct machine machine;
	struct vcpu vcpu;
	struct fake_vcpu *fake_vcpu;
};

static int set_up(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));
	struct kvm *kvm;

	assert_non_null(b);
	refault_set_up((void **)&b->ram);
	b->fake = fake_kvm_new();
	b->machine.kvm = b->fake->kvm;
	kvm = &b->machine.kvm;
	assert_int_equal(kvm_probe(kvm, &err), 0);
	assert_int_equal(kvm_vm_create(&b->machine.vm, kvm, -1, &err), 0);
	assert_int_equal(memory_map_into(&b->ram->new, &b->machine.vm, &err), 0);
	b->vcpu.machine = &b->machine;
	b->vcpu.fd = kvm_vm_call(&b->machine.vm, KVM_CREATE_VCPU, NULL);
	b->fake_vcpu = fake_kvm_vcpu(b->fake, b->vcpu.fd);
	*state = b;
	return 0;
}

static int tear_down(void **state)
{
	struct bench *b = *state;

	kvm_vm_destroy(&b->machine.vm);
	fake_kvm_free(b->fake);
	refault_tear_down((void **)&b->ram);
	free(b);
	return 0;
}

static void map_all(struct bench *b)
{
	const struct refault_plan plan = { .limit_ns = 60000000000ull, .vcpu = &b->vcpu };
	struct refault_bench *s = b->ram;
	uint64_t had = refault_allocated(&s->new);

	assert_int_equal(refault_before(&s->refault, &s->new, &plan, &err), 0);
	assert_true(s->refault.mapped == s->written);
	assert_true(refault_allocated(&s->new) == had);
}

static uint64_t filled(const struct bench *b)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < b->fake_vcpu->nfilled; i++)
		sum += b->fake_vcpu->filled[i].size;
	return sum;
}

static bool was_filled(const struct bench *b, uint64_t gpa)
{
	for (unsigned int i = 0; i < b->fake_vcpu->nfilled; i++) {
		const struct fake_range *r = &b->fake_vcpu->filled[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size)
			return true;
	}
	return false;
}

static void test_fills_what_is_there_and_nothing_else(void **state)
{
	struct bench *b = *state;

	assert_true(b->machine.kvm.has_pre_fault_memory);
	map_all(b);
	for (size_t i = 0; i < REFAULT_RUNS; i++)
		for (uint64_t p = 0; p < refault_runs[i].pages; p++)
			assert_true(was_filled(b, refault_runs[i].gpa + p * PAGE));
	assert_true(filled(b) == b->ram->written);
	assert_true(b->ram->refault.in_kvm == b->ram->written);
}

/* KVM says no in the middle of a run: it is asked no more, and nothing else changes. */
static void test_kvm_that_does_not(void **state)
{
	static const int errors[] = { EOPNOTSUPP, ENOENT, EINVAL, EFAULT, EIO, ENOTTY, ENOMEM };
	struct bench *b = *state;

	for (size_t i = 0; i < sizeof(errors) / sizeof(errors[0]); i++) {
		unsigned int before;

		b->fake_vcpu->nfilled = 0;
		b->fake->fail_request = KVM_PRE_FAULT_MEMORY;
		b->fake->fail_error = errors[i];
		b->fake->fail_skip = 4;
		before = b->fake->ncalls;
		map_all(b);
		assert_int_equal(b->fake_vcpu->nfilled, 4);
		assert_int_equal(b->fake->ncalls - before, 5);
		assert_true(b->ram->refault.in_kvm == filled(b));
	}
}

static void test_kvm_that_is_busy(void **state)
{
	static const int errors[] = { EAGAIN, EINTR };
	struct bench *b = *state;

	for (size_t i = 0; i < 2; i++) {
		b->fake_vcpu->nfilled = 0;
		b->fake->fail_request = KVM_PRE_FAULT_MEMORY;
		b->fake->fail_error = errors[i];
		b->fake->fail_times = 1;
		map_all(b);
		/* The first run is left to the guest. */
		assert_false(was_filled(b, refault_runs[0].gpa));
		assert_true(was_filled(b, refault_runs[REFAULT_RUNS - 1].gpa));
		assert_true(filled(b) == b->ram->written - refault_runs[0].pages * PAGE);
		assert_true(b->ram->refault.in_kvm == filled(b));
	}
}

static void test_kvm_that_cannot(void **state)
{
	struct bench *b = *state;
	unsigned int before;

	b->fake->caps[KVM_CAP_PRE_FAULT_MEMORY] = 0;
	assert_int_equal(kvm_probe(&b->machine.kvm, &err), 0);
	assert_false(b->machine.kvm.has_pre_fault_memory);
	before = b->fake->ncalls;
	map_all(b);
	assert_int_equal(b->fake->ncalls, before);
	assert_int_equal(b->ram->refault.in_kvm, 0);
}

/* One that does nothing and says it did well: not asked for ever. */
static int lazy_ioctl(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	(void)fd;
	(void)arg;
	assert_true(request == KVM_PRE_FAULT_MEMORY);
	++*(unsigned int *)kvm->opaque;
	return 0;
}

static void test_kvm_that_makes_no_progress(void **state)
{
	struct bench *b = *state;
	struct kvm had = b->machine.kvm;
	unsigned int calls = 0;

	b->machine.kvm.ioctl = lazy_ioctl;
	b->machine.kvm.opaque = &calls;
	map_all(b);
	b->machine.kvm = had;
	assert_true(calls > 0 && calls < 20);
	assert_int_equal(b->ram->refault.in_kvm, 0);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_fills_what_is_there_and_nothing_else),
		CASE(test_kvm_that_does_not),
		CASE(test_kvm_that_is_busy),
		CASE(test_kvm_that_cannot),
		CASE(test_kvm_that_makes_no_progress),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
