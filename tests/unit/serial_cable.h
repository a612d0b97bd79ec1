/* SPDX-License-Identifier: MIT */
/*
 * What the tests of the serial port share: the port in a fake machine, and the peer at its socket.
 */
#ifndef MOLT_TESTS_SERIAL_CABLE_H
#define MOLT_TESTS_SERIAL_CABLE_H

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

const char *socket_path(const struct cable *c);
void plug_in(struct cable *c);
void cable_start_unplugged(struct cable *c);
void cable_start(struct cable *c);
void cable_stop(struct cable *c);
void say(struct cable *c, const char *text);
void assert_heard(struct cable *c, const char *text);

/* cmocka's, with a peer that is plugged in and no news of it. */
int cable_setup(void **state);
int cable_teardown(void **state);

/* The guest's set-up: FIFO with the trigger level, IRQ through, interrupts enabled. */
void program(struct cable *c, uint8_t fcr, uint8_t ier);

#define T(f) cmocka_unit_test_setup_teardown(f, cable_setup, cable_teardown)

#endif
