/* SPDX-License-Identifier: MIT */
/* The 16550A's interrupts and modem lines, and its way through resets and updates. */
#include <string.h>
#include <unistd.h>

#include <molt/hw/classes.h>

#include "serial_cable.h"

/* ---- interrupts and modem lines ---- */

static void priorities(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, FCR, 0x01);
	fake_outb(&c->f, MCR, LOOP);
	for (uint8_t i = 0; i < 17; i++)
		fake_outb(&c->f, DATA, i);
	fake_outb(&c->f, MCR, LOOP | 0x01);
	fake_outb(&c->f, IER, 0x0f);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc6);
	fake_inb(&c->f, LSR);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc4);
	for (uint8_t i = 0; i < 16; i++)
		fake_inb(&c->f, DATA);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc2);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc0);
	fake_inb(&c->f, MSR);
	assert_int_equal(fake_inb(&c->f, IIR), 0xc1);
}

static void out2_gates_the_interrupt(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, IER, 0x02);
	assert_false(c->f.level[IRQ]);
	fake_outb(&c->f, MCR, OUT2);
	assert_true(c->f.level[IRQ]);
	fake_outb(&c->f, MCR, OUT2 | LOOP);
	assert_false(c->f.level[IRQ]);
	fake_outb(&c->f, MCR, OUT2);
	assert_true(c->f.level[IRQ]);
}

static void modem_lines_follow_the_peer(void **state)
{
	struct cable c;

	(void)state;
	cable_start_unplugged(&c);
	program(&c, 0x01, 0x08);
	assert_int_equal(fake_inb(&c.f, MSR), 0x00);
	plug_in(&c);
	assert_true(c.f.level[IRQ]);
	assert_int_equal(fake_inb(&c.f, IIR), 0xc0);
	assert_int_equal(fake_inb(&c.f, MSR), 0xbb);
	assert_int_equal(fake_inb(&c.f, MSR), 0xb0);
	assert_false(c.f.level[IRQ]);
	close(c.peer);
	c.peer = -1;
	fake_settle(&c.f);
	assert_int_equal(fake_inb(&c.f, MSR), 0x0b);
	assert_int_equal(c.f.edges[IRQ], 2);
	cable_stop(&c);
}

/* ---- life ---- */

static void reset_goes_back_to_power_on(void **state)
{
	struct cable *c = *state;

	program(c, 0xc1, 0x0f);
	fake_outb(&c->f, LCR, 0x1b);
	fake_outb(&c->f, SCR, 0x55);
	say(c, "junk");
	c->f.dev->cls->reset(c->f.dev);
	assert_false(c->f.level[IRQ]);
	assert_int_equal(fake_inb(&c->f, IIR), 0x01);
	assert_int_equal(fake_inb(&c->f, IER), 0);
	assert_int_equal(fake_inb(&c->f, LCR), 0);
	assert_int_equal(fake_inb(&c->f, MCR), 0);
	assert_int_equal(fake_inb(&c->f, LSR), 0x60);
	/* The peer is still there, and that is no news. */
	assert_int_equal(fake_inb(&c->f, MSR), 0xb0);
}

static void an_update_keeps_everything(void **state)
{
	struct fake_machine g;
	struct cable *c = *state;

	program(c, 0x41, 0x05);
	fake_outb(&c->f, LCR, 0x1b);
	fake_outb(&c->f, SCR, 0x77);
	say(c, "abcdefghijklmnopqrst");
	fake_migrate(&c->f, &g);
	/* The edge is in the irqchip's state already: the wire is high without a second one. */
	assert_int_equal(g.irq_calls, 0);
	g.dev->cls->resume(g.dev);
	assert_int_equal(fake_inb(&g, LCR), 0x1b);
	assert_int_equal(fake_inb(&g, SCR), 0x77);
	for (char ch = 'a'; ch <= 't'; ch++) {
		assert_int_equal(fake_inb(&g, DATA), ch);
		fake_settle(&g);
	}
	assert_int_equal(fake_inb(&g, LSR), 0x60);
	fake_outb(&g, DATA, '!');
	fake_settle(&g);
	assert_heard(c, "!");
	fake_machine_fini(&g);
	/* The successor owns the socket now, and has removed its path. */
	assert_int_equal(access(socket_path(c), F_OK), -1);
}

static void a_failed_update_changes_nothing(void **state)
{
	struct fake_machine g;
	struct cable *c = *state;

	program(c, 0x01, 0x01);
	fake_outb(&c->f, DATA, '1');
	fake_migrate(&c->f, &g);
	fake_machine_fini(&g);
	assert_int_equal(access(socket_path(c), F_OK), 0);
	c->f.dev->cls->resume(c->f.dev);
	fake_outb(&c->f, DATA, '2');
	assert_heard(c, "12");
	say(c, "x");
	assert_int_equal(fake_inb(&c->f, DATA), 'x');
}

/* The guest part begins with rx_len, rx[16], dll, dlm, ier, fcr, lcr, mcr, msr. */
static void spoil_length(void *guest)
{
	*(uint32_t *)guest = 17;
}

static void spoil_fifo_off(void *guest)
{
	*(uint32_t *)guest = 2;
	((uint8_t *)guest)[23] = 0;
}

static void spoil_ier(void *guest)
{
	((uint8_t *)guest)[22] = 0x10;
}

static void spoil_mcr(void *guest)
{
	((uint8_t *)guest)[25] = 0x20;
}

static void spoil_msr(void *guest)
{
	((uint8_t *)guest)[26] ^= 0x40;
}

static void impossible_state_is_refused(void **state)
{
	struct cable *c = *state;

	fake_outb(&c->f, FCR, 0x01);
	assert_true(fake_post_load_of(&c->f, spoil_length) < 0);
	assert_true(fake_post_load_of(&c->f, spoil_fifo_off) < 0);
	assert_true(fake_post_load_of(&c->f, spoil_ier) < 0);
	assert_true(fake_post_load_of(&c->f, spoil_mcr) < 0);
	assert_true(fake_post_load_of(&c->f, spoil_msr) < 0);
}

static void without_an_option_nothing_is_plugged_in(void **state)
{
	struct error err = ERROR_INIT;
	struct fake_machine f;

	(void)state;
	fake_machine_init(&f);
	assert_int_equal(fake_device_create(&f, &serial_class, NULL, NULL, &err), 0);
	fake_outb(&f, DATA, 'x');
	assert_int_equal(fake_inb(&f, LSR), 0x60);
	assert_int_equal(fake_inb(&f, MSR), 0x00);
	fake_machine_fini(&f);
}

static void a_bad_option_is_an_error(void **state)
{
	struct error err = ERROR_INIT;
	struct fake_machine f;

	(void)state;
	fake_machine_init(&f);
	f.args = "modem";
	assert_true(fake_device_create(&f, &serial_class, NULL, NULL, &err) < 0);
	assert_non_null(strstr(err.text, "modem"));
	fake_machine_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(priorities),
		T(out2_gates_the_interrupt),
		cmocka_unit_test(modem_lines_follow_the_peer),
		T(reset_goes_back_to_power_on),
		T(an_update_keeps_everything),
		T(a_failed_update_changes_nothing),
		T(impossible_state_is_refused),
		cmocka_unit_test(without_an_option_nothing_is_plugged_in),
		cmocka_unit_test(a_bad_option_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
