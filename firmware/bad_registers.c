/* SPDX-License-Identifier: MIT */
/* Registers of the device written as no driver should (virtio 1.2, 2.1, 2.6, 4.1.4). */
#include "bad.h"

#define DESC ((uintptr_t)t->q.desc)
#define AVAIL ((uintptr_t)t->q.avail)
#define USED ((uintptr_t)t->q.used)
#define HOLE 0xd0000000ull
#define S_ALL (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK)

/* The registers below are read back: a driver's nonsense must not be kept either. */
static void expect(const char *what, uint64_t is, uint64_t should)
{
	if (is != should)
		bad_fail("%s is %lx, not %lx", what, is, should);
}

/* ------------------------------------------------------------------ a queue that cannot be */

static void enable_at(struct target *t, uint64_t desc, uint64_t avail, uint64_t used)
{
	const uint64_t at[3] = { desc, avail, used };

	virtio_negotiate(&t->dev, t->features);
	virtq_empty(&t->q, &t->dev, 0, BAD_SIZE);
	virtq_registers(&t->q, NO_VECTOR);
	for (uint32_t i = 0; i < 6; i++)
		common_write(t, COMMON_DESC + 4 * i, at[i / 2] >> (32 * (i % 2)) & PCI_NONE, 4);
	common_write(t, COMMON_ENABLE, 1, 2);
	virtio_driver_ok(&t->dev);
	virtq_notify(&t->q);
}

static void desc_unaligned(struct target *t)
{
	enable_at(t, DESC + 8, AVAIL, USED);
}

static void avail_unaligned(struct target *t)
{
	enable_at(t, DESC, AVAIL + 1, USED);
}

static void used_unaligned(struct target *t)
{
	enable_at(t, DESC, AVAIL, USED + 2);
}

static void desc_in_hole(struct target *t)
{
	enable_at(t, HOLE, AVAIL, USED);
}

static void avail_in_hole(struct target *t)
{
	enable_at(t, DESC, HOLE, USED);
}

static void used_in_hole(struct target *t)
{
	enable_at(t, DESC, AVAIL, HOLE);
}

static void desc_crosses_end(struct target *t)
{
	enable_at(t, ram_end - 16 * BAD_SIZE + 16, AVAIL, USED);
}

static void avail_crosses_end(struct target *t)
{
	enable_at(t, DESC, ram_end - 2 * BAD_SIZE - 4, USED);
}

static void used_crosses_end(struct target *t)
{
	enable_at(t, DESC, AVAIL, ram_end - 8 * BAD_SIZE - 4);
}

static void desc_wraps(struct target *t)
{
	enable_at(t, ~0ull - 15, AVAIL, USED);
}

static void used_wraps(struct target *t)
{
	enable_at(t, DESC, AVAIL, ~0ull - 3);
}

static void desc_in_bar(struct target *t)
{
	enable_at(t, other.dev.bar, AVAIL, USED);
}

static void used_in_bar(struct target *t)
{
	enable_at(t, DESC, AVAIL, other.dev.bar);
}

static void all_in_one(struct target *t)
{
	enable_at(t, DESC, DESC, DESC);
	for (unsigned int i = 0; i < 4; i++)
		virtq_notify(&t->q);
}

static void desc_over_used(struct target *t)
{
	enable_at(t, USED, AVAIL, USED);
	bad_desc(t, 0, (uintptr_t)t->buffer, 64, DESC_WRITE, 0);
	memcpy((void *)USED, t->q.desc, 16);
	bad_go(t, 0);
	virtq_notify(&t->q);
}

/* ------------------------------------------------------------------ sizes and selections */

static void set_size(struct target *t, unsigned int size)
{
	virtio_negotiate(&t->dev, t->features);
	virtq_empty(&t->q, &t->dev, 0, BAD_SIZE);
	virtq_registers(&t->q, ENTRY_QUEUE);
	common_write(t, COMMON_SIZE, size, 2);
	expect("size", common_read(t, COMMON_SIZE, 2), BAD_SIZE);
	common_write(t, COMMON_ENABLE, 1, 2);
	virtio_driver_ok(&t->dev);
}

static void size_zero(struct target *t)
{
	set_size(t, 0);
}

static void size_three(struct target *t)
{
	set_size(t, 3);
}

static void size_large(struct target *t)
{
	set_size(t, 2048);
}

static void size_max(struct target *t)
{
	set_size(t, 0xffff);
}

static void size_huge(struct target *t)
{
	set_size(t, 0x8000);
}

static void queue_missing(struct target *t)
{
	unsigned int n = common_read(t, COMMON_QUEUES, 2);
	const unsigned int missing[] = { n, n + 1, 64, 0x100, 0x8000, 0xffff };

	for (unsigned int i = 0; i < ARRAY_SIZE(missing); i++) {
		common_write(t, COMMON_SELECT, missing[i], 2);
		expect("size", common_read(t, COMMON_SIZE, 2), 0);
		expect("enabled", common_read(t, COMMON_ENABLE, 2), 0);
		common_write(t, COMMON_SIZE, 8, 2);
		common_write(t, COMMON_VECTOR, 0, 2);
		for (uint32_t at = COMMON_DESC; at < COMMON_DESC + 24; at += 4)
			common_write(t, at, 0x1000, 4);
		common_write(t, COMMON_ENABLE, 1, 2);
		common_write(t, COMMON_RESET, 1, 2);
		expect("enabled", common_read(t, COMMON_ENABLE, 2), 0);
	}
	common_write(t, COMMON_SELECT, 0, 2);
}

static void change_enabled(struct target *t)
{
	common_write(t, COMMON_SIZE, 4, 2);
	for (uint32_t at = COMMON_DESC; at < COMMON_DESC + 24; at += 4)
		common_write(t, at, 0x1000, 4);
	common_write(t, COMMON_ENABLE, 1, 2);
	common_write(t, COMMON_ENABLE, 0, 2);
	common_write(t, COMMON_ENABLE, 0xffff, 2);
	expect("size", common_read(t, COMMON_SIZE, 2), BAD_SIZE);
	expect("desc", common_read(t, COMMON_DESC, 4), DESC);
	expect("enabled", common_read(t, COMMON_ENABLE, 2), 1);
}

static void enable_strange(struct target *t)
{
	virtio_negotiate(&t->dev, t->features);
	virtq_empty(&t->q, &t->dev, 0, BAD_SIZE);
	virtq_registers(&t->q, ENTRY_QUEUE);
	for (unsigned int value = 2; value < 0x10000; value = value * 2 + 1)
		common_write(t, COMMON_ENABLE, value & 0xfffe, 2);
	expect("enabled", common_read(t, COMMON_ENABLE, 2), 0);
	common_write(t, COMMON_ENABLE, 1, 2);
	virtio_driver_ok(&t->dev);
}

/* Only where it was negotiated, and only of a queue that is enabled. */
static void reset_uninvited(struct target *t)
{
	common_write(t, COMMON_RESET, 1, 2);
	expect("reset", common_read(t, COMMON_RESET, 2), 0);
	expect("enabled", common_read(t, COMMON_ENABLE, 2), 1);
}

static void reset_disabled(struct target *t)
{
	virtio_negotiate(&t->dev, t->features);
	common_write(t, COMMON_RESET, 1, 2);
	expect("reset", common_read(t, COMMON_RESET, 2), 0);
	virtq_setup(&t->q, &t->dev, 0, BAD_SIZE, ENTRY_QUEUE);
	virtio_driver_ok(&t->dev);
}

static void reset_strange(struct target *t)
{
	common_write(t, COMMON_RESET, 2, 2);
	common_write(t, COMMON_RESET, 0xffff, 2);
	common_write(t, COMMON_RESET, 0, 2);
	expect("enabled", common_read(t, COMMON_ENABLE, 2), 1);
}

/* A queue that is reset, notified, and set up again where it cannot be. */
static void reset_then_hole(struct target *t)
{
	common_write(t, COMMON_RESET, 1, 2);
	while (common_read(t, COMMON_RESET, 2))
		cpu_relax();
	virtq_notify(&t->q);
	virtq_registers(&t->q, ENTRY_QUEUE);
	common_write(t, COMMON_DESC, HOLE, 4);
	common_write(t, COMMON_ENABLE, 1, 2);
	virtq_notify(&t->q);
}

static void reset_many(struct target *t)
{
	for (unsigned int i = 0; i < 32; i++) {
		common_write(t, COMMON_RESET, 1, 2);
		virtq_notify(&t->q);
	}
	while (common_read(t, COMMON_RESET, 2))
		cpu_relax();
	virtq_setup(&t->q, &t->dev, 0, BAD_SIZE, ENTRY_QUEUE);
}

/* ------------------------------------------------------------------ status and features */

static void start_again(struct target *t)
{
	target_start(t, FEATURES_ALL, BAD_SIZE);
}

static void driver_ok_first(struct target *t)
{
	virtio_reset(&t->dev);
	common_write(t, COMMON_STATUS, S_DRIVER_OK, 1);
	expect("DRIVER_OK", common_read(t, COMMON_STATUS, 1) & S_DRIVER_OK, 0);
	virtq_notify(&t->q);
	start_again(t);
}

static void features_refused(struct target *t, uint64_t features)
{
	expect("FEATURES_OK", virtio_negotiate(&t->dev, features), false);
	common_write(t, COMMON_STATUS, S_ALL, 1);
	expect("DRIVER_OK", common_read(t, COMMON_STATUS, 1) & S_DRIVER_OK, 0);
	start_again(t);
}

static void features_legacy(struct target *t)
{
	features_refused(t, 0);
}

static void features_unknown(struct target *t)
{
	features_refused(t, ~0ull);
}

static void features_not_offered(struct target *t)
{
	features_refused(t, F_VERSION_1 | 1ull << 50);
}

static void features_late(struct target *t)
{
	for (uint32_t i = 0; i < 2; i++) {
		common_write(t, COMMON_DRIVER_SELECT, i, 4);
		common_write(t, COMMON_DRIVER_FEATURES, 0xdeadbeef, 4);
		expect("features", common_read(t, COMMON_DRIVER_FEATURES, 4),
		       t->features >> (32 * i) & PCI_NONE);
	}
}

static void feature_selects(struct target *t)
{
	for (uint32_t i = 2; i; i = i * 3) {
		common_write(t, COMMON_DRIVER_SELECT, i, 4);
		common_write(t, COMMON_DRIVER_FEATURES, 0xdeadbeef, 4);
		common_write(t, COMMON_DEVICE_SELECT, i, 4);
		expect("device features", common_read(t, COMMON_DEVICE_FEATURES, 4), 0);
		expect("driver features", common_read(t, COMMON_DRIVER_FEATURES, 4), 0);
		if (i > 0x40000000)
			break;
	}
}

static void status_bits_off(struct target *t)
{
	common_write(t, COMMON_STATUS, S_ACKNOWLEDGE, 1);
	expect("status", common_read(t, COMMON_STATUS, 1), S_ALL);
}

static void status_needs_reset(struct target *t)
{
	common_write(t, COMMON_STATUS, S_ALL | S_NEEDS_RESET, 1);
	expect("status", common_read(t, COMMON_STATUS, 1), S_ALL);
}

/* FAILED and the bits that mean nothing. */
static void status_max(struct target *t)
{
	common_write(t, COMMON_STATUS, 0xff, 1);
	virtq_notify(&t->q);
}

static void status_wide(struct target *t)
{
	common_write(t, COMMON_STATUS, 0, 2);
	common_write(t, COMMON_STATUS, 0, 4);
	expect("status", common_read(t, COMMON_STATUS, 1), S_ALL);
}

static void reset_storm(struct target *t)
{
	for (unsigned int i = 0; i < 64; i++) {
		common_write(t, COMMON_STATUS, 0, 1);
		common_write(t, COMMON_STATUS, i & 15, 1);
	}
	start_again(t);
}

static void reset_with_request(struct target *t)
{
	bad_desc(t, 0, (uintptr_t)t->buffer, 64, DESC_WRITE, 0);
	for (unsigned int i = 0; i < 16; i++) {
		bad_go(t, 0);
		common_write(t, COMMON_STATUS, 0, 1);
		start_again(t);
		bad_desc(t, 0, (uintptr_t)t->buffer, 64, DESC_WRITE, 0);
	}
	start_again(t);
}

/* ------------------------------------------------------------------ accesses */

static void common_reads(struct target *t)
{
	for (unsigned int size = 1; size <= 8; size *= 2)
		for (uint32_t at = 0; at < 0x80; at++)
			common_read(t, at, size);
	for (uint32_t at = 0xff0; at < 0x1010; at++)
		virtio_read(&t->dev, at, 8);
}

/* Each register by the wrong width, and between two registers. */
static void common_wrong_widths(struct target *t)
{
	for (uint32_t at = 0; at < 0x40; at++)
		common_write(t, at, ~0ull, 8);
	common_write(t, COMMON_SELECT + 1, 0xff, 1);
	common_write(t, COMMON_SELECT, 0xff, 1);
	common_write(t, COMMON_SIZE, 0xffffffff, 4);
	common_write(t, COMMON_SIZE + 1, 0xffff, 2);
	common_write(t, COMMON_DESC + 2, 0xffffffff, 4);
	common_write(t, COMMON_DESC, 0xff, 1);
	expect("size", common_read(t, COMMON_SIZE, 2), BAD_SIZE);
	expect("status", common_read(t, COMMON_STATUS, 1), S_ALL);
}

/* A driver gone mad. It may even reset the device, or enable queues, in any order. */
static void common_random(struct target *t)
{
	for (unsigned int i = 0; i < 400; i++)
		common_write(t, bad_random(0x40), (uint64_t)bad_random(~0u) << 32 | bad_random(~0u),
			     1u << bad_random(4));
}

static void common_random_small(struct target *t)
{
	for (unsigned int i = 0; i < 400; i++)
		common_write(t, 2 * bad_random(0x20), bad_random(16), 1u << bad_random(3));
}

static void common_read_only(struct target *t)
{
	uint32_t queues = common_read(t, COMMON_QUEUES, 2);

	common_write(t, COMMON_QUEUES, 99, 2);
	common_write(t, COMMON_GENERATION, 99, 1);
	common_write(t, COMMON_DEVICE_FEATURES, 0, 4);
	common_write(t, COMMON_NOTIFY_OFF, 7, 2);
	expect("queues", common_read(t, COMMON_QUEUES, 2), queues);
	expect("notify", common_read(t, COMMON_NOTIFY_OFF, 2), 0);
	expect("features", virtio_offered(&t->dev) & F_VERSION_1, F_VERSION_1);
}

static void bar_gaps(struct target *t)
{
	for (uint32_t at = 0x1000; at < BAR_BYTES; at += 0xfc) {
		if (at >= t->dev.msix_table && at < t->dev.msix_table + 0x1000)
			continue;
		virtio_read(&t->dev, at, 4);
		virtio_read(&t->dev, at + 1, 8);
		if (!t->dev.config || at < t->dev.config || at >= t->dev.config + 0x1000)
			virtio_write(&t->dev, at + 2, ~0ull, 8);
	}
	/* The last bytes, and over the end. */
	for (uint32_t at = BAR_BYTES - 9; at < BAR_BYTES; at++)
		for (unsigned int size = 1; size <= 8; size *= 2) {
			virtio_read(&t->dev, at, size);
			virtio_write(&t->dev, at, ~0ull, size);
		}
}

static void config_area(struct target *t)
{
	for (uint32_t at = 0x2000; at < 0x2080; at++)
		for (unsigned int size = 1; size <= 8; size *= 2)
			virtio_read(&t->dev, at, size);
	for (uint32_t at = 0x2ff0; at < 0x3000; at++)
		virtio_read(&t->dev, at, 8);
}

static void config_writes(struct target *t)
{
	for (uint32_t at = 0x2000; at < 0x2080; at++)
		for (unsigned int size = 1; size <= 8; size *= 2)
			virtio_write(&t->dev, at, ~0ull, size);
	virtio_write(&t->dev, 0x2ffc, 1, 8);
}

static void isr_accesses(struct target *t)
{
	for (unsigned int size = 1; size <= 8; size *= 2)
		for (uint32_t i = 0; i < 4; i++) {
			virtio_write(&t->dev, t->dev.isr + i, 3, size);
			virtio_read(&t->dev, t->dev.isr + i, size);
		}
}

/* ------------------------------------------------------------------ notifications */

static void notify_missing(struct target *t)
{
	unsigned int n = common_read(t, COMMON_QUEUES, 2);

	for (uint32_t at = 4 * n; at < 0x1000; at += 4)
		if (at < 0x200 || at > 0xf00)
			virtio_write(&t->dev, t->dev.notify + at, at / 4, 2);
}

static void notify_strange(struct target *t)
{
	for (unsigned int size = 1; size <= 8; size *= 2)
		for (uint32_t at = 0; at < 8; at++) {
			virtio_write(&t->dev, t->dev.notify + at, 0xffff, size);
			virtio_read(&t->dev, t->dev.notify + at, size);
		}
}

static void notify_early(struct target *t)
{
	virtio_negotiate(&t->dev, t->features);
	virtq_notify(&t->q);
	virtq_setup(&t->q, &t->dev, 0, BAD_SIZE, ENTRY_QUEUE);
	virtq_notify(&t->q);
	virtio_driver_ok(&t->dev);
}

static void notify_disabled(struct target *t)
{
	virtio_negotiate(&t->dev, t->features);
	virtio_driver_ok(&t->dev);
	for (unsigned int i = 0; i < 8; i++)
		virtq_notify(&t->q);
	virtq_setup(&t->q, &t->dev, 0, BAD_SIZE, ENTRY_QUEUE);
}

static void notify_storm(struct target *t)
{
	for (unsigned int i = 0; i < 2000; i++)
		virtq_notify(&t->q);
}

const struct bad bad_registers[] = {
	{ "desc-unaligned", desc_unaligned, BROKEN, 0, 0 },
	{ "avail-unaligned", avail_unaligned, BROKEN, 0, 0 },
	{ "used-unaligned", used_unaligned, BROKEN, 0, 0 },
	{ "desc-in-hole", desc_in_hole, BROKEN, 0, 0 },
	{ "avail-in-hole", avail_in_hole, BROKEN, 0, 0 },
	{ "used-in-hole", used_in_hole, BROKEN, 0, 0 },
	{ "desc-crosses-end", desc_crosses_end, BROKEN, 0, 0 },
	{ "avail-crosses-end", avail_crosses_end, BROKEN, 0, 0 },
	{ "used-crosses-end", used_crosses_end, BROKEN, 0, 0 },
	{ "desc-wraps", desc_wraps, BROKEN, 0, 0 },
	{ "used-wraps", used_wraps, BROKEN, 0, 0 },
	{ "desc-in-bar", desc_in_bar, BROKEN, 0, 0 },
	{ "used-in-bar", used_in_bar, BROKEN, 0, 0 },
	{ "all-in-one", all_in_one, ANY, 0, 0 },
	{ "desc-over-used", desc_over_used, ANY, 0, 0 },
	{ "size-zero", size_zero, WORKS, 0, 0 },
	{ "size-three", size_three, WORKS, 0, 0 },
	{ "size-large", size_large, WORKS, 0, 0 },
	{ "size-max", size_max, WORKS, 0, 0 },
	{ "size-huge", size_huge, WORKS, 0, 0 },
	{ "queue-missing", queue_missing, WORKS, 0, 0 },
	{ "change-enabled", change_enabled, WORKS, 0, 0 },
	{ "enable-strange", enable_strange, WORKS, 0, 0 },
	{ "reset-uninvited", reset_uninvited, WORKS, F_RING_RESET, 0 },
	{ "reset-disabled", reset_disabled, WORKS, 0, 0 },
	{ "reset-strange", reset_strange, WORKS, 0, 0 },
	{ "reset-then-hole", reset_then_hole, BROKEN, 0, 0 },
	{ "reset-many", reset_many, WORKS, 0, 0 },
	{ "driver-ok-first", driver_ok_first, WORKS, 0, 0 },
	{ "features-legacy", features_legacy, WORKS, 0, 0 },
	{ "features-unknown", features_unknown, WORKS, 0, 0 },
	{ "features-not-offered", features_not_offered, WORKS, 0, 0 },
	{ "features-late", features_late, WORKS, 0, 0 },
	{ "feature-selects", feature_selects, WORKS, 0, 0 },
	{ "status-bits-off", status_bits_off, WORKS, 0, 0 },
	{ "status-needs-reset", status_needs_reset, WORKS, 0, 0 },
	{ "status-max", status_max, ANY, 0, 0 },
	{ "status-wide", status_wide, WORKS, 0, 0 },
	{ "reset-storm", reset_storm, WORKS, 0, 0 },
	{ "reset-with-request", reset_with_request, ANY, 0, 0 },
	{ "common-reads", common_reads, WORKS, 0, 0 },
	{ "common-wrong-widths", common_wrong_widths, WORKS, 0, 0 },
	{ "common-random", common_random, ANY, 0, 0 },
	{ "common-random-small", common_random_small, ANY, 0, 0 },
	{ "common-read-only", common_read_only, WORKS, 0, 0 },
	{ "bar-gaps", bar_gaps, WORKS, 0, 0 },
	{ "config-area", config_area, WORKS, 0, 0 },
	{ "config-writes", config_writes, WORKS, 0, 0 },
	{ "isr-accesses", isr_accesses, WORKS, 0, 0 },
	{ "notify-missing", notify_missing, WORKS, 0, 0 },
	{ "notify-strange", notify_strange, WORKS, 0, 0 },
	{ "notify-early", notify_early, WORKS, 0, 0 },
	{ "notify-disabled", notify_disabled, WORKS, 0, 0 },
	{ "notify-storm", notify_storm, WORKS, 0, 0 },
};
const unsigned int bad_registers_count = ARRAY_SIZE(bad_registers);
