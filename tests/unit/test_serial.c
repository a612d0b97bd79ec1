/* SPDX-License-Identifier: MIT */
/* The 16550A's registers: probing, data, loopback. */
#include <string.h>

#include "serial_cable.h"

/* ---- probing, as Linux's 8250 driver does it ---- */

static void ier_keeps_four_bits(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, IER, 0xff);
	assert_int_equal(fake_inb(&c->f, IER), 0x0f);
	fake_outb(&c->f, IER, 0);
	assert_int_equal(fake_inb(&c->f, IER), 0);
}

static void loopback_lines(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, MCR, LOOP | 0x0a);
	assert_int_equal(fake_inb(&c->f, MSR) & 0xf0, 0x90);
	fake_outb(&c->f, MCR, LOOP | 0x05);
	assert_int_equal(fake_inb(&c->f, MSR) & 0xf0, 0x60);
}

static void iir_says_16550a(void **state)
{
	struct cable *c = *state;

	assert_int_equal(fake_inb(&c->f, IIR), 0x01);
	fake_outb(&c->f, FCR, 0x01);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc1);
	/* Not a 16750: its 64-byte FIFO would show in bit 5. */
	fake_outb(&c->f, LCR, 0x80);
	fake_outb(&c->f, FCR, 0x21);
	fake_outb(&c->f, LCR, 0);
	assert_int_equal(fake_inb(&c->f, IIR) >> 5, 6);
	fake_outb(&c->f, FCR, 0x00);
	assert_int_equal(fake_inb(&c->f, IIR), 0x01);
}

static void thre_test(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, IER, 0x02);
	assert_int_equal(fake_inb(&c->f, IIR), 0x02);
	assert_int_equal(fake_inb(&c->f, IIR), 0x01);
	fake_outb(&c->f, IER, 0x00);
	fake_outb(&c->f, IER, 0x02);
	assert_int_equal(fake_inb(&c->f, IIR), 0x02);
	fake_outb(&c->f, IER, 0x00);
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
}

static void divisor_behind_dlab(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, LCR, 0x83);
	assert_int_equal(fake_inb(&c->f, DATA), 12);
	fake_outb(&c->f, DATA, 0x34);
	fake_outb(&c->f, IER, 0x12);
	assert_int_equal(fake_inb(&c->f, DATA), 0x34);
	assert_int_equal(fake_inb(&c->f, IER), 0x12);
	fake_outb(&c->f, LCR, 0x03);
	assert_int_equal(fake_inb(&c->f, LCR), 0x03);
	assert_int_equal(fake_inb(&c->f, IER), 0);
	assert_heard(c, "");
}

static void scratch_and_read_only(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, SCR, 0xa5);
	assert_int_equal(fake_inb(&c->f, SCR), 0xa5);
	fake_outb(&c->f, LSR, 0xff);
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
	fake_outb(&c->f, MSR, 0xff);
	assert_int_equal(fake_inb(&c->f, MSR), 0xb0);
}

/* ---- output ---- */

static void output_reaches_the_peer(void **state)
{
	struct cable *c = *state;

	for (const char *p = "hello"; *p; p++)
		fake_outb(&c->f, DATA, (uint8_t)*p);
	assert_heard(c, "hello");
}

static void output_waits_for_the_first_peer(void **state)
{
	struct cable c;

	(void)state;
	cable_start_unplugged(&c);
	fake_outb(&c.f, DATA, 'b');
	fake_outb(&c.f, DATA, 'o');
	plug_in(&c);
	assert_heard(&c, "bo");
	cable_stop(&c);
}

static void each_byte_sent_interrupts(void **state)
{
	struct cable *c = *state;
	unsigned int before;

	program(c, 0x01, 0x02);
	assert_true(c->f.level[IRQ]);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc2);
	assert_false(c->f.level[IRQ]);
	before = c->f.edges[IRQ];
	fake_outb(&c->f, DATA, 'a');
	assert_true(c->f.level[IRQ]);
	/* A handler that does not read IIR gets its next edge, too. */
	fake_outb(&c->f, DATA, 'b');
	assert_int_equal(c->f.edges[IRQ], before + 2);
	fake_outb(&c->f, IER, 0);
	assert_false(c->f.level[IRQ]);
}

static void a_wide_write_is_split(void **state)
{
	struct cable *c = *state;

	fake_write(&c->f, BUS_PIO, DATA, 0x0158, 2);
	assert_int_equal(fake_inb(&c->f, IER), 0x01);
	assert_heard(c, "X");
	assert_int_equal(fake_read(&c->f, BUS_PIO, LSR, 2) & 0xff, 0x60);
}

/* ---- input ---- */

static void without_fifo_one_byte_at_a_time(void **state)
{
	struct cable *c = *state;

	program(c, 0x00, 0x01);
	say(c, "ab");
	assert_int_equal(fake_inb(&c->f, IIR), 0x04);
	assert_int_equal(fake_inb(&c->f, LSR), 0x61);
	assert_int_equal(fake_inb(&c->f, DATA), 'a');
	assert_false(c->f.level[IRQ]);
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
	fake_settle(&c->f);
	assert_true(c->f.level[IRQ]);
	assert_int_equal(fake_inb(&c->f, DATA), 'b');
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
	assert_int_equal(c->f.edges[IRQ], 2);
}

static void trigger_levels(void **state)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	(void)state;
	for (unsigned int i = 0; i < 4; i++) {
		char text[17] = "0123456789abcdef";
		struct cable c;

		cable_start(&c);
		program(&c, (uint8_t)(i << 6 | 0x01), 0x01);
		text[levels[i] - 1] = '\0';
		say(&c, text);
		/* Below the level: a character timeout, if there is anything. */
		assert_int_equal(fake_inb(&c.f, IIR), levels[i] > 1 ? 0xcc : 0xc1);
		say(&c, "x");
		assert_int_equal(fake_inb(&c.f, IIR), 0xc4);
		fake_inb(&c.f, DATA);
		assert_int_equal(fake_inb(&c.f, IIR), levels[i] > 1 ? 0xcc : 0xc1);
		cable_stop(&c);
	}
}

static void fifo_holds_sixteen_and_the_rest_waits(void **state)
{
	const char *text = "the quick brown fox jumps over the lazy dog";
	char got[64] = "";
	size_t n = 0;
	struct cable *c = *state;

	program(c, 0xc1, 0x01);
	say(c, text);
	while (n < strlen(text)) {
		unsigned int burst = 0;

		while (fake_inb(&c->f, LSR) & 0x01) {
			assert_true(n < sizeof(got) - 1);
			got[n++] = (char)fake_inb(&c->f, DATA);
			burst++;
		}
		assert_true(burst > 0 && burst <= 16);
		fake_settle(&c->f);
	}
	assert_string_equal(got, text);
	/* Nothing was lost on the way. */
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
}

static void fifo_reset_drops_input(void **state)
{
	struct cable *c = *state;

	program(c, 0x01, 0x01);
	say(c, "abc");
	assert_true(c->f.level[IRQ]);
	fake_outb(&c->f, FCR, 0x03);
	assert_false(c->f.level[IRQ]);
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
	say(c, "d");
	assert_int_equal(fake_inb(&c->f, DATA), 'd');
}

static void turning_the_fifo_off_clears_it(void **state)
{
	struct cable *c = *state;

	program(c, 0x01, 0x01);
	say(c, "abc");
	fake_outb(&c->f, FCR, 0x00);
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
	/* Without the enable bit the reset bits are not looked at. */
	say(c, "x");
	fake_outb(&c->f, FCR, 0x02);
	assert_int_equal(fake_inb(&c->f, LSR), 0x61);
}

static void tx_fifo_reset_keeps_input(void **state)
{
	struct cable *c = *state;

	program(c, 0x01, 0x01);
	say(c, "abc");
	fake_outb(&c->f, FCR, 0x05);
	assert_int_equal(fake_inb(&c->f, DATA), 'a');
}

/* ---- loopback ---- */

static void loopback_carries_data(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, FCR, 0x01);
	fake_outb(&c->f, MCR, LOOP);
	fake_outb(&c->f, DATA, 'q');
	assert_int_equal(fake_inb(&c->f, LSR), 0x61);
	assert_int_equal(fake_inb(&c->f, DATA), 'q');
	assert_heard(c, "");
}

static void loopback_does_not_hear_the_peer(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, FCR, 0x01);
	fake_outb(&c->f, MCR, LOOP);
	say(c, "z");
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
	fake_outb(&c->f, MCR, 0);
	fake_settle(&c->f);
	assert_int_equal(fake_inb(&c->f, DATA), 'z');
}

static void overrun_with_fifo_keeps_the_old(void **state)
{
	struct cable *c = *state;

	program(c, 0x01, 0x04);
	fake_outb(&c->f, MCR, LOOP);
	for (uint8_t i = 0; i < 17; i++)
		fake_outb(&c->f, DATA, i);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc6);
	assert_int_equal(fake_inb(&c->f, LSR), 0x63);
	assert_int_equal(fake_inb(&c->f, LSR), 0x61);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc1);
	for (uint8_t i = 0; i < 16; i++)
		assert_int_equal(fake_inb(&c->f, DATA), i);
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
}

static void overrun_without_fifo_keeps_the_new(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, MCR, LOOP);
	fake_outb(&c->f, DATA, 'a');
	fake_outb(&c->f, DATA, 'b');
	assert_int_equal(fake_inb(&c->f, LSR), 0x63);
	assert_int_equal(fake_inb(&c->f, DATA), 'b');
}

static void ring_indicator_reports_its_end(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, MCR, LOOP);
	fake_inb(&c->f, MSR);
	fake_outb(&c->f, MCR, LOOP | 0x04);
	assert_int_equal(fake_inb(&c->f, MSR), 0x40);
	fake_outb(&c->f, MCR, LOOP);
	assert_int_equal(fake_inb(&c->f, MSR), 0x04);
	assert_int_equal(fake_inb(&c->f, MSR), 0x00);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(ier_keeps_four_bits),
		T(loopback_lines),
		T(iir_says_16550a),
		T(thre_test),
		T(divisor_behind_dlab),
		T(scratch_and_read_only),
		T(output_reaches_the_peer),
		cmocka_unit_test(output_waits_for_the_first_peer),
		T(each_byte_sent_interrupts),
		T(a_wide_write_is_split),
		T(without_fifo_one_byte_at_a_time),
		cmocka_unit_test(trigger_levels),
		T(fifo_holds_sixteen_and_the_rest_waits),
		T(fifo_reset_drops_input),
		T(turning_the_fifo_off_clears_it),
		T(tx_fifo_reset_keeps_input),
		T(loopback_carries_data),
		T(loopback_does_not_hear_the_peer),
		T(overrun_with_fifo_keeps_the_old),
		T(overrun_without_fifo_keeps_the_new),
		T(ring_indicator_reports_its_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
