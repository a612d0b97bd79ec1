/* SPDX-License-Identifier: MIT */
/*
 * The allow-list of CPUID: KVM offers each bit of each leaf, one after the other, and nothing
 * reaches the guest whose state has no row in the table of vCPU state.
 */
#include "cpuid_bench.h"

#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>

#include "recorded_cpuid.h"

static void offer(const struct kvm_cpuid_entry2 *entries, uint32_t n)
{
	const struct cpuid_config cfg = { .cpus = 1, .tsc_khz = 1, .model = CPU_MODEL_HOST };
	struct error err = ERROR_INIT;

	fake->cpuid = entries;
	fake->ncpuid = n;
	fake->ncalls = 0;
	if (cpuid_make(st, &fake->kvm, &cfg, &err) < 0)
		fail_msg("%s", err.text);
}

/* What the guest reads: a leaf that is absent is empty. */
static uint32_t guest_sees(uint32_t function, uint32_t index, enum cpuid_reg reg)
{
	return cpuid_bench_reg(st, function, index, reg);
}

/* Whether it is for KVM's sake that the guest sees it. */
static bool gets_through(uint32_t function, uint32_t index, enum cpuid_reg reg, uint32_t bit)
{
	struct kvm_cpuid_entry2 e = {
		.function = function,
		.index = index,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	};
	uint32_t without;

	offer(&e, 1);
	without = guest_sees(function, index, reg);
	*cpuid_reg(&e, reg) = bit;
	offer(&e, 1);
	return guest_sees(function, index, reg) & ~without & bit;
}

static const struct cpuid_bits *bits_of(const struct cpuid_rule *rule, uint32_t bit)
{
	for (const struct cpuid_bits *b = rule->bits; b->name; b++)
		for (unsigned int i = b->first; i < b->first + b->count; i++)
			if (bit == 1u << i)
				return b;
	return NULL;
}

static const struct cpuid_bits *rule_for(uint32_t function, uint32_t index, enum cpuid_reg reg,
					 uint32_t bit)
{
	const struct cpuid_bits *found = NULL;

	for (size_t i = 0; i < cpuid_rules_count && !found; i++) {
		const struct cpuid_rule *r = &cpuid_rules[i];
		bool same_index = r->index == index || r->index == CPUID_ANY_INDEX ||
				  (r->index == CPUID_XSAVE_AREAS && index >= 2);

		if (r->function == function && same_index &&
		    (r->reg == reg || r->reg == CPUID_REGS))
			found = bits_of(r, bit);
	}
	return found;
}

/*
 * What brings state that has no row, or that molt has no part in, by the manuals; it is not taken
 * from the list. Bits of all registers of a leaf: reg CPUID_REGS.
 */
static const struct {
	uint32_t function, index;
	enum cpuid_reg reg;
	uint32_t mask;
	const char *what;
} without_row[] = {
	{ 0x1, 0, CPUID_ECX, 1u << 3, "MONITOR" },
	{ 0x1, 0, CPUID_ECX, 1u << 5, "VMX" },
	{ 0x1, 0, CPUID_ECX, 1u << 6, "SMX" },
	{ 0x1, 0, CPUID_ECX, 1u << 27, "OSXSAVE, which is CR4's" },
	{ 0x7, 0, CPUID_EBX, 1u << 2, "SGX" },
	{ 0x7, 0, CPUID_EBX, 1u << 12 | 1u << 15, "RDT" },
	{ 0x7, 0, CPUID_EBX, 1u << 25, "Intel PT" },
	{ 0x7, 0, CPUID_ECX, 1u << 4, "OSPKE, which is CR4's" },
	{ 0x7, 0, CPUID_ECX, 1u << 7, "shadow stacks: SSP" },
	{ 0x7, 0, CPUID_ECX, 1u << 23, "Key Locker" },
	{ 0x7, 0, CPUID_ECX, 1u << 29, "ENQCMD: IA32_PASID" },
	{ 0x7, 0, CPUID_ECX, 1u << 30, "SGX launch control" },
	{ 0x7, 0, CPUID_ECX, 1u << 31, "PKS" },
	{ 0x7, 0, CPUID_EDX, 1u << 5, "user interrupts" },
	{ 0x7, 0, CPUID_EDX, 1u << 19, "architectural LBR" },
	{ 0x7, 0, CPUID_EDX, 1u << 20, "indirect branch tracking" },
	{ 0x7, 1, CPUID_EAX, 1u << 17, "FRED" },
	{ 0x7, 1, CPUID_EDX, 1u << 15 | 1u << 17, "user MSRs, UIRET" },
	{ 0x7, 1, CPUID_EDX, 1u << 18, "supervisor shadow stacks" },
	{ 0x7, 1, CPUID_EDX, 1u << 21, "APX" },
	{ 0xd, 0, CPUID_EAX, ~0x000602ffu, "components of XSAVE that nobody named" },
	{ 0xd, 0, CPUID_EDX, ~0u, "LWP and higher components" },
	{ 0xd, 1, CPUID_ECX, ~0u, "components of IA32_XSS: PT, CET, UINTR, LBR" },
	{ 0xd, 1, CPUID_EDX, ~0u, "components of IA32_XSS" },
	{ 0xd, 8, CPUID_REGS, ~0u, "area of PT" },
	{ 0xd, 11, CPUID_REGS, ~0u, "area of CET_U" },
	{ 0xd, 12, CPUID_REGS, ~0u, "area of CET_S" },
	{ 0xd, 19, CPUID_REGS, ~0u, "area of APX" },
	{ 0x10, 0, CPUID_REGS, ~0u, "RDT" },
	{ 0x12, 0, CPUID_REGS, ~0u, "SGX" },
	{ 0x14, 0, CPUID_REGS, ~0u, "Intel PT" },
	{ 0x19, 0, CPUID_REGS, ~0u, "Key Locker" },
	{ 0x1c, 0, CPUID_REGS, ~0u, "architectural LBR" },
	{ 0x40000001, 0, CPUID_EAX, 1u << 7, "PV_UNHALT: a kick that no ioctl shows" },
	{ 0x40000001, 0, CPUID_EAX, 1u << 15 | 1u << 16 | 1u << 17, "what needs a VMM's part" },
	{ 0x40000003, 0, CPUID_REGS, ~0u, "Hyper-V" },
	{ 0x80000001, 0, CPUID_ECX, 1u << 2 | 1u << 12, "SVM, SKINIT" },
	{ 0x80000001, 0, CPUID_ECX, 1u << 10 | 1u << 15, "IBS, LWP" },
	{ 0x8000000a, 0, CPUID_REGS, ~0u, "SVM" },
	{ 0x8000001b, 0, CPUID_REGS, ~0u, "IBS" },
	{ 0x8000001c, 0, CPUID_REGS, ~0u, "LWP" },
	{ 0x8000001f, 0, CPUID_REGS, ~0u, "SEV" },
};

static void test_what_has_no_row_is_not_offered(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(without_row); i++)
		for (enum cpuid_reg reg = CPUID_EAX; reg < CPUID_REGS; reg++)
			for (uint32_t bit = 1; bit; bit <<= 1)
				if ((without_row[i].reg == reg ||
				     without_row[i].reg == CPUID_REGS) &&
				    (without_row[i].mask & bit) &&
				    gets_through(without_row[i].function, without_row[i].index, reg,
						 bit))
					fail_msg("%s", without_row[i].what);
}

/* What gets through is declared, and its row is there and whole. */
static void check_bit(uint32_t function, uint32_t index, enum cpuid_reg reg, uint32_t bit)
{
	const struct cpuid_bits *b;
	bool *has;

	if (!gets_through(function, index, reg, bit))
		return;
	b = rule_for(function, index, reg, bit);
	if (!b)
		fail_msg("leaf %#x.%u register %u bit %#x is in no rule", function, index, reg,
			 bit);
	if (b->needs == CPUID_NO_STATE)
		return;
	assert_true(b->needs < VCPU_KINDS);
	assert_non_null(vcpu_kinds[b->needs].set[0].name);
	if (!vcpu_kinds[b->needs].optional)
		return;
	has = (bool *)((char *)&fake->kvm + vcpu_kinds[b->needs].has);
	*has = false;
	if (gets_through(function, index, reg, bit))
		fail_msg("'%s' is offered where KVM lacks %s", b->name, vcpu_kinds[b->needs].cap);
	*has = true;
}

static void check_leaf(uint32_t function, uint32_t index)
{
	for (enum cpuid_reg reg = CPUID_EAX; reg < CPUID_REGS; reg++)
		for (uint32_t bit = 1; bit; bit <<= 1)
			check_bit(function, index, reg, bit);
}

static void test_every_bit_of_every_leaf(void **state)
{
	static const uint32_t ranges[][2] = {
		{ 0x0, 0x40 },
		{ 0x20000000, 0x20000001 },
		{ 0x40000000, 0x40000014 },
		{ 0x40000100, 0x40000102 },
		{ 0x80000000, 0x80000030 },
		{ 0x80860000, 0x80860001 },
		{ 0xc0000000, 0xc0000008 },
		{ 0xffffffff, 0xffffffff },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ranges); i++)
		for (uint32_t n = 0; n <= ranges[i][1] - ranges[i][0]; n++)
			for (uint32_t index = 0; index < (ranges[i][0] + n == 0xd ? 64 : 4);
			     index++)
				check_leaf(ranges[i][0] + n, index);
}

/* The test's own eyes: something gets through, with a row and without. */
static void test_what_is_listed_is_offered(void **state)
{
	(void)state;
	assert_true(gets_through(0x1, 0, CPUID_ECX, 1u << 0));
	assert_true(gets_through(0x1, 0, CPUID_ECX, 1u << 26));
	assert_true(gets_through(0x7, 0, CPUID_EBX, 1u << 16));
	assert_true(gets_through(0x80000001, 0, CPUID_EDX, 1u << 29));
	assert_true(gets_through(0xd, 9, CPUID_EAX, 8));
}

/* Names are how the models and the error speak of bits: one bit each. */
static void test_rules_do_not_overlap(void **state)
{
	(void)state;
	for (size_t i = 0; i < cpuid_rules_count; i++) {
		uint32_t seen = 0;

		for (const struct cpuid_bits *b = cpuid_rules[i].bits; b->name; b++) {
			uint32_t mask = b->count == 32 ? ~0u : (1u << b->count) - 1;

			assert_true(b->count && b->first + b->count <= 32);
			mask <<= b->first;
			if (seen & mask)
				fail_msg("'%s' is there twice", b->name);
			seen |= mask;
		}
		for (size_t j = 0; j < i; j++)
			assert_false(cpuid_rules[i].function == cpuid_rules[j].function &&
				     cpuid_rules[i].index == cpuid_rules[j].index &&
				     cpuid_rules[i].reg == cpuid_rules[j].reg);
	}
}

/* ---- what 0.1.0 offered ---- */

/* Bits that 0.1.0 made, took off, or made anew; those of the whole leaf: ~0. */
static uint32_t made(uint32_t function, enum cpuid_reg reg)
{
	static const struct {
		uint32_t function;
		uint32_t masks[4];
	} list[] = {
		{ 0x1, { 0, 0xffff00ff, 1u << 5 | 1u << 24 | 1u << 31, 1u << 28 } },
		{ 0x4, { 0xffffc000, 0, 0, 0 } },
		{ 0xb, { ~0u, ~0u, ~0u, ~0u } },
		{ 0x1f, { ~0u, ~0u, ~0u, ~0u } },
		{ 0x40000000, { ~0u, 0, 0, 0 } },
		{ 0x40000001, { 1u << 7, 0, 0, 0 } },
		{ 0x80000001, { 0, 0, 1u << 1 | 1u << 2, 0 } },
		{ 0x80000008, { 0, 0, ~0u, 0 } },
		{ 0x8000000a, { ~0u, ~0u, ~0u, ~0u } },
		{ 0x8000001d, { 0xffffc000, 0, 0, 0 } },
		{ 0x8000001e, { ~0u, ~0u, ~0u, ~0u } },
	};

	for (size_t i = 0; i < ARRAY_SIZE(list); i++)
		if (list[i].function == function)
			return list[i].masks[reg];
	return 0;
}

static void is_as_in_0_1_0(const struct kvm_cpuid_entry2 *host, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		for (enum cpuid_reg reg = CPUID_EAX; reg < CPUID_REGS; reg++) {
			struct kvm_cpuid_entry2 e = host[i];
			uint32_t seen = guest_sees(e.function, e.index, reg);

			if ((seen ^ *cpuid_reg(&e, reg)) & ~made(e.function, reg))
				fail_msg("leaf %#x.%u register %u: %#x, but the host has %#x",
					 e.function, e.index, reg, seen, *cpuid_reg(&e, reg));
		}
}

static void test_recorded_hosts(void **state)
{
	(void)state;
	offer(recorded_pvm, ARRAY_SIZE(recorded_pvm));
	is_as_in_0_1_0(recorded_pvm, ARRAY_SIZE(recorded_pvm));
	offer(recorded_amd, ARRAY_SIZE(recorded_amd));
	is_as_in_0_1_0(recorded_amd, ARRAY_SIZE(recorded_amd));
}

static struct kvm_cpuid_entry2 *entry(struct kvm_cpuid_entry2 *e, uint32_t n, uint32_t function,
				      uint32_t index)
{
	struct kvm_cpuid_entry2 *found = cpuid_find(e, n, function, index);

	if (!found)
		fail_msg("no leaf %#x.%u", function, index);
	return found;
}

/* Linux 6.18 with CET: the guest sees what it saw before, sizes of its XSAVE area among it. */
static void test_recorded_host_with_shadow_stacks(void **state)
{
	struct kvm_cpuid_entry2 e[ARRAY_SIZE(recorded_pvm) + 2];
	const uint32_t n = ARRAY_SIZE(recorded_pvm);

	(void)state;
	memcpy(e, recorded_pvm, sizeof(recorded_pvm));
	entry(e, n, 7, 0)->ecx |= 1u << 7;
	entry(e, n, 7, 0)->edx |= 1u << 20;
	entry(e, n, 0xd, 1)->ecx |= 3u << 11;
	e[n] = (struct kvm_cpuid_entry2){ .function = 0xd,
					  .index = 11,
					  .flags = 1,
					  .eax = 16,
					  .ecx = 1 };
	e[n + 1] = (struct kvm_cpuid_entry2){ .function = 0xd,
					      .index = 12,
					      .flags = 1,
					      .eax = 24,
					      .ecx = 1 };
	offer(e, n + 2);
	is_as_in_0_1_0(recorded_pvm, n);
	assert_int_equal(guest_sees(0xd, 11, CPUID_EAX), 0);
	assert_int_equal(guest_sees(0xd, 12, CPUID_EAX), 0);
}

/* Sizes fit the components that are left: XSAVES with all that Intel has, of which CET goes. */
static void test_xsave_sizes_are_those_of_what_is_left(void **state)
{
	static const struct kvm_cpuid_entry2 host[] = {
		LEAF(0xd, 0, 1, 0x2e7, 0xa88, 0xa88, 0),
		LEAF(0xd, 1, 1, 0xf, 0x9b0, 0x1800, 0), /* x87, SSE, AVX, AVX-512, PKRU and CET */
		LEAF(0xd, 2, 1, 256, 576, 0, 0),
		LEAF(0xd, 5, 1, 64, 1088, 0, 0),
		LEAF(0xd, 6, 1, 512, 1152, 0, 0),
		LEAF(0xd, 7, 1, 1024, 1664, 0, 0),
		LEAF(0xd, 9, 1, 8, 2688, 0, 0),
		LEAF(0xd, 11, 1, 16, 0, 1, 0),
		LEAF(0xd, 12, 1, 24, 0, 1, 0),
	};

	(void)state;
	offer(host, ARRAY_SIZE(host));
	assert_int_equal(guest_sees(0xd, 0, CPUID_EBX), 2696);
	assert_int_equal(guest_sees(0xd, 0, CPUID_ECX), 2696);
	assert_int_equal(guest_sees(0xd, 1, CPUID_EBX), 576 + 256 + 64 + 512 + 1024 + 8);
}

static void test_too_many_leaves(void **state)
{
	static struct kvm_cpuid_entry2 many[VCPU_CPUID_MAX];
	const struct cpuid_config cfg = { .cpus = 1, .tsc_khz = 1, .model = CPU_MODEL_HOST };
	struct error err = ERROR_INIT;

	(void)state;
	for (uint32_t i = 0; i < VCPU_CPUID_MAX; i++)
		many[i] = (struct kvm_cpuid_entry2){ .function = 4,
						     .index = i,
						     .flags = 1,
						     .eax = 0x121 };
	fake->cpuid = many;
	fake->ncpuid = VCPU_CPUID_MAX;
	assert_int_equal(cpuid_make(st, &fake->kvm, &cfg, &err), -E2BIG);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, cpuid_bench_setup, cpuid_bench_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_what_has_no_row_is_not_offered),
		CASE(test_every_bit_of_every_leaf),
		CASE(test_what_is_listed_is_offered),
		cmocka_unit_test(test_rules_do_not_overlap),
		CASE(test_recorded_hosts),
		CASE(test_recorded_host_with_shadow_stacks),
		CASE(test_xsave_sizes_are_those_of_what_is_left),
		CASE(test_too_many_leaves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
