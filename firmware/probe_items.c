/* SPDX-License-Identifier: MIT */
/*
 * Everything that is a register with a number: MSRs, control and debug registers, LAPIC, IOAPIC,
 * and the ports of PIC, PIT, RTC and serial port.
 *
 * Arming an item writes its pattern, if it has one, and takes what reads back as the truth: which
 * bits stick is the machine's business. An MSR that faults is left out.
 */
#include "probe.h"

enum kind { MSR, CR, DR, LAPIC, IOAPIC, PORT, CMOS, PIT_MODE, SERIAL_DIVISOR };

struct item {
	const char *name;
	enum kind kind;
	bool set;		/* else only watched */
	uint32_t index;
	uint64_t pattern;
	uint64_t ignore;	/* bits that move by themselves */
	uint64_t was;
	bool absent;
};

#define WATCH(name, kind, index)	{ name, kind, false, index, 0, 0, 0, false }
#define WATCH_BUT(name, kind, index, ignore)	{ name, kind, false, index, 0, ignore, 0, false }
#define SET(name, kind, index, pattern)	{ name, kind, true, index, pattern, 0, 0, false }
#define IOAPIC_PIN(n) \
	{ "ioapic" #n "-low", IOAPIC, true, 0x10 + 2 * n, \
	  LVT_MASKED | (n & 1) << 15 | (n & 2) << 12 | (0x50 + n), 0x5000, 0, false }, \
	SET("ioapic" #n "-high", IOAPIC, 0x11 + 2 * n, (n * 11ull & 0xff) << 24)

static const uint64_t fs_words[2] = { 0x6d6f6c7420667320, 1 };
static const uint64_t gs_words[2] = { 0x6d6f6c7420677320, 2 };

static struct item items[] = {
	SET("msr-sysenter-cs", MSR, 0x174, 0x1234),
	SET("msr-sysenter-esp", MSR, 0x175, 0x123456789abc),
	SET("msr-sysenter-eip", MSR, 0x176, 0xffff823456789abc),
	SET("msr-star", MSR, 0xc0000081, 0x0023001000000000),
	SET("msr-lstar", MSR, 0xc0000082, 0xffffffff81234567),
	SET("msr-cstar", MSR, 0xc0000083, 0xffffffff89abcdef),
	SET("msr-sfmask", MSR, 0xc0000084, 0x47700),
	SET("msr-tsc-aux", MSR, 0xc0000103, 0x00abc123),
	SET("msr-kernel-gs", MSR, 0xc0000102, 0xffff8abcdef01230),
	WATCH("msr-fs", MSR, 0xc0000100),
	WATCH("msr-gs", MSR, 0xc0000101),
	WATCH("msr-efer", MSR, 0xc0000080),
	SET("msr-pat", MSR, 0x277, 0x0407050600070406),
	WATCH("msr-mtrrcap", MSR, 0xfe),
	WATCH("msr-mtrr-def", MSR, 0x2ff),
	SET("msr-mtrr-base0", MSR, 0x200, 0xc0000000),
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
	WATCH("msr-kvm-steal-time", MSR, 0x4b564d03),
	SET("msr-kvm-poll-control", MSR, 0x4b564d05, 0),

	WATCH("cr0", CR, 0),
	SET("cr2", CR, 2, 0x00007654321fedc8),
	WATCH("cr3", CR, 3),
	WATCH("cr4", CR, 4),
	SET("cr8", CR, 8, 1),
	SET("dr0", DR, 0, 0x0000111122223333),
	SET("dr1", DR, 1, 0x0000444455556666),
	SET("dr2", DR, 2, 0xffff888899990000),
	SET("dr3", DR, 3, 0x00007aaabbbbcccc),
	SET("dr6", DR, 6, 0xffff0ff5),
	SET("dr7", DR, 7, 0x0d9d0400),		/* types and lengths, nothing enabled */

	WATCH("lapic-id", LAPIC, LAPIC_ID),
	WATCH("lapic-tpr", LAPIC, LAPIC_TPR),
	SET("lapic-ldr", LAPIC, 0xd0, 0x40000000),
	WATCH("lapic-dfr", LAPIC, 0xe0),
	WATCH("lapic-svr", LAPIC, LAPIC_SVR),
	WATCH_BUT("lapic-icr", LAPIC, LAPIC_ICR, 0x1000),
	WATCH("lapic-icr-high", LAPIC, LAPIC_ICR_HIGH),
	WATCH_BUT("lapic-lvtt", LAPIC, LAPIC_LVTT, 0x1000),
	SET("lapic-lvt-therm", LAPIC, LAPIC_LVT_THERM, LVT_MASKED | 0xd1),
	SET("lapic-lvt-perf", LAPIC, LAPIC_LVT_PERF, LVT_MASKED | 0xd2),
	WATCH_BUT("lapic-lvt0", LAPIC, LAPIC_LVT0, 0x5000),
	SET("lapic-lvt1", LAPIC, LAPIC_LVT1, LVT_MASKED | 0xd3),
	SET("lapic-lvt-err", LAPIC, LAPIC_LVT_ERR, LVT_MASKED | 0xd4),
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

static unsigned int next_item;

/* ------------------------------------------------------------------ access by kind */

static uint64_t pit_mode(void)
{
	outb(0x43, 0xe2);	/* read back: status of channel 0 */
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

static void item_write(const struct item *item)
{
	switch (item->kind) {
	case MSR:
		wrmsr(item->index, item->pattern);
		break;
	case CR:
		write_cr(item->index, item->pattern);
		break;
	case DR:
		write_dr(item->index, item->pattern);
		break;
	case LAPIC:
		lapic_write(item->index, (uint32_t)item->pattern);
		break;
	case IOAPIC:
		ioapic_write(item->index, (uint32_t)item->pattern);
		break;
	case PORT:
		outb((uint16_t)item->index, (uint8_t)item->pattern);
		break;
	case CMOS:
		outb(0x70, (uint8_t)item->index);
		outb(0x71, (uint8_t)item->pattern);
		break;
	case PIT_MODE:
		break;
	case SERIAL_DIVISOR:
		serial_divisor(true, item->pattern);
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
static void segments_check(void)
{
	static bool fs_told, gs_told;

	if (fs_word() != fs_words[0] && !fs_told) {
		fs_told = true;
		changed("fs-base", fs_words[0], fs_word());
	}
	if (gs_word() != gs_words[0] && !gs_told) {
		gs_told = true;
		changed("gs-base", gs_words[0], gs_word());
	}
}

/* ------------------------------------------------------------------ all of it */

unsigned int items_arm(void)
{
	unsigned int count = 0;

	wrmsr(0xc0000100, (uintptr_t)fs_words);
	wrmsr(0xc0000101, (uintptr_t)gs_words);
	for (unsigned int i = 0; i < ARRAY_SIZE(items); i++)
		if (items[i].set)
			item_write(&items[i]);
	/* A second pass: one register may show in another, as CR8 does in the TPR. */
	for (unsigned int i = 0; i < ARRAY_SIZE(items); i++) {
		items[i].absent = !item_read(&items[i], &items[i].was);
		count += !items[i].absent;
	}
	return count;
}

void items_check_one(void)
{
	struct item *item = &items[next_item];
	uint64_t now;

	segments_check();
	next_item = (next_item + 1) % ARRAY_SIZE(items);
	if (item->absent)
		return;
	if (!item_read(item, &now)) {
		changed(item->name, item->was, 0xdeadfa17);
		item->absent = true;
		return;
	}
	if ((now ^ item->was) & ~item->ignore)
		changed(item->name, item->was, now);
	item->was = now;
}
