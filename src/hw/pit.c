/* SPDX-License-Identifier: MIT */
/*
 * The 8254 timer at ports 0x40 to 0x43, and port B at 0x61, which holds the gate of channel 2 and
 * its output.
 *
 * Theory of operation
 *
 * Nothing counts. A channel is its mode, its count and when that was loaded, in CLOCK_MONOTONIC,
 * which an update does not change: so the phase of each stays. KVM has such a timer, too, but one
 * that shows to nobody when channel 0 began, and begins anew with all channels when its state is
 * set.
 *
 * Channel 0 interrupts. `ticks` is how many of its interrupts were handed on, and a timer runs to
 * the next. One that finds its predecessor still waiting in the interrupt controller is handed on
 * later, as KVM does it: a guest that counts them to know the time finds them all. But a guest
 * that did not run for long is not flooded, and where the line is masked nobody waits for them.
 *
 * As in KVM, and unlike the chip: the gate of channel 2 does not stop modes 0 and 4, BCD counts as
 * binary, and channel 0 makes at most 5000 interrupts a second.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#include "pit_counter.h"

#define PIT_BASE 0x40
#define PIT_CONTROL 3
#define PORT_B 0x61
#define PIT_IRQ 0

#define CHANNELS 3
#define NO_MODE 0xff /* nothing was programmed yet */
#define READ_BACK 3
#define ACCESS_LOW 1
#define ACCESS_HIGH 2
#define ACCESS_WORD 3 /* low, then high */
#define ACCESS_WORD_HIGH 4
#define B_GATE 1
#define B_SPEAKER 2
#define B_REFRESH_SHIFT 4
#define B_OUT_SHIFT 5
#define SPEAKER_ON ((uint32_t)KVM_PIT_FLAGS_SPEAKER_DATA_ON)
#define REFRESH_NS_SHIFT 14 /* toggles about every 15 us */

#define TICKS_UNKNOWN UINT64_MAX       /* from a molt that left channel 0 to KVM */
#define TICKS_STOPPED (UINT64_MAX - 1) /* a mode was set, and no count yet */
#define MAX_BEHIND 100
#define CATCH_UP_NS 1000000u
#define LONGEST_WAIT_NS 1000000000u

struct pit_guest {
	struct kvm_pit_channel_state channels[CHANNELS];
	uint32_t flags; /* SPEAKER_ON */
	uint8_t reserved[4];
	uint64_t ticks;
};

struct pit {
	struct device dev;
	struct pit_guest guest;
	struct {
		struct irq_line irq;
		struct loop_source source;
		int timer;
		uint64_t wait_ns; /* until one that was not taken is tried again */
	} host;
};

#define CHANNEL_(n) \
	VMSTATE_U32(struct pit_guest, channels[n].count), \
		VMSTATE_U16(struct pit_guest, channels[n].latched_count), \
		VMSTATE_U8(struct pit_guest, channels[n].count_latched), \
		VMSTATE_U8(struct pit_guest, channels[n].status_latched), \
		VMSTATE_U8(struct pit_guest, channels[n].status), \
		VMSTATE_U8(struct pit_guest, channels[n].read_state), \
		VMSTATE_U8(struct pit_guest, channels[n].write_state), \
		VMSTATE_U8(struct pit_guest, channels[n].write_latch), \
		VMSTATE_U8(struct pit_guest, channels[n].rw_mode), \
		VMSTATE_U8(struct pit_guest, channels[n].mode), \
		VMSTATE_U8(struct pit_guest, channels[n].bcd), \
		VMSTATE_U8(struct pit_guest, channels[n].gate), \
		VMSTATE_SCALAR_(struct pit_guest, channels[n].count_load_time, signed long long, \
				FIELD_U64, 0, 0)

static const struct vmstate_field pit_fields[] = {
	CHANNEL_(0),
	CHANNEL_(1),
	CHANNEL_(2),
	VMSTATE_U32(struct pit_guest, flags),
	VMSTATE_UNSAVED(struct pit_guest, reserved, "padding"),
	VMSTATE_SCALAR_(struct pit_guest, ticks, uint64_t, FIELD_U64,
			VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, TICKS_UNKNOWN),
	VMSTATE_END
};

static const struct vmstate pit_vmstate = {
	.name = "pit",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct pit_guest),
	.fields = pit_fields,
};

static struct pit *to_pit(struct device *dev)
{
	return container_of(dev, struct pit, dev);
}

/* ---- channel 0's interrupt ---- */

/* 0: not before it is armed again. */
static void arm_at(struct pit *p, uint64_t ns)
{
	const struct itimerspec its = { .it_value = ns_to_timespec(ns) };

	if (timerfd_settime(p->host.timer, TFD_TIMER_ABSTIME, &its, NULL) < 0)
		log_error("pit: cannot set the timer: %s", error_text(errno));
}

static void arm(struct pit *p)
{
	uint64_t due = PIT_NEVER;

	if (p->guest.ticks < TICKS_STOPPED)
		due = pit_counter_due(&p->guest.channels[0], p->guest.ticks + 1);
	arm_at(p, due == PIT_NEVER ? 0 : due);
}

/* Two in a period, where periods are short: or what is behind would stay so for ever. */
static uint64_t catch_up_ns(const struct kvm_pit_channel_state *c, uint64_t due)
{
	uint64_t half = (pit_counter_due(c, due + 1) - pit_counter_due(c, due)) / 2;

	return half < CATCH_UP_NS ? half : CATCH_UP_NS;
}

/* Hands one on, if one is due. */
static void tick(struct pit *p)
{
	struct pit_guest *g = &p->guest;
	const struct kvm_pit_channel_state *c = &g->channels[0];
	uint64_t now = now_ns(), due, next;
	int accepted;

	due = g->ticks < TICKS_STOPPED ? pit_counter_ticks(c, now) : 0;
	if (!due || g->ticks >= due) {
		arm(p);
		return;
	}
	if (due - g->ticks > MAX_BEHIND)
		g->ticks = due - MAX_BEHIND;
	accepted = irq_line_pulse(&p->host.irq);
	if (accepted > 0)
		g->ticks++;
	else if (accepted < 0)
		g->ticks = due;
	if (g->ticks == due) {
		arm(p);
		return;
	}
	/* More and more seldom, for a guest that has its interrupts disabled for good. */
	p->host.wait_ns = accepted > 0 ? catch_up_ns(c, due) : 2 * p->host.wait_ns;
	next = pit_counter_due(c, due + 1);
	if (p->host.wait_ns > LONGEST_WAIT_NS)
		p->host.wait_ns = LONGEST_WAIT_NS;
	if (next > now + p->host.wait_ns)
		next = now + p->host.wait_ns;
	arm_at(p, next);
}

static void on_timer(void *opaque, uint32_t events)
{
	struct pit *p = opaque;
	uint64_t count;

	(void)events;
	if (read(p->host.timer, &count, sizeof(count)) < 0)
		return; /* set anew meanwhile */
	pthread_mutex_lock(&p->dev.lock);
	tick(p);
	pthread_mutex_unlock(&p->dev.lock);
}

/* ---- registers ---- */

static void load_count(struct pit *p, unsigned int channel, uint32_t count)
{
	struct kvm_pit_channel_state *c = &p->guest.channels[channel];

	c->count = count ? count : PIT_MAX_COUNT;
	c->count_load_time = (int64_t)now_ns();
	if (channel)
		return;
	p->guest.ticks = 0;
	arm(p);
}

static void latch_count(struct kvm_pit_channel_state *c)
{
	if (c->count_latched)
		return;
	c->latched_count = pit_counter_value(c, now_ns());
	c->count_latched = c->rw_mode;
}

static void latch_status(struct kvm_pit_channel_state *c)
{
	if (c->status_latched)
		return;
	c->status = (uint8_t)(pit_counter_out(c, now_ns()) << 7 | c->rw_mode << 4 | c->mode << 1 |
			      c->bcd);
	c->status_latched = 1;
}

static void read_back(struct pit *p, uint8_t value)
{
	for (unsigned int i = 0; i < CHANNELS; i++) {
		if (!(value & (2 << i)))
			continue;
		if (!(value & 0x20))
			latch_count(&p->guest.channels[i]);
		if (!(value & 0x10))
			latch_status(&p->guest.channels[i]);
	}
}

static void write_control(struct pit *p, uint8_t value)
{
	unsigned int channel = value >> 6;
	struct kvm_pit_channel_state *c = &p->guest.channels[channel % CHANNELS];
	uint8_t access = (value >> 4) & 3;

	if (channel == READ_BACK) {
		read_back(p, value);
		return;
	}
	if (!access) {
		latch_count(c);
		return;
	}
	c->rw_mode = c->read_state = c->write_state = access;
	c->mode = (value >> 1) & 7;
	if (c->mode > 5) /* bit 2 counts for nothing in modes 2 and 3 */
		c->mode -= 4;
	c->bcd = value & 1;
	if (channel)
		return;
	p->guest.ticks = TICKS_STOPPED;
	arm(p);
}

static void write_count(struct pit *p, unsigned int channel, uint8_t value)
{
	struct kvm_pit_channel_state *c = &p->guest.channels[channel];

	switch (c->write_state) {
	case ACCESS_WORD:
		c->write_latch = value;
		c->write_state = ACCESS_WORD_HIGH;
		break;
	case ACCESS_WORD_HIGH:
		c->write_state = ACCESS_WORD;
		load_count(p, channel, c->write_latch | (uint32_t)value << 8);
		break;
	case ACCESS_HIGH:
		load_count(p, channel, (uint32_t)value << 8);
		break;
	default:
		load_count(p, channel, value);
		break;
	}
}

static uint8_t read_latched(struct kvm_pit_channel_state *c)
{
	uint8_t access = c->count_latched;

	c->count_latched = access == ACCESS_WORD ? ACCESS_HIGH : 0;
	return (uint8_t)(access == ACCESS_HIGH ? c->latched_count >> 8 : c->latched_count);
}

static uint8_t read_count(struct kvm_pit_channel_state *c)
{
	uint16_t value;
	bool high = c->read_state == ACCESS_HIGH || c->read_state == ACCESS_WORD_HIGH;

	if (c->status_latched) {
		c->status_latched = 0;
		return c->status;
	}
	if (c->count_latched)
		return read_latched(c);
	value = pit_counter_value(c, now_ns());
	if (c->read_state == ACCESS_WORD)
		c->read_state = ACCESS_WORD_HIGH;
	else if (c->read_state == ACCESS_WORD_HIGH)
		c->read_state = ACCESS_WORD;
	return (uint8_t)(high ? value >> 8 : value);
}

/* A wide access is one to the register that it begins with. */
static uint64_t pit_read(struct device *dev, uint64_t offset, unsigned int size)
{
	(void)size;
	return offset == PIT_CONTROL ? 0 : read_count(&to_pit(dev)->guest.channels[offset]);
}

static void pit_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	(void)size;
	if (offset == PIT_CONTROL)
		write_control(to_pit(dev), (uint8_t)value);
	else
		write_count(to_pit(dev), (unsigned int)offset, (uint8_t)value);
}

static uint64_t port_b_read(struct device *dev, uint64_t offset, unsigned int size)
{
	const struct pit_guest *g = &to_pit(dev)->guest;
	const struct kvm_pit_channel_state *c = &g->channels[2];
	uint64_t now = now_ns();

	(void)offset;
	(void)size;
	return (c->gate ? B_GATE : 0u) | (g->flags & SPEAKER_ON ? B_SPEAKER : 0u) |
	       ((now >> REFRESH_NS_SHIFT) & 1) << B_REFRESH_SHIFT |
	       (uint64_t)pit_counter_out(c, now) << B_OUT_SHIFT;
}

static void port_b_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct pit_guest *g = &to_pit(dev)->guest;
	struct kvm_pit_channel_state *c = &g->channels[2];
	bool gate = value & B_GATE;

	(void)offset;
	(void)size;
	if (value & B_SPEAKER)
		g->flags |= SPEAKER_ON;
	else
		g->flags &= ~SPEAKER_ON;
	if (gate && !c->gate && c->mode != 0 && c->mode != 4)
		c->count_load_time = (int64_t)now_ns();
	c->gate = gate;
}

/* ---- life ---- */

static int pit_create(struct device *dev, const struct device_env *env, struct error *err)
{
	struct pit *p = to_pit(dev);
	int r;

	p->host.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (p->host.timer < 0)
		return err_sys(err, errno, "pit: cannot make a timer");
	r = loop_add_going_on(env->loop, &p->host.source, p->host.timer, EPOLLIN, on_timer, p);
	if (r) {
		fd_close(&p->host.timer);
		return err_sys(err, -r, "pit: cannot wait for the timer");
	}
	return 0;
}

static int pit_attach(struct device *dev, struct error *err)
{
	(void)err;
	irq_line_init(&to_pit(dev)->host.irq, &dev->machine->vm, PIT_IRQ, false);
	to_pit(dev)->host.wait_ns = CATCH_UP_NS;
	return 0;
}

static void pit_reset(struct device *dev)
{
	struct pit *p = to_pit(dev);

	memset(&p->guest, 0, sizeof(p->guest));
	for (unsigned int i = 0; i < CHANNELS; i++) {
		p->guest.channels[i].mode = NO_MODE;
		p->guest.channels[i].gate = i != 2;
		load_count(p, i, 0);
	}
}

static int pit_quiesce(struct device *dev, struct error *err)
{
	(void)err;
	arm_at(to_pit(dev), 0);
	return 0;
}

/* What fell into the pause is due at once. */
static void pit_resume(struct device *dev)
{
	tick(to_pit(dev));
}

/* More than there was time for nobody has handed on: the next one would be due before now, always. */
static void limit_ticks(struct pit_guest *g)
{
	uint64_t most = pit_counter_ticks(&g->channels[0], now_ns());

	if (g->ticks < TICKS_STOPPED && g->ticks > most)
		g->ticks = most;
}

static int pit_post_load(struct device *dev, struct error *err)
{
	struct pit_guest *g = &to_pit(dev)->guest;

	for (unsigned int i = 0; i < CHANNELS; i++)
		if (!g->channels[i].count || g->channels[i].count > PIT_MAX_COUNT)
			return err_set(err, EINVAL, "pit: impossible count %u of channel %u",
				       g->channels[i].count, i);
	if (g->ticks == TICKS_UNKNOWN) {
		g->channels[0].count_load_time = (int64_t)now_ns();
		g->ticks = 0;
	}
	limit_ticks(g);
	return 0;
}

static void pit_destroy(struct device *dev)
{
	struct pit *p = to_pit(dev);

	loop_del(&p->host.source);
	fd_close(&p->host.timer);
}

static const struct bus_region pit_regions[] = {
	{ .kind = BUS_PIO, .base = PIT_BASE, .len = 4, .read = pit_read, .write = pit_write },
	{ .kind = BUS_PIO, .base = PORT_B, .len = 1, .read = port_b_read, .write = port_b_write },
};

const struct device_class pit_class = {
	.name = "pit",
	.since = 1,
	.board = 1,
	.size = sizeof(struct pit),
	.guest_offset = offsetof(struct pit, guest),
	.guest_size = sizeof(struct pit_guest),
	.state = &pit_vmstate,
	.regions = pit_regions,
	.nregions = ARRAY_SIZE(pit_regions),
	.create = pit_create,
	.attach = pit_attach,
	.reset = pit_reset,
	.quiesce = pit_quiesce,
	.resume = pit_resume,
	.serve = pit_resume,
	.post_load = pit_post_load,
	.destroy = pit_destroy,
};
