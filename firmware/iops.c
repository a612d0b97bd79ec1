/* SPDX-License-Identifier: MIT */
/*
 * iops: how many requests a virtio disk does, and how long it stands still. A phase is some time
 * with the same kind of requests, always as many in flight: random or sequential, reads or writes.
 * By default it runs those of its table and says of each
 *
 *	iops: NAME requests=N ns=T kicks=K interrupts=I slowest_ns=L errors=E
 *
 * With `run=asked` it does what its mailbox (iops.h) asks for, which whoever measures finds in
 * guest RAM: so nothing but requests leaves the guest. It takes nothing that is molt's own:
 * features are those that every device has, registers are where the capabilities say, on any slot.
 *
 * Options: run=asked, disk=none (with it: nothing but the TSC is read), slot=N (0: the first disk),
 * queues=1, size=128 (of each), ms=500 (of a phase), sleep=on (waits for interrupts).
 */
#include "iops.h"
#include "lib/guest.h"
#include "lib/virtio.h"

#define TYPE_BLOCK 2
#define QUEUES_MAX 64
#define SLOTS_MAX 1024
#define DATA_BYTES (32u << 20)
#define VEC_TICK 0x40
#define VEC_QUEUE 0x60
#define TICK_US 1000
#define IDLE_US 5000 /* between two looks at the mailbox */

#define BLOCK_IN 0
#define BLOCK_OUT 1
#define SECTOR 512u

struct slot {
	struct {
		uint32_t type, reserved;
		uint64_t sector;
	} header;
	uint8_t *data;
	uint64_t began;
	uint8_t status;
};

struct work {
	volatile struct iops_mailbox *m;
	struct iops_phase p;
	struct virtq *q; /* all of them */
	struct slot *slots;
	uint64_t blocks; /* of the disk, each as large as a request */
	uint64_t next;   /* sequential */
	uint64_t random;
	uint64_t last, last_io;
	unsigned int in_flight;
	bool ending;
};

static struct iops_mailbox mailbox __attribute__((aligned(4096))) = { .magic = IOPS_MAGIC };
static struct virtio disk;
static struct virtq queues[QUEUES_MAX];
static struct slot slots[SLOTS_MAX];
static uint8_t *data;

static void fail(const char *what)
{
	print("iops: FAILED %s\n", what);
	power_off();
}

/* ------------------------------------------------------------------ requests */

static uint64_t next_block(struct work *w)
{
	if (w->p.sequential)
		return w->next++ % w->blocks;
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return (w->random >> 32) * w->blocks >> 32;
}

static void submit(struct work *w, struct virtq *q, struct slot *s)
{
	const struct virtq_segment segments[] = {
		{ &s->header, sizeof(s->header), false },
		{ s->data, (uint32_t)w->p.bytes, !w->p.write },
		{ &s->status, 1, true },
	};

	s->header.type = w->p.write ? BLOCK_OUT : BLOCK_IN;
	s->header.sector = next_block(w) * (w->p.bytes / SECTOR);
	s->status = 0xee;
	s->began = rdtsc();
	if (!virtq_add(q, segments, ARRAY_SIZE(segments), q->dev->features & F_INDIRECT,
		       (uint64_t)(s - w->slots)))
		fail("a queue has no room");
	w->in_flight++;
}

static void finish(struct work *w, struct slot *s)
{
	uint64_t took = rdtsc() - s->began;

	w->in_flight--;
	if (s->status)
		w->p.errors++;
	if (w->ending)
		return;
	w->p.requests++;
	if (took > w->p.slowest)
		w->p.slowest = took;
}

/* Takes what is done, and does as many again. How many. */
static unsigned int serve_queue(struct work *w, struct virtq *q)
{
	unsigned int n = 0;
	uint64_t cookie;
	uint32_t length;

	while (virtq_done(q, &cookie, &length)) {
		if (cookie >= SLOTS_MAX)
			fail("a head that was not in use");
		finish(w, &w->slots[cookie]);
		if (!w->ending)
			submit(w, q, &w->slots[cookie]);
		n++;
	}
	if (q->published != q->next_avail) {
		virtq_publish(q);
		virtq_kick(q);
	}
	return n;
}

/* ------------------------------------------------------------------ a phase */

static void look_at_clock(struct work *w, bool done)
{
	volatile struct iops_mailbox *m = w->m;
	uint64_t now = rdtsc();

	if (now - w->last > m->gap) {
		m->gap = now - w->last;
		m->gap_end = now;
	}
	w->last = m->now = now;
	if (done) {
		if (now - w->last_io > m->io_gap) {
			m->io_gap = now - w->last_io;
			m->io_gap_end = now;
		}
		w->last_io = m->io_last = now;
	}
	if (m->reset != m->reset_done) {
		m->gap = m->gap_end = m->io_gap = m->io_gap_end = 0;
		m->reset_done = m->reset;
	}
}

static uint64_t interrupts(void)
{
	return this_cpu()->irq_count[VEC_QUEUE];
}

/* Until a queue interrupts. The timer wakes it in any case. */
static void sleep_for(struct work *w, uint64_t us)
{
	const volatile uint64_t *ticks = &this_cpu()->irq_count[VEC_TICK];
	uint64_t seen = *ticks, was = interrupts();
	bool done = false;

	for (unsigned int i = 0; i < w->p.queues; i++) {
		virtq_interrupt_after(&w->q[i], 0);
		done |= virtq_has_done(&w->q[i]);
	}
	if (done)
		return;
	irq_disable();
	lapic_write(LAPIC_TMICT, (uint32_t)(lapic_khz / 16 * us / 1000));
	if (interrupts() == was)
		halt_unless(ticks, seen);
	irq_enable();
}

static void begin(struct work *w)
{
	unsigned int n = (unsigned int)(w->p.depth * w->p.queues);

	if (w->p.queues > QUEUES_MAX || n > SLOTS_MAX || n * w->p.bytes > DATA_BYTES)
		fail("a phase of too many requests");
	if (n)
		w->blocks = w->m->sectors * SECTOR / w->p.bytes;
	for (unsigned int i = 0; i < w->p.queues; i++)
		virtq_no_interrupt(&w->q[i]);
	for (unsigned int i = 0; i < n; i++) {
		w->slots[i].data = data + i * w->p.bytes;
		submit(w, &w->q[i % w->p.queues], &w->slots[i]);
	}
	for (unsigned int i = 0; i < w->p.queues; i++)
		w->p.kicks -= w->q[i].kicks;
	w->p.interrupts -= interrupts();
	w->last = w->last_io = rdtsc();
}

static void end(struct work *w)
{
	w->ending = true;
	while (w->in_flight)
		for (unsigned int i = 0; i < w->p.queues; i++)
			serve_queue(w, &w->q[i]);
}

static void run_phase(volatile struct iops_mailbox *m, struct iops_phase *phase)
{
	struct work w = { .m = m, .p = *phase, .q = queues, .slots = slots };
	uint64_t began, until;

	w.random = rdtsc() | 1;
	begin(&w);
	began = w.last;
	until = began + us_to_tsc(w.p.ms * 1000);
	while ((int64_t)(w.last - until) < 0 && !m->stop) {
		unsigned int done = 0;

		for (unsigned int i = 0; i < w.p.queues; i++) {
			unsigned int n = serve_queue(&w, &w.q[i]);

			look_at_clock(&w, n);
			done += n;
		}
		if (!w.p.queues)
			look_at_clock(&w, 0);
		if (!done && w.p.queues && w.p.sleeps)
			sleep_for(&w, TICK_US);
	}
	w.p.ticks = w.last - began;
	for (unsigned int i = 0; i < w.p.queues; i++)
		w.p.kicks += w.q[i].kicks;
	w.p.interrupts += interrupts();
	end(&w);
	*phase = w.p;
}

/* ------------------------------------------------------------------ which phases */

static const struct {
	const char *name;
	struct iops_phase p;
} table[] = {
	{ "read-4k-1", { .bytes = 4096, .depth = 1 } },
	{ "write-4k-1", { .bytes = 4096, .depth = 1, .write = 1 } },
	{ "read-4k-32", { .bytes = 4096, .depth = 32 } },
	{ "write-4k-32", { .bytes = 4096, .depth = 32, .write = 1 } },
	{ "read-1m-4", { .bytes = 1 << 20, .depth = 4, .sequential = 1 } },
	{ "write-1m-4", { .bytes = 1 << 20, .depth = 4, .sequential = 1, .write = 1 } },
};

static uint64_t ticks_to_ns(uint64_t ticks)
{
	return ticks / tsc_khz * 1000000 + ticks % tsc_khz * 1000000 / tsc_khz;
}

static void run_table(void)
{
	for (unsigned int i = 0; i < ARRAY_SIZE(table); i++) {
		struct iops_phase p = table[i].p;

		p.queues = option_number("queues", 1);
		p.ms = option_number("ms", 500);
		p.sleeps = option_is("sleep", "on");
		run_phase(&mailbox, &p);
		print("iops: %s requests=%lu ns=%lu kicks=%lu interrupts=%lu slowest_ns=%lu "
		      "errors=%lu\n",
		      table[i].name, p.requests, ticks_to_ns(p.ticks), p.kicks, p.interrupts,
		      ticks_to_ns(p.slowest), p.errors);
	}
}

static void do_what_is_asked(volatile struct iops_mailbox *m)
{
	struct work idle = { .m = m };

	for (;;) {
		struct iops_phase p = m->phase;

		if (m->ask == m->ask_done) {
			sleep_for(&idle, IDLE_US);
			continue;
		}
		run_phase(m, &p);
		m->phase = p;
		m->stop = 0;
		m->ask_done = m->ask;
	}
}

/* ------------------------------------------------------------------ the device */

static void find_disk(void)
{
	unsigned int slot = (unsigned int)option_number("slot", 0), last = slot;

	if (!slot)
		last = PCI_SLOTS - 1;
	for (; slot <= last; slot++)
		if (virtio_find(&disk, slot) && disk.type == TYPE_BLOCK && disk.config)
			return;
	fail("no disk");
}

static void set_up(unsigned int n, unsigned int size)
{
	/* With FLUSH, as any system's driver: without it a VMM makes each write stable. */
	uint64_t wanted = F_VERSION_1 | F_INDIRECT | F_EVENT_IDX | F_BLK_FLUSH;

	pci_init();
	find_disk();
	data = ram_take(DATA_BYTES, 4096);
	if (!data)
		fail("no memory");
	pci_command(disk.slot, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 0);
	if (n > QUEUES_MAX || !virtio_negotiate(&disk, virtio_offered(&disk) & wanted))
		fail("features are not taken");
	virtio_msix_control(&disk, MSIX_ENABLE);
	for (unsigned int i = 0; i < n; i++) {
		virtio_vector(&disk, 1 + i, VEC_QUEUE, false);
		if (!virtq_take(&queues[i]) || !virtq_setup(&queues[i], &disk, i, size, 1 + i))
			fail("a queue is not taken");
	}
	virtio_driver_ok(&disk);
	mailbox.sectors = virtio_read(&disk, disk.config, 4) |
			  virtio_read(&disk, disk.config + 4, 4) << 32;
	mailbox.features = disk.features;
}

void guest_main(void)
{
	unsigned int n = (unsigned int)option_number("queues", 1);

	mailbox.first = rdtsc();
	time_init();
	mailbox.tsc_khz = tsc_khz;
	lapic_enable();
	lapic_write(LAPIC_TDCR, 0x3);
	lapic_write(LAPIC_LVTT, VEC_TICK);
	if (!option_is("disk", "none"))
		set_up(n, (unsigned int)option_number("size", 128));
	irq_enable();
	print("iops: ready sectors=%lu queues=%u features=%lx\n", mailbox.sectors, n,
	      mailbox.features);
	mailbox.ready = 1;
	if (option_is("run", "asked"))
		do_what_is_asked(&mailbox);
	run_table();
}
