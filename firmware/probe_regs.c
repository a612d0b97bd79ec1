/* SPDX-License-Identifier: MIT */
/* General purpose, flags, x87 and vector registers: fresh values for every hold. */
#include "probe.h"
#include "probe_mix.h"

#define FLAGS_TESTED 0x240cd5 /* CF PF AF ZF SF DF OF AC ID */

#define XSAVE_BV 512
#define XCR0_WANTED 0x2e7 /* x87 SSE AVX AVX-512 PKRU */
#define XCR0_AVX512 0xe0
#define XCR0_AVX 0x4
#define PKRU 9         /* the number of its part */
#define PKRU_KEY_0 0x3 /* access disable, write disable */

struct span {
	const char *name;
	uint32_t offset, size;
};

static uint64_t xcr0;        /* 0: FXSAVE state only */
static uint32_t pkru_offset; /* 0: no such part */
static struct span spans[48];
static unsigned int span_count;

static const char *const gpr_names[16] = {
	"rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
	"r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15",
};

static void add_span(const char *name, uint32_t offset, uint32_t size)
{
	if (span_count < ARRAY_SIZE(spans) && offset + size <= sizeof(struct area))
		spans[span_count++] = (struct span){ name, offset, size };
}

/* The parts of the 512-byte area that come back as they went in (the x87 pointers may not). */
static void add_legacy_spans(void)
{
	static const char *const st[8] = { "st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7" };
	static const char *const xmm[16] = {
		"xmm0", "xmm1", "xmm2",  "xmm3",  "xmm4",  "xmm5",  "xmm6",  "xmm7",
		"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
	};

	add_span("fcw", 0, 2);
	add_span("fsw", 2, 2);
	add_span("ftw", 4, 1);
	add_span("mxcsr", 24, 4);
	for (uint32_t i = 0; i < 8; i++)
		add_span(st[i], 32 + 16 * i, 10);
	for (uint32_t i = 0; i < 16; i++)
		add_span(xmm[i], 160 + 16 * i, 16);
}

static void add_extended_spans(void)
{
	static const char *const names[10] = {
		[2] = "ymm-high", [5] = "opmask",  [6] = "zmm-high",
		[7] = "zmm16-31", [PKRU] = "pkru",
	};

	for (uint32_t i = 2; i < ARRAY_SIZE(names); i++) {
		struct cpuid where;

		if (!(xcr0 >> i & 1))
			continue;
		where = cpuid(0xd, i);
		if (i == PKRU)
			pkru_offset = where.ebx;
		add_span(names[i], where.ebx, i == PKRU ? 4 : where.eax);
	}
}

/* The boot CPU tries whether XCR0 takes what CPUID offers. */
const char *regs_init(void)
{
	add_legacy_spans();
	if (cpuid(1, 0).ecx >> 26 & 1 && !option_is("xsave", "off")) {
		write_cr(4, read_cr(4) | CR4_OSXSAVE);
		xcr0 = cpuid(0xd, 0).eax & XCR0_WANTED;
		if (!set_xcr0(xcr0))
			xcr0 = 0;
	}
	add_extended_spans();
	if (!xcr0)
		return "fxsave";
	if ((xcr0 & XCR0_AVX512) == XCR0_AVX512)
		return "xsave,avx,avx512";
	return xcr0 & XCR0_AVX ? "xsave,avx" : "xsave";
}

void regs_arm(struct probe *p)
{
	struct hold *hold = &p->regs.hold;

	if (xcr0) {
		write_cr(4, read_cr(4) | CR4_OSXSAVE);
		set_xcr0(xcr0);
	}
	hold->xcr0 = xcr0;
	hold->vector_in = p->regs.in.bytes;
	hold->vector_entry = p->regs.entry.bytes;
}

static uint64_t seed_of(const struct probe *p)
{
	return mix((uint64_t)p->cpu << 56 ^ p->holds);
}

static void put(struct area *area, uint32_t offset, uint32_t size, uint64_t value)
{
	for (uint32_t i = 0; i < size; i++)
		area->bytes[offset + i] = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const struct area *area, uint32_t offset, uint32_t size)
{
	uint64_t value = 0;

	if (size == 8)
		return *(const uint64_t *)(const void *)&area->bytes[offset];
	for (uint32_t i = 0; i < size; i++)
		value |= (uint64_t)area->bytes[offset + i] << 8 * i;
	return value;
}

/*
 * Every page here has protection key 0. With CR4.PKE off the CPU asks no key, but a KVM without
 * hardware virtualisation runs ring 3 with its own CR4: shut out there, the guest faults for ever.
 */
static void open_key_0(struct area *area)
{
	if (pkru_offset)
		put(area, pkru_offset, 1, get(area, pkru_offset, 1) & ~(uint64_t)PKRU_KEY_0);
}

static void choose_values(struct regs *r, uint64_t seed)
{
	struct hold *hold = &r->hold;

	for (unsigned int i = 0; i < 16; i++)
		hold->gpr_in[i] = mix(seed + i);
	hold->gpr_in[7] = (uintptr_t)(hold + 1);
	/* Where IOPL is 3, POPF writes IF, too: interrupts stay on. */
	hold->flags_in = (mix(seed + 16) & FLAGS_TESTED) | EFLAGS_FIXED | EFLAGS_IF;

	for (unsigned int i = 0; i < span_count; i++)
		for (uint32_t at = 0; at < spans[i].size; at += 2)
			put(&r->in, spans[i].offset + at, spans[i].size - at < 2 ? 1 : 2,
			    mix(seed + 32 + 4096 * i + at));
	/* No exceptions pending or unmasked, no reserved bits; else anything. */
	put(&r->in, 0, 2, (mix(seed + 17) & 0xc00) | 0x37f);
	put(&r->in, 2, 2, mix(seed + 18) & 0x7f00);
	put(&r->in, 4, 1, 0xff);
	put(&r->in, 24, 4, (mix(seed + 19) & 0xffbf) | 0x1f80);
	open_key_0(&r->in);
	put(&r->in, XSAVE_BV, 8, hold->xcr0);
}

static void compare_vectors(struct probe *p, const struct area *before, const struct area *after)
{
	for (unsigned int i = 0; i < span_count; i++) {
		const struct span *s = &spans[i];

		for (uint32_t at = 0; at < s->size; at += 8) {
			uint32_t size = s->size - at < 8 ? s->size - at : 8;
			uint64_t was = get(before, s->offset + at, size);
			uint64_t now = get(after, s->offset + at, size);

			if (was != now)
				changed(p, s->name, was, now);
		}
	}
}

static void compare_gprs(struct probe *p)
{
	const struct hold *hold = &p->regs.hold;

	for (unsigned int i = 0; i < 16; i++)
		if (hold->gpr_out[i] != hold->gpr_in[i])
			changed(p, gpr_names[i], hold->gpr_in[i], hold->gpr_out[i]);
	if ((hold->flags_in ^ hold->flags_out) & FLAGS_TESTED)
		changed(p, "rflags", hold->flags_in, hold->flags_out & ~(uint64_t)EFLAGS_IF);
}

void regs_check(struct probe *p)
{
	struct regs *r = &p->regs;
	const struct area *before = &r->out[~p->holds & 1];
	struct area *after = &r->out[p->holds & 1];

	/* New values cost as much as a short hold, so each set is held a few times. */
	if (p->holds % 4 == 0)
		choose_values(r, seed_of(p));
	for (unsigned int i = 0; i < 16; i++)
		r->hold.gpr_out[i] = ~r->hold.gpr_in[i];
	r->hold.flags_out = ~r->hold.flags_in;
	r->hold.vector_out = after->bytes;

	probe_hold(&r->hold);

	/* No code but probe_hold() touches vectors: what one hold leaves, the next must find. */
	if (p->holds)
		compare_vectors(p, before, &r->entry);
	compare_gprs(p);
	compare_vectors(p, &r->in, after);
	p->holds++;
}
