/* SPDX-License-Identifier: MIT */
/* The CMOS clock as a device, over real time. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>

#include "../../src/hw/rtc_clock.h"
#include "../../src/hw/rtc_time.h"
#include "fake_machine.h"

#define IRQ 8

/* The host's clock, which somebody sets back just before a timer is set. */
static struct {
	time_t back; /* so many seconds */
	time_t next; /* and so many more then */
} host;

int clock_gettime(clockid_t clock, struct timespec *ts)
{
	int r = (int)syscall(SYS_clock_gettime, clock, ts);

	if (clock == CLOCK_REALTIME)
		ts->tv_sec -= host.back;
	return r;
}

/* As in timerfd_create(2): the timer is set all the same, and nothing else tells of the step. */
int timerfd_settime(int fd, int flags, const struct itimerspec *new, struct itimerspec *old)
{
	struct itimerspec its = *new;
	bool stepped = flags & TFD_TIMER_CANCEL_ON_SET && host.next;
	int r;

	if (stepped)
		host.back += host.next;
	if (flags & TFD_TIMER_CANCEL_ON_SET && its.it_value.tv_sec)
		its.it_value.tv_sec += host.back;
	r = (int)syscall(SYS_timerfd_settime, fd, flags, &its, old);
	if (!stepped)
		return r;
	host.next = 0;
	errno = ECANCELED;
	return -1;
}

static uint8_t cmos_read(struct fake_machine *f, uint8_t index)
{
	fake_outb(f, 0x70, index);
	return fake_inb(f, 0x71);
}

static void cmos_write(struct fake_machine *f, uint8_t index, uint8_t value)
{
	fake_outb(f, 0x70, index);
	fake_outb(f, 0x71, value);
}

static int setup(void **state)
{
	struct fake_machine *f = calloc(1, sizeof(*f));
	struct error err = ERROR_INIT;

	assert_non_null(f);
	fake_machine_init(f);
	assert_int_equal(fake_device_create(f, &rtc_class, NULL, NULL, &err), 0);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	fake_machine_fini(*state);
	free(*state);
	return 0;
}

static struct rtc_guest *guest(struct fake_machine *f)
{
	return device_guest(f->dev);
}

static uint64_t seconds(uint64_t n)
{
	return n << TICKS_SHIFT;
}

static unsigned int bcd(uint8_t value)
{
	return (value >> 4) * 10u + (value & 15);
}

/* The clock in BCD and 24 h, as seconds since 1970; read twice until no update came between. */
static time_t read_clock(struct fake_machine *f)
{
	struct tm tm = { 0 };
	uint8_t second;

	do {
		second = cmos_read(f, REG_SECONDS);
		tm.tm_min = (int)bcd(cmos_read(f, REG_MINUTES));
		tm.tm_hour = (int)bcd(cmos_read(f, REG_HOURS));
		tm.tm_mday = (int)bcd(cmos_read(f, REG_DAY));
		tm.tm_mon = (int)bcd(cmos_read(f, REG_MONTH)) - 1;
		tm.tm_year = (int)(bcd(cmos_read(f, REG_CENTURY)) * 100 +
				   bcd(cmos_read(f, REG_YEAR))) -
			     1900;
		tm.tm_sec = (int)bcd(second);
	} while (cmos_read(f, REG_SECONDS) != second);
	return timegm(&tm);
}

/* Turns the loop until IRQ 8 is up, for at most ms. */
static bool wait_irq(struct fake_machine *f, unsigned int ms)
{
	uint64_t end = now_ns() + ms * 1000000ull;

	while (!f->level[IRQ] && now_ns() < end)
		assert_int_equal(loop_turn(f->m.loop, 10), 0);
	return f->level[IRQ];
}

/* As Linux's mc146818_set_time() does it. */
static void set_clock(struct fake_machine *f, const uint8_t regs[7])
{
	static const uint8_t index[] = { REG_CENTURY, REG_YEAR,    REG_MONTH,  REG_DAY,
					 REG_HOURS,   REG_MINUTES, REG_SECONDS };
	uint8_t a = cmos_read(f, REG_A) & 0x7f, b = cmos_read(f, REG_B);

	cmos_write(f, REG_B, b | B_SET);
	cmos_write(f, REG_A, a | 0x70);
	for (unsigned int i = 0; i < 7; i++)
		cmos_write(f, index[i], regs[i]);
	cmos_write(f, REG_B, b);
	cmos_write(f, REG_A, a);
}

/* ---- registers ---- */

/* Not time(), which is up to a tick behind. */
static time_t host_time(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return ts.tv_sec;
}

static void tells_host_time(void **state)
{
	struct fake_machine *f = *state;
	time_t before, clock, after;

	before = host_time();
	clock = read_clock(f);
	after = host_time();
	assert_in_range(clock, before - 1, after);
}

static void power_on_registers(void **state)
{
	struct fake_machine *f = *state;

	assert_int_equal(cmos_read(f, REG_A) & 0x7f, 0x26);
	assert_int_equal(cmos_read(f, REG_B), 0x02);
	assert_int_equal(cmos_read(f, REG_D), 0x80);
	cmos_write(f, REG_D, 0);
	assert_int_equal(cmos_read(f, REG_D), 0x80);
}

static void index_port(void **state)
{
	struct fake_machine *f = *state;

	cmos_write(f, 0x40, 0x12);
	/* Bit 7 is the NMI mask, not part of the index. */
	assert_int_equal(cmos_read(f, 0xc0), 0x12);
	assert_int_equal(fake_inb(f, 0x70), 0xff);
	/* One 16-bit write sets both. */
	fake_write(f, BUS_PIO, 0x70, 0x3441, 2);
	assert_int_equal(cmos_read(f, 0x41), 0x34);
	assert_int_equal(fake_read(f, BUS_PIO, 0x70, 2), 0x34ff);
}

static void cmos_is_plain_memory(void **state)
{
	struct fake_machine *f = *state;

	for (uint8_t i = 0x0e; i < 128; i++)
		if (i != REG_CENTURY)
			cmos_write(f, i, (uint8_t)(i ^ 0x5a));
	for (uint8_t i = 0x0e; i < 128; i++)
		if (i != REG_CENTURY)
			assert_int_equal(cmos_read(f, i), i ^ 0x5a);
}

static void the_guest_can_set_the_time(void **state)
{
	static const uint8_t new_year[] = { 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58 };
	struct fake_machine *f = *state;

	set_clock(f, new_year);
	assert_in_range(read_clock(f), 946684798, 946684798 + 2);
	/* Half a second after the divider starts comes the first update. */
	assert_in_range(rtc_now(guest(f)) & TICKS_MASK, TICKS_PER_SECOND / 2, TICKS_PER_SECOND - 1);
}

static void a_frozen_clock_stands_and_is_not_lost(void **state)
{
	struct fake_machine *f = *state;
	uint64_t offset;
	uint8_t year;

	offset = guest(f)->offset;
	cmos_write(f, REG_B, B_24H | B_SET);
	assert_true(guest(f)->frozen);
	year = cmos_read(f, REG_YEAR);
	guest(f)->offset += seconds(400 * RTC_DAY_SECONDS);
	assert_int_equal(cmos_read(f, REG_YEAR), year);
	guest(f)->offset = offset;
	cmos_write(f, REG_B, B_24H);
	assert_false(guest(f)->frozen);
	/* Not written, so nothing was set. */
	assert_int_equal(guest(f)->offset, offset);
}

static void one_register_set_on_the_run(void **state)
{
	struct fake_machine *f = *state;

	cmos_write(f, REG_CENTURY, 0x21);
	cmos_write(f, REG_YEAR, 0x05);
	assert_int_equal(cmos_read(f, REG_CENTURY), 0x21);
	assert_int_equal(cmos_read(f, REG_YEAR), 0x05);
}

static void weekdays_count_on_their_own(void **state)
{
	struct fake_machine *f = *state;
	uint8_t day;

	day = cmos_read(f, REG_WEEKDAY);
	cmos_write(f, REG_WEEKDAY, (uint8_t)(day % 7 + 1));
	assert_int_equal(cmos_read(f, REG_WEEKDAY), day % 7 + 1);
}

/* ---- interrupts, over real time ---- */

static void update_interrupt(void **state)
{
	struct fake_machine *f = *state;

	cmos_read(f, REG_C);
	cmos_write(f, REG_B, B_24H | B_UIE);
	assert_true(wait_irq(f, 1500));
	assert_int_equal(cmos_read(f, REG_C) & 0x90, 0x90);
	assert_false(f->level[IRQ]);
	assert_true(wait_irq(f, 1500));
	assert_int_equal(f->edges[IRQ], 2);
}

static void periodic_interrupt(void **state)
{
	struct fake_machine *f = *state;

	cmos_write(f, REG_A, 0x26);
	cmos_read(f, REG_C);
	cmos_write(f, REG_B, B_24H | C_PF);
	for (int i = 0; i < 5; i++) {
		assert_true(wait_irq(f, 500));
		assert_int_equal(cmos_read(f, REG_C) & 0xc0, 0xc0);
	}
	assert_int_equal(f->edges[IRQ], 5);
}

static void the_hosts_clock_is_set_back_while_a_timer_is_set(void **state)
{
	struct fake_machine *f = *state;

	cmos_write(f, REG_A, 0x26);
	cmos_read(f, REG_C);
	host.next = 3600;
	cmos_write(f, REG_B, B_24H | C_PF);
	assert_int_equal(host.back, 3600);
	assert_true(wait_irq(f, 500));
	assert_int_equal(cmos_read(f, REG_C) & 0xc0, 0xc0);
	assert_true(wait_irq(f, 500));
	host.back = 0;
}

static void flags_go_up_without_interrupts(void **state)
{
	struct fake_machine *f = *state;
	uint8_t c = 0;

	for (int i = 0; i < 100 && !(c & C_PF); i++) {
		struct timespec ms = { .tv_nsec = 1000000 };

		nanosleep(&ms, NULL);
		c = cmos_read(f, REG_C);
	}
	assert_int_equal(c & (C_PF | C_IRQF), C_PF);
	assert_int_equal(f->irq_calls, 0);
}

static void nothing_enabled_nothing_wakes(void **state)
{
	struct fake_machine *f = *state;

	fake_assert_idle(f->m.loop);
	/* Up and not taken back: no reason to wake again and again either. */
	cmos_write(f, REG_B, B_24H | C_PF);
	assert_true(wait_irq(f, 500));
	fake_assert_idle(f->m.loop);
	assert_int_equal(f->edges[IRQ], 1);
}

static void enabling_a_raised_flag_interrupts(void **state)
{
	struct fake_machine *f = *state;

	guest(f)->reg_c = C_AF;
	cmos_write(f, REG_B, B_24H | C_AF);
	assert_true(f->level[IRQ]);
	assert_int_equal(cmos_read(f, REG_C) & 0xa0, 0xa0);
	assert_false(f->level[IRQ]);
}

static void set_turns_the_update_interrupt_off(void **state)
{
	struct fake_machine *f = *state;

	cmos_write(f, REG_B, B_24H | B_UIE | B_SET);
	assert_int_equal(cmos_read(f, REG_B), B_24H | B_SET);
}

static void uip_comes_before_the_update(void **state)
{
	struct fake_machine *f = *state;
	uint64_t end = now_ns() + 1500000000;
	bool seen = false;

	/* Half a second into the second it is certainly down ... */
	guest(f)->offset += TICKS_PER_SECOND / 2 - (rtc_now(guest(f)) & TICKS_MASK);
	assert_int_equal(cmos_read(f, REG_A) & 0x80, 0);
	/* ... and at its end it is up. Preemption may hide one end, not each of them. */
	while (!seen && now_ns() < end) {
		guest(f)->offset -= (rtc_now(guest(f)) & TICKS_MASK) + UINT64_C(7);
		seen = cmos_read(f, REG_A) & 0x80;
	}
	assert_true(seen);
	/* A clock that stands has no update ahead. */
	cmos_write(f, REG_B, B_24H | B_SET);
	guest(f)->offset -= (rtc_now(guest(f)) & TICKS_MASK) + 7;
	assert_int_equal(cmos_read(f, REG_A) & 0x80, 0);
}

/* ---- life ---- */

static void reset_keeps_time_and_memory(void **state)
{
	struct fake_machine *f = *state;

	cmos_write(f, 0x50, 0x99);
	cmos_write(f, REG_CENTURY, 0x21);
	cmos_write(f, REG_B, B_SET | B_BINARY | C_AF);
	cmos_write(f, REG_YEAR, 1);
	f->dev->cls->reset(f->dev);
	assert_int_equal(cmos_read(f, REG_B), B_24H);
	assert_int_equal(cmos_read(f, 0x50), 0x99);
	assert_int_equal(cmos_read(f, REG_CENTURY), 0x21);
	/* The half-set time is forgotten. */
	assert_true(cmos_read(f, REG_YEAR) >= 0x20);
	assert_false(f->level[IRQ]);
}

static void an_update_keeps_everything(void **state)
{
	static const uint8_t new_year[] = { 0x19, 0x99, 0x12, 0x31, 0x23, 0x59, 0x58 };
	struct fake_machine *f = *state, g;

	set_clock(f, new_year);
	cmos_write(f, 0x60, 0x42);
	guest(f)->reg_c = C_AF;
	cmos_write(f, REG_B, B_24H | C_AF);
	fake_outb(f, 0x70, 0x60);
	fake_migrate(f, &g);
	assert_int_equal(g.irq_calls, 0);
	assert_int_equal(fake_inb(&g, 0x71), 0x42);
	assert_in_range(read_clock(&g), 946684798, 946684798 + 5);
	assert_int_equal(cmos_read(&g, REG_C) & 0xa0, 0xa0);
	assert_false(g.level[IRQ]);
	fake_machine_fini(&g);
}

static void an_alarm_in_the_pause_goes_off_after_it(void **state)
{
	struct fake_machine *f = *state, g;

	cmos_write(f, REG_SECONDS_ALARM, 0xff);
	cmos_write(f, REG_MINUTES_ALARM, 0xff);
	cmos_write(f, REG_HOURS_ALARM, 0xff);
	cmos_read(f, REG_C);
	cmos_write(f, REG_B, B_24H | C_AF);
	/* As if the last look had been three seconds ago. */
	guest(f)->reg_c = 0;
	guest(f)->last -= seconds(3);
	fake_migrate(f, &g);
	g.dev->cls->resume(g.dev);
	assert_true(wait_irq(&g, 200));
	fake_machine_fini(&g);
}

static void quiesced_it_does_not_interrupt(void **state)
{
	struct error err = ERROR_INIT;
	struct fake_machine *f = *state;

	cmos_write(f, REG_A, 0x26);
	cmos_read(f, REG_C);
	cmos_write(f, REG_B, B_24H | C_PF);
	f->dev->cls->quiesce(f->dev, &err);
	if (!f->level[IRQ])
		assert_false(wait_irq(f, 50));
	f->dev->cls->resume(f->dev);
	assert_true(wait_irq(f, 500));
}

static void spoil_index(void *data)
{
	((struct rtc_guest *)data)->index = 128;
}

static void spoil_uip(void *data)
{
	((struct rtc_guest *)data)->reg_a |= 0x80;
}

static void spoil_flags(void *data)
{
	((struct rtc_guest *)data)->reg_c = 0x01;
}

static void spoil_weekday(void *data)
{
	((struct rtc_guest *)data)->weekday_shift = 7;
}

static void spoil_frozen(void *data)
{
	((struct rtc_guest *)data)->frozen = true;
}

static void impossible_state_is_refused(void **state)
{
	struct fake_machine *f = *state;

	assert_true(fake_post_load_of(f, spoil_index) < 0);
	assert_true(fake_post_load_of(f, spoil_uip) < 0);
	assert_true(fake_post_load_of(f, spoil_flags) < 0);
	assert_true(fake_post_load_of(f, spoil_weekday) < 0);
	assert_true(fake_post_load_of(f, spoil_frozen) < 0);
}

static void spoil_time(void *data)
{
	struct rtc_guest *g = data;

	g->offset = 0x8000000000000000u;
	g->last = UINT64_MAX;
	g->reg_b |= C_FLAGS;
	memset(g->cmos, 0xff, sizeof(g->cmos));
}

/* Any offset is a time, if a strange one. */
static void any_time_is_survived(void **state)
{
	struct fake_machine *f = *state;

	assert_int_equal(fake_post_load_of(f, spoil_time), 0);
	spoil_time(guest(f));
	for (int i = 0; i < 256; i++) {
		cmos_read(f, (uint8_t)i);
		cmos_write(f, (uint8_t)i, (uint8_t)(i * 37));
	}
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(tells_host_time),
		T(power_on_registers),
		T(index_port),
		T(cmos_is_plain_memory),
		T(the_guest_can_set_the_time),
		T(a_frozen_clock_stands_and_is_not_lost),
		T(one_register_set_on_the_run),
		T(weekdays_count_on_their_own),
		T(update_interrupt),
		T(periodic_interrupt),
		T(the_hosts_clock_is_set_back_while_a_timer_is_set),
		T(flags_go_up_without_interrupts),
		T(nothing_enabled_nothing_wakes),
		T(enabling_a_raised_flag_interrupts),
		T(set_turns_the_update_interrupt_off),
		T(uip_comes_before_the_update),
		T(reset_keeps_time_and_memory),
		T(an_update_keeps_everything),
		T(an_alarm_in_the_pause_goes_off_after_it),
		T(quiesced_it_does_not_interrupt),
		T(impossible_state_is_refused),
		T(any_time_is_survived),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
