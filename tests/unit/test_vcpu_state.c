/* SPDX-License-Identifier: MIT */
/* vCPU state: the order in which KVM is told, and what it is never told. */
#include "vcpu_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/vm/vcpu_kinds.h>

/* ---- everything arrives ---- */

static void test_all_state_arrives(void **state)
{
	struct vcpu_bench *f = *state;

	for (uint32_t seed = 1; seed < 50; seed++) {
		fake_vcpu_randomise(f->a, seed);
		vcpu_bench_get(f);
		vcpu_bench_set(f);
		assert_memory_equal(&f->a->regs, &f->b->regs, sizeof(f->a->regs));
		assert_memory_equal(&f->a->sregs, &f->b->sregs, sizeof(f->a->sregs));
		assert_memory_equal(&f->a->xcrs, &f->b->xcrs, sizeof(f->a->xcrs));
		assert_memory_equal(f->a->xsave, f->b->xsave, sizeof(f->a->xsave));
		assert_memory_equal(&f->a->lapic, &f->b->lapic, sizeof(f->a->lapic));
		assert_memory_equal(&f->a->mp_state, &f->b->mp_state, sizeof(f->a->mp_state));
		assert_memory_equal(&f->a->events, &f->b->events, sizeof(f->a->events));
		assert_memory_equal(&f->a->debugregs, &f->b->debugregs, sizeof(f->a->debugregs));
		assert_true(f->a->tsc_offset == f->b->tsc_offset);
		assert_int_equal(f->b->cpuid_head.nent * 10, f->st->ncpuid);
		assert_memory_equal(f->b->cpuid, f->st->cpuid, f->st->ncpuid * 4);
		for (uint32_t i = 0; i < f->msrs->count; i++)
			assert_true(*vcpu_bench_msr(f->a, f->msrs->index[i]) ==
				    *vcpu_bench_msr(f->b, f->msrs->index[i]));
	}
}

/* Without KVM_CAP_SREGS2, XSAVE2, XCRS: what an older host can do, still arrives. */
static void test_old_host(void **state)
{
	struct vcpu_bench *f = *state;

	f->kvm.has_sregs2 = f->kvm.has_xsave2 = f->kvm.has_xcrs = false;
	f->kvm.xsave_size = 4096;
	fake_vcpu_randomise(f->a, 5);
	vcpu_bench_get(f);
	assert_int_equal(f->st->xsave_len, 4096);
	vcpu_bench_set(f);
	assert_memory_equal(&f->a->sregs, &f->b->sregs, offsetof(struct kvm_sregs2, flags));
	assert_memory_equal(f->a->xsave, f->b->xsave, 4096);
	assert_int_equal(fake_kvm_find_call(f->fake, -1, KVM_GET_SREGS2, 0), -1);
	assert_int_equal(fake_kvm_find_call(f->fake, -1, KVM_GET_XSAVE2, 0), -1);
	assert_int_equal(fake_kvm_find_call(f->fake, -1, KVM_SET_XCRS, 0), -1);
}

/* A guest that has no long mode may jump to a 64-bit code segment all the same. */
static void test_64_bit_code_segment_without_long_mode(void **state)
{
	struct vcpu_bench *f = *state;

	for (int i = 0; i < 4; i++) {
		f->kvm.has_sregs2 = i % 2;
		f->a->sregs.efer = i / 2 ? FAKE_EFER_LMA : 0;
		f->a->sregs.cs.l = 1;
		vcpu_bench_get(f);
		vcpu_bench_set(f);
		assert_int_equal(f->b->sregs.cs.l, i / 2);
	}
}

/* Who waits for SIPI has got an SMI; anybody else keeps it. */
static void test_smi_of_a_vcpu_that_waits_for_sipi(void **state)
{
	struct vcpu_bench *f = *state;

	f->a->events.flags = KVM_VCPUEVENT_VALID_SMM;
	f->a->events.smi.pending = 1;
	vcpu_bench_get(f);
	vcpu_bench_set(f);
	assert_int_equal(f->b->events.smi.pending, 1);
	f->b->events.smi.pending = 0; /* as a fresh one */
	f->a->mp_state.mp_state = KVM_MP_STATE_INIT_RECEIVED;
	vcpu_bench_get(f);
	vcpu_bench_set(f);
	assert_int_equal(f->b->events.smi.pending, 0);
	assert_int_equal(f->b->mp_state.mp_state, KVM_MP_STATE_INIT_RECEIVED);
}

/* ---- the order, and the table that it comes from ---- */

static int find_set(struct vcpu_bench *f, unsigned long request)
{
	int at = fake_kvm_find_call(f->fake, f->b_fd, request, 0);

	assert_true(at >= 0);
	return at;
}

/* Of a row with two calls, the one that this fake's KVM is asked for. */
static const struct kvm_request *last_call(const struct kvm_request *calls)
{
	return calls[1].nr == KVM_SET_DEVICE_ATTR ? &calls[1] : &calls[0];
}

static void test_order_of_setting(void **state)
{
	struct vcpu_bench *f = *state;
	int last = -1;

	*vcpu_bench_msr(f->a, FAKE_MSR_TSC_DEADLINE) = 123456;
	vcpu_bench_get(f);
	f->fake->ncalls = 0;
	vcpu_bench_set(f);
	for (size_t i = 0; i < VCPU_KINDS; i++) {
		const struct kvm_request *call = last_call(vcpu_kinds[i].set);
		int at = fake_kvm_find_call(f->fake, f->b_fd, call->nr, (unsigned int)(last + 1));

		if (at < 0)
			fail_msg("no %s after those before it", call->name);
		last = at;
	}
	/* CPUID is the very first call of all. */
	assert_int_equal(f->fake->calls[0].request, KVM_SET_CPUID2);
}

/* What KVM demands, however the table is sorted. */
static void test_rows_that_may_not_change_places(void **state)
{
	(void)state;
	assert_true(VCPU_CPUID == 0);
	assert_true(VCPU_TSC < VCPU_MSRS && VCPU_TSC < VCPU_LAPIC);
	assert_true(VCPU_SREGS < VCPU_MSRS && VCPU_SREGS < VCPU_LAPIC);
	assert_true(VCPU_REGS < VCPU_EVENTS);
	assert_true(VCPU_XCRS < VCPU_XSAVE);
	assert_true(VCPU_LAPIC < VCPU_TSC_DEADLINE);
	assert_int_equal(vcpu_kinds[VCPU_MP_STATE].save_at, 1);
	assert_true(vcpu_kinds[VCPU_MSRS].save_at < vcpu_kinds[VCPU_LAPIC].save_at);
}

/* Every place once, so that the walk ends behind the last; what is read can be set. */
static void test_rows_are_whole(void **state)
{
	unsigned int places = 0, highest = 0;

	(void)state;
	for (size_t i = 0; i < VCPU_KINDS; i++) {
		const struct vcpu_kind *k = &vcpu_kinds[i];

		assert_non_null(k->name);
		assert_non_null(k->set[0].name);
		assert_true(k->load || k->offset);
		if (!k->save_at)
			continue;
		assert_non_null(k->get[0].name);
		assert_true(k->save || k->offset);
		assert_int_equal(places & 1u << k->save_at, 0);
		places |= 1u << k->save_at;
		highest = k->save_at > highest ? k->save_at : highest;
	}
	assert_int_equal(places, (2u << highest) - 2);
}

static void test_tsc_deadline_comes_after_the_lapic(void **state)
{
	struct vcpu_bench *f = *state;
	int lapic, at;

	*vcpu_bench_msr(f->a, FAKE_MSR_TSC_DEADLINE) = 123456;
	vcpu_bench_get(f);
	f->fake->ncalls = 0;
	vcpu_bench_set(f);
	lapic = find_set(f, KVM_SET_LAPIC);
	at = fake_kvm_find_call(f->fake, f->b_fd, KVM_SET_MSRS, (unsigned int)lapic);
	assert_true(at > lapic);
	assert_int_equal(f->fake->calls[at].msr, FAKE_MSR_TSC_DEADLINE);
	assert_int_equal(f->fake->calls[at].nmsrs, 1);
	assert_int_equal(*vcpu_bench_msr(f->b, FAKE_MSR_TSC_DEADLINE), 123456);
	assert_int_equal(f->b->msr_writes[fake_vcpu_msr(f->b, FAKE_MSR_TSC_DEADLINE)], 1);
}

static void test_idle_tsc_deadline_is_left_alone(void **state)
{
	struct vcpu_bench *f = *state;

	vcpu_bench_get(f);
	vcpu_bench_set(f);
	assert_int_equal(f->b->msr_writes[fake_vcpu_msr(f->b, FAKE_MSR_TSC_DEADLINE)], 0);
}

static void test_mp_state_is_read_first(void **state)
{
	struct vcpu_bench *f = *state;

	f->fake->ncalls = 0;
	vcpu_bench_get(f);
	assert_int_equal(f->fake->calls[0].request, KVM_GET_MP_STATE);
}

/* ---- MSRs ---- */

static const uint32_t special[] = { 0x10, 0x11, 0x12, 0x4b564d00 };

static void test_special_msrs_are_not_listed(void **state)
{
	struct vcpu_bench *f = *state;

	for (uint32_t i = 0; i < f->msrs->count; i++) {
		for (size_t n = 0; n < ARRAY_SIZE(special); n++)
			assert_int_not_equal(f->msrs->index[i], special[n]);
		assert_int_not_equal(f->msrs->index[i], FAKE_MSR_UNREADABLE);
		assert_int_not_equal(f->msrs->index[i], FAKE_MSR_READ_ONLY);
		for (uint32_t n = 0; n < i; n++)
			assert_int_not_equal(f->msrs->index[i], f->msrs->index[n]);
	}
}

static void test_unlisted_msrs_are_found(void **state)
{
	static const uint32_t wanted[] = { 0x1d9, 0x200, 0x201, 0x250, 0x2ff, 0x400, 0x401 };
	struct vcpu_bench *f = *state;

	for (size_t n = 0; n < ARRAY_SIZE(wanted); n++) {
		bool found = false;

		for (uint32_t i = 0; i < f->msrs->count; i++)
			found |= f->msrs->index[i] == wanted[n];
		if (!found)
			fail_msg("MSR %#x is not saved", wanted[n]);
	}
}

static uint64_t steal_time_msr(struct vcpu_bench *f, unsigned long request, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = 0x4b564d03, .data = value } };

	assert_int_equal(kvm_call(&f->kvm, f->a_fd, request, &m), 1);
	return m.entry.data;
}

/* Accounting was stopped for another thread. The next KVM VM goes on with it. */
static void test_stopped_steal_time_goes_on(void **state)
{
	struct vcpu_bench *f = *state;
	uint64_t kept = 0;

	steal_time_msr(f, KVM_SET_MSRS, 0x2000);
	vcpu_bench_get(f);
	vcpu_state_keep_steal_time(f->st, 0x2001);
	for (uint32_t i = 0; i < f->st->nmsrs; i++)
		if (f->st->msr_index[i] == 0x4b564d03)
			kept = f->st->msr_value[i];
	assert_int_equal(kept, 0x2001);
}

/* It costs no call of its own. */
static void test_wall_clock_is_read_with_the_rest(void **state)
{
	struct vcpu_bench *f = *state;
	int at;

	*vcpu_bench_msr(f->a, 0x4b564d00) = 0x77000;
	f->fake->ncalls = 0;
	vcpu_bench_get(f);
	assert_true(f->st->wall_clock == 0x77000);
	at = fake_kvm_find_call(f->fake, f->a_fd, KVM_GET_MSRS, 0);
	assert_int_equal(f->fake->calls[at].nmsrs, f->msrs->count + 1);
	assert_int_equal(f->st->nmsrs, f->msrs->count);
	assert_int_equal(fake_kvm_find_call(f->fake, f->a_fd, KVM_GET_MSRS, (unsigned)at + 1), -1);
}

/* More than KVM takes in one call, as hosts with a large PMU have. */
static void test_three_hundred_more_msrs(void **state)
{
	struct vcpu_bench *f = *state;

	f->b->any_msr = true;
	*vcpu_bench_msr(f->a, 0x4b564d00) = 0x77000;
	for (uint32_t i = 0; i < 300; i++) {
		f->a->msr_index[f->a->nmsrs] = f->lists->saved.index[f->msrs->count] = 0x10000 + i;
		f->a->msr_value[f->a->nmsrs++] = 1000 * i;
		f->lists->saved.count++;
	}
	vcpu_bench_get(f);
	assert_int_equal(f->st->nmsrs, f->msrs->count);
	assert_true(f->st->wall_clock == 0x77000);
	vcpu_bench_set(f);
	for (uint32_t i = 0; i < 300; i++)
		assert_int_equal(*vcpu_bench_msr(f->b, 0x10000 + i), 1000 * i);
	f->st->msr_index[f->st->nmsrs] = 0xfffff;
	f->st->nmsrs++;
	f->b->any_msr = false;
	assert_int_equal(vcpu_state_set(f->st, &f->kvm, f->b_fd, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "0xfffff"));
}

/* What of PERF_CAPABILITIES molt hides is not as in a new vCPU, and to set it resets the counters. */
static void test_performance_counters_outlive_their_capabilities(void **state)
{
	struct vcpu_bench *f = *state;

	*vcpu_bench_msr(f->a, FAKE_MSR_PERF_CAPABILITIES) &= ~0x3full;
	*vcpu_bench_msr(f->a, FAKE_MSR_PERF_EVENT) = 0x4300c0;
	vcpu_bench_get(f);
	vcpu_bench_set(f);
	assert_int_equal(*vcpu_bench_msr(f->b, FAKE_MSR_PERF_EVENT), 0x4300c0);
	*vcpu_bench_msr(f->b, FAKE_MSR_PERF_CAPABILITIES) = FAKE_PERF_CAPABILITIES;
	assert_int_equal(vcpu_state_rehearse(f->st, &f->kvm, f->b_fd, &f->err), 0);
	assert_int_equal(*vcpu_bench_msr(f->b, FAKE_MSR_PERF_EVENT), 0x4300c0);
}

static void test_host_without_kvmclock(void **state)
{
	struct vcpu_bench *f = *state;

	f->a->msr_index[fake_vcpu_msr(f->a, 0x4b564d00)] = 0x9999;
	f->st->wall_clock = 5;
	vcpu_bench_get(f);
	assert_true(f->st->wall_clock == 0);
	assert_int_equal(f->st->nmsrs, f->msrs->count);
}

/* Not even where a stream names them. */
static void test_special_msrs_are_never_written(void **state)
{
	struct vcpu_bench *f = *state;

	vcpu_bench_get(f);
	for (size_t n = 0; n < ARRAY_SIZE(special); n++) {
		f->st->msr_index[f->st->nmsrs] = special[n];
		f->st->msr_value[f->st->nmsrs++] = 0xbad;
	}
	vcpu_bench_set(f);
	for (size_t n = 0; n < ARRAY_SIZE(special); n++) {
		assert_int_equal(f->a->msr_writes[fake_vcpu_msr(f->a, special[n])], 0);
		assert_int_equal(f->b->msr_writes[fake_vcpu_msr(f->b, special[n])], 0);
	}
}

static void test_refused_msr_is_named(void **state)
{
	struct vcpu_bench *f = *state;

	vcpu_bench_get(f);
	f->st->msr_index[f->st->nmsrs] = FAKE_MSR_READ_ONLY;
	f->st->msr_value[f->st->nmsrs++] = 0x77;
	assert_int_equal(vcpu_state_set(f->st, &f->kvm, f->b_fd, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "0xcf = 0x77"));
}

/* KVM refused it to the guest as well, but tells it. What comes after it is set all the same. */
static void test_page_of_an_msr_that_is_not_in_ram(void **state)
{
	struct vcpu_bench *f = *state;

	f->b->ram_end = 0x100000;
	fake_vcpu_randomise(f->a, 3);
	*vcpu_bench_msr(f->a, FAKE_MSR_ASYNC_PF_EN) = 0x7fff0009;
	vcpu_bench_get(f);
	vcpu_bench_set(f);
	*vcpu_bench_msr(f->a, FAKE_MSR_ASYNC_PF_EN) = 0x7fff0008;
	for (uint32_t i = 0; i < f->msrs->count; i++)
		assert_true(*vcpu_bench_msr(f->a, f->msrs->index[i]) ==
			    *vcpu_bench_msr(f->b, f->msrs->index[i]));
	f->st->msr_index[f->st->nmsrs] = FAKE_MSR_READ_ONLY;
	f->st->msr_value[f->st->nmsrs++] = 0x77;
	assert_int_equal(vcpu_state_set(f->st, &f->kvm, f->b_fd, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "0xcf = 0x77"));
}

static void test_vanished_msr_is_named(void **state)
{
	struct vcpu_bench *f = *state;

	f->lists->saved.index[3] = 0x9999;
	assert_int_equal(vcpu_state_get(f->st, &f->kvm, f->a_fd, f->msrs, &f->err), -EIO);
	assert_non_null(strstr(f->err.text, "0x9999"));
}

static void test_list_that_is_too_long(void **state)
{
	struct vcpu_bench *f = *state;

	f->fake->fail_request = KVM_GET_MSR_INDEX_LIST;
	f->fake->fail_error = E2BIG;
	assert_int_equal(msr_lists_init(f->lists, &f->kvm, f->a_fd, &f->err), -E2BIG);
	assert_non_null(strstr(f->err.text, "KVM_GET_MSR_INDEX_LIST"));
}

/* ---- TSC and XSAVE ---- */

static void test_other_frequency_is_set(void **state)
{
	struct vcpu_bench *f = *state;

	f->a->tsc_khz = 3000000;
	vcpu_bench_get(f);
	vcpu_bench_set(f);
	assert_int_equal(f->b->tsc_khz, 3000000);
	assert_true(find_set(f, KVM_SET_TSC_KHZ) < find_set(f, KVM_SET_DEVICE_ATTR));
}

static void test_same_frequency_needs_no_control(void **state)
{
	struct vcpu_bench *f = *state;

	vcpu_bench_get(f);
	vcpu_bench_set(f);
	assert_int_equal(fake_kvm_find_call(f->fake, -1, KVM_SET_TSC_KHZ, 0), -1);
}

static void test_impossible_frequency_is_named(void **state)
{
	struct vcpu_bench *f = *state;

	f->a->tsc_khz = 3000000;
	vcpu_bench_get(f);
	f->fake->fail_request = KVM_SET_TSC_KHZ;
	f->fake->fail_error = EINVAL;
	assert_int_equal(vcpu_state_set(f->st, &f->kvm, f->b_fd, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "3000000"));
}

static void test_host_without_tsc_offset(void **state)
{
	struct vcpu_bench *f = *state;

	f->kvm.has_tsc_offset = false;
	assert_int_equal(vcpu_state_get(f->st, &f->kvm, f->a_fd, f->msrs, &f->err), -ENOTSUP);
	assert_non_null(strstr(f->err.text, "TSC"));
}

static void test_xsave_sizes(void **state)
{
	struct vcpu_bench *f = *state;

	vcpu_bench_get(f);
	assert_int_equal(f->st->xsave_len, FAKE_XSAVE_BYTES);
	f->st->xsave_len = FAKE_XSAVE_BYTES - 1;
	assert_int_equal(vcpu_state_set(f->st, &f->kvm, f->b_fd, &f->err), -EINVAL);
	assert_non_null(strstr(f->err.text, "5119"));
	f->kvm.xsave_size = VCPU_XSAVE_MAX + 1;
	assert_int_equal(vcpu_state_get(f->st, &f->kvm, f->a_fd, f->msrs, &f->err), -E2BIG);
}

/* Each ioctl of the table that fails ends it, by name. */
static void fail_each(struct vcpu_bench *f, const struct kvm_request *call, bool setting)
{
	int r;

	/* Not asked where the frequency is the same, or where there is the newer call. */
	if (!call->name || call->nr == KVM_SET_TSC_KHZ || call->nr == KVM_GET_SREGS ||
	    call->nr == KVM_SET_SREGS || call->nr == KVM_GET_XSAVE)
		return;
	f->fake->fail_request = call->nr;
	f->st->tsc_khz = setting ? FAKE_TSC_KHZ : 0; /* else it is known and not read again */
	r = setting ? vcpu_state_set(f->st, &f->kvm, f->b_fd, &f->err)
		    : vcpu_state_get(f->st, &f->kvm, f->a_fd, f->msrs, &f->err);
	assert_int_equal(r, -EPERM);
	if (call->nr == KVM_GET_DEVICE_ATTR || call->nr == KVM_SET_DEVICE_ATTR)
		assert_non_null(strstr(f->err.text, "KVM_VCPU_TSC_OFFSET"));
	else
		assert_non_null(strstr(f->err.text, call->name));
}

static void test_each_failure_is_named(void **state)
{
	struct vcpu_bench *f = *state;

	vcpu_bench_get(f);
	f->fake->fail_error = EPERM;
	for (size_t i = 0; i < VCPU_KINDS; i++)
		for (size_t n = 0; n < 2; n++) {
			fail_each(f, &vcpu_kinds[i].set[n], true);
			fail_each(f, &vcpu_kinds[i].get[n], false);
		}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, vcpu_bench_setup, vcpu_bench_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_all_state_arrives),
		CASE(test_old_host),
		CASE(test_64_bit_code_segment_without_long_mode),
		CASE(test_smi_of_a_vcpu_that_waits_for_sipi),
		CASE(test_order_of_setting),
		cmocka_unit_test(test_rows_that_may_not_change_places),
		cmocka_unit_test(test_rows_are_whole),
		CASE(test_tsc_deadline_comes_after_the_lapic),
		CASE(test_idle_tsc_deadline_is_left_alone),
		CASE(test_mp_state_is_read_first),
		CASE(test_special_msrs_are_not_listed),
		CASE(test_unlisted_msrs_are_found),
		CASE(test_stopped_steal_time_goes_on),
		CASE(test_wall_clock_is_read_with_the_rest),
		CASE(test_three_hundred_more_msrs),
		CASE(test_performance_counters_outlive_their_capabilities),
		CASE(test_host_without_kvmclock),
		CASE(test_special_msrs_are_never_written),
		CASE(test_refused_msr_is_named),
		CASE(test_page_of_an_msr_that_is_not_in_ram),
		CASE(test_vanished_msr_is_named),
		CASE(test_list_that_is_too_long),
		CASE(test_other_frequency_is_set),
		CASE(test_same_frequency_needs_no_control),
		CASE(test_impossible_frequency_is_named),
		CASE(test_host_without_tsc_offset),
		CASE(test_xsave_sizes),
		CASE(test_each_failure_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
