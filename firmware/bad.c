/* SPDX-License-Identifier: MIT */
/*
 * bad: a driver that makes no sense. It does each thing of three tables (bad_rings.c,
 * bad_registers.c, bad_config.c) to the virtio device in slot 1 and sees after each:
 *
 * - that the device is as the table says: it needs a reset, or it goes on as if nothing was,
 * - that the device in slot 2 answers,
 * - that after a reset the first one answers, too.
 *
 *	bad: NAME			before each, so that the last line of a run says where it is
 *	bad: hold NAME			with hold=on, behind it, until the power button is pressed
 *	bad: table done entries=N broken=B
 *
 * Then, with rounds=N, a second CPU writes random words over the rings of the first device while
 * this one notifies and resets it (bad_scribble.c).
 *
 * "bad: WRONG NAME ..." ends it. Options: hold=on, one=on entry=NAME (that one alone), every=N
 * first=M (each Nth from the Mth on), seed=1, rounds=0, cpus=1 (2 with rounds).
 */
#include "bad.h"
#include "bad_scribble.h"

#define PATIENCE_US 10000000
#define SLOW_US 200000
#define FILL 0x5a

struct target victim, other;
uint64_t ram_end;
static const struct bad *current;
static uint64_t random_state;
static bool hold;
static unsigned int done, broken;

void bad_fail(const char *format, ...)
{
	char line[256];
	va_list args;

	va_start(args, format);
	format_args(line, sizeof(line), format, args);
	va_end(args);
	print("bad: WRONG %s %s (status=%x)\n", current ? current->name : "", line,
	      virtio_status(&victim.dev));
	power_off();
}

uint32_t bad_random(uint32_t below)
{
	random_state ^= random_state << 13;
	random_state ^= random_state >> 7;
	random_state ^= random_state << 17;
	return (uint32_t)(random_state >> 32) % below;
}

struct virtq_desc *ram_table(void)
{
	static struct virtq_desc table[1024];

	return table;
}

/* ------------------------------------------------------------------ a device */

static bool later(uint64_t end)
{
	cpu_relax();
	return (int64_t)(rdtsc() - end) > 0;
}

void target_start(struct target *t, uint64_t features, unsigned int size)
{
	uint64_t began = rdtsc();

	if (!virtio_reset(&t->dev))
		bad_fail("slot %u is not reset", t->dev.slot);
	/* Not before: a row may leave a reset behind, which takes device_feature_select along. */
	t->features = features & virtio_offered(&t->dev);
	if (rdtsc() - began > us_to_tsc(SLOW_US))
		print("bad: slow reset us=%lu\n", tsc_to_us(rdtsc() - began));
	if (!virtio_negotiate(&t->dev, t->features))
		bad_fail("slot %u does not take features %lx", t->dev.slot, t->features);
	virtio_vector(&t->dev, ENTRY_CONFIG, VEC_CONFIG, false);
	virtio_vector(&t->dev, ENTRY_QUEUE, VEC_CONFIG + 1, true);
	virtio_msix_control(&t->dev, MSIX_ENABLE);
	virtio_write(&t->dev, t->dev.common + COMMON_CONFIG_VECTOR, ENTRY_CONFIG, 2);
	if (!virtq_setup(&t->q, &t->dev, 0, size, ENTRY_QUEUE))
		bad_fail("slot %u does not take a queue of %u", t->dev.slot, size);
	virtio_driver_ok(&t->dev);
}

/* A disk's is a header, a sector and a status byte; another one's 64 bytes. */
static unsigned int request_of(struct target *t, struct virtq_segment *s)
{
	memset(t->buffer, FILL, 4096);
	if (t->dev.type != TYPE_DISK) {
		s[0] = (struct virtq_segment){ t->buffer, 64, true };
		return 1;
	}
	memset(t->buffer, 0, 16); /* IN, sector 0 */
	s[0] = (struct virtq_segment){ t->buffer, 16, false };
	s[1] = (struct virtq_segment){ t->buffer + 512, 512, true };
	s[2] = (struct virtq_segment){ t->buffer + 1024, 1, true };
	return 3;
}

static bool is_good(const struct target *t, uint32_t length)
{
	if (t->dev.type == TYPE_DISK)
		return length == 513 && t->buffer[1024] == 0 && t->buffer[511] == FILL;
	return length == 64 && t->buffer[64] == FILL &&
	       *(uint64_t *)(uintptr_t)(t->buffer + 56) != FILL * 0x0101010101010101u;
}

void target_request(struct target *t)
{
	uint64_t end = rdtsc() + us_to_tsc(PATIENCE_US), cookie;
	struct virtq_segment s[3];
	unsigned int n = request_of(t, s);
	uint32_t length;

	if (!virtq_add(&t->q, s, n, false, 1))
		bad_fail("slot %u: no room", t->dev.slot);
	virtq_publish(&t->q);
	virtq_kick(&t->q);
	while (!virtq_done(&t->q, &cookie, &length))
		if (later(end))
			bad_fail("slot %u does not answer: avail=%u used=%u", t->dev.slot,
				 t->q.published, t->q.last_used);
	if (cookie != 1 || !is_good(t, length))
		bad_fail("slot %u: length=%u", t->dev.slot, length);
	t->done++;
}

void bad_desc(struct target *t, unsigned int i, uint64_t address, uint64_t length,
	      unsigned int flags, unsigned int next)
{
	t->q.desc[i] = (struct virtq_desc){ address, (uint32_t)length, (uint16_t)flags,
					    (uint16_t)next };
}

void bad_go(struct target *t, unsigned int head)
{
	t->q.avail[2 + (t->q.next_avail & (t->q.size - 1))] = (uint16_t)head;
	t->q.next_avail++;
	virtq_publish(&t->q);
	virtq_notify(&t->q);
}

/* ------------------------------------------------------------------ what became of it */

static bool needs_reset(void)
{
	return virtio_status(&victim.dev) & S_NEEDS_RESET;
}

static void must_be_broken(uint64_t irqs)
{
	const volatile uint64_t *now = &this_cpu()->irq_count[VEC_CONFIG];
	uint64_t end = rdtsc() + us_to_tsc(PATIENCE_US);

	while (!needs_reset())
		if (later(end))
			bad_fail("it does not say NEEDS_RESET");
	/* One that was found out before DRIVER_OK is told by the status alone. */
	while (common_read(&victim, COMMON_CONFIG_VECTOR, 2) != NO_VECTOR && *now == irqs)
		if (later(end))
			bad_fail("no configuration interrupt");
	virtq_notify(&victim.q); /* it is deaf now */
	broken++;
}

/* What the driver's side of the queue has to be for another request. */
static void must_work(void)
{
	struct virtq *q = &victim.q;
	uint64_t end = rdtsc() + us_to_tsc(PATIENCE_US);

	while (q->used[1] != q->published)
		if (later(end))
			bad_fail("not done: avail=%u used=%u", q->published, q->used[1]);
	if (needs_reset())
		bad_fail("it says NEEDS_RESET");
	q->last_used = q->published;
	q->free = (uint16_t)q->size;
	q->free_head = 0;
	for (unsigned int i = 0; i < q->size; i++)
		q->desc[i].next = (uint16_t)(i + 1);
	target_request(&victim);
	target_request(&victim);
}

static void wait_for_button(const char *name)
{
	print("bad: hold %s\n", name);
	while (!power_button())
		for (uint64_t end = rdtsc() + us_to_tsc(200); !later(end);)
			;
}

static void run(const struct bad *b)
{
	uint64_t irqs = this_cpu()->irq_count[VEC_CONFIG];

	if (b->only && b->only != victim.dev.type)
		return;
	current = b;
	print("bad: %s\n", b->name);
	target_start(&victim, FEATURES_ALL & ~b->without, BAD_SIZE);
	b->act(&victim);
	if (hold)
		wait_for_button(b->name);
	if (b->outcome == BROKEN)
		must_be_broken(irqs);
	else if (b->outcome == WORKS)
		must_work();
	target_request(&other);
	pci_command(victim.dev.slot, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER, 0);
	pci_bar_write(victim.dev.slot, victim.dev.bar);
	target_start(&victim, FEATURES_ALL, BAD_SIZE);
	target_request(&victim);
	done++;
}

static bool is_wanted(const struct bad *b)
{
	static uint64_t n;

	if (option_is("one", "on"))
		return option_is("entry", b->name);
	return n++ % option_number("every", 1) == option_number("first", 0);
}

static void run_table(const struct bad *table, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		if (is_wanted(&table[i]))
			run(&table[i]);
}

static void find(struct target *t, unsigned int slot)
{
	if (!virtio_find(&t->dev, slot))
		bad_fail("no virtio device in slot %u", slot);
	t->buffer = ram_take(8192, 4096);
	if (!t->buffer || !virtq_take(&t->q))
		bad_fail("no memory");
	target_start(t, FEATURES_ALL, 4);
	target_request(t);
}

void guest_main(void)
{
	time_init();
	lapic_enable();
	pci_init();
	random_state = option_number("seed", 1) * 0x9e3779b97f4a7c15u;
	hold = option_is("hold", "on");
	for (unsigned int i = 0; i < ram_count; i++)
		if (ram[i].end > ram_end && ram[i].end <= 0xc0000000)
			ram_end = ram[i].end;
	find(&victim, 1);
	find(&other, 2);
	irq_enable();
	print("bad: ready ram_end=%lx types=%u,%u\n", ram_end, victim.dev.type, other.dev.type);
	run_table(bad_rings, bad_rings_count);
	run_table(bad_registers, bad_registers_count);
	run_table(bad_config, bad_config_count);
	print("bad: table done entries=%u broken=%u\n", done, broken);
	current = NULL;
	bad_scribble(option_number("rounds", 0));
	print("bad: done answers=%lu,%lu\n", victim.done, other.done);
}
