/* SPDX-License-Identifier: MIT */
/* `molt run --cpu`: a model is the same on every host that has its level; others refuse it. */
#include "cpuid_bench.h"

#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>

#include "recorded_cpuid.h"

#define INTEL "GenuntelineI" /* in the order EBX, ECX, EDX */
#define AMD "AuthcAMDenti"

struct host {
	struct kvm_cpuid_entry2 e[VCPU_CPUID_MAX];
	uint32_t n;
};

static struct kvm_cpuid_entry2 *leaf(struct host *h, uint32_t function, uint32_t index)
{
	struct kvm_cpuid_entry2 *e = cpuid_find(h->e, h->n, function, index);

	if (e)
		return e;
	h->e[h->n] = (struct kvm_cpuid_entry2){ .function = function, .index = index };
	return &h->e[h->n++];
}

/* A host whose KVM offers every bit of the list, with a vendor and widths of its own. */
static void everything(struct host *h, const char *vendor, uint32_t widths)
{
	static const uint32_t areas[][3] = {
		{ 2, 256, 576 },
		{ 5, 64, 1088 },
		{ 6, 512, 1152 },
		{ 7, 1024, 1664 },
	};

	memset(h, 0, sizeof(*h));
	for (size_t i = 0; i < cpuid_rules_count; i++) {
		const struct cpuid_rule *r = &cpuid_rules[i];

		for (enum cpuid_reg reg = CPUID_EAX; reg < CPUID_REGS; reg++)
			if ((r->reg == reg || r->reg == CPUID_REGS) && r->index < 8)
				*cpuid_reg(leaf(h, r->function, r->index),
					   reg) |= cpuid_allowed(&fake->kvm, r->function, r->index,
								 reg);
	}
	memcpy(&leaf(h, 0, 0)->ebx, vendor, 12);
	leaf(h, 0, 0)->eax = 0x24;
	leaf(h, 0x80000008, 0)->eax = widths;
	for (size_t i = 0; i < ARRAY_SIZE(areas); i++) {
		leaf(h, 0xd, areas[i][0])->eax = areas[i][1];
		leaf(h, 0xd, areas[i][0])->ebx = areas[i][2];
	}
}

static int try_model(struct host *h, const char *model, struct vcpu_state *of, struct error *err)
{
	const struct cpuid_config cfg = { .id = 1, .cpus = 2, .tsc_khz = 5, .model = model };

	memset(of, 0, sizeof(*of));
	fake->cpuid = h->e;
	fake->ncpuid = h->n;
	return cpuid_make(of, &fake->kvm, &cfg, err);
}

static void make_model(struct host *h, const char *model, struct vcpu_state *of)
{
	struct error err = ERROR_INIT;

	if (try_model(h, model, of, &err) < 0)
		fail_msg("%s", err.text);
}

static void take(struct host *h, const char *name)
{
	uint32_t mask = 0;
	const struct cpuid_rule *r = cpuid_find_bit(name, &mask);

	*cpuid_reg(leaf(h, r->function, r->index), r->reg) &= ~mask;
}

static struct host rich, poor;
static struct vcpu_state a, b;

static bool has(struct vcpu_state *of, const char *name)
{
	uint32_t mask = 0;
	const struct cpuid_rule *r = cpuid_find_bit(name, &mask);

	assert_non_null(r);
	return cpuid_bench_reg(of, r->function, r->index, r->reg) & mask;
}

/* Two hosts that have little else in common. */
static void test_the_same_on_two_hosts(void **state)
{
	static const char *const beyond_v3[] = {
		"avx512f",
		"pcid",
		"constant_tsc",
		"rdtscp",
		"erms",
		"smep",
		"xsaveopt",
		"xsaves",
		"aes",
		"kvm_steal_time",
		"kvm_async_pf",
		"spec_ctrl",
		"arch_capabilities",
		"pdpe1gb",
		"la57",
	};

	(void)state;
	for (size_t level = 0; level < 3; level++) {
		everything(&rich, INTEL, 0x3934);
		everything(&poor, INTEL, 0x3027);
		for (size_t i = 0; i < ARRAY_SIZE(beyond_v3); i++)
			take(&poor, beyond_v3[i]);
		leaf(&poor, 1, 0)->eax = 0x306c3;
		leaf(&poor, 0, 0)->eax = 0xd;
		leaf(&poor, 0xd, 0)->eax = 7;
		memset(&leaf(&poor, 0x80000005, 0)->eax, 0x77, 16);
		leaf(&poor, 2, 0)->eax = 0x5657;
		make_model(&rich, cpu_model_name(level), &a);
		make_model(&poor, cpu_model_name(level), &b);
		assert_int_equal(a.ncpuid, b.ncpuid);
		assert_memory_equal(a.cpuid, b.cpuid, a.ncpuid * 4);
	}
}

/* What is the vendor's is the vendor, family and model, and a bit of topology. */
static void test_only_the_vendor_differs(void **state)
{
	(void)state;
	everything(&rich, INTEL, 0x3934);
	everything(&poor, AMD, 0x3030);
	make_model(&rich, "x86-64-v4", &a);
	make_model(&poor, "x86-64-v4", &b);
	assert_int_equal(a.ncpuid, b.ncpuid);
	for (uint32_t i = 0; i < a.ncpuid / 10; i++) {
		struct kvm_cpuid_entry2 *x = &((struct kvm_cpuid_entry2 *)(void *)a.cpuid)[i];
		struct kvm_cpuid_entry2 *y = &((struct kvm_cpuid_entry2 *)(void *)b.cpuid)[i];

		if (x->function == 0 || x->function == 0x80000000)
			memcpy(&x->ebx, &y->ebx, 12);
		if (x->function == 1 || x->function == 0x80000001)
			x->eax = y->eax;
		if (x->function == 0x80000001)
			x->ecx |= 1u << 1;
	}
	assert_memory_equal(a.cpuid, b.cpuid, a.ncpuid * 4);
	assert_int_equal(cpuid_bench_reg(&b, 0, 0, CPUID_EBX), 0x68747541);
	assert_int_equal(cpuid_bench_reg(&b, 0x80000000, 0, CPUID_EDX), 0x69746e65);
}

/* psABI, "Micro-Architecture Levels". */
static void test_levels_have_what_the_psabi_says(void **state)
{
	static const char *const names[][16] = {
		{ "cmov", "cx8", "fpu", "fxsr", "mmx", "syscall", "sse", "sse2", "lm" },
		{ "cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3" },
		{ "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave" },
		{ "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl" },
	};

	(void)state;
	everything(&rich, INTEL, 0x3030);
	for (size_t level = 0; level < 4; level++) {
		make_model(&rich, cpu_model_name(level), &a);
		for (size_t l = 0; l < 4; l++)
			for (size_t i = 0; i < 16 && names[l][i]; i++)
				if (has(&a, names[l][i]) != (l <= level))
					fail_msg("%s: %s", cpu_model_name(level), names[l][i]);
	}
	assert_null(cpu_model_name(4));
}

/* Every feature that a level sets is asked of the host, by name. */
static void test_a_host_that_lacks_one(void **state)
{
	unsigned int refused = 0;

	(void)state;
	for (size_t i = 0; i < cpuid_rules_count; i++)
		for (const struct cpuid_bits *bit = cpuid_rules[i].bits; bit->name; bit++) {
			const struct cpuid_rule *r = &cpuid_rules[i];
			struct error err = ERROR_INIT;
			uint32_t mask = bit->count == 1 ? 1u << bit->first : 0;

			everything(&rich, INTEL, 0x3030);
			make_model(&rich, "x86-64-v4", &a);
			if (bit->count != 1 || r->index > 7 || r->function == 0xd ||
			    !(cpuid_bench_reg(&a, r->function, r->index, r->reg) & mask))
				continue;
			*cpuid_reg(leaf(&rich, r->function, r->index), r->reg) &= ~mask;
			assert_int_equal(try_model(&rich, "x86-64-v4", &a, &err), -ENOTSUP);
			if (!strstr(err.text, bit->name) || !strstr(err.text, "x86-64-v4"))
				fail_msg("without %s: %s", bit->name, err.text);
			refused++;
		}
	assert_true(refused > 50);
}

static void test_all_that_is_missing_is_named(void **state)
{
	struct host h = { .n = ARRAY_SIZE(recorded_pvm) };
	struct error err = ERROR_INIT;

	(void)state;
	memcpy(h.e, recorded_pvm, sizeof(recorded_pvm));
	make_model(&h, "x86-64-v1", &a);
	assert_int_equal(try_model(&h, "x86-64-v2", &a, &err), -ENOTSUP);
	assert_string_equal(err.text,
			    "CPU model x86-64-v2: this host or its KVM lacks popcnt, pni, "
			    "sse4_1, sse4_2, ssse3");
}

static void test_a_recorded_amd_host(void **state)
{
	struct host h = { .n = ARRAY_SIZE(recorded_amd) };
	struct error err = ERROR_INIT;

	(void)state;
	memcpy(h.e, recorded_amd, sizeof(recorded_amd));
	make_model(&h, "x86-64-v3", &a);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 0, CPUID_ECX), 832);
	assert_int_equal(try_model(&h, "x86-64-v4", &a, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "lacks avx512f, avx512bw, avx512cd, avx512dq, avx512vl"));
}

static void test_xsave_of_a_level(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	everything(&rich, AMD, 0x3030);
	make_model(&rich, "x86-64-v2", &a);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 0, CPUID_EAX), 0);
	make_model(&rich, "x86-64-v3", &a);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 0, CPUID_EAX), 7);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 0, CPUID_ECX), 832);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 1, CPUID_EAX), 0);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 5, CPUID_EAX), 0);
	make_model(&rich, "x86-64-v4", &a);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 0, CPUID_EAX), 0xe7);
	assert_int_equal(cpuid_bench_reg(&a, 0xd, 0, CPUID_ECX), 2688);
	leaf(&rich, 0xd, 0)->eax = 3;
	assert_int_equal(try_model(&rich, "x86-64-v3", &a, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "XSAVE"));
}

static void test_a_host_with_few_address_lines(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	everything(&rich, INTEL, 0x3024);
	assert_int_equal(try_model(&rich, "x86-64-v2", &a, &err), -ENOTSUP);
	assert_non_null(strstr(err.text, "39 bits"));
}

static void test_topology_is_the_machines(void **state)
{
	(void)state;
	everything(&rich, INTEL, 0x3030);
	make_model(&rich, "x86-64-v3", &a);
	assert_int_equal(cpuid_bench_reg(&a, 1, 0, CPUID_EBX), 1u << 24 | 2u << 16 | 0x0800);
	assert_int_equal(cpuid_bench_reg(&a, 0xb, 1, CPUID_EBX), 2);
	assert_int_equal(cpuid_bench_reg(&a, 0xb, 0, CPUID_EDX), 1);
	assert_int_equal(cpuid_bench_reg(&a, 0x80000008, 0, CPUID_ECX), 1 << 12 | 1);
	assert_int_equal(cpuid_bench_reg(&a, 4, 3, CPUID_EAX) >> 14 & 0xfff, 1);
	assert_int_equal(cpuid_bench_reg(&a, 0x40000010, 0, CPUID_EAX), 5);
	assert_int_not_equal(cpuid_bench_reg(&a, 1, 0, CPUID_ECX) & 1u << 31, 0);
}

static void test_names(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	everything(&rich, INTEL, 0x3030);
	for (size_t i = 0; cpu_model_name(i); i++) {
		assert_int_equal(cpu_model_check(cpu_model_name(i), &err), 0);
		make_model(&rich, cpu_model_name(i), &a);
		assert_string_equal(cpu_model_of(&a), cpu_model_name(i));
	}
	make_model(&rich, CPU_MODEL_HOST, &a);
	assert_string_equal(cpu_model_of(&a), CPU_MODEL_HOST);
	assert_int_equal(cpu_model_check("x86-64-v5", &err), -EINVAL);
	assert_non_null(strstr(err.text, "x86-64-v5"));
	for (size_t i = 0; cpu_model_name(i); i++)
		assert_non_null(strstr(err.text, cpu_model_name(i)));
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, cpuid_bench_setup, cpuid_bench_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_the_same_on_two_hosts),
		CASE(test_only_the_vendor_differs),
		CASE(test_levels_have_what_the_psabi_says),
		CASE(test_a_host_that_lacks_one),
		CASE(test_all_that_is_missing_is_named),
		CASE(test_a_recorded_amd_host),
		CASE(test_xsave_of_a_level),
		CASE(test_a_host_with_few_address_lines),
		CASE(test_topology_is_the_machines),
		CASE(test_names),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
