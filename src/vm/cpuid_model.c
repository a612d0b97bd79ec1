/* SPDX-License-Identifier: MIT */
/*
 * Models of CPUs: the levels of the x86-64 psABI ("Micro-Architecture Levels"). Theory of
 * operation.
 *
 * A guest of a model sees the same on every host that has the level: its features, and what any
 * 64-bit kernel takes for granted, and no other; name, family, model and stepping, caches, widths
 * of addresses, KVM's paravirtual features. So nothing is taken from the host but
 *
 *	- the vendor, by which kernels choose their drivers and the instructions that differ
 *	  (SYSENTER, VMCALL); family and model follow it, for they mean nothing without it, and so
 *	  does CMP_LEGACY, which AMD's topology is read with;
 *	- where the CPU puts AVX-512 into the XSAVE area (leaf 0xd), for the CPU writes there.
 *
 * What is not in a level is not there: no controls of speculation (IA32_SPEC_CTRL), for each CPU
 * has others; no invariant TSC, PMU, TSX, huge pages of 1 GiB. A guest that wants them takes the
 * host's CPU.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <asm/kvm_para.h>

#include <molt/base/fd.h>
#include <molt/vm/cpuid_allow.h>
#include <molt/vm/cpuid_model.h>

#define VENDOR_INTEL_EBX 0x756e6547u /* "Genu" of GenuineIntel */
/* Of QEMU's kvm64 and qemu64, which all kernels have met: family 15, model 6 or 107, stepping 1. */
#define SIGNATURE_INTEL 0x00000f61u
#define SIGNATURE_OTHER 0x00060fb1u
#define PHYS_BITS 39u /* to the end of the last window of PCI, docs/guest-abi.md */
#define LINEAR_BITS 48u
#define CLFLUSH_64 0x800u
#define XCR0_LEGACY 3u /* x87, SSE */

/* clang-format off */
static const char *const features_v1[] = {
	"fpu", "de", "pse", "tsc", "msr", "pae", "mce", "cx8", "apic", "sep", "mtrr", "pge",
	"mca", "cmov", "pat", "pse36", "clflush", "mmx", "fxsr", "sse", "sse2", "x2apic", "arat",
	"syscall", "nx", "lm", "kvm_clocksource", "kvm_nop_io_delay", "kvm_clocksource2",
	"kvm_pv_eoi", "kvm_clocksource_stable", NULL
};
static const char *const features_v2[] = {
	"cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3", NULL
};
static const char *const features_v3[] = {
	"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave", NULL
};
static const char *const features_v4[] = {
	"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", NULL
};

/* Each level has what is before it, too. xcr0: components of the XSAVE area. */
static const struct level {
	const char *name;
	const char *const *features;
	uint32_t xcr0;
} levels[] = {
	{ "x86-64-v1", features_v1, 0 },
	{ "x86-64-v2", features_v2, 0 },
	{ "x86-64-v3", features_v3, XCR0_LEGACY | 1u << 2 },
	{ "x86-64-v4", features_v4, XCR0_LEGACY | 1u << 2 | 7u << 5 },
};

/*
 * What is the same in all of them. Caches of a core: 32 KiB and 32 KiB, 1 MiB; 16 MiB for all.
 * Sharing is made in cpuid.c. Bits of features are added.
 */
static const struct kvm_cpuid_entry2 fixed[] = {
	{ .function = 0x0, .eax = 0xd },
	{ .function = 0x1, .ebx = CLFLUSH_64 },
	{ .function = 0x2, .eax = 0x0000ff01 }, /* caches: see leaf 4 */
	{ .function = 0x4, .index = 0, .eax = 0x121, .ebx = 7u << 22 | 63, .ecx = 63 },
	{ .function = 0x4, .index = 1, .eax = 0x122, .ebx = 7u << 22 | 63, .ecx = 63 },
	{ .function = 0x4, .index = 2, .eax = 0x143, .ebx = 15u << 22 | 63, .ecx = 1023 },
	{ .function = 0x4, .index = 3, .eax = 0x163, .ebx = 15u << 22 | 63, .ecx = 16383 },
	{ .function = 0x4, .index = 4 },
	{ .function = 0x6 },
	{ .function = 0x7 },
	{ .function = KVM_CPUID_SIGNATURE, .eax = KVM_CPUID_FEATURES, .ebx = 0x4b4d564b,
	  .ecx = 0x564b4d56, .edx = 0x4d }, /* "KVMKVMKVM" */
	{ .function = KVM_CPUID_FEATURES },
	{ .function = 0x80000000, .eax = 0x80000008 },
	{ .function = 0x80000001 },
	{ .function = 0x80000002 }, { .function = 0x80000003 }, { .function = 0x80000004 },
	/* AMD's form of the same caches: KiB, ways, lines a tag, bytes a line */
	{ .function = 0x80000005, .ecx = 32u << 24 | 8u << 16 | 1u << 8 | 64,
	  .edx = 32u << 24 | 8u << 16 | 1u << 8 | 64 },
	{ .function = 0x80000006, .ecx = 1024u << 16 | 8u << 12 | 1u << 8 | 64,
	  .edx = 32u << 18 | 8u << 12 | 1u << 8 | 64 },
	{ .function = 0x80000008, .eax = LINEAR_BITS << 8 | PHYS_BITS, .ecx = 1 /* made */ },
};
/* clang-format on */

struct model {
	const struct level *level;
	const struct kvm_cpuid_entry2 *host;
	uint32_t nhost;
	struct kvm_cpuid_entry2 out[ARRAY_SIZE(fixed) + 2 + 32];
	uint32_t n;
	char missing[200];
};

const char *cpu_model_name(size_t index)
{
	return index < ARRAY_SIZE(levels) ? levels[index].name : NULL;
}

static const struct level *find_level(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(levels); i++)
		if (strcmp(levels[i].name, name) == 0)
			return &levels[i];
	return NULL;
}

int cpu_model_check(const char *name, struct error *err)
{
	if (find_level(name) || strcmp(name, CPU_MODEL_HOST) == 0)
		return 0;
	return err_set(err, EINVAL,
		       "CPU model '%s' does not exist: it must be host, x86-64-v1, "
		       "x86-64-v2, x86-64-v3 or x86-64-v4",
		       name);
}

static void note_missing(struct model *m, const char *what)
{
	size_t len = strlen(m->missing);

	snprintf(m->missing + len, sizeof(m->missing) - len, "%s%s", len ? ", " : "", what);
}

static void add_feature(struct model *m, const char *name)
{
	uint32_t mask = 0;
	const struct cpuid_rule *rule = cpuid_find_bit(name, &mask);
	struct kvm_cpuid_entry2 *host = cpuid_find(m->host, m->nhost, rule->function, rule->index);

	if (!host || !(*cpuid_reg(host, rule->reg) & mask))
		note_missing(m, name);
	*cpuid_reg(cpuid_find(m->out, m->n, rule->function, rule->index), rule->reg) |= mask;
}

/* The subleaves of leaf 0xd: sizes and places are the CPU's. The sums are made in cpuid.c. */
static void add_xsave(struct model *m)
{
	const struct kvm_cpuid_entry2 *all = cpuid_find(m->host, m->nhost, 0xd, 0);
	uint32_t xcr0 = m->level->xcr0;

	if (!xcr0)
		return;
	if (!all || (all->eax & xcr0) != xcr0) {
		note_missing(m, "state of its registers in XSAVE");
		return;
	}
	m->out[m->n++] = (struct kvm_cpuid_entry2){
		.function = 0xd,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		.eax = xcr0,
	};
	m->out[m->n++] = (struct kvm_cpuid_entry2){
		.function = 0xd,
		.index = 1,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	};
	for (uint32_t i = 2; i < 32; i++) {
		const struct kvm_cpuid_entry2 *area = cpuid_find(m->host, m->nhost, 0xd, i);

		if (area && (xcr0 >> i & 1)) {
			m->out[m->n] = *area;
			m->out[m->n++].ecx = 0; /* of the compacted form, which no level has */
		}
	}
}

static void set_identity(struct model *m)
{
	const struct kvm_cpuid_entry2 *host = cpuid_find(m->host, m->nhost, 0, 0);
	struct kvm_cpuid_entry2 *basic = cpuid_find(m->out, m->n, 0, 0);
	struct kvm_cpuid_entry2 *extended = cpuid_find(m->out, m->n, 0x80000000, 0);
	bool intel = host && host->ebx == VENDOR_INTEL_EBX;
	char brand[48] = "";
	uint32_t mask = 0;

	if (!host)
		return;
	basic->ebx = host->ebx;
	basic->ecx = host->ecx;
	basic->edx = host->edx;
	cpuid_find(m->out, m->n, 1, 0)->eax = intel ? SIGNATURE_INTEL : SIGNATURE_OTHER;
	if (!intel) {
		extended->ebx = host->ebx;
		extended->ecx = host->ecx;
		extended->edx = host->edx;
		cpuid_find(m->out, m->n, 0x80000001, 0)->eax = SIGNATURE_OTHER;
		cpuid_find_bit("cmp_legacy", &mask);
		cpuid_find(m->out, m->n, 0x80000001, 0)->ecx |= mask;
	}
	snprintf(brand, sizeof(brand), "%s", m->level->name);
	for (uint32_t i = 0; i < 3; i++) {
		struct kvm_cpuid_entry2 *e = cpuid_find(m->out, m->n, 0x80000002 + i, 0);

		memcpy(&e->eax, brand + 16 * i, 16);
	}
}

static void check_widths(struct model *m)
{
	const struct kvm_cpuid_entry2 *host = cpuid_find(m->host, m->nhost, 0x80000008, 0);

	if (!host || (host->eax & 0xff) < PHYS_BITS)
		note_missing(m, "physical addresses of 39 bits");
}

static void build(struct model *m)
{
	memcpy(m->out, fixed, sizeof(fixed));
	m->n = ARRAY_SIZE(fixed);
	for (uint32_t i = 0; i < m->n; i++)
		if (m->out[i].function == 4 || m->out[i].function == 7)
			m->out[i].flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
	for (const struct level *l = levels; l <= m->level; l++)
		for (size_t i = 0; l->features[i]; i++)
			add_feature(m, l->features[i]);
	add_xsave(m);
	set_identity(m);
	check_widths(m);
}

int cpu_model_apply(const char *name, struct kvm_cpuid_entry2 *entries, uint32_t *n, uint32_t max,
		    struct error *err)
{
	struct model m = { .level = find_level(name), .host = entries, .nhost = *n };

	if (!m.level)
		return cpu_model_check(name, err);
	build(&m);
	if (m.missing[0])
		return err_set(err, ENOTSUP, "CPU model %s: this host or its KVM lacks %s", name,
			       m.missing);
	if (m.n > max)
		return err_set(err, E2BIG, "CPU model %s: %u leaves", name, m.n);
	memcpy(entries, m.out, m.n * sizeof(m.out[0]));
	*n = m.n;
	return 0;
}

const char *cpu_model_of(const struct vcpu_state *st)
{
	const struct kvm_cpuid_entry2 *e = (const struct kvm_cpuid_entry2 *)(const void *)st->cpuid;
	uint32_t n = st->ncpuid / (uint32_t)(sizeof(*e) / sizeof(uint32_t));
	const struct level *level;
	char brand[49] = "";

	for (uint32_t i = 0; i < 3; i++) {
		const struct kvm_cpuid_entry2 *part = cpuid_find(e, n, 0x80000002 + i, 0);

		if (part)
			memcpy(brand + 16 * i, &part->eax, 16);
	}
	level = find_level(brand);
	return level ? level->name : CPU_MODEL_HOST;
}
