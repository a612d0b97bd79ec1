/* SPDX-License-Identifier: MIT */
#include "vcpu_bench.h"

#include <stdlib.h>
#include <unistd.h>

#include <molt/vm/cpuid.h>

int vcpu_bench_setup(void **state)
{
	const struct cpuid_config cpuid = {
		.cpus = 2,
		.tsc_khz = FAKE_TSC_KHZ,
		.model = CPU_MODEL_HOST,
	};
	struct vcpu_bench *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->fake = fake_kvm_new();
	f->lists = calloc(1, sizeof(*f->lists));
	f->st = calloc(1, sizeof(*f->st));
	f->known = calloc(1, sizeof(*f->known));
	assert_non_null(f->lists);
	assert_non_null(f->st);
	assert_non_null(f->known);
	f->msrs = &f->lists->saved;
	f->kvm = f->fake->kvm;
	assert_int_equal(kvm_probe(&f->kvm, &f->err), 0);
	assert_int_equal(kvm_vm_create(&f->vm, &f->kvm, -1, &f->err), 0);
	f->a_fd = kvm_call_num(&f->kvm, f->vm.fd, KVM_CREATE_VCPU, 0);
	f->b_fd = kvm_call_num(&f->kvm, f->vm.fd, KVM_CREATE_VCPU, 1);
	f->a = fake_kvm_vcpu(f->fake, f->a_fd);
	f->b = fake_kvm_vcpu(f->fake, f->b_fd);
	assert_int_equal(cpuid_make(f->st, &f->kvm, &cpuid, &f->err), 0);
	assert_int_equal(msr_lists_init(f->lists, &f->kvm, f->a_fd, &f->err), 0);
	*state = f;
	return 0;
}

int vcpu_bench_teardown(void **state)
{
	struct vcpu_bench *f = *state;

	close(f->a_fd);
	close(f->b_fd);
	kvm_vm_destroy(&f->vm);
	fake_kvm_free(f->fake);
	free(f->lists);
	free(f->st);
	free(f->known);
	free(f);
	return 0;
}

void vcpu_bench_get(struct vcpu_bench *f)
{
	if (vcpu_state_get(f->st, &f->kvm, f->a_fd, f->msrs, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

void vcpu_bench_set(struct vcpu_bench *f)
{
	if (vcpu_state_set(f->st, &f->kvm, f->b_fd, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

uint64_t *vcpu_bench_msr(struct fake_vcpu *v, uint32_t index)
{
	return &v->msr_value[fake_vcpu_msr(v, index)];
}
