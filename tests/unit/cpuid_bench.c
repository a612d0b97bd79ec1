/* SPDX-License-Identifier: MIT */
#include "cpuid_bench.h"

#include <stdlib.h>

#define WORDS (sizeof(struct kvm_cpuid_entry2) / sizeof(uint32_t))

struct fake_kvm *fake;
struct vcpu_state *st;

int cpuid_bench_setup(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	fake = fake_kvm_new();
	st = calloc(1, sizeof(*st));
	assert_non_null(st);
	return kvm_probe(&fake->kvm, &err);
}

int cpuid_bench_teardown(void **state)
{
	(void)state;
	fake_kvm_free(fake);
	free(st);
	return 0;
}

struct kvm_cpuid_entry2 *cpuid_bench_leaf(struct vcpu_state *of, uint32_t function, uint32_t index)
{
	return cpuid_find((const struct kvm_cpuid_entry2 *)(void *)of->cpuid,
			  of->ncpuid / (uint32_t)WORDS, function, index);
}

uint32_t cpuid_bench_reg(struct vcpu_state *of, uint32_t function, uint32_t index,
			 enum cpuid_reg reg)
{
	struct kvm_cpuid_entry2 *e = cpuid_bench_leaf(of, function, index);

	return e ? *cpuid_reg(e, reg) : 0;
}
