/* SPDX-License-Identifier: MIT */
/*
 * The CMOS clock: a Motorola MC146818 with 128 bytes of CMOS at ports 0x70 (index) and 0x71 (data),
 * IRQ 8. It keeps UTC; the century is at 0x32, as the FADT says.
 *
 * Theory of operation
 *
 * Nothing ticks. Guest time is the host's CLOCK_REALTIME plus an offset, both counted in the chip's
 * own ticks of 1/32768 s since the year 0; time registers are computed when they are read. `last`
 * is the guest time up to which updates, alarms and periods were accounted for in the flags of
 * register C. rtc_advance() moves it on; it is called before anything that looks at the flags or
 * changes what they depend on.
 *
 * A timer runs only while an interrupt is enabled whose flag is not up yet, to the first tick after
 * `last` that would raise it. Since it counts from `last`, and not from now, it expires at once for
 * what fell into a pause or was skipped by a step of the host's clock: no alarm is lost.
 *
 * While register B's SET is on, or the divider is held in reset (register A), the time is frozen:
 * the registers are plain bytes. When it thaws, and only if they were written, they become the new
 * time by changing the offset. Where the divider was in reset, the first update comes half a second
 * later.
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

#include "rtc_clock.h"
#include "rtc_time.h"

#define RTC_BASE 0x70
#define RTC_LEN 2
#define RTC_IRQ 8
#define UIP_TICKS 8 /* UIP is up 244 us before an update */

struct rtc {
	struct device dev;
	struct rtc_guest guest;
	struct {
		struct irq_line irq;
		struct loop_source source;
		int timer;
	} host;
};

static const struct vmstate_field rtc_fields[] = {
	VMSTATE_U64(struct rtc_guest, offset),     VMSTATE_U64(struct rtc_guest, last),
	VMSTATE_U8_ARRAY(struct rtc_guest, cmos),  VMSTATE_U8(struct rtc_guest, index),
	VMSTATE_U8(struct rtc_guest, reg_a),       VMSTATE_U8(struct rtc_guest, reg_b),
	VMSTATE_U8(struct rtc_guest, reg_c),       VMSTATE_U8(struct rtc_guest, weekday_shift),
	VMSTATE_BOOL(struct rtc_guest, frozen),    VMSTATE_BOOL(struct rtc_guest, time_set),
	VMSTATE_BOOL(struct rtc_guest, irq_level), VMSTATE_END
};

static const struct vmstate rtc_vmstate = {
	.name = "rtc",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct rtc_guest),
	.fields = rtc_fields,
};

static struct rtc *to_rtc(struct device *dev)
{
	return container_of(dev, struct rtc, dev);
}

/* ---- interrupt and timer ---- */

static void update_irq(struct rtc *r)
{
	r->guest.irq_level = r->guest.reg_b & r->guest.reg_c & C_FLAGS;
	irq_line_set(&r->host.irq, r->guest.irq_level);
}

/*
 * CANCEL_ON_SET: a step of the host's clock wakes us to look at the new time.
 * #syscalls vcpu: timerfd_settime
 */
static int set_timer(const struct rtc *r)
{
	uint64_t next = rtc_next_event(&r->guest);
	int flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET;
	struct itimerspec its = { 0 };
	uint64_t host, seconds;

	if (next != RTC_NEVER) {
		host = next - r->guest.offset;
		seconds = host >> TICKS_SHIFT;
		seconds = seconds > RTC_UNIX_EPOCH ? seconds - RTC_UNIX_EPOCH : 0;
		its.it_value.tv_sec = (time_t)seconds;
		/* Rounded up, or it would be a moment too early; and 0 would mean never. */
		its.it_value.tv_nsec = (long)((host & TICKS_MASK) * 1000000000u >> TICKS_SHIFT) + 1;
	}
	return timerfd_settime(r->host.timer, flags, &its, NULL);
}

/* A step that came after the look at the clock is told here, and then does not wake us. */
static void arm(struct rtc *r)
{
	int rc = set_timer(r);

	for (; rc < 0 && errno == ECANCELED; rc = set_timer(r)) {
		rtc_advance(&r->guest, rtc_now(&r->guest));
		update_irq(r);
	}
	if (rc < 0)
		log_error("rtc: cannot set the timer: %s", error_text(errno));
}

static void on_timer(void *opaque, uint32_t events)
{
	struct rtc *r = opaque;
	uint64_t count;
	ssize_t n;

	(void)events;
	/* ECANCELED or a count: either way time has passed. */
	n = read(r->host.timer, &count, sizeof(count));
	if (n < 0 && errno == EAGAIN)
		return;
	pthread_mutex_lock(&r->dev.lock);
	rtc_advance(&r->guest, rtc_now(&r->guest));
	update_irq(r);
	arm(r);
	pthread_mutex_unlock(&r->dev.lock);
}

/* ---- registers ---- */

static uint8_t read_a(const struct rtc_guest *g)
{
	bool soon = (rtc_now(g) & TICKS_MASK) >= TICKS_PER_SECOND - UIP_TICKS;

	return g->reg_a | (uint8_t)(!g->frozen && soon ? A_UIP : 0);
}

/* Reading takes the flags, and the interrupt, back. */
static uint8_t read_c(struct rtc *r)
{
	struct rtc_guest *g = &r->guest;
	uint8_t flags;

	rtc_advance(g, rtc_now(g));
	flags = g->reg_c | (uint8_t)(g->reg_c & g->reg_b & C_FLAGS ? C_IRQF : 0);
	g->reg_c = 0;
	update_irq(r);
	arm(r);
	return flags;
}

static uint8_t read_data(struct rtc *r)
{
	struct rtc_guest *g = &r->guest;

	switch (g->index) {
	case REG_A:
		return read_a(g);
	case REG_B:
		return g->reg_b;
	case REG_C:
		return read_c(r);
	case REG_D:
		return D_VALID;
	default:
		if (rtc_is_time(g->index) && !g->frozen)
			return rtc_time_register(g, rtc_now(g), g->index);
		return g->cmos[g->index];
	}
}

static void write_data(struct rtc *r, uint8_t value)
{
	struct rtc_guest *g = &r->guest;
	uint64_t now = rtc_now(g);

	rtc_advance(g, now);
	switch (g->index) {
	case REG_A:
		rtc_set_control(g, now, value & (uint8_t)~A_UIP, g->reg_b);
		break;
	case REG_B:
		/* The datasheet: SET going high clears UIE. */
		rtc_set_control(g, now, g->reg_a, value & B_SET ? value & (uint8_t)~B_UIE : value);
		break;
	case REG_C:
	case REG_D:
		break;
	default:
		if (rtc_is_time(g->index))
			rtc_set_time(g, now, value);
		else
			g->cmos[g->index] = value;
		break;
	}
	update_irq(r);
	arm(r);
}

/* The index cannot be read back, as on a PC. */
static uint64_t rtc_read(struct device *dev, uint64_t offset, unsigned int size)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < size; i++)
		value |= (uint64_t)(offset + i ? read_data(to_rtc(dev)) : 0xff) << (8 * i);
	return value;
}

static void rtc_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct rtc *r = to_rtc(dev);

	for (unsigned int i = 0; i < size; i++) {
		uint8_t byte = (uint8_t)(value >> (8 * i));

		/* Bit 7 of the index port masks NMI, which nothing here raises. */
		if (offset + i == 0)
			r->guest.index = byte % CMOS_BYTES;
		else
			write_data(r, byte);
	}
}

/* ---- life ---- */

static int rtc_create(struct device *dev, const struct device_env *env, struct error *err)
{
	struct rtc *r = to_rtc(dev);
	int rc;

	r->host.timer = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
	if (r->host.timer < 0)
		return err_sys(err, errno, "rtc: cannot make a timer");
	rc = loop_add_going_on(env->loop, &r->host.source, r->host.timer, EPOLLIN, on_timer, r);
	if (rc) {
		fd_close(&r->host.timer);
		return err_sys(err, -rc, "rtc: cannot wait for the timer");
	}
	return 0;
}

static int rtc_attach(struct device *dev, struct error *err)
{
	(void)err;
	irq_line_init(&to_rtc(dev)->host.irq, &dev->machine->vm, RTC_IRQ, false);
	return 0;
}

/*
 * The battery keeps time and CMOS. A guest that died while it set the time would leave the clock
 * stopped; firmware would start it again, so that is done here.
 */
static void rtc_reset(struct device *dev)
{
	struct rtc *r = to_rtc(dev);
	struct rtc_guest *g = &r->guest;

	g->index = 0;
	g->reg_a = A_POWER_ON;
	g->reg_b = B_POWER_ON;
	g->reg_c = 0;
	g->frozen = false;
	g->time_set = false;
	g->last = rtc_now(g);
	update_irq(r);
	arm(r);
}

static int rtc_quiesce(struct device *dev, struct error *err)
{
	struct itimerspec off = { 0 };

	(void)err;
	timerfd_settime(to_rtc(dev)->host.timer, 0, &off, NULL);
	return 0;
}

/* The host's clock may have been set back in the pause: nothing waits until it has caught up. */
static void account_from_now(struct rtc_guest *g)
{
	uint64_t now = rtc_now(g);

	if (now < g->last)
		g->last = now;
}

static void rtc_resume(struct device *dev)
{
	struct rtc *r = to_rtc(dev);

	account_from_now(&r->guest);
	arm(r);
}

static int rtc_post_load(struct device *dev, struct error *err)
{
	struct rtc *r = to_rtc(dev);
	struct rtc_guest *g = &r->guest;

	if (g->index >= CMOS_BYTES || (g->reg_a & A_UIP) || (g->reg_c & ~C_FLAGS) ||
	    g->weekday_shift > 6 || g->frozen != rtc_is_frozen(g->reg_a, g->reg_b))
		return err_set(err, EINVAL,
			       "rtc: impossible registers: index %#x, A %#x, B %#x, "
			       "C %#x, weekday %u",
			       g->index, g->reg_a, g->reg_b, g->reg_c, g->weekday_shift);
	account_from_now(g);
	irq_line_restore(&r->host.irq, g->irq_level);
	update_irq(r);
	arm(r);
	return 0;
}

static void rtc_destroy(struct device *dev)
{
	struct rtc *r = to_rtc(dev);

	loop_del(&r->host.source);
	fd_close(&r->host.timer);
}

static const struct bus_region rtc_regions[] = {
	{
		.kind = BUS_PIO,
		.base = RTC_BASE,
		.len = RTC_LEN,
		.read = rtc_read,
		.write = rtc_write,
	},
};

const struct device_class rtc_class = {
	.name = "rtc",
	.since = 1,
	.board = 1,
	.size = sizeof(struct rtc),
	.guest_offset = offsetof(struct rtc, guest),
	.guest_size = sizeof(struct rtc_guest),
	.state = &rtc_vmstate,
	.regions = rtc_regions,
	.nregions = ARRAY_SIZE(rtc_regions),
	.create = rtc_create,
	.attach = rtc_attach,
	.reset = rtc_reset,
	.quiesce = rtc_quiesce,
	.resume = rtc_resume,
	.serve = rtc_resume,
	.post_load = rtc_post_load,
	.destroy = rtc_destroy,
};
