/* SPDX-License-Identifier: MIT */
/* What the tests of CPUID share: a fake KVM whose host they choose, and what the guest is told. */
#ifndef MOLT_TESTS_CPUID_BENCH_H
#define MOLT_TESTS_CPUID_BENCH_H

#include "fake_kvm.h"

#include <molt/vm/cpuid.h>

/* Of the case that runs. */
extern struct fake_kvm *fake;
extern struct vcpu_state *st;

int cpuid_bench_setup(void **state);
int cpuid_bench_teardown(void **state);

/* The leaf as the guest with that state reads it; NULL: it is absent. */
struct kvm_cpuid_entry2 *cpuid_bench_leaf(struct vcpu_state *of, uint32_t function, uint32_t index);

/* A register of it, 0 where it is absent, as the CPU answers. */
uint32_t cpuid_bench_reg(struct vcpu_state *of, uint32_t function, uint32_t index,
			 enum cpuid_reg reg);

#endif
