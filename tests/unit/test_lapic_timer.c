/* SPDX-License-Identifier: MIT */
/* The APIC timer over an update: arithmetic, what is due, what a vCPU does before it is saved. */
#include "machine_bench.h"

#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/lapic_timer.h>

#define IRR 0x200
#define TMR 0x180
#define LVTT 0x320
#define TMICT 0x380
#define TMCCT 0x390
#define TDCR 0x3e0
#define VECTOR 0xefu
#define ONE_SHOT 0u
#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)
#define MASKED (1u << 16)
#define BY_1 0xb

static void put(struct kvm_lapic_state *l, uint32_t reg, uint32_t value)
{
	memcpy(l->regs + reg, &value, sizeof(value));
}

static uint32_t get(const struct kvm_lapic_state *l, uint32_t reg)
{
	uint32_t value;

	memcpy(&value, l->regs + reg, sizeof(value));
	return value;
}

static struct kvm_lapic_state lapic(uint32_t lvtt, uint32_t tdcr, uint32_t initial, uint32_t count)
{
	struct kvm_lapic_state l = { 0 };

	put(&l, LVTT, lvtt | VECTOR);
	put(&l, TDCR, tdcr);
	put(&l, TMICT, initial);
	put(&l, TMCCT, count);
	return l;
}

static bool pending(const struct kvm_lapic_state *l)
{
	return get(l, IRR + 0x70) == 1u << 15;
}

/* ---- the age ---- */

static uint32_t aged(uint32_t lvtt, uint32_t tdcr, uint32_t initial, uint32_t count, uint64_t ns,
		     bool due)
{
	struct kvm_lapic_state l = lapic(lvtt, tdcr, initial, count), before = l;
	uint32_t left;

	lapic_timer_age(&l, ns);
	left = get(&l, TMCCT);
	assert_int_equal(pending(&l), due);
	/* Nothing else may change. */
	put(&before, TMCCT, left);
	if (due)
		put(&before, IRR + 0x70, 1u << 15);
	assert_memory_equal(&l, &before, sizeof(l));
	return left;
}

static void test_age_divides(void **state)
{
	/* Intel SDM volume 3, "Divide Configuration Register": bits 0, 1, 3. */
	static const uint32_t dividers[][2] = {
		{ 0x0, 2 },  { 0x1, 4 },  { 0x2, 8 },   { 0x3, 16 },
		{ 0x8, 32 }, { 0x9, 64 }, { 0xa, 128 }, { 0xb, 1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(dividers); i++)
		assert_int_equal(aged(ONE_SHOT, dividers[i][0], 1000000, 900000, 128000, false),
				 900000 - 128000 / dividers[i][1]);
}

static void test_age_of_a_one_shot(void **state)
{
	(void)state;
	assert_int_equal(aged(ONE_SHOT, BY_1, 1000, 500, 100, false), 400);
	assert_int_equal(aged(ONE_SHOT, BY_1, 1000, 500, 499, false), 1);
	assert_int_equal(aged(ONE_SHOT, BY_1, 1000, 500, 500, false), 1);
	assert_int_equal(aged(ONE_SHOT, BY_1, 1000, 500, UINT64_MAX, false), 1);
	assert_int_equal(aged(ONE_SHOT, BY_1, 1000, 1, 0, false), 1);
}

static void test_age_keeps_the_phase(void **state)
{
	(void)state;
	assert_int_equal(aged(PERIODIC, BY_1, 1000, 500, 100, false), 400);
	assert_int_equal(aged(PERIODIC, BY_1, 1000, 500, 499, false), 1);
	assert_int_equal(aged(PERIODIC, BY_1, 1000, 500, 500, true), 1000);
	assert_int_equal(aged(PERIODIC, BY_1, 1000, 500, 501, true), 999);
	assert_int_equal(aged(PERIODIC, BY_1, 1000, 500, 1499, true), 1);
	/* Due thrice: one interrupt, as from a CPU that had them disabled. */
	assert_int_equal(aged(PERIODIC, BY_1, 1000, 500, 2600, true), 900);
	assert_int_equal(aged(PERIODIC, 0x3, 0xffffffff, 0xffffffff, 16ull * 0xffffffff, true),
			 0xffffffff);
	assert_int_equal(aged(PERIODIC, 0xa, 1, 1, UINT64_MAX, true), 1);
	assert_int_equal(aged(PERIODIC | MASKED, BY_1, 1000, 500, 600, false), 900);
}

static void test_age_of_what_does_not_run(void **state)
{
	(void)state;
	assert_int_equal(aged(ONE_SHOT, BY_1, 1000, 0, 100, false), 0);
	assert_int_equal(aged(ONE_SHOT, BY_1, 0, 500, 100, false), 500);
	assert_int_equal(aged(PERIODIC, BY_1, 0, 500, 1000, false), 500);
	assert_int_equal(aged(DEADLINE, BY_1, 1000, 500, 1000, false), 500);
	assert_int_equal(aged(DEADLINE | PERIODIC, BY_1, 1000, 500, 1000, false), 500);
}

static void test_the_interrupt_is_an_edge(void **state)
{
	struct kvm_lapic_state l = lapic(PERIODIC, BY_1, 1000, 1);

	(void)state;
	put(&l, TMR + 0x70, 0xffffffff);
	lapic_timer_age(&l, 5);
	assert_true(pending(&l));
	assert_int_equal(get(&l, TMR + 0x70), ~(1u << 15));
}

/* ---- what is due ---- */

static struct vcpu_state *saved(uint32_t lvtt, uint32_t mark, uint32_t count, uint64_t elapsed_ns)
{
	static struct vcpu_state st;
	const struct lapic_timer t = { .marked = true,
				       .marked_ns = 1000000,
				       .count = mark,
				       .settled = true };

	st.lapic = lapic(lvtt, BY_1, 1000, count);
	st.lapic_ns = t.marked_ns + elapsed_ns;
	lapic_timer_save(&t, &st);
	return &st;
}

static void test_one_shot_that_is_over_stays_so(void **state)
{
	struct vcpu_state *st = saved(ONE_SHOT, 0, 0, 50);

	(void)state;
	assert_int_equal(get(&st->lapic, TMICT), 0);
	assert_false(pending(&st->lapic));
}

static void test_one_shot_in_doubt_comes(void **state)
{
	const struct lapic_timer t = { .marked = true, .marked_ns = 1000000 };
	struct vcpu_state st = { .lapic_ns = 1000050 };

	(void)state;
	st.lapic = lapic(ONE_SHOT, BY_1, 1000, 0);
	lapic_timer_save(&t, &st);
	assert_int_equal(get(&st.lapic, TMICT), 0);
	assert_true(pending(&st.lapic));
}

static void test_one_shot_that_expired_since_the_mark(void **state)
{
	struct vcpu_state *st = saved(ONE_SHOT, 20, 0, 50);

	(void)state;
	assert_int_equal(get(&st->lapic, TMICT), 0);
	assert_true(pending(&st->lapic));
	st = saved(ONE_SHOT | MASKED, 20, 0, 50);
	assert_int_equal(get(&st->lapic, TMICT), 0);
	assert_false(pending(&st->lapic));
}

static void test_one_shot_that_runs(void **state)
{
	struct vcpu_state *st = saved(ONE_SHOT, 200, 150, 50);

	(void)state;
	assert_int_equal(get(&st->lapic, TMICT), 1000);
	assert_int_equal(get(&st->lapic, TMCCT), 150);
	assert_false(pending(&st->lapic));
}

static void test_periodic_since_the_mark(void **state)
{
	(void)state;
	assert_false(pending(&saved(PERIODIC, 200, 150, 50)->lapic));
	assert_true(pending(&saved(PERIODIC, 20, 970, 50)->lapic));
	assert_true(pending(&saved(PERIODIC, 0, 970, 50)->lapic));
	/* Just as many are left, a period later. */
	assert_true(pending(&saved(PERIODIC, 200, 200, 1000)->lapic));
	/* KVM has not noticed yet. */
	assert_true(pending(&saved(PERIODIC, 20, 0, 50)->lapic));
	assert_int_equal(get(&saved(PERIODIC, 20, 0, 50)->lapic, TMCCT), 970);
	assert_false(pending(&saved(PERIODIC | MASKED, 20, 970, 50)->lapic));
}

static void test_nothing_is_made_of_what_is_not_known(void **state)
{
	const struct lapic_timer unknown = { 0 };
	static struct vcpu_state st, before;

	(void)state;
	st.lapic = lapic(ONE_SHOT, BY_1, 1000, 0);
	before = st;
	lapic_timer_save(&unknown, &st);
	assert_memory_equal(&st, &before, sizeof(st));
	assert_int_equal(get(&saved(DEADLINE, 0, 0, 50)->lapic, TMICT), 1000);
}

/* ---- the phase ---- */

static int64_t expiry(const struct vcpu_state *st, uint32_t divide)
{
	return (int64_t)(st->lapic_ns + (uint64_t)get(&st->lapic, TMCCT) * divide);
}

/* Found off_ns away from the expiry that came with the update, after so many periods. */
static int64_t found(uint32_t lvtt, uint32_t periods, int64_t off_ns)
{
	static struct vcpu_state st;
	struct lapic_timer t;
	int64_t came;

	st.lapic = lapic(lvtt, 0x3, 2000000, 1000000);
	st.lapic_ns = 5000000007;
	came = expiry(&st, 16);
	lapic_timer_loaded(&t, &st);
	st.lapic_ns = (uint64_t)((int64_t)st.lapic_ns + off_ns) + periods * 32000000ull;
	t.count = 1500000;
	t.marked_ns = st.lapic_ns - 1000;
	lapic_timer_save(&t, &st);
	assert_false(pending(&st.lapic));
	return expiry(&st, 16) - came - (int64_t)periods * 32000000;
}

static void test_errors_do_not_add_up(void **state)
{
	(void)state;
	assert_int_equal(found(PERIODIC, 0, 7003), 0);
	assert_int_equal(found(PERIODIC, 3, 7003), 0);
	assert_int_equal(found(PERIODIC, 3, -50001), 0);
	assert_int_equal(found(ONE_SHOT, 0, 9001), 0);
}

static void test_a_new_phase_is_taken(void **state)
{
	(void)state;
	assert_int_equal(found(PERIODIC, 2, 300000), 300000);
	assert_int_equal(found(PERIODIC, 2, -16000000), -16000000);
	assert_int_equal(found(ONE_SHOT, 2, 100), 100);
}

/* ---- a vCPU that parks ---- */

static struct fake_vcpu *parked_with(struct bench *b, uint32_t lvtt, uint32_t initial)
{
	struct fake_vcpu *v;

	bench_init(b, 1);
	v = bench_vcpu(b, 0);
	v->lapic = lapic(lvtt, BY_1, initial, 0);
	v->expired = VECTOR;
	bench_run(b);
	machine_wait_entered(&b->m);
	machine_park_vcpus(&b->m);
	return v;
}

static void test_a_parked_vcpu_is_settled(void **state)
{
	struct bench b;
	struct fake_vcpu *v = parked_with(&b, ONE_SHOT, 1000);

	(void)state;
	assert_int_equal(v->settled, 1);
	assert_true(pending(&v->lapic));
	machine_unpark_vcpus(&b.m);
	machine_wait_entered(&b.m);
	machine_park_vcpus(&b.m);
	assert_int_equal(v->settled, 2);
	bench_fini(&b);
}

/* A device waits for main, which may wait for an update: the guest goes on from here all the same. */
static void test_a_vcpu_that_stops_for_a_device_is_settled(void **state)
{
	static const struct {
		uint32_t requests;
		unsigned int settled;
	} cases[] = {
		{ MACHINE_REQ_SERVICE, 2 },
		{ MACHINE_REQ_SERVICE | MACHINE_REQ_RESET, 1 },
		{ MACHINE_REQ_SHUTDOWN, 1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct bench b;
		struct fake_vcpu *v = parked_with(&b, PERIODIC, 1000);

		machine_unpark_vcpus(&b.m);
		machine_wait_entered(&b.m);
		atomic_store(&b.m.requests, cases[i].requests);
		machine_park_vcpus(&b.m);
		assert_int_equal(v->settled, cases[i].settled);
		assert_int_equal(b.m.vcpus[0].timer.marked, cases[i].settled == 2);
		bench_fini(&b);
	}
}

/* ---- one-shots that are over ---- */

struct over {
	uint32_t mp_state;
	uint8_t expired;
	unsigned int unnoticed;
	bool preemption_timer, pends;
};

/* Parked, what is to be saved of it then. */
static void park_over(const struct over *o, struct vcpu_state *st)
{
	struct fake_vcpu *v;
	struct error err = ERROR_INIT;
	struct bench b;

	bench_init(&b, 1);
	v = bench_vcpu(&b, 0);
	v->lapic = lapic(ONE_SHOT, BY_1, 1000, 0);
	v->mp_state.mp_state = o->mp_state;
	v->expired = o->expired;
	v->unnoticed = o->unnoticed;
	v->preemption_timer = o->preemption_timer;
	bench_run(&b);
	machine_wait_entered(&b.m);
	machine_park_vcpus(&b.m);
	assert_int_equal(v->mp_state.mp_state, o->mp_state);
	assert_false(v->settling);
	assert_int_equal(v->expired, 0);
	memset(st, 0, sizeof(*st));
	assert_int_equal(lapic_timer_get(st, &b.m.kvm, b.m.vcpus[0].fd, &err), 0);
	lapic_timer_save(&b.m.vcpus[0].timer, st);
	bench_fini(&b);
}

static void test_one_shot_that_is_over(void **state)
{
	static const struct over cases[] = {
		/* It was taken. */
		{ .mp_state = KVM_MP_STATE_RUNNABLE },
		/* The host's timer interrupt is late. */
		{ KVM_MP_STATE_RUNNABLE, VECTOR, 1, .pends = true },
		{ KVM_MP_STATE_RUNNABLE, VECTOR, 3, .pends = true },
		{ KVM_MP_STATE_HALTED, VECTOR, 1, .pends = true },
		{ KVM_MP_STATE_HALTED, VECTOR, 4, .pends = true },
		/* VMX's preemption timer does not count outside of the guest. */
		{ KVM_MP_STATE_RUNNABLE, VECTOR, 0, true, .pends = true },
		/* Nobody knows. */
		{ KVM_MP_STATE_HALTED, .pends = true },
	};
	static struct vcpu_state st;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		park_over(&cases[i], &st);
		assert_int_equal(pending(&st.lapic), cases[i].pends);
		assert_int_equal(get(&st.lapic, TMICT), 0);
	}
}

/* With its interrupts disabled it would sleep for ever. */
static void test_a_vcpu_that_is_settled_as_halted_is_not_left_so(void **state)
{
	static const struct {
		unsigned long request;
		unsigned int skip;
	} cases[] = {
		{ KVM_GET_MP_STATE, 0 }, /* whether it runs */
		{ KVM_GET_MP_STATE, 1 }, /* whether it is halted, and again */
		{ KVM_GET_MP_STATE, 2 }, { KVM_SET_MP_STATE, 0 }, { KVM_SET_MP_STATE, 1 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct fake_vcpu *v;
		struct bench b;

		bench_init(&b, 1);
		v = bench_vcpu(&b, 0);
		v->lapic = lapic(ONE_SHOT, BY_1, 1000, 0);
		b.kvm->fail_request = cases[i].request;
		b.kvm->fail_skip = cases[i].skip;
		b.kvm->fail_times = 1;
		b.kvm->fail_error = EIO;
		bench_run(&b);
		machine_wait_entered(&b.m);
		machine_park_vcpus(&b.m);
		assert_int_equal(b.kvm->fail_request, 0);
		assert_int_equal(v->mp_state.mp_state, KVM_MP_STATE_RUNNABLE);
		bench_fini(&b);
	}
}

static void test_a_masked_one_shot_is_in_no_doubt(void **state)
{
	struct bench b;

	(void)state;
	assert_int_equal(parked_with(&b, ONE_SHOT | MASKED, 1000)->settled, 1);
	bench_fini(&b);
}

static void test_without_such_a_timer_there_is_nothing_to_settle(void **state)
{
	struct bench b;

	(void)state;
	assert_int_equal(parked_with(&b, DEADLINE, 1000)->settled, 0);
	bench_fini(&b);
	assert_int_equal(parked_with(&b, ONE_SHOT, 0)->settled, 0);
	bench_fini(&b);
}

/* If the guest ran instead there would be no end of it. */
static void test_where_the_signal_cannot_be_let_through_nothing_runs(void **state)
{
	struct bench b;
	unsigned int runs;

	(void)state;
	bench_init(&b, 1);
	bench_vcpu(&b, 0)->lapic = lapic(PERIODIC, BY_1, 1000, 1);
	b.kvm->fail_request = KVM_SET_SIGNAL_MASK;
	b.kvm->fail_error = EINVAL;
	bench_run(&b);
	machine_wait_entered(&b.m);
	machine_park_vcpus(&b.m);
	runs = bench_vcpu(&b, 0)->runs;
	assert_true(runs <= 1);
	assert_int_equal(bench_vcpu(&b, 0)->settled, 0);
	b.kvm->fail_error = 0;
	bench_fini(&b);
}

static void test_the_guest_runs_on_where_the_mask_is_taken_off_late(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	bench_vcpu(&b, 0)->lapic = lapic(PERIODIC, BY_1, 1000, 1);
	b.kvm->fail_request = KVM_SET_SIGNAL_MASK;
	b.kvm->fail_error = ENOMEM;
	b.kvm->fail_skip = 1;
	b.kvm->fail_times = 2;
	bench_run(&b);
	machine_wait_entered(&b.m);
	machine_park_vcpus(&b.m);
	assert_int_equal(bench_vcpu(&b, 0)->settled, 1);
	assert_false(bench_vcpu(&b, 0)->settling);
	bench_fini(&b);
}

static void test_two_updates_without_a_run_between_them(void **state)
{
	struct bench b, next;
	struct bench_state st, again;
	struct error err = ERROR_INIT;

	(void)state;
	bench_init(&b, 1);
	bench_vcpu(&b, 0)->lapic = lapic(ONE_SHOT, BY_1, 1000000000, 900000000);
	bench_save(&b, &st, 1);
	assert_int_equal(bench_load(&next, &st, &err), 0);
	put(&bench_vcpu(&next, 0)->lapic, TMCCT, 0); /* expired while the machine stood still */
	bench_save(&next, &again, 2);
	assert_true(pending(&next.m.vcpus[0].state->lapic));
	assert_int_equal(get(&next.m.vcpus[0].state->lapic, TMICT), 0);
	bench_state_fini(&again);
	bench_state_fini(&st);
	bench_fini(&next);
	bench_fini(&b);
}

/* ---- reading and setting ---- */

static uint32_t loaded_after(uint64_t elapsed_ns)
{
	struct vcpu_state *st;
	struct bench b;
	uint32_t count;
	struct error err = ERROR_INIT;

	bench_init(&b, 1);
	st = b.m.vcpus[0].state;
	bench_vcpu(&b, 0)->lapic = lapic(ONE_SHOT, BY_1, 4000000000, 4000000000);
	assert_int_equal(lapic_timer_get(st, &b.m.kvm, b.m.vcpus[0].fd, &err), 0);
	st->lapic_ns -= elapsed_ns;
	assert_int_equal(lapic_timer_set(st, &b.m.kvm, b.m.vcpus[0].fd, &err), 0);
	count = get(&bench_vcpu(&b, 0)->lapic, TMCCT);
	bench_fini(&b);
	return count;
}

static void test_what_the_update_took_is_taken_off(void **state)
{
	uint32_t count = loaded_after(1000000000);

	(void)state;
	assert_true(count <= 3000000000u && count > 1000000000u);
}

static void test_stamp_from_the_future_ages_nothing(void **state)
{
	(void)state;
	assert_int_equal(loaded_after(UINT64_MAX / 2), 4000000000u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_age_divides),
		cmocka_unit_test(test_age_of_a_one_shot),
		cmocka_unit_test(test_age_keeps_the_phase),
		cmocka_unit_test(test_age_of_what_does_not_run),
		cmocka_unit_test(test_the_interrupt_is_an_edge),
		cmocka_unit_test(test_one_shot_that_is_over_stays_so),
		cmocka_unit_test(test_one_shot_in_doubt_comes),
		cmocka_unit_test(test_one_shot_that_expired_since_the_mark),
		cmocka_unit_test(test_one_shot_that_runs),
		cmocka_unit_test(test_periodic_since_the_mark),
		cmocka_unit_test(test_nothing_is_made_of_what_is_not_known),
		cmocka_unit_test(test_errors_do_not_add_up),
		cmocka_unit_test(test_a_new_phase_is_taken),
		cmocka_unit_test(test_a_parked_vcpu_is_settled),
		cmocka_unit_test(test_a_vcpu_that_stops_for_a_device_is_settled),
		cmocka_unit_test(test_one_shot_that_is_over),
		cmocka_unit_test(test_a_vcpu_that_is_settled_as_halted_is_not_left_so),
		cmocka_unit_test(test_a_masked_one_shot_is_in_no_doubt),
		cmocka_unit_test(test_without_such_a_timer_there_is_nothing_to_settle),
		cmocka_unit_test(test_where_the_signal_cannot_be_let_through_nothing_runs),
		cmocka_unit_test(test_the_guest_runs_on_where_the_mask_is_taken_off_late),
		cmocka_unit_test(test_two_updates_without_a_run_between_them),
		cmocka_unit_test(test_what_the_update_took_is_taken_off),
		cmocka_unit_test(test_stamp_from_the_future_ages_nothing),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
