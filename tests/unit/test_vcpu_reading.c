/* SPDX-License-Identifier: MIT */
/* A vCPU that has executed nothing since it was read is read by fewer calls, and as well. */
#include "vcpu_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>

#define MSR_WALL_CLOCK 0x4b564d00u
#define MSR_LSTAR 0xc0000082u
#define IRR 0x200
#define LVTT 0x320
#define DEADLINE (2u << 17)

struct fixture {
	struct vcpu_bench *b;
	struct vcpu_reading reading; /* of b->st */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	vcpu_bench_setup((void **)&f->b);
	vcpu_reading_open(&f->reading, &f->b->kvm, f->b->a_fd, true);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	vcpu_reading_close(&f->reading);
	vcpu_bench_teardown((void **)&f->b);
	free(f);
	return 0;
}

static void get(struct fixture *f)
{
	struct vcpu_bench *b = f->b;

	b->fake->ncalls = 0;
	vcpu_reading_count(&f->reading);
	if (vcpu_state_get_again(b->st, &f->reading, &b->kvm, b->a_fd, b->msrs, &b->err) < 0)
		fail_msg("%s", b->err.text);
}

/* Other than zero in everything, and read once. */
static void start(struct fixture *f, uint32_t mp_state, uint32_t lvtt)
{
	fake_vcpu_randomise(f->b->a, 1);
	f->b->a->mp_state.mp_state = mp_state;
	memcpy(f->b->a->lapic.regs + LVTT, &lvtt, sizeof(lvtt));
	get(f);
}

static bool calls(struct fixture *f, unsigned long request)
{
	return fake_kvm_find_call(f->b->fake, f->b->a_fd, request, 0) >= 0;
}

static void assert_was_whole(struct fixture *f)
{
	assert_true(calls(f, KVM_GET_REGS));
	assert_true(calls(f, KVM_GET_XSAVE2));
	assert_true(calls(f, KVM_GET_DEBUGREGS));
}

static void change_by_executing(struct fake_vcpu *v)
{
	v->regs.rax++;
	v->xsave[7]++;
	*vcpu_bench_msr(v, MSR_LSTAR) += 1;
	fake_vcpu_count_exit(v);
}

/* st is what a whole reading would be. */
static void assert_is_as_read_whole(struct fixture *f)
{
	struct vcpu_bench *b = f->b;

	*b->known = *b->st;
	if (vcpu_state_get(b->known, &b->kvm, b->a_fd, b->msrs, &b->err) < 0)
		fail_msg("%s", b->err.text);
	b->known->lapic_ns = b->st->lapic_ns;
	assert_memory_equal(b->known, b->st, sizeof(*b->st));
}

/* ---- it waits ---- */

static void test_vcpu_that_waits_takes_few_calls(void **state)
{
	static const uint32_t states[] = { KVM_MP_STATE_HALTED, KVM_MP_STATE_UNINITIALIZED };
	struct fixture *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(states); i++) {
		start(f, states[i], 0);
		assert_was_whole(f);
		get(f);
		assert_int_equal(f->b->fake->ncalls, 5);
		assert_int_equal(f->b->fake->calls[0].request, KVM_GET_MP_STATE);
		assert_true(calls(f, KVM_GET_VCPU_EVENTS));
		assert_true(calls(f, KVM_GET_DEVICE_ATTR));
		assert_true(calls(f, KVM_GET_LAPIC));
		assert_true(calls(f, KVM_GET_MSRS));
		f->reading.waited = false;
	}
}

static void test_what_others_change_is_read(void **state)
{
	struct fixture *f = *state;
	struct fake_vcpu *a = f->b->a;

	start(f, KVM_MP_STATE_HALTED, DEADLINE);
	a->events.nmi.pending ^= 1;
	a->lapic.regs[0x210] ^= 4;
	a->tsc_offset += 5;
	*vcpu_bench_msr(a, FAKE_MSR_TSC_DEADLINE) = 0;
	*vcpu_bench_msr(a, MSR_WALL_CLOCK) = 0x8001;
	get(f);
	assert_false(calls(f, KVM_GET_REGS));
	assert_true(f->b->st->wall_clock == 0x8001);
	assert_is_as_read_whole(f);
}

static struct fixture *expiring;
static unsigned int expires_after;

/* KVM hands a deadline that passed to the IRR, whenever a reader moves to another CPU. */
static int ioctl_and_expire(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_vcpu *a = expiring->b->a;
	int r = expiring->b->fake->kvm.ioctl(kvm, fd, request, arg);

	if (expires_after-- == 1) {
		a->lapic.regs[IRR] |= 4;
		*vcpu_bench_msr(a, FAKE_MSR_TSC_DEADLINE) = 0;
	}
	return r;
}

static bool is_in(const struct vcpu_state *st)
{
	struct vcpu_part part;

	vcpu_part_of(&part, st);
	return part.deadline || st->lapic.regs[IRR];
}

/* After whatever call: it is still a deadline, or an interrupt. */
static void test_deadline_that_passes_in_the_middle(void **state)
{
	struct fixture *f = *state;
	unsigned int ncalls;

	expiring = f;
	start(f, KVM_MP_STATE_HALTED, DEADLINE);
	get(f);
	ncalls = f->b->fake->ncalls;
	f->b->kvm.ioctl = ioctl_and_expire;
	for (unsigned int after = 1; after <= ncalls; after++) {
		f->b->a->lapic.regs[IRR] = 0;
		*vcpu_bench_msr(f->b->a, FAKE_MSR_TSC_DEADLINE) = 12345;
		expires_after = after;
		get(f);
		assert_int_equal(f->b->fake->ncalls, ncalls);
		if (!is_in(f->b->st))
			fail_msg("it is lost after call %u", after);
	}
}

/* Nobody wants the VM's wall clock of another vCPU; a timer without a deadline has none. */
static void test_msrs_that_nobody_wants(void **state)
{
	struct fixture *f = *state;

	f->reading.first = false;
	start(f, KVM_MP_STATE_HALTED, 0);
	get(f);
	assert_false(calls(f, KVM_GET_MSRS));
	start(f, KVM_MP_STATE_HALTED, DEADLINE);
	fake_vcpu_count_exit(f->b->a);
	get(f);
	get(f);
	assert_true(calls(f, KVM_GET_MSRS));
	assert_false(calls(f, KVM_GET_REGS));
}

static void test_tsc_of_others_is_that_of_the_first(void **state)
{
	struct fixture *f = *state;

	f->reading.first = false;
	start(f, KVM_MP_STATE_HALTED, 0);
	get(f);
	assert_false(calls(f, KVM_GET_DEVICE_ATTR));
	f->b->a->tsc_offset += 5;
	assert_int_equal(vcpu_state_get_tsc(f->b->st, &f->b->kvm, f->b->a_fd, &f->b->err), 0);
	assert_true(f->b->st->tsc_offset == f->b->a->tsc_offset);
}

/* As the machine does it. */
static bool is_news(struct fixture *f)
{
	struct vcpu_part was;

	vcpu_part_of(&was, f->b->st);
	get(f);
	vcpu_reading_compare(&f->reading, &was, f->b->st);
	return !f->reading.is_told;
}

static void test_what_was_told_is_no_news_until_it_changes(void **state)
{
	struct fixture *f = *state;
	struct fake_vcpu *a = f->b->a;
	uint64_t *deadline = vcpu_bench_msr(a, FAKE_MSR_TSC_DEADLINE);
	uint64_t *wall_clock = vcpu_bench_msr(a, MSR_WALL_CLOCK);

	start(f, KVM_MP_STATE_HALTED, DEADLINE);
	assert_true(is_news(f));
	for (int change = 0; change < 7; change++) {
		vcpu_reading_note_told(&f->reading);
		assert_false(is_news(f));
		assert_false(is_news(f));
		a->events.nmi.pending ^= change == 0;
		a->lapic.regs[0x210] ^= change == 1;
		a->tsc_offset += change == 2;
		*deadline += change == 3;
		*wall_clock += change == 4;
		if (change == 5)
			change_by_executing(a);
		if (change == 6)
			a->mp_state.mp_state = KVM_MP_STATE_INIT_RECEIVED;
		assert_true(is_news(f));
		/* For good: whoever was told knows nothing of it. */
		assert_true(is_news(f));
	}
}

static void test_vcpu_that_blocks(void **state)
{
	struct fixture *f = *state;

	assert_false(vcpu_reading_blocks(&f->reading));
	fake_vcpu_set_blocking(f->b->a, true);
	assert_true(vcpu_reading_blocks(&f->reading));
	vcpu_reading_close(&f->reading);
	assert_false(vcpu_reading_blocks(&f->reading));
}

static void test_host_without_kvmclock(void **state)
{
	struct fixture *f = *state;

	f->b->a->msr_index[fake_vcpu_msr(f->b->a, MSR_WALL_CLOCK)] = 0x9999;
	start(f, KVM_MP_STATE_HALTED, 0);
	f->b->st->wall_clock = 7;
	get(f);
	assert_true(f->b->st->wall_clock == 0);
	assert_is_as_read_whole(f);
	change_by_executing(f->b->a);
	start(f, KVM_MP_STATE_HALTED, DEADLINE);
	*vcpu_bench_msr(f->b->a, FAKE_MSR_TSC_DEADLINE) = 99;
	get(f);
	assert_is_as_read_whole(f);
}

/* ---- it does not, or may not ---- */

static void test_vcpu_that_was_entered_is_read_whole(void **state)
{
	struct fixture *f = *state;

	start(f, KVM_MP_STATE_HALTED, 0);
	change_by_executing(f->b->a);
	get(f);
	assert_was_whole(f);
	assert_is_as_read_whole(f);
	/* And then waits again. */
	get(f);
	assert_false(calls(f, KVM_GET_REGS));
}

/* An exit that the VMM served is counted as well. */
static void test_exit_to_the_vmm_is_counted(void **state)
{
	struct fixture *f = *state;
	struct fake_exit out = fake_out(0x80, 1, 0);

	start(f, KVM_MP_STATE_HALTED, 0);
	fake_vcpu_play(f->b->fake, f->b->a_fd, &out);
	assert_int_equal(kvm_call_num(&f->b->kvm, f->b->a_fd, KVM_RUN, 0), 0);
	f->b->a->in_flight = false;
	get(f);
	assert_was_whole(f);
}

/* An INIT or an interrupt that came shows in the MP state, of which an INIT resets all the rest. */
static void test_vcpu_that_woke_is_read_whole(void **state)
{
	struct fixture *f = *state;

	start(f, KVM_MP_STATE_HALTED, 0);
	f->b->a->mp_state.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	f->b->a->regs.rip = 0xfff0;
	get(f);
	assert_was_whole(f);
	assert_is_as_read_whole(f);
	get(f);
	assert_was_whole(f);
}

static void test_vcpu_that_ran_is_read_whole(void **state)
{
	struct fixture *f = *state;

	start(f, KVM_MP_STATE_RUNNABLE, 0);
	get(f);
	assert_was_whole(f);
}

static void test_longer_list_of_msrs_is_read_whole(void **state)
{
	struct fixture *f = *state;

	f->b->lists->saved.count--;
	start(f, KVM_MP_STATE_HALTED, 0);
	f->b->lists->saved.count++;
	get(f);
	assert_was_whole(f);
	assert_is_as_read_whole(f);
}

static void test_host_without_statistics(void **state)
{
	struct fixture *f = *state;

	vcpu_reading_close(&f->reading);
	f->b->fake->no_stats = true;
	vcpu_reading_open(&f->reading, &f->b->kvm, f->b->a_fd, true);
	assert_int_equal(f->reading.fd, -1);
	start(f, KVM_MP_STATE_HALTED, 0);
	get(f);
	assert_was_whole(f);
}

/* The count of the last time is no count. */
static void test_without_a_count_it_is_read_whole(void **state)
{
	struct fixture *f = *state;
	struct vcpu_bench *b = f->b;

	start(f, KVM_MP_STATE_HALTED, 0);
	for (int i = 0; i < 2; i++) {
		b->fake->ncalls = 0;
		assert_int_equal(vcpu_state_get_again(b->st, &f->reading, &b->kvm, b->a_fd, b->msrs,
						      &b->err),
				 0);
		assert_was_whole(f);
	}
	get(f);
	assert_was_whole(f);
	get(f);
	assert_false(calls(f, KVM_GET_REGS));
}

static void test_each_failure_is_told(void **state)
{
	static const unsigned long requests[] = { KVM_GET_MP_STATE, KVM_GET_VCPU_EVENTS,
						  KVM_GET_DEVICE_ATTR, KVM_GET_LAPIC,
						  KVM_GET_MSRS };
	struct fixture *f = *state;
	struct vcpu_bench *b = f->b;

	start(f, KVM_MP_STATE_HALTED, 0);
	b->fake->fail_error = EPERM;
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		b->fake->fail_request = requests[i];
		vcpu_reading_count(&f->reading);
		assert_int_equal(vcpu_state_get_again(b->st, &f->reading, &b->kvm, b->a_fd, b->msrs,
						      &b->err),
				 -EPERM);
		b->fake->fail_request = 0;
		get(f);
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_vcpu_that_waits_takes_few_calls),
		CASE(test_what_others_change_is_read),
		CASE(test_deadline_that_passes_in_the_middle),
		CASE(test_msrs_that_nobody_wants),
		CASE(test_tsc_of_others_is_that_of_the_first),
		CASE(test_what_was_told_is_no_news_until_it_changes),
		CASE(test_vcpu_that_blocks),
		CASE(test_host_without_kvmclock),
		CASE(test_vcpu_that_was_entered_is_read_whole),
		CASE(test_exit_to_the_vmm_is_counted),
		CASE(test_vcpu_that_woke_is_read_whole),
		CASE(test_vcpu_that_ran_is_read_whole),
		CASE(test_longer_list_of_msrs_is_read_whole),
		CASE(test_host_without_statistics),
		CASE(test_without_a_count_it_is_read_whole),
		CASE(test_each_failure_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
