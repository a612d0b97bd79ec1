/* SPDX-License-Identifier: MIT */
/* ACPI power, the keyboard controller's reset and pvpanic: all that ends or disturbs a machine. */
#include <molt/hw/classes.h>

#include "fake_machine.h"

#define PM1_STS 0x600
#define PM1_EN 0x602
#define PM1_CNT 0x604
#define RESET 0xcf9
#define SCI 9
#define PWRBTN 0x100

static uint64_t inw(struct fake_machine *f, uint16_t port)
{
	return fake_read(f, BUS_PIO, port, 2);
}

static void outw(struct fake_machine *f, uint16_t port, uint16_t value)
{
	fake_write(f, BUS_PIO, port, value, 2);
}

static void start(struct fake_machine *f, const struct device_class *cls)
{
	struct error err = ERROR_INIT;

	fake_machine_init(f);
	assert_int_equal(fake_device_create(f, cls, NULL, NULL, &err), 0);
}

static void press(struct fake_machine *f)
{
	f->dev->cls->power_button(f->dev);
}

/* ---- power ---- */

static void sci_en_reads_one(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	assert_int_equal(inw(&f, PM1_CNT), 1);
	outw(&f, PM1_CNT, 0);
	assert_int_equal(inw(&f, PM1_CNT), 1);
	assert_int_equal(fake_inb(&f, PM1_CNT), 1);
	assert_int_equal(fake_inb(&f, PM1_CNT + 1), 0);
	fake_machine_fini(&f);
}

static void button_sets_status_without_sci_while_disabled(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	press(&f);
	assert_int_equal(inw(&f, PM1_STS), PWRBTN);
	assert_false(f.level[SCI]);
	fake_machine_fini(&f);
}

static void sci_is_a_level(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	outw(&f, PM1_EN, PWRBTN);
	assert_false(f.level[SCI]);
	press(&f);
	assert_true(f.level[SCI]);
	press(&f);
	assert_int_equal(f.edges[SCI], 1);
	outw(&f, PM1_EN, 0);
	assert_false(f.level[SCI]);
	outw(&f, PM1_EN, PWRBTN);
	assert_true(f.level[SCI]);
	fake_machine_fini(&f);
}

static void status_is_cleared_by_ones(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	outw(&f, PM1_EN, PWRBTN);
	press(&f);
	outw(&f, PM1_STS, 0xfeff);
	assert_int_equal(inw(&f, PM1_STS), PWRBTN);
	assert_true(f.level[SCI]);
	outw(&f, PM1_STS, PWRBTN);
	assert_int_equal(inw(&f, PM1_STS), 0);
	assert_false(f.level[SCI]);
	fake_machine_fini(&f);
}

static void event_block_takes_bytes_and_doublewords(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	fake_outb(&f, PM1_EN + 1, PWRBTN >> 8);
	press(&f);
	assert_int_equal(fake_inb(&f, PM1_STS), 0);
	assert_int_equal(fake_inb(&f, PM1_STS + 1), PWRBTN >> 8);
	assert_int_equal(fake_read(&f, BUS_PIO, PM1_STS, 4), PWRBTN << 16 | PWRBTN);
	fake_outb(&f, PM1_STS, 0xff);
	assert_int_equal(inw(&f, PM1_STS), PWRBTN);
	fake_outb(&f, PM1_STS + 1, PWRBTN >> 8);
	assert_int_equal(fake_read(&f, BUS_PIO, PM1_STS, 4), PWRBTN << 16);
	fake_write(&f, BUS_PIO, PM1_STS, 0, 4);
	assert_int_equal(inw(&f, PM1_EN), 0);
	fake_machine_fini(&f);
}

static void fixed_events_can_be_enabled(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	outw(&f, PM1_EN, 0xffff);
	assert_int_equal(inw(&f, PM1_EN), 0x0721);
	fake_machine_fini(&f);
}

static void s5_shuts_down(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	outw(&f, PM1_CNT, 5 << 10);
	assert_int_equal(fake_requests(&f), 0);
	outw(&f, PM1_CNT, 5 << 10 | 1 << 13);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_SHUTDOWN);
	/* SLP_EN is not kept. */
	assert_int_equal(inw(&f, PM1_CNT), 5 << 10 | 1);
	outw(&f, PM1_CNT, 5 << 10);
	assert_int_equal(fake_requests(&f), 0);
	fake_machine_fini(&f);
}

static void s5_by_bytes(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	fake_outb(&f, PM1_CNT + 1, 5 << 2 | 1 << 5);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_SHUTDOWN);
	fake_outb(&f, PM1_CNT, 0xff);
	assert_int_equal(fake_requests(&f), 0);
	fake_machine_fini(&f);
}

static void other_sleep_types_are_ignored(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	for (unsigned int type = 0; type < 8; type++)
		if (type != 5)
			outw(&f, PM1_CNT, (uint16_t)(type << 10 | 1 << 13));
	assert_int_equal(fake_requests(&f), 0);
	fake_machine_fini(&f);
}

static void reset_register(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	fake_outb(&f, RESET, 0x02);
	assert_int_equal(fake_requests(&f), 0);
	assert_int_equal(fake_inb(&f, RESET), 0x02);
	fake_outb(&f, RESET, 0x06);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_RESET);
	assert_int_equal(fake_inb(&f, RESET), 0x02);
	fake_outb(&f, RESET, 0x04);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_RESET);
	fake_machine_fini(&f);
}

static void power_survives_an_update(void **state)
{
	struct fake_machine f, g;

	(void)state;
	start(&f, &power_class);
	outw(&f, PM1_EN, PWRBTN);
	outw(&f, PM1_CNT, 3 << 10 | 2);
	fake_outb(&f, RESET, 0x0a);
	press(&f);
	fake_migrate(&f, &g);
	assert_true(g.level[SCI]);
	assert_int_equal(inw(&g, PM1_STS), PWRBTN);
	assert_int_equal(inw(&g, PM1_CNT), 3 << 10 | 3);
	assert_int_equal(fake_inb(&g, RESET), 0x0a);
	outw(&g, PM1_STS, PWRBTN);
	assert_false(g.level[SCI]);
	fake_machine_fini(&g);
	fake_machine_fini(&f);
}

static void quiet_sci_stays_quiet_over_an_update(void **state)
{
	struct fake_machine f, g;

	(void)state;
	start(&f, &power_class);
	press(&f);
	fake_migrate(&f, &g);
	assert_int_equal(g.irq_calls, 0);
	outw(&g, PM1_EN, PWRBTN);
	assert_true(g.level[SCI]);
	fake_machine_fini(&g);
	fake_machine_fini(&f);
}

static void power_reset_clears(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	outw(&f, PM1_EN, PWRBTN);
	press(&f);
	f.dev->cls->reset(f.dev);
	assert_int_equal(fake_read(&f, BUS_PIO, PM1_STS, 4), 0);
	assert_false(f.level[SCI]);
	fake_machine_fini(&f);
}

/* The guest part begins with status, enable, control (16 bits each) and the reset register. */
static void spoil_status(void *guest)
{
	((uint16_t *)guest)[0] = 0x0200;
}

static void spoil_enable(void *guest)
{
	((uint16_t *)guest)[1] = 0x8000;
}

static void spoil_control(void *guest)
{
	((uint16_t *)guest)[2] = 0x2000;
}

static void spoil_reset(void *guest)
{
	((uint8_t *)guest)[6] = 0x04;
}

static void power_refuses_impossible_state(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &power_class);
	assert_true(fake_post_load_of(&f, spoil_status) < 0);
	assert_true(fake_post_load_of(&f, spoil_enable) < 0);
	assert_true(fake_post_load_of(&f, spoil_control) < 0);
	assert_true(fake_post_load_of(&f, spoil_reset) < 0);
	fake_machine_fini(&f);
}

/* ---- i8042 ---- */

static void status_is_zero_at_start(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	assert_int_equal(fake_inb(&f, 0x64), 0);
	fake_machine_fini(&f);
}

static void pulse_resets(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	fake_outb(&f, 0x64, 0xfe);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_RESET);
	fake_outb(&f, 0x64, 0xf0);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_RESET);
	fake_outb(&f, 0x64, 0xff);
	fake_outb(&f, 0x64, 0xef);
	assert_int_equal(fake_requests(&f), 0);
	fake_machine_fini(&f);
}

static void output_port_resets(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	fake_outb(&f, 0x64, 0xd1);
	fake_outb(&f, 0x60, 0xdf);
	assert_int_equal(fake_requests(&f), 0);
	fake_outb(&f, 0x64, 0xd1);
	fake_outb(&f, 0x60, 0xde);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_RESET);
	/* Another command takes the pending one's place. */
	fake_outb(&f, 0x64, 0xd1);
	fake_outb(&f, 0x64, 0xad);
	fake_outb(&f, 0x60, 0x00);
	assert_int_equal(fake_requests(&f), 0);
	fake_machine_fini(&f);
}

static void self_test_answers(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	fake_outb(&f, 0x64, 0xaa);
	assert_int_equal(fake_inb(&f, 0x64), 0x05);
	assert_int_equal(fake_inb(&f, 0x60), 0x55);
	assert_int_equal(fake_inb(&f, 0x64), 0x04);
	fake_machine_fini(&f);
}

static void command_byte(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	fake_outb(&f, 0x64, 0x60);
	fake_outb(&f, 0x60, 0x47);
	fake_outb(&f, 0x64, 0xad);
	fake_outb(&f, 0x64, 0xa7);
	fake_outb(&f, 0x64, 0x20);
	assert_int_equal(fake_inb(&f, 0x64) & 1, 1);
	assert_int_equal(fake_inb(&f, 0x60), 0x77);
	fake_outb(&f, 0x64, 0xae);
	fake_outb(&f, 0x64, 0xa8);
	fake_outb(&f, 0x64, 0x20);
	assert_int_equal(fake_inb(&f, 0x60), 0x47);
	fake_machine_fini(&f);
}

static void port_tests(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	fake_outb(&f, 0x64, 0xab);
	assert_int_equal(fake_inb(&f, 0x60), 0x00);
	fake_outb(&f, 0x64, 0xa9);
	assert_int_equal(fake_inb(&f, 0x60), 0x01);
	fake_outb(&f, 0x64, 0xd0);
	assert_int_equal(fake_inb(&f, 0x60), 0x03);
	fake_machine_fini(&f);
}

static void keyboard_does_not_answer(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	fake_outb(&f, 0x60, 0xf2);
	assert_int_equal(fake_inb(&f, 0x64), 0);
	assert_int_equal(fake_requests(&f), 0);
	fake_machine_fini(&f);
}

static void i8042_survives_an_update(void **state)
{
	struct fake_machine f, g;

	(void)state;
	start(&f, &i8042_class);
	fake_outb(&f, 0x64, 0xaa);
	fake_outb(&f, 0x64, 0xd1);
	fake_migrate(&f, &g);
	assert_int_equal(fake_inb(&g, 0x60), 0x55);
	fake_outb(&g, 0x60, 0x00);
	assert_int_equal(fake_requests(&g), MACHINE_REQ_RESET);
	fake_machine_fini(&g);
	fake_machine_fini(&f);
}

static void spoil_pending(void *guest)
{
	((uint8_t *)guest)[2] = 0xaa;
}

static void i8042_refuses_impossible_state(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &i8042_class);
	assert_true(fake_post_load_of(&f, spoil_pending) < 0);
	fake_machine_fini(&f);
}

/* ---- pvpanic ---- */

static void pvpanic_tells(void **state)
{
	struct fake_machine f;

	(void)state;
	start(&f, &pvpanic_class);
	assert_int_equal(fake_inb(&f, 0x505), 1);
	fake_outb(&f, 0x505, 2);
	assert_int_equal(fake_requests(&f), 0);
	fake_outb(&f, 0x505, 1);
	assert_int_equal(fake_requests(&f), MACHINE_REQ_PANICKED);
	fake_machine_fini(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sci_en_reads_one),
		cmocka_unit_test(button_sets_status_without_sci_while_disabled),
		cmocka_unit_test(sci_is_a_level),
		cmocka_unit_test(status_is_cleared_by_ones),
		cmocka_unit_test(event_block_takes_bytes_and_doublewords),
		cmocka_unit_test(fixed_events_can_be_enabled),
		cmocka_unit_test(s5_shuts_down),
		cmocka_unit_test(s5_by_bytes),
		cmocka_unit_test(other_sleep_types_are_ignored),
		cmocka_unit_test(reset_register),
		cmocka_unit_test(power_survives_an_update),
		cmocka_unit_test(quiet_sci_stays_quiet_over_an_update),
		cmocka_unit_test(power_reset_clears),
		cmocka_unit_test(power_refuses_impossible_state),
		cmocka_unit_test(status_is_zero_at_start),
		cmocka_unit_test(pulse_resets),
		cmocka_unit_test(output_port_resets),
		cmocka_unit_test(self_test_answers),
		cmocka_unit_test(command_byte),
		cmocka_unit_test(port_tests),
		cmocka_unit_test(keyboard_does_not_answer),
		cmocka_unit_test(i8042_survives_an_update),
		cmocka_unit_test(i8042_refuses_impossible_state),
		cmocka_unit_test(pvpanic_tells),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
