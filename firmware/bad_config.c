/* SPDX-License-Identifier: MIT */
/* Configuration space, BAR and MSI-X used as no driver should (PCI 3.0, 6; virtio 1.2, 4.1.4.9). */
#include "bad.h"

#define SLOT (t->dev.slot)
#define WINDOW (t->dev.window)
#define WINDOW_BAR 4
#define WINDOW_OFFSET 8
#define WINDOW_LENGTH 12
#define WINDOW_DATA 16
#define HEADER 0x40

static void expect(const char *what, uint64_t is, uint64_t should)
{
	if (is != should)
		bad_fail("%s is %lx, not %lx", what, is, should);
}

/* ------------------------------------------------------------------ configuration space */

static void save(unsigned int slot, uint32_t *words)
{
	for (unsigned int i = 0; i < 64; i++)
		words[i] = pci_read(slot, 4 * i, 4);
}

static void restore(unsigned int slot, const uint32_t *words)
{
	for (unsigned int i = 64; i--;)
		pci_write(slot, 4 * i, words[i], 4);
}

static void write_all(struct target *t, uint32_t value, unsigned int size)
{
	uint32_t words[64];

	save(SLOT, words);
	for (unsigned int at = 0; at < 256; at += size)
		pci_write(SLOT, at, value, size);
	restore(SLOT, words);
	for (unsigned int i = 0; i < 64; i++)
		if (4 * i != WINDOW + WINDOW_DATA)
			expect("configuration space", pci_read(SLOT, 4 * i, 4), words[i]);
}

static void config_ones(struct target *t)
{
	write_all(t, PCI_NONE, 4);
}

static void config_zeros(struct target *t)
{
	write_all(t, 0, 4);
}

static void config_bytes(struct target *t)
{
	write_all(t, 0xa5, 1);
}

static void config_words(struct target *t)
{
	write_all(t, 0x5aa5, 2);
}

static void config_random(struct target *t)
{
	uint32_t words[64];

	save(SLOT, words);
	for (unsigned int i = 0; i < 600; i++)
		pci_write(SLOT, bad_random(256), bad_random(~0u), 1u << bad_random(3));
	restore(SLOT, words);
}

/* Over a doubleword's end, and wider than one. */
static void config_crossing(struct target *t)
{
	const uintptr_t ecam = 0xe0000000u + (SLOT << 15);

	for (unsigned int at = 0; at < 64; at++) {
		mmio_read(ecam + at, 8);
		mmio_write(ecam + at, ~0ull, 8);
		if (at % 4) {
			mmio_read(ecam + at, 4);
			mmio_write(ecam + at, ~0u, 4);
		}
		if (at % 4 == 3)
			mmio_write(ecam + at, 0xffff, 2);
	}
	expect("vendor", pci_read(SLOT, 0, 2), VIRTIO_VENDOR);
}

/* Extended configuration space, functions 1 to 7, slots without anybody, the host bridge. */
static void config_elsewhere(struct target *t)
{
	for (unsigned int f = 1; f < 8; f++) {
		pci_write(SLOT, f << 12, PCI_NONE, 4);
		expect("another function", pci_read(SLOT, f << 12, 4), PCI_NONE);
	}
	for (unsigned int at = 256; at < 4096; at += 124) {
		pci_write(SLOT, at, PCI_NONE, 4);
		expect("extended space", pci_read(SLOT, at, 4), 0);
	}
	for (unsigned int slot = 3; slot < PCI_SLOTS; slot++) {
		pci_write(slot, PCI_COMMAND, PCI_NONE, 4);
		expect("an empty slot", pci_read(slot, PCI_COMMAND, 4), PCI_NONE);
	}
	for (unsigned int at = 0; at < 256; at += 4)
		pci_write(0, at, PCI_NONE, 4);
}

static void ports_strange(struct target *t)
{
	static const uint32_t addresses[] = { 0,          0x80010000, 0x80ff0000, 0xffffffff,
					      0x00000800, 0x80000f00, 0x8000ff00, 0x800008ff };

	for (unsigned int i = 0; i < ARRAY_SIZE(addresses); i++) {
		outl(0xcf8, addresses[i]);
		inl(0xcfc);
		inw(0xcfe);
		inb(0xcff);
		outl(0xcfd, PCI_NONE); /* over the end */
		inl(0xcfa);
		inw(0xcf8);
		inb(0xcf8);
		outw(0xcfa, 0xffff);
		outb(0xcf8, 0xff);
	}
	expect("vendor", pci_port_read(SLOT, 0, 2), VIRTIO_VENDOR);
}

/* ------------------------------------------------------------------ the BAR */

static void put_bar(struct target *t, uint64_t at)
{
	pci_bar_write(SLOT, at);
	target_request(&other);
	pci_bar_write(SLOT, t->dev.bar);
}

static void bar_over_other(struct target *t)
{
	put_bar(t, other.dev.bar);
	put_bar(t, other.dev.bar + 0x4000);
	put_bar(t, other.dev.bar - BAR_BYTES);
}

/* And stays there: whoever was there first has it, also after an update. */
static void bar_stays_over_other(struct target *t)
{
	pci_bar_write(SLOT, other.dev.bar);
}

static void bar_stays_over_ram(struct target *t)
{
	pci_bar_write(SLOT, (uintptr_t)t->q.desc & ~0x7fffull);
}

static void bar_stays_over_ecam(struct target *t)
{
	pci_bar_write(SLOT, 0xe0000000);
}

/* Each at the other's place: both are right. */
static void bars_swapped(struct target *t)
{
	uint64_t was = t->dev.bar;

	pci_bar_write(SLOT, 0x5000000000);
	pci_bar_write(other.dev.slot, was);
	pci_bar_write(SLOT, other.dev.bar);
	virtio_at(&t->dev, other.dev.bar);
	virtio_at(&other.dev, was);
	target_request(t);
	target_request(&other);
}

/* Told to be where somebody is, it is there as soon as he has left. */
static void bar_waits(struct target *t)
{
	uint64_t was = other.dev.bar;

	for (unsigned int i = 0; i < 2; i++) {
		struct target *waits = i ? &other : t, *leaves = i ? t : &other;
		uint64_t own = waits->dev.bar, place = leaves->dev.bar;

		pci_bar_write(waits->dev.slot, place);
		pci_bar_write(leaves->dev.slot, 0x5000000000);
		virtio_at(&waits->dev, place);
		virtio_at(&leaves->dev, 0x5000000000);
		target_request(waits);
		target_request(leaves);
		pci_bar_write(waits->dev.slot, own);
		pci_bar_write(leaves->dev.slot, place);
		virtio_at(&waits->dev, own);
		virtio_at(&leaves->dev, place);
		target_request(waits);
		target_request(leaves);
	}
	expect("the other one's BAR", other.dev.bar, was);
}

static void bar_over_ram(struct target *t)
{
	put_bar(t, (uintptr_t)t->q.desc & ~0x7fffull);
	put_bar(t, 0x100000);
	put_bar(t, ram_end - BAR_BYTES);
}

static void bar_over_board(struct target *t)
{
	put_bar(t, 0xe0000000);
	put_bar(t, 0xfec00000);
	put_bar(t, LAPIC_BASE);
	put_bar(t, 0xfed00000);
	put_bar(t, 0xffff8000);
}

static void bar_extreme(struct target *t)
{
	put_bar(t, 0);
	put_bar(t, ~0ull);
	put_bar(t, 1ull << 63);
	put_bar(t, 1ull << 52);
	put_bar(t, 0xffffffff00000000);
}

static void bar_bytes(struct target *t)
{
	for (unsigned int i = 0; i < 8; i++) {
		pci_write(SLOT, PCI_BAR0 + i, 0xff, 1);
		target_request(&other);
	}
	for (unsigned int i = 0; i < 8; i++)
		pci_write(SLOT, PCI_BAR0 + i, (uint32_t)(t->dev.bar >> (8 * i)) & 0xff, 1);
}

static void bar_moves_much(struct target *t)
{
	for (unsigned int i = 0; i < 40; i++)
		pci_bar_write(SLOT, 0x5000000000ull + (uint64_t)bad_random(1u << 20) * BAR_BYTES);
	pci_bar_write(SLOT, t->dev.bar);
}

static void decoding_flips(struct target *t)
{
	for (unsigned int i = 0; i < 40; i++) {
		pci_command(SLOT, 0, PCI_COMMAND_MEMORY);
		virtq_notify(&t->q);
		pci_command(SLOT, PCI_COMMAND_MEMORY, 0);
	}
}

static void master_flips(struct target *t)
{
	bad_desc(t, 0, 0xd0000000, 64, DESC_WRITE, 0);
	pci_command(SLOT, 0, PCI_COMMAND_MASTER);
	bad_go(t, 0); /* nobody looks at it yet */
	expect("status", virtio_status(&t->dev) & S_NEEDS_RESET, 0);
	pci_command(SLOT, PCI_COMMAND_MASTER, 0);
	virtq_notify(&t->q);
}

/* Whoever looks at it may do so before it is stopped, meanwhile, or when it begins again. */
static void master_off_after(struct target *t)
{
	bad_desc(t, 0, 0xd0000000, 64, DESC_WRITE, 0);
	bad_go(t, 0);
	pci_command(SLOT, 0, PCI_COMMAND_MASTER);
	pci_command(SLOT, PCI_COMMAND_MASTER, 0);
	virtq_notify(&t->q);
}

static void command_ones(struct target *t)
{
	pci_write(SLOT, PCI_COMMAND, 0xffff, 2);
	pci_write(SLOT, PCI_STATUS, 0xffff, 2);
	pci_write(SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

/* Registers that are nowhere, while the device goes on. */
static void command_zero(struct target *t)
{
	pci_write(SLOT, PCI_COMMAND, 0, 2);
	for (unsigned int at = 0; at < BAR_BYTES; at += 0x400) {
		virtio_write(&t->dev, at, ~0ull, 8);
		expect("nowhere", virtio_read(&t->dev, at, 8), ~0ull);
	}
	pci_write(SLOT, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 2);
}

/* ------------------------------------------------------------------ MSI-X */

static void irq_now(struct target *t)
{
	virtq_interrupt_after(&t->q, 0);
	virtio_mask(&t->dev, ENTRY_QUEUE, false);
	target_request(t);
	virtio_mask(&t->dev, ENTRY_QUEUE, true);
}

static void message(struct target *t, uint64_t address, uint32_t data)
{
	uint32_t at = t->dev.msix_table + 16 * ENTRY_QUEUE;

	virtio_write(&t->dev, at, address & PCI_NONE, 4);
	virtio_write(&t->dev, at + 4, address >> 32, 4);
	virtio_write(&t->dev, at + 8, data, 4);
	irq_now(t);
}

/* Messages to nobody, or that are none; not those that would reset this CPU. */
static void msix_nowhere(struct target *t)
{
	message(t, 0, 0);
	message(t, 0x12345678, 0x50);
	message(t, ~0ull, 0x50);
	message(t, LAPIC_BASE | 0xfe000, 0x50); /* APIC ID 254 */
	message(t, 0xfffffffffee00000, 0x50);
	message(t, (uintptr_t)t->buffer, 0x12345678); /* RAM: no write may arrive there */
	expect("RAM", t->buffer[4000], 0x5a);
}

static void msix_bad_vectors(struct target *t)
{
	message(t, LAPIC_BASE, 0);
	message(t, LAPIC_BASE, 15);
	message(t, LAPIC_BASE, 0x350); /* a delivery mode that is reserved */
	message(t, LAPIC_BASE, 0xffff0050);
}

static void msix_partial(struct target *t)
{
	uint32_t at = t->dev.msix_table;

	for (unsigned int i = 0; i < 64; i++) {
		virtio_write(&t->dev, at + i, 0xff, 1);
		virtio_write(&t->dev, at + i, 0xffff, 2);
		if (i % 4)
			virtio_write(&t->dev, at + i, 0xffffffff, 4);
		if (i % 8)
			virtio_write(&t->dev, at + i, ~0ull, 8);
		virtio_read(&t->dev, at + i, 1);
		virtio_read(&t->dev, at + i, 8);
	}
	expect("address", virtio_read(&t->dev, at + 16, 4), LAPIC_BASE);
}

static void msix_quadwords(struct target *t)
{
	uint32_t at = t->dev.msix_table + 16 * ENTRY_QUEUE;

	virtio_write(&t->dev, at, ~0ull, 8);
	expect("address", virtio_read(&t->dev, at, 8), ~3ull);
	virtio_write(&t->dev, at + 8, ~0ull, 8);
	expect("control", virtio_read(&t->dev, at + 12, 4), 1);
}

static void msix_beyond(struct target *t)
{
	for (uint32_t at = 0x4000; at < 0x6000; at += 8)
		if (at >= 0x4000 + 16 * 66 || at % 16 == 0)
			virtio_read(&t->dev, at, 8);
	for (uint32_t at = 0x4000 + 16 * 66; at < 0x6000; at += 8)
		virtio_write(&t->dev, at, ~0ull, 8);
}

static void pba_writes(struct target *t)
{
	uint64_t was = virtio_read(&t->dev, t->dev.msix_pba, 8);

	for (uint32_t i = 0; i < 16; i += 4) {
		virtio_write(&t->dev, t->dev.msix_pba + i, PCI_NONE, 4);
		virtio_write(&t->dev, t->dev.msix_pba + i, 0, 4);
	}
	expect("pending", virtio_read(&t->dev, t->dev.msix_pba, 8), was);
}

static void msix_flips(struct target *t)
{
	for (unsigned int i = 0; i < 32; i++) {
		virtio_msix_control(&t->dev, i & 1 ? MSIX_ENABLE : 0xffff);
		irq_now(t);
	}
	virtio_msix_control(&t->dev, MSIX_ENABLE);
}

static void vectors_strange(struct target *t)
{
	static const unsigned int strange[] = { 2, 64, 65, 0x7ff, 0x800, 0x8000, 0xfffe };

	for (unsigned int i = 0; i < ARRAY_SIZE(strange); i++) {
		if (strange[i] <= common_read(t, COMMON_QUEUES, 2))
			continue;
		common_write(t, COMMON_SELECT, 0, 2);
		common_write(t, COMMON_VECTOR, strange[i], 2);
		expect("vector", common_read(t, COMMON_VECTOR, 2), NO_VECTOR);
		common_write(t, COMMON_CONFIG_VECTOR, strange[i], 2);
		expect("vector", common_read(t, COMMON_CONFIG_VECTOR, 2), NO_VECTOR);
		target_request(t);
	}
}

/* ------------------------------------------------------------------ the window */

static void window(struct target *t, uint32_t bar, uint32_t offset, uint32_t length)
{
	pci_write(SLOT, WINDOW + WINDOW_BAR, bar, 1);
	pci_write(SLOT, WINDOW + WINDOW_OFFSET, offset, 4);
	pci_write(SLOT, WINDOW + WINDOW_LENGTH, length, 4);
	pci_write(SLOT, WINDOW + WINDOW_DATA, PCI_NONE, 4);
	pci_read(SLOT, WINDOW + WINDOW_DATA, 4);
}

static void window_bars(struct target *t)
{
	for (uint32_t bar = 1; bar < 256; bar = bar * 2 + 1)
		window(t, bar, COMMON_STATUS, 1);
}

static void window_lengths(struct target *t)
{
	static const uint32_t lengths[] = { 0, 3, 5, 8, 16, 0x80000000, PCI_NONE };

	for (unsigned int i = 0; i < ARRAY_SIZE(lengths); i++)
		window(t, 0, 0x1004, lengths[i]);
}

static void window_offsets(struct target *t)
{
	static const uint32_t offsets[] = {
		1,       2,          3,          BAR_BYTES - 2, BAR_BYTES, BAR_BYTES + 4,
		0x10000, 0x80000000, 0xfffffffc, PCI_NONE
	};

	for (unsigned int i = 0; i < ARRAY_SIZE(offsets); i++)
		window(t, 0, offsets[i], 4);
}

static void window_bytes(struct target *t)
{
	for (unsigned int i = 0; i < 8; i++) {
		pci_write(SLOT, WINDOW + WINDOW_OFFSET, COMMON_DEVICE_FEATURES, 4);
		pci_write(SLOT, WINDOW + WINDOW_LENGTH, 4, 4);
		pci_read(SLOT, WINDOW + WINDOW_DATA - 2 + i, 1);
		pci_read(SLOT, (WINDOW + WINDOW_DATA - 2 + i) & ~1u, 2);
		pci_write(SLOT, WINDOW + WINDOW_DATA + i % 4, 0xff, 1);
	}
}

static void window_resets(struct target *t)
{
	for (unsigned int i = 0; i < 8; i++) {
		virtio_window_write(&t->dev, COMMON_STATUS, 0, 1);
		while (virtio_window_read(&t->dev, COMMON_STATUS, 1))
			cpu_relax();
	}
	target_start(t, FEATURES_ALL, BAD_SIZE);
}

static void window_random(struct target *t)
{
	for (unsigned int i = 0; i < 300; i++)
		window(t, bad_random(8) == 0, bad_random(BAR_BYTES + 64), 1u << bad_random(4));
}

static void window_bad_request(struct target *t)
{
	bad_desc(t, 0, 0xd0000000, 64, DESC_WRITE, 0);
	t->q.avail[2] = 0;
	t->q.next_avail = 1;
	virtq_publish(&t->q);
	virtio_window_write(&t->dev, t->dev.notify, 0, 2);
}

const struct bad bad_config[] = {
	{ "config-ones", config_ones, WORKS, 0, 0 },
	{ "config-zeros", config_zeros, WORKS, 0, 0 },
	{ "config-bytes", config_bytes, WORKS, 0, 0 },
	{ "config-words", config_words, WORKS, 0, 0 },
	{ "config-random", config_random, ANY, 0, 0 },
	{ "config-crossing", config_crossing, WORKS, 0, 0 },
	{ "config-elsewhere", config_elsewhere, WORKS, 0, 0 },
	{ "ports-strange", ports_strange, WORKS, 0, 0 },
	{ "bar-over-other", bar_over_other, WORKS, 0, 0 },
	{ "bar-stays-over-other", bar_stays_over_other, ANY, 0, 0 },
	{ "bar-stays-over-ram", bar_stays_over_ram, ANY, 0, 0 },
	{ "bar-stays-over-ecam", bar_stays_over_ecam, ANY, 0, 0 },
	{ "bars-swapped", bars_swapped, WORKS, 0, 0 },
	{ "bars-swapped-back", bars_swapped, WORKS, 0, 0 },
	{ "bar-waits", bar_waits, WORKS, 0, 0 },
	{ "bar-over-ram", bar_over_ram, WORKS, 0, 0 },
	{ "bar-over-board", bar_over_board, WORKS, 0, 0 },
	{ "bar-extreme", bar_extreme, WORKS, 0, 0 },
	{ "bar-bytes", bar_bytes, WORKS, 0, 0 },
	{ "bar-moves-much", bar_moves_much, WORKS, 0, 0 },
	{ "decoding-flips", decoding_flips, WORKS, 0, 0 },
	{ "master-flips", master_flips, BROKEN, 0, 0 },
	{ "master-off-after", master_off_after, BROKEN, 0, 0 },
	{ "command-ones", command_ones, WORKS, 0, 0 },
	{ "command-zero", command_zero, WORKS, 0, 0 },
	{ "msix-nowhere", msix_nowhere, WORKS, 0, 0 },
	{ "msix-bad-vectors", msix_bad_vectors, WORKS, 0, 0 },
	{ "msix-partial", msix_partial, WORKS, 0, 0 },
	{ "msix-quadwords", msix_quadwords, WORKS, 0, 0 },
	{ "msix-beyond", msix_beyond, WORKS, 0, 0 },
	{ "pba-writes", pba_writes, WORKS, 0, 0 },
	{ "msix-flips", msix_flips, WORKS, 0, 0 },
	{ "vectors-strange", vectors_strange, WORKS, 0, 0 },
	{ "window-bars", window_bars, WORKS, 0, 0 },
	{ "window-lengths", window_lengths, WORKS, 0, 0 },
	{ "window-offsets", window_offsets, WORKS, 0, 0 },
	{ "window-bytes", window_bytes, ANY, 0, 0 },
	{ "window-resets", window_resets, WORKS, 0, 0 },
	{ "window-random", window_random, ANY, 0, 0 },
	{ "window-bad-request", window_bad_request, BROKEN, 0, 0 },
};
const unsigned int bad_config_count = ARRAY_SIZE(bad_config);
