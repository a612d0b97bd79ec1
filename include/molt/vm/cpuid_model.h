/* SPDX-License-Identifier: MIT */
/* Models of CPUs, which are the same on every host. See cpuid_model.c. */
#ifndef MOLT_VM_CPUID_MODEL_H
#define MOLT_VM_CPUID_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include <linux/kvm.h>

#include <molt/base/error.h>
#include <molt/vm/vcpu_state.h>

#define CPU_MODEL_MAX 31
#define CPU_MODEL_HOST "host"

/* Names of models but "host", the poorest first; NULL after the last. */
const char *cpu_model_name(size_t index);

/* -EINVAL with the names that there are. */
int cpu_model_check(const char *name, struct error *err);

/*
 * Makes n entries, what the host may offer, into those of a model (not "host"); at most max.
 * -ENOTSUP where the host lacks features of it, with their names.
 */
int cpu_model_apply(const char *name, struct kvm_cpuid_entry2 *entries, uint32_t *n, uint32_t max,
		    struct error *err);

/* The model that these leaves are of, from the name that the guest sees in them. */
const char *cpu_model_of(const struct vcpu_state *st);

#endif
