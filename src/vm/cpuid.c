/* SPDX-License-Identifier: MIT */
/*
 * What CPUID tells the guest: what the host's KVM supports and the allow-list lets through, or a
 * model of that, with the leaves that describe this one vCPU and the topology around it made
 * true. One socket, one thread a core, APIC id = vCPU number. Leaf numbers: Intel SDM volume 2A
 * CPUID, AMD APM volume 3 appendix E, Linux's Documentation/virt/kvm/x86/cpuid.rst for
 * 0x4000000x.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/cpuid.h>

#define LEAF1_ECX_TSC_DEADLINE (1u << 24)
#define LEAF1_ECX_HYPERVISOR (1u << 31)
#define LEAF1_EDX_HTT (1u << 28)
#define LEAF8_1_ECX_CMP_LEGACY (1u << 1)
#define LEAF_TIMING 0x40000010u
#define LAST_LEAF 0x24u /* what the allow-list knows */
#define LAST_SUBLEAF7 2u
#define LAST_EXTENDED_LEAF 0x80000022u
#define LAST_CENTAUR_LEAF 0xc0000001u
#define XSAVE_LEGACY_BYTES 576u /* the area's legacy part and header */
#define XSAVE_ALIGNED (1u << 1) /* subleaf's ECX: begins at 64 bytes in the compacted form */
#define XSAVE_COMPACTS (1u << 1 | 1u << 3) /* subleaf 1's EAX: XSAVEC, XSAVES */
#define APIC_BUS_KHZ 1000000u              /* KVM's LAPIC timer counts nanoseconds */

#define TOPOLOGY_LEVELS 3u /* subleaves of 0xb that molt fills: thread, core, end */
#define ENTRIES_MAX (VCPU_CPUID_MAX - 2 * TOPOLOGY_LEVELS - 1) /* besides those that are added */

struct topology {
	uint32_t id;
	uint32_t cpus;
	uint32_t shift; /* bits of the APIC id that number cores */
	uint32_t tsc_khz;
	bool tsc_deadline;
};

static void cap(uint32_t *value, uint32_t most)
{
	if (*value > most)
		*value = most;
}

static void fix_leaf1(struct kvm_cpuid_entry2 *e, const struct topology *t)
{
	/* EBX: APIC id, logical processors, CLFLUSH size as the host has it, brand index 0. */
	e->ebx = (t->id << 24) | (t->cpus << 16) | (e->ebx & 0xff00);
	e->ecx |= LEAF1_ECX_HYPERVISOR;
	if (t->tsc_deadline)
		e->ecx |= LEAF1_ECX_TSC_DEADLINE;
	if (t->cpus > 1)
		e->edx |= LEAF1_EDX_HTT;
}

/*
 * Intel leaf 4 and AMD leaf 0x8000001d: caches below level 3 are a core's own, level 3 is shared.
 */
static void fix_caches(struct kvm_cpuid_entry2 *e, const struct topology *t, bool intel)
{
	uint32_t level = (e->eax >> 5) & 7, sharing = level >= 3 ? (1u << t->shift) - 1 : 0;

	if (!(e->eax & 0x1f)) /* no more caches */
		return;
	e->eax &= intel ? 0x00003fffu : 0xfc003fffu;
	e->eax |= (sharing & 0xfff) << 14;
	if (intel)
		e->eax |= (((1u << t->shift) - 1) & 0x3f) << 26;
}

static void fix_entry(struct kvm_cpuid_entry2 *e, const struct topology *t)
{
	switch (e->function) {
	case 0:
		cap(&e->eax, LAST_LEAF);
		break;
	case 1:
		fix_leaf1(e, t);
		break;
	case 4:
		fix_caches(e, t, true);
		break;
	case 7:
		if (e->index == 0)
			cap(&e->eax, LAST_SUBLEAF7);
		break;
	case KVM_CPUID_SIGNATURE:
		if (e->eax < LEAF_TIMING)
			e->eax = LEAF_TIMING;
		break;
	case 0x80000000:
		cap(&e->eax, LAST_EXTENDED_LEAF);
		break;
	case 0x80000001:
		if (t->cpus == 1)
			e->ecx &= ~LEAF8_1_ECX_CMP_LEGACY;
		break;
	case 0x80000008:
		e->ecx = e->ecx ? (t->shift << 12) | (t->cpus - 1) : 0;
		break;
	case 0x8000001d:
		fix_caches(e, t, false);
		break;
	case 0x8000001e:
		e->eax = t->id;
		e->ebx = t->id & 0xff; /* core id, one thread a core */
		e->ecx = 0;            /* node 0, one node a processor */
		e->edx = 0;
		break;
	case 0xc0000000:
		cap(&e->eax, LAST_CENTAUR_LEAF);
		break;
	default:
		break;
	}
}

static uint32_t add_topology_leaf(struct kvm_cpuid_entry2 *out, uint32_t function,
				  const struct topology *t)
{
	for (uint32_t i = 0; i < TOPOLOGY_LEVELS; i++) {
		struct kvm_cpuid_entry2 *e = &out[i];

		*e = (struct kvm_cpuid_entry2){
			.function = function,
			.index = i,
			.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
			.ecx = i,
			.edx = t->id,
		};
		if (i == 0) { /* threads of a core */
			e->ebx = 1;
			e->ecx |= 1 << 8;
		} else if (i == 1) { /* cores of the package */
			e->eax = t->shift;
			e->ebx = t->cpus;
			e->ecx |= 2 << 8;
		}
	}
	return TOPOLOGY_LEVELS;
}

static struct kvm_cpuid2 *get_supported(struct kvm *kvm, struct error *err)
{
	struct kvm_cpuid2 *c;
	int r;

	c = calloc(1, sizeof(*c) + VCPU_CPUID_MAX * sizeof(c->entries[0]));
	if (!c) {
		err_set(err, ENOMEM, "no memory for CPUID");
		return NULL;
	}
	c->nent = VCPU_CPUID_MAX;
	r = kvm_call(kvm, kvm->fd, KVM_GET_SUPPORTED_CPUID, c);
	if (r < 0) {
		err_sys(err, -r, "KVM_GET_SUPPORTED_CPUID");
		free(c);
		return NULL;
	}
	return c;
}

static uint32_t core_shift(uint32_t cpus)
{
	uint32_t shift = 0;

	while ((1u << shift) < cpus)
		shift++;
	return shift;
}

/* What the host's KVM offers and the list lets through. */
static int get_allowed(struct kvm *kvm, struct kvm_cpuid_entry2 *out, uint32_t *n,
		       struct error *err)
{
	_cleanup_free_ struct kvm_cpuid2 *host = get_supported(kvm, err);

	if (!host)
		return -(err ? err->code : EIO);
	*n = 0;
	for (uint32_t i = 0; i < host->nent; i++) {
		if (*n == ENTRIES_MAX)
			return err_set(err, E2BIG,
				       "KVM_GET_SUPPORTED_CPUID: %u leaves are too many",
				       host->nent);
		out[*n] = host->entries[i];
		*n += cpuid_filter(kvm, &out[*n]);
	}
	return 0;
}

/*
 * The sizes of the XSAVE area for the components that are left. KVM has its own in place of those
 * for what the guest has turned on, whenever it turns something on.
 */
static void fix_xsave(struct kvm_cpuid_entry2 *out, uint32_t n)
{
	struct kvm_cpuid_entry2 *all = cpuid_find(out, n, 0xd, 0),
				*sub1 = cpuid_find(out, n, 0xd, 1);
	uint32_t end = XSAVE_LEGACY_BYTES, compacted = XSAVE_LEGACY_BYTES;

	for (uint32_t i = 2; all && i < 32; i++) {
		const struct kvm_cpuid_entry2 *area = cpuid_find(out, n, 0xd, i);

		if (!area || !(all->eax >> i & 1))
			continue;
		if (area->ebx + area->eax > end)
			end = area->ebx + area->eax;
		if (area->ecx & XSAVE_ALIGNED)
			compacted = (compacted + 63) & ~63u;
		compacted += area->eax;
	}
	if (all && all->eax)
		all->ebx = all->ecx = end;
	if (sub1)
		sub1->ebx = sub1->eax & XSAVE_COMPACTS ? compacted : 0;
}

int cpuid_make(struct vcpu_state *st, struct kvm *kvm, const struct cpuid_config *cfg,
	       struct error *err)
{
	const struct topology t = {
		.id = cfg->id,
		.cpus = cfg->cpus,
		.shift = core_shift(cfg->cpus),
		.tsc_khz = cfg->tsc_khz,
		.tsc_deadline = kvm->has_tsc_deadline,
	};
	struct kvm_cpuid_entry2 *out = (struct kvm_cpuid_entry2 *)(void *)st->cpuid;
	uint32_t n, max_leaf = 0;
	int r = get_allowed(kvm, out, &n, err);

	if (r == 0 && strcmp(cfg->model, CPU_MODEL_HOST) != 0)
		r = cpu_model_apply(cfg->model, out, &n, ENTRIES_MAX, err);
	if (r < 0)
		return r;
	fix_xsave(out, n);
	for (uint32_t i = 0; i < n; i++) {
		fix_entry(&out[i], &t);
		if (out[i].function == 0)
			max_leaf = out[i].eax;
	}
	if (max_leaf >= 0xb)
		n += add_topology_leaf(&out[n], 0xb, &t);
	if (max_leaf >= 0x1f)
		n += add_topology_leaf(&out[n], 0x1f, &t);
	out[n++] = (struct kvm_cpuid_entry2){
		.function = LEAF_TIMING,
		.eax = t.tsc_khz,
		.ebx = APIC_BUS_KHZ,
	};
	st->ncpuid = n * (uint32_t)(sizeof(*out) / sizeof(uint32_t));
	return 0;
}
