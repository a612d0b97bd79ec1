/* SPDX-License-Identifier: MIT */
/* What rng does in a pass. */
#include "rng.h"

#define BAR_BYTES 0x8000ull
#define BAR_FLAGS 0xfull
#define BAR_64BIT 0x4u
#define FAR_BAR 0x6000000000ull
#define LOW_BAR 0xd0000000ull

static void again(struct rng *r)
{
	rng_start(r, RNG_FEATURES, RNG_QUEUE_MAX);
}

/* ------------------------------------------------------------------ features, rings */

static void step_features(struct rng *r)
{
	const uint64_t bad[] = { 0, F_EVENT_IDX, F_VERSION_1 | 1, F_VERSION_1 | 1ull << 63,
				 F_VERSION_1 | 1ull << 34 /* packed rings */ };

	for (unsigned int i = 0; i < ARRAY_SIZE(bad); i++) {
		if (virtio_negotiate(&r->dev, bad[i]))
			rng_bad(r, "features %lx are taken", bad[i]);
		if (i == 3)
			rng_hold(r, "refused-features");
	}
	for (unsigned int i = 0; i < 8; i++) {
		uint64_t features = F_VERSION_1 | (i & 1 ? F_EVENT_IDX : 0) |
				    (i & 2 ? F_INDIRECT : 0) | (i & 4 ? F_RING_RESET : 0);

		rng_start(r, features, 1u << rng_random(r, 7));
		for (unsigned int n = 0; n < 4; n++) {
			r->polled = n & 1;
			rng_batch(r, 1 + rng_random(r, r->size));
		}
	}
	rng_hold(r, "features");
	rng_batch(r, 1);
	again(r);
}

/* Each size, with as many as there is room for, and one by one. */
static void step_sizes(struct rng *r)
{
	for (unsigned int size = 1; size <= RNG_QUEUE_MAX; size *= 2) {
		rng_start(r, RNG_FEATURES, size);
		rng_batch(r, size);
		for (unsigned int i = 0; i < 3; i++)
			rng_batch(r, 1);
		rng_batch(r, size);
	}
	again(r);
}

/* Over the end of the 16-bit indices. */
static void wrap(struct rng *r, uint64_t features)
{
	uint64_t until = r->requests + 65536 + 512;

	rng_start(r, features, RNG_QUEUE_MAX);
	r->longest = 24;
	while (r->requests < until) {
		r->polled = rng_random(r, 4) != 0;
		rng_batch(r, RNG_QUEUE_MAX - rng_random(r, 2));
		if (r->requests + 600 > until && r->requests + 536 <= until)
			rng_hold(r, "wrap");
	}
	r->longest = 6000;
}

static void step_wrap(struct rng *r)
{
	wrap(r, RNG_FEATURES);
	if (!r->hold && rng_random(r, 4) == 0)
		wrap(r, F_VERSION_1 | F_INDIRECT);
	again(r);
}

static void step_ring_reset(struct rng *r)
{
	const struct virtio *v = &r->dev;

	for (unsigned int i = 0; i < 8; i++) {
		virtio_write(v, v->common + COMMON_SELECT, 0, 2);
		virtio_write(v, v->common + COMMON_RESET, 1, 2);
		while (virtio_read(v, v->common + COMMON_RESET, 2))
			cpu_relax();
		if (virtio_read(v, v->common + COMMON_ENABLE, 2) ||
		    virtio_read(v, v->common + COMMON_SIZE, 2) != RNG_QUEUE_MAX)
			rng_bad(r, "a queue that was reset");
		if (i == 4)
			rng_hold(r, "ring-reset");
		virtq_notify(&r->q); /* nobody listens */
		r->size = 1u << rng_random(r, 7);
		if (!virtq_setup(&r->q, &r->dev, 0, r->size, ENTRY))
			rng_bad(r, "a queue cannot be set up again");
		rng_batch(r, r->size);
		rng_batch(r, 1);
		r->ring_resets++;
	}
	again(r);
}

/* In each of its stages a device is reset, which must be good for the next. */
static void step_reset(struct rng *r)
{
	for (unsigned int stage = 0; stage < 4; stage++) {
		if (!virtio_reset(&r->dev))
			rng_bad(r, "no reset in stage %u", stage);
		if (stage > 0 && !virtio_negotiate(&r->dev, RNG_FEATURES))
			rng_bad(r, "no features in stage %u", stage);
		if (stage > 1 && !virtq_setup(&r->q, &r->dev, 0, 8, ENTRY))
			rng_bad(r, "no queue in stage %u", stage);
		if (stage > 2)
			virtio_driver_ok(&r->dev);
		if (stage == 2)
			rng_hold(r, "reset");
	}
	r->size = 8;
	rng_batch(r, 8);
	again(r);
}

/* ------------------------------------------------------------------ interrupts */

/* One request, of whose interrupt nothing is seen. */
static void silent(struct rng *r, bool pending)
{
	uint64_t before = rng_irqs();

	virtq_interrupt_after(&r->q, 0);
	rng_add(r, 1);
	rng_finish(r, 1);
	for (unsigned int i = 0; i < 20; i++)
		virtio_status(&r->dev);
	if (rng_irqs() != before)
		rng_bad(r, "an interrupt by a vector that is off");
	if (virtio_pending(&r->dev, ENTRY) != pending)
		rng_bad(r, "pending is not %u", pending);
}

static void comes_now(struct rng *r, uint64_t before)
{
	rng_wait_irq(r, before);
	if (virtio_pending(&r->dev, ENTRY))
		rng_bad(r, "still pending");
	rng_batch(r, 2);
}

static void step_masked(struct rng *r)
{
	uint64_t before = rng_irqs();

	virtio_mask(&r->dev, ENTRY, true);
	if (virtio_pending(&r->dev, ENTRY))
		rng_bad(r, "pending without a reason");
	silent(r, true);
	silent(r, true);
	rng_hold(r, "masked");
	if (!virtio_pending(&r->dev, ENTRY) || rng_irqs() != before)
		rng_bad(r, "not pending any more");
	virtio_mask(&r->dev, ENTRY, false);
	comes_now(r, before);
}

static void step_function_mask(struct rng *r)
{
	uint64_t before = rng_irqs();

	virtio_msix_control(&r->dev, MSIX_ENABLE | MSIX_MASK_ALL);
	silent(r, true);
	rng_hold(r, "function-mask");
	if (!virtio_pending(&r->dev, ENTRY) || rng_irqs() != before)
		rng_bad(r, "not pending any more");
	virtio_msix_control(&r->dev, MSIX_ENABLE);
	comes_now(r, before);
}

/* Without MSI-X there is but the ISR, whose reading clears it. */
static void step_no_msix(struct rng *r)
{
	virtio_msix_control(&r->dev, 0);
	virtio_read(&r->dev, r->dev.isr, 1);
	silent(r, false);
	rng_hold(r, "no-msix");
	if (virtio_read(&r->dev, r->dev.isr, 1) != 1 || virtio_read(&r->dev, r->dev.isr, 1) != 0)
		rng_bad(r, "ISR");
	virtio_msix_control(&r->dev, MSIX_ENABLE);
	rng_batch(r, 1);
}

static void step_no_vector(struct rng *r)
{
	const struct virtio *v = &r->dev;

	virtio_write(v, v->common + COMMON_SELECT, 0, 2);
	virtio_write(v, v->common + COMMON_VECTOR, 77, 2);
	if (virtio_read(v, v->common + COMMON_VECTOR, 2) != NO_VECTOR)
		rng_bad(r, "a vector that does not exist");
	silent(r, false);
	rng_hold(r, "no-vector");
	virtio_write(v, v->common + COMMON_VECTOR, ENTRY, 2);
	rng_batch(r, 1);
}

/* What is added meanwhile is for later. */
static void step_no_master(struct rng *r)
{
	uint64_t before = rng_irqs();

	pci_command(r->dev.slot, 0, PCI_COMMAND_MASTER);
	virtq_interrupt_after(&r->q, 0);
	rng_add(r, 1);
	virtio_status(&r->dev);
	rng_hold(r, "no-master");
	if (virtq_has_done(&r->q) || rng_irqs() != before)
		rng_bad(r, "it is no bus master");
	pci_command(r->dev.slot, PCI_COMMAND_MASTER, 0);
	virtq_notify(&r->q);
	rng_wait_irq(r, before);
	rng_finish(r, 1);
}

/* ------------------------------------------------------------------ configuration space */

static void step_size_bar(struct rng *r)
{
	unsigned int slot = r->dev.slot;
	uint64_t was = pci_bar_read(slot), mask;

	pci_command(slot, 0, PCI_COMMAND_MEMORY);
	pci_bar_write(slot, ~0ull);
	mask = pci_bar_read(slot);
	rng_hold(r, "sizing");
	if ((mask & BAR_FLAGS) != BAR_64BIT || ~(mask & ~BAR_FLAGS) + 1 != BAR_BYTES)
		rng_bad(r, "BAR mask %lx", mask);
	if (virtio_read(&r->dev, r->dev.common, 4) != PCI_NONE)
		rng_bad(r, "registers without memory decoding");
	pci_bar_write(slot, was);
	pci_command(slot, PCI_COMMAND_MEMORY, 0);
	if (pci_bar_read(slot) != was)
		rng_bad(r, "BAR %lx was %lx", pci_bar_read(slot), was);
	rng_batch(r, 1);
}

static void move(struct rng *r, uint64_t to, bool decoding)
{
	uint64_t was = r->dev.bar;

	if (!decoding)
		pci_command(r->dev.slot, 0, PCI_COMMAND_MEMORY);
	pci_bar_write(r->dev.slot, to);
	pci_command(r->dev.slot, PCI_COMMAND_MEMORY, 0);
	virtio_at(&r->dev, to);
	if (mmio_read(was, 4) != PCI_NONE)
		rng_bad(r, "registers where they were: %lx", was);
	if (virtio_status(&r->dev) != (S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK))
		rng_bad(r, "status after a move to %lx", to);
	rng_batch(r, 1 + rng_random(r, r->size));
	r->moves++;
}

static void step_move_bar(struct rng *r)
{
	uint64_t was = r->dev.bar;

	move(r, FAR_BAR + rng_random(r, 64) * BAR_BYTES, false);
	rng_hold(r, "moved");
	rng_batch(r, 3);
	move(r, LOW_BAR + rng_random(r, 64) * BAR_BYTES, true);
	rng_hold(r, "moved-low");
	rng_batch(r, 3);
	/* Over RAM, over the ECAM, over the end of the address space: it is nowhere. */
	const uint64_t nowhere[] = { 0x100000, 0xe0000000, 0xffffffffffff8000, 0 };

	for (unsigned int i = 0; i < ARRAY_SIZE(nowhere); i++) {
		pci_bar_write(r->dev.slot, nowhere[i]);
		if (mmio_read(r->dev.bar, 4) != PCI_NONE)
			rng_bad(r, "registers are not nowhere");
		if (i == 1)
			rng_hold(r, "over-ecam");
	}
	pci_bar_write(r->dev.slot, r->dev.bar);
	rng_batch(r, 3);
	move(r, was, rng_random(r, 2));
}

static void step_window(struct rng *r)
{
	const struct virtio *v = &r->dev;
	uint64_t before = rng_irqs();

	for (uint32_t at = 0; at < 0x3c; at += 4)
		if (virtio_window_read(v, v->common + at, 4) != virtio_read(v, v->common + at, 4))
			rng_bad(r, "register %x through the window", at);
	for (unsigned int size = 1; size <= 4; size *= 2)
		if (virtio_window_read(v, v->common + COMMON_DEVICE_FEATURES, size) !=
		    virtio_read(v, v->common + COMMON_DEVICE_FEATURES, size))
			rng_bad(r, "%u bytes through the window", size);
	pci_command(v->slot, 0, PCI_COMMAND_MEMORY);
	virtq_interrupt_after(&r->q, 0);
	r->q.dev = &(struct virtio){ .features = v->features, .bar = v->bar, .notify = v->notify };
	rng_add(r, 1); /* its notification goes nowhere */
	r->q.dev = &r->dev;
	rng_hold(r, "window");
	virtio_window_write(v, v->notify, 0, 2);
	rng_wait_irq(r, before);
	rng_finish(r, 1);
	pci_command(v->slot, PCI_COMMAND_MEMORY, 0);
}

/* The two ways into configuration space, by each width; and who is not there. */
static void step_config(struct rng *r)
{
	unsigned int slot = r->dev.slot;

	for (unsigned int size = 1; size <= 4; size *= 2)
		for (unsigned int at = 0; at < 256; at += size) {
			if (at >= r->dev.window + 16 && at < r->dev.window + 20)
				continue;
			if (pci_read(slot, at, size) != pci_port_read(slot, at, size))
				rng_bad(r, "register %x of %u bytes by ECAM and by port", at, size);
		}
	for (unsigned int i = 0; i < PCI_SLOTS; i++)
		if (pci_read(i, 0, 4) != pci_port_read(i, 0, 4))
			rng_bad(r, "slot %u by ECAM and by port", i);
	if (pci_read(slot, 0x1000, 4) != PCI_NONE) /* function 1 */
		rng_bad(r, "a second function");
	pci_port_write(slot, 0x3c, 0x5a, 1);
	if (pci_read(slot, 0x3c, 1) != 0x5a)
		rng_bad(r, "the interrupt line is not kept");
	rng_hold(r, "config");
	if (pci_port_read(slot, 0x3c, 1) != 0x5a)
		rng_bad(r, "the interrupt line is not kept");
	pci_write(slot, 0, 0x12345678, 4);
	pci_write(slot, r->dev.msix, 0, 1);
	if (pci_read(slot, 0, 4) == 0x12345678 || !pci_read(slot, r->dev.msix, 1))
		rng_bad(r, "what is read-only was written");
}

const struct rng_step rng_steps[] = {
	{ "features", step_features },
	{ "sizes", step_sizes },
	{ "wrap", step_wrap },
	{ "ring-reset", step_ring_reset },
	{ "reset", step_reset },
	{ "masked", step_masked },
	{ "function-mask", step_function_mask },
	{ "no-msix", step_no_msix },
	{ "no-vector", step_no_vector },
	{ "no-master", step_no_master },
	{ "size-bar", step_size_bar },
	{ "move-bar", step_move_bar },
	{ "window", step_window },
	{ "config", step_config },
	{ "race", rng_race },
};
const unsigned int rng_step_count = ARRAY_SIZE(rng_steps);
