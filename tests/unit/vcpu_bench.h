/* SPDX-License-Identifier: MIT */
/* Two vCPUs of one VM of the fake KVM: state goes from a to b, and more of them where wanted. */
#ifndef MOLT_TESTS_VCPU_BENCH_H
#define MOLT_TESTS_VCPU_BENCH_H

#include "fake_kvm.h"

#include <molt/vm/vcpu_state.h>

struct vcpu_bench {
	struct fake_kvm *fake;
	struct kvm kvm;
	struct kvm_vm vm;
	int a_fd;
	int b_fd;
	struct fake_vcpu *a;
	struct fake_vcpu *b;
	struct msr_lists *lists;
	const struct msr_list *msrs;
	struct vcpu_state *st;    /* with a's CPUID */
	struct vcpu_state *known; /* for the test */
	struct error err;
};

int vcpu_bench_setup(void **state);
int vcpu_bench_teardown(void **state);

/* Out of a into st, from st into b; an error fails the test. */
void vcpu_bench_get(struct vcpu_bench *f);
void vcpu_bench_set(struct vcpu_bench *f);

/* Fails the test if there is no such MSR. */
uint64_t *vcpu_bench_msr(struct fake_vcpu *v, uint32_t index);

#endif
