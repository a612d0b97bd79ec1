/* SPDX-License-Identifier: MIT */
/* What CPUID tells the guest, made from what the fake's host supports. */
#include "cpuid_bench.h"

#include <errno.h>
#include <string.h>

#define KHZ 2100000

static void make(uint32_t id, uint32_t cpus)
{
	struct error err = ERROR_INIT;

	const struct cpuid_config cfg = {
		.id = id,
		.cpus = cpus,
		.tsc_khz = KHZ,
		.model = CPU_MODEL_HOST,
	};

	assert_int_equal(cpuid_make(st, &fake->kvm, &cfg, &err), 0);
	assert_int_equal(st->ncpuid % 10, 0);
}

static const struct kvm_cpuid_entry2 *leaf(uint32_t function, uint32_t index)
{
	const struct kvm_cpuid_entry2 *e = cpuid_bench_leaf(st, function, index);

	if (!e)
		fail_msg("no leaf %x.%u", function, index);
	return e;
}

static void test_nothing_is_there_twice(void **state)
{
	const struct kvm_cpuid_entry2 *e = (const struct kvm_cpuid_entry2 *)(void *)st->cpuid;

	(void)state;
	make(1, 4);
	for (uint32_t i = 0; i < st->ncpuid / 10; i++)
		for (uint32_t j = 0; j < i; j++)
			assert_false(e[i].function == e[j].function && e[i].index == e[j].index);
}

static void test_apic_id_and_count(void **state)
{
	(void)state;
	make(3, 4);
	assert_int_equal(leaf(1, 0)->ebx, 3u << 24 | 4u << 16 | 0x0800);
	assert_int_equal(leaf(0x8000001e, 0)->eax, 3);
	assert_int_equal(leaf(0x8000001e, 0)->ebx, 3);
	make(253, 254);
	assert_int_equal(leaf(1, 0)->ebx, 253u << 24 | 254u << 16 | 0x0800);
}

static void test_single_cpu_has_no_siblings(void **state)
{
	(void)state;
	make(0, 1);
	assert_int_equal(leaf(1, 0)->edx & (1u << 28), 0);
	assert_int_equal(leaf(0x80000001, 0)->ecx & 2, 0);
	assert_int_equal(leaf(0xb, 1)->ebx, 1);
	make(0, 2);
	assert_int_equal(leaf(1, 0)->edx & (1u << 28), 1u << 28);
	assert_int_equal(leaf(0x80000001, 0)->ecx & 2, 2);
}

static void test_no_nested_virtualisation(void **state)
{
	(void)state;
	make(0, 2);
	assert_int_equal(leaf(1, 0)->ecx & (1u << 5), 0);
	assert_int_equal(leaf(0x80000001, 0)->ecx & 4, 0);
	assert_null(cpuid_bench_leaf(st, 0x8000000a, 0));
}

static void test_hypervisor_bit(void **state)
{
	(void)state;
	make(0, 1);
	assert_int_equal(leaf(1, 0)->ecx & (1u << 31), 1u << 31);
}

static void test_tsc_deadline_follows_the_host(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	make(0, 1);
	assert_int_equal(leaf(1, 0)->ecx & (1u << 24), 1u << 24);
	fake->caps[KVM_CAP_TSC_DEADLINE_TIMER] = 0;
	assert_int_equal(kvm_probe(&fake->kvm, &err), 0);
	make(0, 1);
	assert_int_equal(leaf(1, 0)->ecx & (1u << 24), 0);
}

static void test_timing_leaf(void **state)
{
	(void)state;
	make(0, 1);
	assert_int_equal(leaf(0x40000000, 0)->eax, 0x40000010);
	assert_int_equal(leaf(0x40000010, 0)->eax, KHZ);
	assert_int_equal(leaf(0x40000010, 0)->ebx, 1000000);
}

static void topology(uint32_t function, uint32_t id, uint32_t cpus, uint32_t shift)
{
	assert_int_equal(leaf(function, 0)->eax, 0);
	assert_int_equal(leaf(function, 0)->ebx, 1);
	assert_int_equal(leaf(function, 0)->ecx, 1 << 8);
	assert_int_equal(leaf(function, 1)->eax, shift);
	assert_int_equal(leaf(function, 1)->ebx, cpus);
	assert_int_equal(leaf(function, 1)->ecx, 2 << 8 | 1);
	assert_int_equal(leaf(function, 2)->ebx, 0);
	assert_int_equal(leaf(function, 2)->ecx, 2);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(leaf(function, i)->edx, id);
}

static void test_topology_leaves(void **state)
{
	static const uint32_t cases[][2] = {
		{ 1, 0 }, { 2, 1 }, { 3, 2 }, { 4, 2 }, { 5, 3 }, { 128, 7 }, { 254, 8 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		make(cases[i][0] - 1, cases[i][0]);
		topology(0xb, cases[i][0] - 1, cases[i][0], cases[i][1]);
		topology(0x1f, cases[i][0] - 1, cases[i][0], cases[i][1]);
	}
}

static void test_caches(void **state)
{
	(void)state;
	make(0, 8);
	/* Level 1 is the core's own, level 3 is everybody's; the end marker stays empty. */
	assert_int_equal(leaf(4, 0)->eax >> 14 & 0xfff, 0);
	assert_int_equal(leaf(4, 3)->eax >> 14 & 0xfff, 7);
	assert_int_equal(leaf(4, 3)->eax >> 26, 7);
	assert_int_equal(leaf(4, 4)->eax, 0);
	assert_int_equal(leaf(0x8000001d, 0)->eax >> 14 & 0xfff, 7);
}

static void test_the_rest_is_the_hosts(void **state)
{
	(void)state;
	make(0, 2);
	assert_int_equal(leaf(0, 0)->ebx, 0x756e6547);
	/* but for bits 2 and 12, SGX and PQM */
	assert_int_equal(leaf(7, 0)->ebx, 0x0230);
	/* but for bit 7, PV_UNHALT: a kick could be lost in an update */
	assert_int_equal(leaf(0x40000001, 0)->eax, 0x01007e7b);
	assert_int_equal(leaf(0x80000008, 0)->eax, 0x3030);
	assert_int_equal(leaf(0x80000008, 0)->ecx, 1 << 12 | 1);
}

static void test_kvm_failure_is_told(void **state)
{
	const struct cpuid_config cfg = { .cpus = 1, .tsc_khz = KHZ, .model = CPU_MODEL_HOST };
	struct error err = ERROR_INIT;

	(void)state;
	fake->fail_request = KVM_GET_SUPPORTED_CPUID;
	fake->fail_error = E2BIG;
	assert_int_equal(cpuid_make(st, &fake->kvm, &cfg, &err), -E2BIG);
	assert_non_null(strstr(err.text, "KVM_GET_SUPPORTED_CPUID"));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, cpuid_bench_setup, cpuid_bench_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_nothing_is_there_twice),
		CASE(test_apic_id_and_count),
		CASE(test_single_cpu_has_no_siblings),
		CASE(test_no_nested_virtualisation),
		CASE(test_hypervisor_bit),
		CASE(test_tsc_deadline_follows_the_host),
		CASE(test_timing_leaf),
		CASE(test_topology_leaves),
		CASE(test_caches),
		CASE(test_the_rest_is_the_hosts),
		CASE(test_kvm_failure_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
