/* SPDX-License-Identifier: MIT */
/*
 * The chip of a serial port: National Semiconductor 16550A (datasheet PC16550D). What its pins lead
 * to is the caller's, and so is the lock.
 */
#ifndef MOLT_HW_UART_H
#define MOLT_HW_UART_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>

#define UART_FIFO_BYTES 16
#define UART_REGISTERS 8

struct uart {
	uint32_t rx_len;
	uint8_t rx[UART_FIFO_BYTES]; /* the oldest first */
	uint8_t dll;
	uint8_t dlm;
	uint8_t ier;
	uint8_t fcr;
	uint8_t lcr;
	uint8_t mcr;
	uint8_t msr;
	uint8_t scr;
	bool overrun;      /* LSR.OE */
	bool thre_pending; /* the THRE interrupt was raised and not reported yet */
	bool connected;    /* what the modem lines outside say */
	bool irq_level;
};

/* What the chip does to the world. has_room: it may take more now, see uart_room(). */
struct uart_pins {
	void (*transmit)(void *opaque, uint8_t byte);
	void (*has_room)(void *opaque);
	void (*interrupt)(void *opaque, bool level);
	void *opaque;
};

/* Register reg, below UART_REGISTERS, as a guest reads and writes it. */
uint8_t uart_read(struct uart *u, const struct uart_pins *pins, unsigned int reg);
void uart_write(struct uart *u, const struct uart_pins *pins, unsigned int reg, uint8_t value);

/* How many bytes the receiver takes before the guest must have read some. */
size_t uart_room(const struct uart *u);

/*
 * Bytes from outside. Since the sender asked for room the guest may have dropped its FIFO, which
 * makes an overrun of them, or gone into loopback mode, where the chip does not hear its input.
 */
void uart_receive(struct uart *u, const struct uart_pins *pins, const uint8_t *data, size_t len);

/* Somebody is at the other end, or no more: CTS, DSR and DCD. */
void uart_connect(struct uart *u, const struct uart_pins *pins, bool connected);

/* As after MR; the lines are as they are, which is no change of them. */
void uart_reset(struct uart *u, const struct uart_pins *pins, bool connected);

/* -EINVAL: no chip can be in this state. */
int uart_check(const struct uart *u, struct error *err);

#endif
