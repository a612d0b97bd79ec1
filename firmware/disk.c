/* SPDX-License-Identifier: MIT */
/*
 * disk: reads and writes a virtio disk with many requests in flight, of every kind and split into
 * buffers at any byte, and verifies what it reads. A pass is some thousand requests, in one of the
 * ways to drive the device (with and without EVENT_IDX and indirect tables, asleep or awake); then
 * comes a reset of the device or of a queue:
 *
 *	disk: ready sectors=S queues=Q size=N features=F
 *	disk: at STEP pass=N requests=R in_flight=I		twice a second
 *	disk: pass N requests=R bytes=B errors=E slowest_us=T resets=D us=U ...
 *	disk: capacity S					the disk is another size now
 *
 * What is wrong is said in a line "disk: BAD step=S ..." and ends it; a power button press does so,
 * too, and so does the last pass: then the whole disk is read and verified once more.
 *
 * Options: slot=1, queues=1, size=64 (of each), depth=32 (in flight, all queues together), blocks=8
 * (4 KiB, of the largest request), use_mib=8 (of the disk), requests=3000 (a pass), passes=0 (0: no
 * end), seed=1, plain=on (all passes the same way, without resets), readonly=on (writes must fail),
 * errors=on (they may, and nobody knows what is there), first=zero (the disk is known to hold
 * zeroes).
 */
#include "disk.h"

#define PROGRESS_US 500000

static struct disk disk;
static uint64_t configs_seen;

void disk_bad(const struct disk *d, const char *format, ...)
{
	char line[256];
	va_list args;

	va_start(args, format);
	format_args(line, sizeof(line), format, args);
	va_end(args);
	print("disk: BAD step=%s %s (status=%x requests=%lu in_flight=%u)\n", d->step, line,
	      virtio_status(&d->dev), d->requests, d->in_flight);
	power_off();
}

uint32_t disk_random(struct disk *d, uint32_t below)
{
	d->random ^= d->random << 13;
	d->random ^= d->random >> 7;
	d->random ^= d->random << 17;
	return (uint32_t)(d->random >> 32) % below;
}

void disk_progress(struct disk *d)
{
	uint64_t now = rdtsc();

	if (now - d->said < us_to_tsc(PROGRESS_US))
		return;
	d->said = now;
	print("disk: at %s pass=%lu requests=%lu in_flight=%u\n", d->step, d->passes, d->requests,
	      d->in_flight);
	if (virtio_status(&d->dev) & S_NEEDS_RESET)
		disk_bad(d, "it needs a reset");
}

/* ------------------------------------------------------------------ the device */

static uint64_t capacity(const struct disk *d)
{
	return virtio_read(&d->dev, d->dev.config, 8);
}

static void set_up(struct disk *d, uint64_t without)
{
	uint64_t offered = virtio_offered(&d->dev);

	d->features = offered & ~without;
	if (!virtio_negotiate(&d->dev, d->features))
		disk_bad(d, "features %lx are not taken", d->features);
	virtio_msix_control(&d->dev, MSIX_ENABLE);
	virtio_vector(&d->dev, 0, VEC_CONFIG, false);
	virtio_write(&d->dev, d->dev.common + COMMON_CONFIG_VECTOR, 0, 2);
	for (unsigned int i = 0; i < d->queues; i++) {
		virtio_vector(&d->dev, 1 + i, VEC_QUEUE + i, false);
		if (!virtq_setup(&d->q[i], &d->dev, i, d->size, 1 + i))
			disk_bad(d, "queue %u of %u is not taken", i, d->size);
	}
	virtio_driver_ok(&d->dev);
	d->resets++;
}

static void reset_queue(struct disk *d)
{
	const struct virtio *v = &d->dev;
	unsigned int i = disk_random(d, d->queues);

	if (!(d->features & F_RING_RESET))
		return;
	virtio_write(v, v->common + COMMON_SELECT, i, 2);
	virtio_write(v, v->common + COMMON_RESET, 1, 2);
	while (virtio_read(v, v->common + COMMON_RESET, 2))
		disk_progress(d);
	if (!virtq_setup(&d->q[i], &d->dev, i, d->size, 1 + i))
		disk_bad(d, "queue %u cannot be set up again", i);
}

/* With what is in flight: a write may have happened, or not, or in part. */
static void reset_busy(struct disk *d)
{
	for (unsigned int i = 0; i < d->depth; i++)
		disk_submit_any(d);
	disk_kick(d);
	if (!virtio_reset(&d->dev))
		disk_bad(d, "no reset");
	disk_forget(d);
}

/* ------------------------------------------------------------------ work */

static uint64_t all_irqs(const struct disk *d)
{
	uint64_t n = 0;

	for (unsigned int i = 0; i < d->queues; i++)
		n += this_cpu()->irq_count[VEC_QUEUE + i];
	return n;
}

/* Awake, or asleep until any of the queues interrupts: a timer wakes it in any case. */
static void wait(struct disk *d, bool asleep)
{
	const volatile uint64_t *ticks = &this_cpu()->irq_count[0x40];
	uint64_t seen = *ticks, irqs = all_irqs(d);

	if (!asleep) {
		cpu_relax();
		return;
	}
	for (unsigned int i = 0; i < d->queues; i++)
		virtq_interrupt_after(&d->q[i], 0);
	for (unsigned int i = 0; i < d->queues; i++)
		if (virtq_has_done(&d->q[i]))
			return;
	irq_disable();
	lapic_write(LAPIC_TMICT, (uint32_t)(lapic_khz / 16 * 20)); /* 20 ms */
	if (all_irqs(d) == irqs)
		halt_unless(ticks, seen);
	irq_enable();
	/* Done, but nobody said so: the timer came instead. */
	if (all_irqs(d) == irqs && *ticks != seen)
		d->idle += virtq_has_done(&d->q[0]);
}

static void look_at_config(struct disk *d)
{
	uint64_t configs = this_cpu()->irq_count[VEC_CONFIG];

	if (configs == configs_seen)
		return;
	configs_seen = configs;
	if (capacity(d) != d->sectors)
		print("disk: capacity %lu\n", d->sectors = capacity(d));
}

static void work(struct disk *d, uint64_t requests, bool asleep)
{
	uint64_t until = d->requests + requests, last = rdtsc();

	while (d->requests < until) {
		bool more = true;

		for (unsigned int i = 0; more && d->in_flight < d->depth && i < d->depth; i++)
			more = disk_submit_any(d) || disk_random(d, 4);
		disk_kick(d);
		disk_progress(d);
		if (disk_reap(d))
			last = rdtsc();
		else
			wait(d, asleep);
		if (rdtsc() - last > us_to_tsc(60000000))
			disk_bad(d, "nothing is done any more");
	}
	look_at_config(d);
}

static void set_interrupts(struct disk *d, bool on)
{
	for (unsigned int i = 0; i < d->queues; i++) {
		if (on)
			virtq_interrupt_after(&d->q[i], 0);
		else
			virtq_no_interrupt(&d->q[i]);
	}
}

/* Every block once, whatever else is in it. */
static void read_all(struct disk *d)
{
	d->step = "read-all";
	for (uint32_t b = 0; b < d->blocks; b++) {
		while (!disk_submit(d, b % d->queues, &d->slots[0], OP_IN, b, 1))
			cpu_relax();
		disk_drain(d);
	}
}

static void pass(struct disk *d, uint64_t requests, bool plain)
{
	static const char *const steps[] = { "all", "no-event-idx", "no-indirect", "neither" };
	unsigned int way = plain ? 0 : (unsigned int)(d->passes % 4);
	uint64_t began = rdtsc();
	bool asleep = !plain && disk_random(d, 2);

	d->step = steps[way];
	d->slowest = 0;
	set_interrupts(d, asleep);
	work(d, requests, asleep);
	print("disk: pass %lu requests=%lu bytes=%lu errors=%lu slowest_us=%lu resets=%lu us=%lu "
	      "in=%lu out=%lu flush=%lu id=%lu discard=%lu zeroes=%lu late=%lu\n",
	      ++d->passes, d->requests, d->bytes, d->errors, tsc_to_us(d->slowest), d->resets,
	      tsc_to_us(rdtsc() - began), d->by_op[OP_IN], d->by_op[OP_OUT], d->by_op[OP_FLUSH],
	      d->by_op[OP_GET_ID], d->by_op[OP_DISCARD], d->by_op[OP_ZEROES], d->idle);
	if (plain)
		return;
	disk_drain(d);
	if (disk_random(d, 2)) {
		d->step = "reset-queue";
		reset_queue(d);
		work(d, 200, false);
	}
	d->step = "reset-busy";
	reset_busy(d);
	way = (unsigned int)(d->passes % 4);
	set_up(d, (way & 1 ? F_EVENT_IDX : 0) | (way & 2 ? F_INDIRECT : 0));
}

static void begin(struct disk *d)
{
	uint64_t use = option_number("use_mib", 8) << 8;

	time_init();
	lapic_enable();
	lapic_write(LAPIC_TDCR, 0x3);
	lapic_write(LAPIC_LVTT, 0x40);
	pci_init();
	d->step = "find";
	if (!virtio_find(&d->dev, (unsigned int)option_number("slot", 1)) || d->dev.type != 2 ||
	    !d->dev.config)
		disk_bad(d, "no disk");
	d->sectors = capacity(d);
	d->blocks = (uint32_t)(d->sectors / BLOCK_SECTORS < use ? d->sectors / BLOCK_SECTORS : use);
	if (!disk_take(d))
		disk_bad(d, "no memory");
	if (!option_is("first", "zero"))
		for (uint32_t b = 0; b < d->blocks; b++)
			d->gens[b] = GEN_UNKNOWN;
	irq_enable();
	set_up(d, 0);
}

void guest_main(void)
{
	struct disk *d = &disk;
	uint64_t passes = option_number("passes", 0), requests = option_number("requests", 3000);
	bool plain = option_is("plain", "on");

	d->queues = (unsigned int)option_number("queues", 1);
	d->size = (unsigned int)option_number("size", 64);
	d->depth = (unsigned int)option_number("depth", 32);
	d->most_blocks = (unsigned int)option_number("blocks", 8);
	d->random = option_number("seed", 1) * 0x9e3779b97f4a7c15u;
	d->readonly = option_is("readonly", "on");
	d->errors_ok = option_is("errors", "on");
	begin(d);
	print("disk: ready sectors=%lu queues=%u size=%u features=%lx\n", d->sectors, d->queues,
	      d->size, d->features);
	do {
		pass(d, requests, plain);
	} while (d->passes != passes && !power_button());
	disk_drain(d);
	read_all(d);
	print("disk: done requests=%lu errors=%lu\n", d->requests, d->errors);
}
