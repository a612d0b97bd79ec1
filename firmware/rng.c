/* SPDX-License-Identifier: MIT */
/*
 * rng: drives a virtio-rng in every way there is, for ever, and verifies what it gets.
 *
 * A pass is each step of rng_steps.c once, in random order, with a line at its end:
 *
 *	rng: pass N requests=R bytes=B irqs=I kicks=K quiet=Q extra=E moves=M resets=D ring_resets=Q
 *
 *	irqs	interrupts that were waited for and came
 *	quiet	notifications that the device did not want
 *	extra	interrupts that nobody wanted: the device may send some, as after an update
 *
 * What is wrong is said in a line "rng: BAD step=S ..." and ends it. A request is wrong where its
 * length is not what it should be, where a byte behind that length or beside the buffer changed,
 * and where its bytes are all equal to those of the request before or to what was there.
 *
 * Options: slot=1, cpus=1 (2: rng_race.c as well), seed=1, passes=0 (then power off; 0: never),
 * step=NAME (this one alone), hold=on (each step stays in its strangest moment until the power
 * button is pressed, and says "rng: hold NAME"). A power button press ends it otherwise.
 */
#include "rng.h"

#define AREA 16384u      /* for each request, with its guard */
#define MOST_BYTES 4096u /* that the device gives at once */
#define FILL 0xa5
#define TIMEOUT_US 20000000

static uint8_t *areas;
static uint64_t last_sample;
static struct {
	uint32_t length;
	uint32_t expected;
} wanted[RNG_QUEUE_MAX];

void rng_bad(const struct rng *r, const char *format, ...)
{
	char line[256];
	va_list args;

	va_start(args, format);
	format_args(line, sizeof(line), format, args);
	va_end(args);
	print("rng: BAD step=%s %s (status=%x features=%lx size=%u requests=%lu)\n", r->step, line,
	      virtio_status(&r->dev), r->dev.features, r->size, r->requests);
	power_off();
}

uint32_t rng_random(struct rng *r, uint32_t below)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return (uint32_t)(r->random >> 32) % below;
}

/* ------------------------------------------------------------------ requests */

static uint8_t *area_of(uint64_t request)
{
	return areas + request * AREA;
}

/* Up to most pieces of one area, one behind the other. */
static unsigned int split(struct rng *r, uint8_t *at, uint32_t length, unsigned int most,
			  struct virtq_segment *out)
{
	unsigned int n = 0;

	while (length) {
		uint32_t piece = n + 1 == most ? length : 1 + rng_random(r, length);

		out[n++] = (struct virtq_segment){ at, piece, true };
		at += piece;
		length -= piece;
	}
	return n;
}

/* others: so many more are to find room behind it. */
static bool add_one(struct rng *r, uint64_t request, unsigned int others)
{
	struct virtq_segment segments[VIRTQ_SEGMENTS];
	uint32_t length = 1 + rng_random(r, r->longest);
	unsigned int n, most = r->indirect ? 16 : r->q.free - others;

	memset(area_of(request), FILL, length + 64);
	n = split(r, area_of(request), length, most < 16 ? most : 16, segments);
	wanted[request].length = length;
	wanted[request].expected = length < MOST_BYTES ? length : MOST_BYTES;
	return virtq_add(&r->q, segments, n, r->indirect, request);
}

void rng_add(struct rng *r, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++)
		if (!add_one(r, i, count - 1 - i))
			rng_bad(r, "no room for request %u", i);
	virtq_publish(&r->q);
	virtq_kick(&r->q);
}

static void verify(struct rng *r, uint64_t request, uint32_t length)
{
	const uint8_t *at = area_of(request);
	uint32_t expected = wanted[request].expected;
	uint64_t sample = 0;

	if (length != expected)
		rng_bad(r, "length=%u expected=%u", length, expected);
	for (uint32_t i = expected; i < wanted[request].length + 64; i++)
		if (at[i] != FILL)
			rng_bad(r, "byte %u of %u changed", i, expected);
	r->bytes += length;
	if (length < 8)
		return;
	memcpy(&sample, at + length - 8, 8);
	if (sample == last_sample || sample == 0xa5a5a5a5a5a5a5a5u || sample == 0)
		rng_bad(r, "no entropy: %lx", sample);
	last_sample = sample;
}

uint64_t rng_irqs(void)
{
	return this_cpu()->irq_count[VEC_RNG];
}

/* In turns asleep, where whatever else comes wakes it, and awake. */
static void wait_irq(struct rng *r, uint64_t before, bool asleep)
{
	const volatile uint64_t *irqs = &this_cpu()->irq_count[VEC_RNG];
	uint64_t end = rdtsc() + us_to_tsc(TIMEOUT_US);

	while (*irqs == before) {
		if ((int64_t)(rdtsc() - end) > 0)
			rng_bad(r, "no interrupt");
		if (asleep) {
			lapic_write(LAPIC_TMICT, 0xffffffff);
			halt_unless(irqs, before);
		}
		cpu_relax();
	}
	r->irqs++;
}

void rng_wait_irq(struct rng *r, uint64_t before)
{
	bool asleep = rng_random(r, 2);

	if (asleep)
		irq_disable();
	wait_irq(r, before, asleep);
	if (asleep)
		irq_enable();
}

void rng_finish(struct rng *r, unsigned int count)
{
	uint64_t end = rdtsc() + us_to_tsc(TIMEOUT_US), request;
	uint32_t length;

	for (unsigned int i = 0; i < count; i++) {
		while (!virtq_done(&r->q, &request, &length))
			if ((int64_t)(rdtsc() - end) > 0)
				rng_bad(r, "%u of %u requests done", i, count);
		if (request >= count)
			rng_bad(r, "a head that was not in use");
		verify(r, request, length);
		r->requests++;
	}
	if (virtq_has_done(&r->q))
		rng_bad(r, "more was done than asked for");
}

void rng_batch(struct rng *r, unsigned int count)
{
	uint64_t before = rng_irqs();

	if (r->polled)
		virtq_no_interrupt(&r->q);
	else
		virtq_interrupt_after(&r->q, count - 1);
	rng_add(r, count);
	if (!r->polled)
		rng_wait_irq(r, before);
	rng_finish(r, count);
	if (r->polled)
		r->extra += rng_irqs() - before;
}

/* ------------------------------------------------------------------ the device */

void rng_start(struct rng *r, uint64_t features, unsigned int size)
{
	r->size = size;
	r->polled = false;
	r->indirect = features & F_INDIRECT;
	if (!virtio_negotiate(&r->dev, features))
		rng_bad(r, "features %lx are not taken", features);
	virtio_msix_control(&r->dev, MSIX_ENABLE);
	virtio_vector(&r->dev, ENTRY, VEC_RNG, false);
	if (!virtq_setup(&r->q, &r->dev, 0, size, ENTRY))
		rng_bad(r, "queue of %u is not taken", size);
	virtio_driver_ok(&r->dev);
	r->resets++;
}

void rng_hold(struct rng *r, const char *name)
{
	if (!r->hold)
		return;
	print("rng: hold %s\n", name);
	while (!power_button())
		for (uint64_t until = rdtsc() + us_to_tsc(300); (int64_t)(rdtsc() - until) < 0;)
			cpu_relax();
}

static void run_step(struct rng *r, const struct rng_step *step)
{
	r->step = step->name;
	step->run(r);
	rng_batch(r, 1 + rng_random(r, r->size));
}

static const struct rng_step *step_named(void)
{
	for (unsigned int i = 0; i < rng_step_count; i++)
		if (option_is("step", rng_steps[i].name))
			return &rng_steps[i];
	return NULL;
}

static void run_pass(struct rng *r, const struct rng_step *only)
{
	unsigned int first = r->hold ? 0 : rng_random(r, rng_step_count);

	for (unsigned int i = 0; i < rng_step_count; i++)
		if (!only || only == &rng_steps[i])
			run_step(r, only ? only : &rng_steps[(i + first) % rng_step_count]);
	print("rng: pass %lu requests=%lu bytes=%lu irqs=%lu kicks=%lu quiet=%lu extra=%lu "
	      "moves=%lu resets=%lu ring_resets=%lu\n",
	      ++r->passes, r->requests, r->bytes, r->irqs, r->q.kicks, r->q.quiet, r->extra,
	      r->moves, r->resets, r->ring_resets);
}

static void begin(struct rng *r)
{
	time_init();
	lapic_enable();
	lapic_write(LAPIC_TDCR, 0x3);
	lapic_write(LAPIC_LVTT, 0x40);
	pci_init();
	areas = ram_take(RNG_QUEUE_MAX * AREA, 4096);
	r->step = "find";
	if (!areas || !virtq_take(&r->q))
		rng_bad(r, "no memory");
	if (!virtio_find(&r->dev, (unsigned int)option_number("slot", 1)) || r->dev.type != 4)
		rng_bad(r, "no virtio-rng");
	irq_enable();
}

void guest_main(void)
{
	static struct rng r = { .longest = 6000 };
	const struct rng_step *only = step_named();
	uint64_t passes = option_number("passes", 0);

	r.random = option_number("seed", 1) * 0x9e3779b97f4a7c15u;
	r.hold = option_is("hold", "on");
	begin(&r);
	rng_start(&r, RNG_FEATURES, RNG_QUEUE_MAX);
	print("rng: ready bar=%lx offered=%lx\n", r.dev.bar, virtio_offered(&r.dev));
	do {
		run_pass(&r, only);
	} while (r.passes != passes && !power_button());
	print("rng: done\n");
}
