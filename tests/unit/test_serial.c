/* SPDX-License-Identifier: MIT */
/* The 16550A, with a socket as the other end of the cable. */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <molt/hw/classes.h>

#include "fake_machine.h"

#define COM1 0x3f8
#define IRQ 4

#define DATA (COM1 + 0)
#define IER (COM1 + 1)
#define IIR (COM1 + 2)
#define FCR (COM1 + 2)
#define LCR (COM1 + 3)
#define MCR (COM1 + 4)
#define LSR (COM1 + 5)
#define MSR (COM1 + 6)
#define SCR (COM1 + 7)

#define OUT2 0x08
#define LOOP 0x10

/* A machine with a serial port and the peer at its socket. */
struct cable {
	struct fake_machine f;
	char dir[64];
	char spec[128];
	int peer;
};

static int dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	assert_true(fd >= 0);
	assert_true(strlen(path) < sizeof(addr.sun_path));
	memcpy(addr.sun_path, path, strlen(path));
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

static const char *socket_path(const struct cable *c)
{
	return strchr(c->spec, '=') + 1;
}

static void plug_in(struct cable *c)
{
	c->peer = dial(socket_path(c));
	fake_settle(&c->f);
}

static void start_unplugged(struct cable *c)
{
	struct error err = ERROR_INIT;

	strcpy(c->dir, "/tmp/molt-serial-XXXXXX");
	assert_non_null(mkdtemp(c->dir));
	snprintf(c->spec, sizeof(c->spec), "socket=%s/com1", c->dir);
	fake_machine_init(&c->f);
	c->f.option_name = "serial";
	c->f.option_value = c->spec;
	assert_int_equal(fake_device_create(&c->f, &serial_class, NULL, NULL, &err), 0);
	c->peer = -1;
}

static void start(struct cable *c)
{
	start_unplugged(c);
	plug_in(c);
	fake_inb(&c->f, MSR);
}

static void stop(struct cable *c)
{
	if (c->peer >= 0)
		close(c->peer);
	fake_machine_fini(&c->f);
	assert_int_equal(rmdir(c->dir), 0);
}

static void say(struct cable *c, const char *text)
{
	assert_int_equal(send(c->peer, text, strlen(text), 0), (ssize_t)strlen(text));
	fake_settle(&c->f);
}

static void assert_heard(struct cable *c, const char *text)
{
	char buf[256] = "";
	ssize_t n;

	fake_settle(&c->f);
	n = recv(c->peer, buf, sizeof(buf) - 1, MSG_DONTWAIT);
	assert_int_equal(n < 0 ? 0 : n, (ssize_t)strlen(text));
	assert_string_equal(buf, text);
}

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct cable));
	assert_non_null(*state);
	start(*state);
	return 0;
}

static int teardown(void **state)
{
	stop(*state);
	free(*state);
	return 0;
}

/* The guest's set-up: FIFO with the trigger level, IRQ through, interrupts enabled. */
static void program(struct cable *c, uint8_t fcr, uint8_t ier)
{
	fake_outb(&c->f, FCR, fcr);
	fake_outb(&c->f, MCR, OUT2 | 0x03);
	fake_outb(&c->f, IER, ier);
}

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
	start_unplugged(&c);
	fake_outb(&c.f, DATA, 'b');
	fake_outb(&c.f, DATA, 'o');
	plug_in(&c);
	assert_heard(&c, "bo");
	stop(&c);
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

		start(&c);
		program(&c, (uint8_t)(i << 6 | 0x01), 0x01);
		text[levels[i] - 1] = '\0';
		say(&c, text);
		/* Below the level: a character timeout, if there is anything. */
		assert_int_equal(fake_inb(&c.f, IIR), levels[i] > 1 ? 0xcc : 0xc1);
		say(&c, "x");
		assert_int_equal(fake_inb(&c.f, IIR), 0xc4);
		fake_inb(&c.f, DATA);
		assert_int_equal(fake_inb(&c.f, IIR), levels[i] > 1 ? 0xcc : 0xc1);
		stop(&c);
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
	start_unplugged(&c);
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
	stop(&c);
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
	f.option_name = "serial";
	f.option_value = "modem";
	assert_true(fake_device_create(&f, &serial_class, NULL, NULL, &err) < 0);
	assert_non_null(strstr(err.text, "modem"));
	fake_machine_fini(&f);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

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
