/* SPDX-License-Identifier: MIT */
/*
 * Steal time where another thread takes a vCPU over: no accounting, no mark, and no TLB flush lost.
 */
#include "machine_bench.h"

#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "../../src/vm/vcpu_run.h"

#define STEAL_GPA 0x20000u
#define PREEMPTED (STEAL_GPA + 16) /* Linux, Documentation/virt/kvm/x86/msr.rst */
#define PREEMPTED_MARK 1
#define FLUSH_ASKED 2

static uint64_t msr(struct bench *b, unsigned long request, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = 0x4b564d03, .data = value } };

	assert_int_equal(kvm_call(&b->m.kvm, b->m.vcpus[1].fd, request, &m), 1);
	return m.entry.data;
}

/* vCPU 1's guest uses steal time, and was marked so when it stopped. */
static void prepare(struct bench *b, uint64_t gpa, uint8_t mark)
{
	bench_init(b, 2);
	msr(b, KVM_SET_MSRS, gpa | 1);
	memory_write(&b->m.memory, PREEMPTED, &mark, sizeof(mark));
	bench_vcpu(b, 1)->sregs.cr3 = 0x12345018;
	b->kvm->ncalls = 0;
}

static uint8_t mark(struct bench *b)
{
	uint8_t byte = 0xff;

	assert_int_equal(memory_read(&b->m.memory, PREEMPTED, &byte, sizeof(byte)), 0);
	return byte;
}

static bool was_flushed(struct bench *b)
{
	int fd = b->m.vcpus[1].fd;
	int first = fake_kvm_find_call(b->kvm, fd, KVM_SET_SREGS2, 0);

	return first >= 0 &&
	       fake_kvm_find_call(b->kvm, fd, KVM_SET_SREGS2, (unsigned int)first + 1) > first;
}

static void test_it_stops_and_the_mark_goes(void **state)
{
	struct bench b;

	(void)state;
	prepare(&b, STEAL_GPA, PREEMPTED_MARK);
	vcpu_leave_steal_time(&b.m.vcpus[1]);
	assert_int_equal(msr(&b, KVM_GET_MSRS, 0), STEAL_GPA);
	assert_int_equal(b.m.vcpus[1].steal_time, STEAL_GPA | 1);
	assert_int_equal(mark(&b), 0);
	bench_fini(&b);
}

/* A vCPU that was still running may have asked for it, and KVM will not look any more. */
static void test_the_tlb_is_flushed(void **state)
{
	struct bench b;

	(void)state;
	prepare(&b, STEAL_GPA, PREEMPTED_MARK | FLUSH_ASKED);
	vcpu_leave_steal_time(&b.m.vcpus[1]);
	assert_true(was_flushed(&b));
	assert_int_equal(bench_vcpu(&b, 1)->sregs.cr3, 0x12345018);
	assert_int_equal(msr(&b, KVM_GET_MSRS, 0), STEAL_GPA);
	assert_int_equal(mark(&b), 0);
	bench_fini(&b);
}

static void test_without_the_flush_kvm_keeps_the_note(void **state)
{
	struct bench b;

	(void)state;
	prepare(&b, STEAL_GPA, PREEMPTED_MARK | FLUSH_ASKED);
	b.kvm->fail_request = KVM_SET_SREGS2;
	b.kvm->fail_error = EIO;
	vcpu_leave_steal_time(&b.m.vcpus[1]);
	b.kvm->fail_request = 0;
	assert_int_equal(bench_vcpu(&b, 1)->sregs.cr3, 0x12345018);
	assert_int_equal(msr(&b, KVM_GET_MSRS, 0), STEAL_GPA | 1);
	assert_int_equal(b.m.vcpus[1].steal_time, 0);
	assert_int_equal(mark(&b), PREEMPTED_MARK | FLUSH_ASKED);
	bench_fini(&b);
}

/* Each of its calls, once: there is nobody behind the stand-in to try again. */
static void test_a_call_that_fails_once(void **state)
{
	static const struct {
		unsigned long request;
		unsigned int skip;
	} calls[] = {
		{ KVM_GET_MSRS, 0 },   { KVM_GET_SREGS2, 0 }, { KVM_SET_SREGS2, 0 },
		{ KVM_SET_SREGS2, 1 }, { KVM_SET_MSRS, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(calls); i++) {
		struct bench b;

		prepare(&b, STEAL_GPA, PREEMPTED_MARK | FLUSH_ASKED);
		b.kvm->fail_request = calls[i].request;
		b.kvm->fail_error = EIO;
		b.kvm->fail_skip = calls[i].skip;
		b.kvm->fail_times = 1;
		vcpu_leave_steal_time(&b.m.vcpus[1]);
		assert_int_equal(b.kvm->fail_times, 0);
		assert_true(was_flushed(&b));
		assert_int_equal(bench_vcpu(&b, 1)->sregs.cr3, 0x12345018);
		assert_int_equal(msr(&b, KVM_GET_MSRS, 0), STEAL_GPA);
		assert_int_equal(b.m.vcpus[1].steal_time, STEAL_GPA | 1);
		assert_int_equal(mark(&b), 0);
		bench_fini(&b);
	}
}

static void test_a_guest_without_it_is_left_alone(void **state)
{
	struct bench b;

	(void)state;
	prepare(&b, STEAL_GPA, PREEMPTED_MARK | FLUSH_ASKED);
	msr(&b, KVM_SET_MSRS, 0);
	vcpu_leave_steal_time(&b.m.vcpus[1]);
	assert_int_equal(b.m.vcpus[1].steal_time, 0);
	assert_int_equal(mark(&b), PREEMPTED_MARK | FLUSH_ASKED);
	assert_false(was_flushed(&b));
	bench_fini(&b);
}

static void test_a_page_outside_of_ram(void **state)
{
	struct bench b;

	(void)state;
	prepare(&b, 1ull << 40, FLUSH_ASKED);
	vcpu_leave_steal_time(&b.m.vcpus[1]);
	assert_true(msr(&b, KVM_GET_MSRS, 0) == 1ull << 40);
	bench_fini(&b);
}

static void clear(struct bench *b, uint8_t byte)
{
	memory_write(&b->m.memory, PREEMPTED, &byte, sizeof(byte));
	machine_clear_preempted(&b->m);
}

/* The KVM VM of a successor that was given up may have left it. */
static void test_a_mark_of_another_vm_goes(void **state)
{
	struct bench b;

	(void)state;
	prepare(&b, STEAL_GPA, 0);
	vcpu_leave_steal_time(&b.m.vcpus[1]);
	clear(&b, PREEMPTED_MARK);
	assert_int_equal(mark(&b), 0);
	b.kvm->fail_request = KVM_GET_MSRS;
	b.kvm->fail_error = EIO;
	clear(&b, PREEMPTED_MARK);
	b.kvm->fail_request = 0;
	assert_int_equal(mark(&b), 0);
	bench_fini(&b);
}

/* Before a kexec, for one: the next kernel has something else there. */
static void test_a_page_that_the_guest_took_back_is_left_alone(void **state)
{
	static const uint64_t values[] = { 0, 0x30000, 0x30001, STEAL_GPA | 1 };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
		struct bench b;

		prepare(&b, STEAL_GPA, 0);
		vcpu_leave_steal_time(&b.m.vcpus[1]);
		msr(&b, KVM_SET_MSRS, values[i]);
		clear(&b, PREEMPTED_MARK);
		assert_int_equal(mark(&b), PREEMPTED_MARK);
		bench_fini(&b);
	}
}

static uint64_t saved(struct bench *b, uint8_t n)
{
	const struct vcpu_state *st = b->m.vcpus[1].state;
	struct bench_state s;
	uint64_t value = 1;

	bench_save(b, &s, n);
	bench_state_fini(&s);
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (st->msr_index[i] == 0x4b564d03)
			value = st->msr_value[i];
	return value;
}

/* Until then the stream has the guest's value, which any release loads. */
static void test_what_the_guest_switched_off_stays_off(void **state)
{
	struct bench b;

	(void)state;
	prepare(&b, STEAL_GPA, 0);
	vcpu_leave_steal_time(&b.m.vcpus[1]);
	assert_int_equal(saved(&b, 1), STEAL_GPA | 1);
	msr(&b, KVM_SET_MSRS, 0);
	fake_vcpu_count_exit(bench_vcpu(&b, 1));
	assert_int_equal(saved(&b, 2), 0);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_it_stops_and_the_mark_goes),
		cmocka_unit_test(test_the_tlb_is_flushed),
		cmocka_unit_test(test_without_the_flush_kvm_keeps_the_note),
		cmocka_unit_test(test_a_call_that_fails_once),
		cmocka_unit_test(test_a_guest_without_it_is_left_alone),
		cmocka_unit_test(test_a_page_outside_of_ram),
		cmocka_unit_test(test_a_mark_of_another_vm_goes),
		cmocka_unit_test(test_a_page_that_the_guest_took_back_is_left_alone),
		cmocka_unit_test(test_what_the_guest_switched_off_stays_off),
	};

	log_set_fd(-1); /* the error that is provoked here is nobody's business */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
