/* SPDX-License-Identifier: MIT */
/*
 * Everything that is a register with a number: MSRs, control and debug registers, LAPIC, IOAPIC,
 * and the ports of PIC, PIT, RTC and serial port.
 *
 * An item's pattern, if it has one, is written; arming takes what reads back as the truth: which
 * bits stick is the machine's business. An MSR that faults is left out.
 *
 * A CPU's own registers get patterns that differ from CPU to CPU where bits are free to choose:
 * state that ends up in the wrong CPU shows. What the machine has once is the boot CPU's to watch.
 */
#include "probe.h"
#include "probe_mix.h"

#define MSR_SYSENTER_ESP 0x175
#define MSR_SYSENTER_EIP 0x176

enum kind {
	MSR,
	CR,
	DR,
	LAPIC, /* each CPU's */
	IOAPIC,
	PORT,
	CMOS,
	PIT_MODE,
	SERIAL_DIVISOR /* the machine's */
};

struct item {
	const char *name;
	enum kind kind;
	bool set; /* else only watched */
	uint32_t index;
	uint64_t pattern;
	uint64_t vary;   /* bits of it that are different on every CPU but the first */
	uint64_t ignore; /* bits that move by themselves */
};

/* clang-format off */
#define WATCH(name, kind, index)		{ name, kind, false, index, 0, 0, 0 }
#define WATCH_BUT(name, kind, index, ignore)	{ name, kind, false, index, 0, 0, ignore }
#define SET(name, kind, index, pattern)		{ name, kind, true, index, pattern, 0, 0 }
#define SET_VARY(name, kind, index, pattern, vary) \
	{ name, kind, true, index, pattern, vary, 0 }
#define IOAPIC_PIN(n) \
	{ "ioapic" #n "-low", IOAPIC, true, 0x10 + 2 * n, \
	  LVT_MASKED | (n & 1) << 15 | (n & 2) << 12 | (0x50 + n), 0, 0x5000 }, \
	SET("ioapic" #n "-high", IOAPIC, 0x11 + 2 * n, (n * 11ull & 0xff) << 24)

static const struct item items[] = {
	SET_VARY("msr-sysenter-cs", MSR, 0x174, 0x1234, 0x0ff8),
	SET_VARY("msr-sysenter-esp", MSR, MSR_SYSENTER_ESP, 0x123456789abc, 0xfffffffff0),
	SET_VARY("msr-sysenter-eip", MSR, MSR_SYSENTER_EIP, 0xffff823456789abc, 0xfffffffff0),
	SET("msr-star", MSR, 0xc0000081, 0x0023001000000000),
	SET_VARY("msr-lstar", MSR, 0xc0000082, 0xffffffff81234567, 0xffffff),
	SET_VARY("msr-cstar", MSR, 0xc0000083, 0xffffffff89abcdef, 0xffffff),
	SET("msr-sfmask", MSR, 0xc0000084, 0x47700),
	SET_VARY("msr-tsc-aux", MSR, 0xc0000103, 0x00abc123, 0x00ffffff),
	SET_VARY("msr-kernel-gs", MSR, 0xc0000102, 0xffff8abcdef01230, 0xfffffffff0),
	WATCH("msr-fs", MSR, 0xc0000100),
	WATCH("msr-gs", MSR, 0xc0000101),
	WATCH("msr-efer", MSR, 0xc0000080),
	SET("msr-pat", MSR, 0x277, 0x0407050600070406),
	WATCH("msr-mtrrcap", MSR, 0xfe),
	WATCH("msr-mtrr-def", MSR, 0x2ff),
	SET_VARY("msr-mtrr-base0", MSR, 0x200, 0xc0000000, 0x0ffff000),
	SET("msr-mtrr-mask0", MSR, 0x201, 0xffc0000000),	/* not valid: no effect */
	SET("msr-mtrr-base7", MSR, 0x20e, 0xd0000001),
	SET("msr-mtrr-fix-c8000", MSR, 0x269, 0x0505050505050505),
	WATCH("msr-misc-enable", MSR, 0x1a0),
	WATCH("msr-apic-base", MSR, 0x1b),
	WATCH("msr-tsc-adjust", MSR, 0x3b),
	WATCH("msr-spec-ctrl", MSR, 0x48),
	WATCH("msr-arch-caps", MSR, 0x10a),
	WATCH("msr-xss", MSR, 0xda0),
	WATCH("msr-debugctl", MSR, 0x1d9),
	WATCH("msr-mcg-cap", MSR, 0x179),
	SET("msr-mcg-status", MSR, 0x17a, 0),
	WATCH("msr-hwcr", MSR, 0xc0010015),
	WATCH("msr-kvm-clock", MSR, 0x4b564d01),
	WATCH("msr-kvm-wall-clock", MSR, 0x4b564d00),
	WATCH("msr-kvm-async-pf", MSR, 0x4b564d02),
	SET("msr-kvm-poll-control", MSR, 0x4b564d05, 0),

	WATCH("cr0", CR, 0),
	SET_VARY("cr2", CR, 2, 0x00007654321fedc8, 0x00000ffffffffff8),
	WATCH("cr3", CR, 3),
	WATCH("cr4", CR, 4),
	SET_VARY("cr8", CR, 8, 1, 0x2),
	SET_VARY("dr0", DR, 0, 0x0000111122223333, 0x00000fffffffffff),
	SET_VARY("dr1", DR, 1, 0x0000444455556666, 0x00000fffffffffff),
	SET_VARY("dr2", DR, 2, 0xffff888899990000, 0x00000fffffffffff),
	SET_VARY("dr3", DR, 3, 0x00007aaabbbbcccc, 0x00000fffffffffff),
	SET("dr6", DR, 6, 0xffff0ff5),
	SET_VARY("dr7", DR, 7, 0x0d9d0400, 0x33330000),	/* types and lengths, none enabled */

	WATCH("lapic-id", LAPIC, LAPIC_ID),
	WATCH("lapic-tpr", LAPIC, LAPIC_TPR),
	SET_VARY("lapic-ldr", LAPIC, 0xd0, 0x40000000, 0xff000000),
	WATCH("lapic-dfr", LAPIC, 0xe0),
	WATCH("lapic-svr", LAPIC, LAPIC_SVR),
	WATCH_BUT("lapic-icr", LAPIC, LAPIC_ICR, 0x1000),
	WATCH("lapic-icr-high", LAPIC, LAPIC_ICR_HIGH),
	WATCH_BUT("lapic-lvtt", LAPIC, LAPIC_LVTT, 0x1000),
	SET_VARY("lapic-lvt-therm", LAPIC, LAPIC_LVT_THERM, LVT_MASKED | 0xd1, 0x0f),
	SET_VARY("lapic-lvt-perf", LAPIC, LAPIC_LVT_PERF, LVT_MASKED | 0xd2, 0x0f),
	WATCH_BUT("lapic-lvt0", LAPIC, LAPIC_LVT0, 0x5000),
	SET_VARY("lapic-lvt1", LAPIC, LAPIC_LVT1, LVT_MASKED | 0xd3, 0x0f),
	SET_VARY("lapic-lvt-err", LAPIC, LAPIC_LVT_ERR, LVT_MASKED | 0xd4, 0x0f),
	WATCH("lapic-tmict", LAPIC, LAPIC_TMICT),
	WATCH("lapic-tdcr", LAPIC, LAPIC_TDCR),

	WATCH("ioapic-id", IOAPIC, 0),
	WATCH("ioapic-version", IOAPIC, 1),
	IOAPIC_PIN(0), IOAPIC_PIN(1), IOAPIC_PIN(2), IOAPIC_PIN(3), IOAPIC_PIN(4), IOAPIC_PIN(5),
	IOAPIC_PIN(6), IOAPIC_PIN(7), IOAPIC_PIN(8), IOAPIC_PIN(9), IOAPIC_PIN(10), IOAPIC_PIN(11),
	IOAPIC_PIN(12), IOAPIC_PIN(13), IOAPIC_PIN(14), IOAPIC_PIN(15), IOAPIC_PIN(16),
	IOAPIC_PIN(17), IOAPIC_PIN(18), IOAPIC_PIN(19), IOAPIC_PIN(20), IOAPIC_PIN(21),
	IOAPIC_PIN(22), IOAPIC_PIN(23),

	SET("pic-mask-master", PORT, 0x21, 0xda),	/* PIT, cascade and one idle line open */
	SET("pic-mask-slave", PORT, 0xa1, 0xdf),
	SET("pic-elcr-master", PORT, 0x4d0, 0x20),
	SET("pic-elcr-slave", PORT, 0x4d1, 0x0e),
	WATCH("pit-mode", PIT_MODE, 0),
	SET("rtc-index", CMOS, 0x0b, 0x02),
	WATCH("serial-ier", PORT, 0x3f9),
	WATCH_BUT("serial-iir", PORT, 0x3fa, 0x0f),
	SET("serial-lcr", PORT, 0x3fb, 0x1b),
	SET("serial-mcr", PORT, 0x3fc, 0x0b),
	SET("serial-scratch", PORT, 0x3ff, 0xa7),
	SET("serial-divisor", SERIAL_DIVISOR, 0, 0x0c01),
	SET("acpi-pm1-enable", PORT, 0x603, 0x01),	/* PWRBTN_EN, in the high byte */
	WATCH("reset-cf9", PORT, 0xcf9),
};
/* clang-format on */

_Static_assert(ARRAY_SIZE(items) <= ITEMS_MAX, "probe.h");

/* ------------------------------------------------------------------ access by kind */

static uint64_t pit_mode(void)
{
	outb(0x43, 0xe2); /* read back: status of channel 0 */
	return inb(0x40) & 0x3f;
}

static uint64_t serial_divisor(bool set, uint64_t value)
{
	uint8_t lcr = inb(0x3fb);

	outb(0x3fb, lcr | 0x80);
	if (set) {
		outb(0x3f8, (uint8_t)value);
		outb(0x3f9, (uint8_t)(value >> 8));
	}
	value = inb(0x3f8) | (uint64_t)inb(0x3f9) << 8;
	outb(0x3fb, lcr);
	return value;
}

static bool item_read(const struct item *item, uint64_t *value)
{
	switch (item->kind) {
	case MSR:
		return rdmsr(item->index, value);
	case CR:
		*value = read_cr(item->index);
		break;
	case DR:
		*value = read_dr(item->index);
		break;
	case LAPIC:
		*value = lapic_read(item->index);
		break;
	case IOAPIC:
		*value = ioapic_read(item->index);
		break;
	case PORT:
		*value = inb((uint16_t)item->index);
		break;
	case CMOS:
		/* The index was selected once, when armed: this tells whether it still is. */
		*value = inb(0x71);
		break;
	case PIT_MODE:
		*value = pit_mode();
		break;
	case SERIAL_DIVISOR:
		*value = serial_divisor(false, 0);
		break;
	}
	return true;
}

/*
 * AMD's SYSENTER registers have 32 bits: what a guest can write into the others (on an emulated
 * CPU) KVM does not load.
 */
static void msr_write(uint32_t index, uint64_t value)
{
	bool sysenter = index == MSR_SYSENTER_ESP || index == MSR_SYSENTER_EIP;

	if (sysenter && cpuid(0, 0).ebx != 0x756e6547) /* "Genu" of GenuineIntel */
		value = (uint32_t)value;
	wrmsr(index, value);
}

static void item_write(const struct item *item, uint64_t value)
{
	switch (item->kind) {
	case MSR:
		msr_write(item->index, value);
		break;
	case CR:
		write_cr(item->index, value);
		break;
	case DR:
		write_dr(item->index, value);
		break;
	case LAPIC:
		lapic_write(item->index, (uint32_t)value);
		break;
	case IOAPIC:
		ioapic_write(item->index, (uint32_t)value);
		break;
	case PORT:
		outb((uint16_t)item->index, (uint8_t)value);
		break;
	case CMOS:
		outb(0x70, (uint8_t)item->index);
		outb(0x71, (uint8_t)value);
		break;
	case PIT_MODE:
		break;
	case SERIAL_DIVISOR:
		serial_divisor(true, value);
		break;
	}
}

/* ------------------------------------------------------------------ FS and GS in ring 3 */

static uint64_t fs_word(void)
{
	uint64_t value;

	__asm__ volatile("movq %%fs:0, %0" : "=r"(value));
	return value;
}

static uint64_t gs_word(void)
{
	uint64_t value;

	__asm__ volatile("movq %%gs:0, %0" : "=r"(value));
	return value;
}

/* Told once: there is no new value to go on with. */
static void segments_check(struct probe *p)
{
	struct items *it = &p->items;

	if (fs_word() != it->fs_words[0] && !it->fs_told) {
		it->fs_told = true;
		changed(p, "fs-base", it->fs_words[0], fs_word());
	}
	if (gs_word() != it->gs_words[0] && !it->gs_told) {
		it->gs_told = true;
		changed(p, "gs-base", it->gs_words[0], gs_word());
	}
}

static void segments_arm(struct probe *p)
{
	struct items *it = &p->items;

	it->fs_words[0] = mix(2 * p->cpu);
	it->gs_words[0] = mix(2 * p->cpu + 1);
	wrmsr(0xc0000100, (uintptr_t)it->fs_words);
	wrmsr(0xc0000101, (uintptr_t)it->gs_words);
}

/* ------------------------------------------------------------------ all of it */

static bool belongs_to(const struct item *item, const struct probe *p)
{
	return p->cpu == 0 || item->kind <= LAPIC;
}

static uint64_t pattern_for(const struct item *item, const struct probe *p)
{
	return p->cpu ? item->pattern ^ (mix(p->cpu) & item->vary) : item->pattern;
}

/*
 * Before any timer runs: QEMU's emulated SVM aborts when a guest writes CR8 while an interrupt is
 * pending that it has disabled.
 */
void items_set(struct probe *p)
{
	segments_arm(p);
	for (unsigned int i = 0; i < ARRAY_SIZE(items); i++)
		if (items[i].set && belongs_to(&items[i], p))
			item_write(&items[i], pattern_for(&items[i], p));
}

/* Once all is set: one register may show in another, as CR8 does in the TPR. */
unsigned int items_arm(struct probe *p)
{
	struct items *it = &p->items;
	unsigned int count = 0;

	for (unsigned int i = 0; i < ARRAY_SIZE(items); i++) {
		it->absent[i] = !belongs_to(&items[i], p) || !item_read(&items[i], &it->was[i]);
		if (items[i].kind == LAPIC && items[i].index == LAPIC_TMICT && exact_is_one_shot(p))
			it->absent[i] = true;
		count += !it->absent[i];
	}
	return count;
}

void items_check_one(struct probe *p)
{
	struct items *it = &p->items;
	unsigned int i = it->next;
	uint64_t now;

	segments_check(p);
	do
		it->next = (it->next + 1) % ARRAY_SIZE(items);
	while (it->absent[it->next]);
	if (it->absent[i])
		return;
	if (!item_read(&items[i], &now)) {
		changed(p, items[i].name, it->was[i], 0xdeadfa17);
		it->absent[i] = true;
		return;
	}
	if ((now ^ it->was[i]) & ~items[i].ignore)
		changed(p, items[i].name, it->was[i], now);
	it->was[i] = now;
}
