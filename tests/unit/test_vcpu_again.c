/* SPDX-License-Identifier: MIT */
/*
 * A vCPU that was set in the rehearsal and again at the switch is like one that was set once; it
 * takes no more calls than it has to, and in the rehearsal nothing acts.
 */
#include "vcpu_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/vcpu_kinds.h>

#define MSR_XFD 0x1c4u
#define MSR_LSTAR 0xc0000082u
#define MSR_SYSTEM_TIME 0x4b564d01u
#define IRR 0x200
#define LVTT 0x320
#define TMICT 0x380
#define TMCCT 0x390
#define TDCR 0x3e0
#define VECTOR 0xefu
#define ONE_SHOT 0u
#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)
#define SEEDS 8

static void put(struct kvm_lapic_state *l, uint32_t reg, uint32_t value)
{
	memcpy(l->regs + reg, &value, sizeof(value));
}

static uint32_t reg_of(const struct kvm_lapic_state *l, uint32_t reg)
{
	uint32_t value;

	memcpy(&value, l->regs + reg, sizeof(value));
	return value;
}

static void set_timer(struct fake_vcpu *v, uint32_t mode, uint32_t initial)
{
	put(&v->lapic, LVTT, mode | VECTOR);
	put(&v->lapic, TDCR, 0xb);
	put(&v->lapic, TMICT, initial);
	put(&v->lapic, TMCCT, initial / 2);
}

/* ---- what the guest does between the rehearsal and the switch ---- */

static void nothing(struct fake_vcpu *v)
{
	(void)v;
}

static void other_tsc(struct fake_vcpu *v)
{
	v->tsc_offset += 1000;
}

static void other_sregs(struct fake_vcpu *v)
{
	v->sregs.cr0 |= 1;
	v->sregs.cr3 ^= 0x5000;
}

static void to_real_mode(struct fake_vcpu *v)
{
	v->sregs.cr0 &= ~1ull;
}

static void other_msr(struct fake_vcpu *v)
{
	*vcpu_bench_msr(v, MSR_LSTAR) ^= 0x100;
}

static void other_system_time(struct fake_vcpu *v)
{
	*vcpu_bench_msr(v, MSR_SYSTEM_TIME) ^= 0x1000;
}

static void steal_time_on(struct fake_vcpu *v)
{
	*vcpu_bench_msr(v, FAKE_MSR_STEAL_TIME) |= 1;
}

static void steal_time_off(struct fake_vcpu *v)
{
	*vcpu_bench_msr(v, FAKE_MSR_STEAL_TIME) &= ~1ull;
}

static void other_regs(struct fake_vcpu *v)
{
	v->regs.rip += 2;
}

static void other_xcrs(struct fake_vcpu *v)
{
	v->xcrs.xcrs[0].value ^= 4;
}

static void other_xsave(struct fake_vcpu *v)
{
	v->xsave[FAKE_XSAVE_BYTES - 1] ^= 1;
}

static void other_lapic(struct fake_vcpu *v)
{
	v->lapic.regs[IRR + 0x30] ^= 1;
}

static void one_shot(struct fake_vcpu *v)
{
	set_timer(v, ONE_SHOT, 1000000);
}

static void periodic(struct fake_vcpu *v)
{
	set_timer(v, PERIODIC, 1000000);
}

static void stopped(struct fake_vcpu *v)
{
	set_timer(v, ONE_SHOT, 0);
}

static void deadline(struct fake_vcpu *v)
{
	set_timer(v, DEADLINE, 0);
	*vcpu_bench_msr(v, FAKE_MSR_TSC_DEADLINE) += 0x1000;
}

static void deadline_over(struct fake_vcpu *v)
{
	set_timer(v, DEADLINE, 0);
	*vcpu_bench_msr(v, FAKE_MSR_TSC_DEADLINE) = 0;
}

static void other_mp_state(struct fake_vcpu *v)
{
	v->mp_state.mp_state ^= KVM_MP_STATE_HALTED;
}

static void other_events(struct fake_vcpu *v)
{
	v->events.nmi.masked ^= 1;
}

static void other_debugregs(struct fake_vcpu *v)
{
	v->debugregs.db[2] ^= 8;
}

static void in_smm(struct fake_vcpu *v)
{
	v->events.flags |= KVM_VCPUEVENT_VALID_SMM;
	v->events.smi.smm = 1;
	v->events.smi.pending = 0;
}

static void smi_pending(struct fake_vcpu *v)
{
	in_smm(v);
	v->events.smi.smm = 0;
	v->events.smi.pending = 1;
}

#define ALWAYS KVM_SET_LAPIC, KVM_SET_VCPU_EVENTS

static const struct change {
	const char *name;
	void (*change)(struct fake_vcpu *v);
	unsigned long calls[5]; /* that make it, in any order, where no MSR is special */
} changes[] = {
	{ "nothing", nothing, { ALWAYS } },
	{ "TSC", other_tsc, { ALWAYS, KVM_GET_TSC_KHZ, KVM_SET_DEVICE_ATTR } },
	{ "sregs", other_sregs, { ALWAYS, KVM_SET_SREGS2, KVM_SET_REGS } },
	{ "real mode", to_real_mode, { ALWAYS, KVM_SET_SREGS2, KVM_SET_REGS, KVM_SET_MP_STATE } },
	{ "MSR", other_msr, { ALWAYS, KVM_SET_MSRS } },
	{ "kvmclock", other_system_time, { ALWAYS, KVM_SET_MSRS, KVM_KVMCLOCK_CTRL } },
	{ "steal time on", steal_time_on, { ALWAYS, KVM_SET_MSRS } },
	{ "steal time off", steal_time_off, { ALWAYS } },
	{ "regs", other_regs, { ALWAYS, KVM_SET_REGS } },
	{ "xcrs", other_xcrs, { ALWAYS, KVM_SET_XCRS, KVM_SET_XSAVE } },
	{ "xsave", other_xsave, { ALWAYS, KVM_SET_XSAVE } },
	{ "lapic", other_lapic, { ALWAYS } },
	{ "one-shot timer", one_shot, { ALWAYS } },
	{ "periodic timer", periodic, { ALWAYS } },
	{ "stopped timer", stopped, { ALWAYS } },
	{ "TSC deadline", deadline, { ALWAYS, KVM_SET_MSRS } },
	{ "TSC deadline over", deadline_over, { ALWAYS } },
	{ "MP state", other_mp_state, { ALWAYS, KVM_SET_MP_STATE } },
	{ "events", other_events, { ALWAYS } },
	{ "debug registers", other_debugregs, { ALWAYS, KVM_SET_DEBUGREGS } },
};

/* ---- the two ways ---- */

/* Time that passes would make two counts differ. */
static void get(struct vcpu_bench *f)
{
	vcpu_bench_get(f);
	f->st->lapic_ns = 0;
}

static void rehearse(struct vcpu_bench *f)
{
	if (vcpu_state_rehearse(f->st, &f->kvm, f->b_fd, &f->err) < 0)
		fail_msg("%s", f->err.text);
	*f->known = *f->st;
	f->fake->ncalls = 0;
}

static void set_again(struct vcpu_bench *f)
{
	if (vcpu_state_set_again(f->st, f->known, &f->kvm, f->b_fd, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static void assert_same_msrs(struct fake_vcpu *b, struct fake_vcpu *c)
{
	assert_int_equal(b->nmsrs, c->nmsrs);
	for (uint32_t i = 0; i < b->nmsrs; i++)
		if (b->msr_value[i] != c->msr_value[i])
			fail_msg("MSR 0x%x is %#llx, not %#llx", b->msr_index[i],
				 (unsigned long long)b->msr_value[i],
				 (unsigned long long)c->msr_value[i]);
}

static void assert_same(struct fake_vcpu *b, struct fake_vcpu *c)
{
	assert_int_equal(b->cpuid_head.nent, c->cpuid_head.nent);
	assert_memory_equal(b->cpuid, c->cpuid, sizeof(b->cpuid));
	assert_true(b->tsc_khz == c->tsc_khz);
	assert_true(b->tsc_offset == c->tsc_offset);
	assert_memory_equal(&b->sregs, &c->sregs, sizeof(b->sregs));
	assert_same_msrs(b, c);
	assert_memory_equal(&b->regs, &c->regs, sizeof(b->regs));
	assert_memory_equal(&b->xcrs, &c->xcrs, sizeof(b->xcrs));
	assert_memory_equal(b->xsave, c->xsave, sizeof(b->xsave));
	assert_memory_equal(&b->lapic, &c->lapic, sizeof(b->lapic));
	assert_int_equal(b->deadline_mode, c->deadline_mode);
	assert_memory_equal(&b->mp_state, &c->mp_state, sizeof(b->mp_state));
	assert_memory_equal(&b->events, &c->events, sizeof(b->events));
	assert_memory_equal(&b->debugregs, &c->debugregs, sizeof(b->debugregs));
}

/* A third vCPU, on which st is set at once. It and b are boot CPUs, to which KVM does more. */
static void assert_like_a_fresh_one(struct vcpu_bench *f)
{
	int fd = kvm_call_num(&f->kvm, f->vm.fd, KVM_CREATE_VCPU, 0);
	struct fake_vcpu *c = fake_kvm_vcpu(f->fake, fd);

	if (vcpu_state_set(f->st, &f->kvm, fd, &f->err) < 0)
		fail_msg("%s", f->err.text);
	assert_same(f->b, c);
	assert_int_equal(f->b->armed > 0, c->armed > 0);
	fd_close(&fd);
}

static void start_from(struct vcpu_bench *f, uint32_t seed, void (*before)(struct fake_vcpu *v))
{
	f->b->id = 0;
	fake_vcpu_randomise(f->a, seed);
	f->a->sregs.cr0 |= 1;
	before(f->a);
	get(f);
	rehearse(f);
}

/* ---- it is as good ---- */

static void each_change(uint32_t seed, void (*before)(struct fake_vcpu *v))
{
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct vcpu_bench *f;
		void *state;

		vcpu_bench_setup(&state);
		f = state;
		start_from(f, seed, before);
		changes[i].change(f->a);
		get(f);
		set_again(f);
		assert_like_a_fresh_one(f);
		vcpu_bench_teardown(&state);
	}
}

static void test_each_change_arrives(void **state)
{
	(void)state;
	for (uint32_t seed = 1; seed <= SEEDS; seed++)
		each_change(seed, nothing);
}

/* From each change to each. */
static void test_changes_of_what_was_special_already(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		each_change(17, changes[i].change);
}

static void test_everything_changes(void **state)
{
	struct vcpu_bench *f = *state;

	for (uint32_t seed = 1; seed <= SEEDS; seed++) {
		vcpu_bench_teardown(state);
		vcpu_bench_setup(state);
		f = *state;
		start_from(f, seed, deadline);
		fake_vcpu_randomise(f->a, seed + 1000);
		periodic(f->a);
		get(f);
		set_again(f);
		assert_like_a_fresh_one(f);
	}
}

/* By the VM's IOAPIC and PIT, which were rehearsed as well. */
static void test_interrupts_that_came_meanwhile_are_gone(void **state)
{
	struct vcpu_bench *f = *state;

	start_from(f, 3, nothing);
	put(&f->b->lapic, IRR + 0x20, 0xffff);
	f->b->events.nmi.pending ^= 1;
	set_again(f);
	assert_like_a_fresh_one(f);
}

/* KVM makes it runnable, for old programs that would not. */
static void test_boot_cpu_that_was_reset_and_waits(void **state)
{
	struct vcpu_bench *f = *state;

	fake_vcpu_randomise(f->a, 4);
	f->b->id = 0;
	f->a->sregs.cr0 = 0;
	f->a->sregs.cs.selector = 0xf000;
	f->a->regs.rip = 0xfff0;
	f->a->mp_state.mp_state = KVM_MP_STATE_HALTED;
	get(f);
	rehearse(f);
	f->a->sregs.cr2++;
	get(f);
	set_again(f);
	assert_int_equal(f->b->mp_state.mp_state, KVM_MP_STATE_HALTED);
	assert_like_a_fresh_one(f);
}

/* It was in SMM or on its way there; then it has got an INIT. */
static void test_vcpu_out_of_smm_that_waits_for_sipi(void **state)
{
	for (int pending = 0; pending < 2; pending++) {
		struct vcpu_bench *f;

		vcpu_bench_teardown(state);
		vcpu_bench_setup(state);
		f = *state;
		start_from(f, 5, pending ? smi_pending : in_smm);
		f->a->events.smi.smm = 0;
		f->a->mp_state.mp_state = KVM_MP_STATE_INIT_RECEIVED;
		get(f);
		set_again(f);
		assert_like_a_fresh_one(f);
	}
}

/* A list of MSRs or leaves of CPUID that is another one: nothing is known of what was set. */
static void test_other_shape_is_set_as_a_whole(void **state)
{
	struct vcpu_bench *f = *state;

	start_from(f, 5, deadline);
	f->known->nmsrs--;
	set_again(f);
	assert_true(fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_CPUID2, 0) >= 0);
	assert_like_a_fresh_one(f);
}

static void test_other_cpuid_is_set_as_a_whole(void **state)
{
	struct vcpu_bench *f = *state;

	start_from(f, 6, periodic);
	f->st->cpuid[3] ^= 1;
	set_again(f);
	assert_int_equal(f->fake->calls[0].request, KVM_SET_CPUID2);
	assert_like_a_fresh_one(f);
}

/* ---- it takes no more calls ---- */

static bool among(const struct change *c, unsigned long request)
{
	for (size_t i = 0; i < ARRAY_SIZE(c->calls); i++)
		if (c->calls[i] == request)
			return true;
	return false;
}

/* A LAPIC whose timer runs is set once more where that took long: on a busy machine. */
static bool is_repeated(const struct fake_kvm *fake, unsigned int i)
{
	return i > 0 && fake->calls[i].request == KVM_SET_LAPIC &&
	       fake->calls[i - 1].request == KVM_SET_LAPIC;
}

static void assert_calls(const struct fake_kvm *fake, const struct change *c)
{
	unsigned int expected = 0, made = 0;

	while (expected < ARRAY_SIZE(c->calls) && c->calls[expected])
		expected++;
	for (unsigned int i = 0; i < fake->ncalls; i++) {
		if (!among(c, fake->calls[i].request))
			fail_msg("%s: call %#lx is not needed", c->name, fake->calls[i].request);
		made += !is_repeated(fake, i);
	}
	if (made != expected)
		fail_msg("%s: %u calls, not %u", c->name, made, expected);
}

static void no_special_msrs(struct fake_vcpu *v)
{
	*vcpu_bench_msr(v, FAKE_MSR_TSC_DEADLINE) = 0;
	steal_time_off(v);
}

static void test_each_change_takes_its_calls(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct vcpu_bench *f;
		void *own;

		vcpu_bench_setup(&own);
		f = own;
		start_from(f, 7, no_special_msrs);
		changes[i].change(f->a);
		get(f);
		f->fake->ncalls = 0;
		set_again(f);
		assert_calls(f->fake, &changes[i]);
		vcpu_bench_teardown(&own);
	}
}

/* What was rehearsed in another form is set by the same call, the deadline as the last. */
static void test_msrs_are_one_call(void **state)
{
	struct vcpu_bench *f = *state;
	int at;

	start_from(f, 8, nothing);
	steal_time_on(f->a);
	deadline(f->a);
	other_msr(f->a);
	get(f);
	f->fake->ncalls = 0;
	set_again(f);
	at = fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_MSRS, 0);
	assert_true(at > fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_LAPIC, 0));
	assert_int_equal(f->fake->calls[at].nmsrs, 3);
	assert_int_not_equal(f->fake->calls[at].msr, FAKE_MSR_TSC_DEADLINE);
	assert_int_equal(fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_MSRS, (unsigned)at + 1), -1);
}

/* KVM drops what XFD says is not in use: it may have been in the rehearsal. */
static void test_xsave_comes_with_xfd(void **state)
{
	struct vcpu_bench *f = *state;

	f->b->any_msr = true;
	fake_vcpu_randomise(f->a, 9);
	get(f);
	f->st->msr_index[f->st->nmsrs++] = MSR_XFD;
	rehearse(f);
	f->st->msr_value[f->st->nmsrs - 1] = 1;
	set_again(f);
	assert_true(fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_XSAVE, 0) >
		    fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_MSRS, 0));
}

static void test_events_come_after_the_registers(void **state)
{
	struct vcpu_bench *f = *state;

	start_from(f, 10, nothing);
	other_sregs(f->a);
	get(f);
	f->fake->ncalls = 0;
	set_again(f);
	assert_true(fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_REGS, 0) >
		    fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_SREGS2, 0));
	assert_true(fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_VCPU_EVENTS, 0) >
		    fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_REGS, 0));
}

static void test_tsc_that_differs_is_told(void **state)
{
	struct vcpu_bench *f = *state;

	start_from(f, 11, nothing);
	assert_false(vcpu_state_tsc_differs(f->st, f->known));
	f->st->tsc_offset++;
	assert_true(vcpu_state_tsc_differs(f->st, f->known));
	assert_int_equal(vcpu_state_set_tsc(f->st, &f->kvm, f->b_fd, &f->err), 0);
	assert_true(f->b->tsc_offset == f->st->tsc_offset);
	f->st->tsc_offset--;
	f->st->tsc_khz++;
	assert_true(vcpu_state_tsc_differs(f->st, f->known));
}

/* ---- in the rehearsal nothing acts ---- */

static void test_rehearsal_is_quiet(void **state)
{
	static void (*const timers[])(struct fake_vcpu *) = { one_shot, periodic, deadline };
	struct vcpu_bench *f = *state;

	for (size_t i = 0; i < ARRAY_SIZE(timers); i++) {
		fake_vcpu_randomise(f->a, 12);
		steal_time_on(f->a);
		timers[i](f->a);
		get(f);
		rehearse(f);
		assert_int_equal(f->b->armed, 0);
		assert_int_equal(f->b->ram_writes, 0);
		assert_int_equal(reg_of(&f->b->lapic, TMICT), 0);
		assert_int_equal(reg_of(&f->b->lapic, LVTT) & 0xffff, VECTOR);
	}
	set_again(f);
	assert_true(f->b->armed > 0);
	assert_true(f->b->ram_writes > 0); /* the fake would have noticed */
}

/* Whether this host has the MSR, and takes the address, is rehearsed for all that. */
static void test_steal_time_is_rehearsed_switched_off(void **state)
{
	struct vcpu_bench *f = *state;

	fake_vcpu_randomise(f->a, 13);
	*vcpu_bench_msr(f->a, FAKE_MSR_STEAL_TIME) = 0x12341;
	get(f);
	rehearse(f);
	assert_int_equal(*vcpu_bench_msr(f->b, FAKE_MSR_STEAL_TIME), 0x12340);
	set_again(f);
	assert_int_equal(*vcpu_bench_msr(f->b, FAKE_MSR_STEAL_TIME), 0x12341);
}

/* All else is set, so that whatever cannot be is found then. */
static void test_rehearsal_sets_everything(void **state)
{
	struct vcpu_bench *f = *state;

	fake_vcpu_randomise(f->a, 14);
	get(f);
	rehearse(f);
	assert_memory_equal(&f->a->regs, &f->b->regs, sizeof(f->a->regs));
	assert_memory_equal(&f->a->sregs, &f->b->sregs, sizeof(f->a->sregs));
	assert_memory_equal(f->a->xsave, f->b->xsave, sizeof(f->a->xsave));
	assert_memory_equal(&f->a->events, &f->b->events, sizeof(f->a->events));
	assert_memory_equal(&f->a->debugregs, &f->b->debugregs, sizeof(f->a->debugregs));
	assert_true(f->a->tsc_offset == f->b->tsc_offset);
	assert_int_equal(f->b->cpuid_head.nent * 10, f->st->ncpuid);
	assert_true(*vcpu_bench_msr(f->a, MSR_LSTAR) == *vcpu_bench_msr(f->b, MSR_LSTAR));
}

/* ---- errors ---- */

static void fail_each(struct vcpu_bench *f, bool again)
{
	static const unsigned long requests[] = {
		KVM_SET_DEVICE_ATTR, KVM_SET_SREGS2,      KVM_SET_MSRS,     KVM_SET_REGS,
		KVM_SET_XCRS,        KVM_SET_XSAVE,       KVM_SET_LAPIC,    KVM_SET_CPUID2,
		KVM_SET_MP_STATE,    KVM_SET_VCPU_EVENTS, KVM_SET_DEBUGREGS
	};

	f->fake->fail_error = EPERM;
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		f->fake->fail_request = requests[i];
		if (!again)
			assert_int_equal(vcpu_state_rehearse(f->st, &f->kvm, f->b_fd, &f->err),
					 -EPERM);
		else if (requests[i] != KVM_SET_CPUID2)
			assert_int_equal(vcpu_state_set_again(f->st, f->known, &f->kvm, f->b_fd,
							      &f->err),
					 -EPERM);
		assert_true(f->err.text[0]);
	}
	f->fake->fail_error = 0;
}

static void test_each_failure_is_told(void **state)
{
	struct vcpu_bench *f = *state;

	start_from(f, 15, nothing);
	fail_each(f, false);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		changes[i].change(f->a);
	to_real_mode(f->a);
	get(f);
	fail_each(f, true);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, vcpu_bench_setup, vcpu_bench_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_change_arrives),
		cmocka_unit_test(test_changes_of_what_was_special_already),
		CASE(test_everything_changes),
		CASE(test_interrupts_that_came_meanwhile_are_gone),
		CASE(test_boot_cpu_that_was_reset_and_waits),
		CASE(test_vcpu_out_of_smm_that_waits_for_sipi),
		CASE(test_other_shape_is_set_as_a_whole),
		CASE(test_other_cpuid_is_set_as_a_whole),
		cmocka_unit_test(test_each_change_takes_its_calls),
		CASE(test_msrs_are_one_call),
		CASE(test_xsave_comes_with_xfd),
		CASE(test_events_come_after_the_registers),
		CASE(test_tsc_that_differs_is_told),
		CASE(test_rehearsal_is_quiet),
		CASE(test_steal_time_is_rehearsed_switched_off),
		CASE(test_rehearsal_sets_everything),
		CASE(test_each_failure_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
