/* SPDX-License-Identifier: MIT */
/*
 * The 16550A (datasheet PC16550D). Theory of operation.
 *
 * There is no baud rate: a byte written to THR is on its way at once, so the transmitter is always
 * empty and LSR says THRE and TEMT at any time. The THRE interrupt is edge-like: it is raised by
 * each byte sent and by turning IER.THRI on, and taken back by the IIR read that reports it.
 *
 * The receiver takes from outside only what its FIFO has room for, so an overrun happens in
 * loopback mode alone. A character timeout needs no timer: what the host had is here already, so
 * waiting four character times for more would only delay what is there; bytes below the trigger
 * level are reported as a timeout at once.
 *
 * The interrupt leaves the chip through OUT2, as on a PC. Loopback mode forces the pins inactive,
 * so it also cuts the interrupt off.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "uart.h"

#define RESET_DIVISOR 12 /* 9600 baud, as firmware leaves it: guests divide by it */

/* Registers; two share an offset by direction or by DLAB. */
enum {
	REG_DATA, /* RBR and THR, or DLL */
	REG_IER,  /* or DLM */
	REG_IIR,  /* FCR when written */
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCR
};

static_assert(REG_SCR + 1 == UART_REGISTERS, "the registers are consecutive");

#define IER_RDI 0x01u
#define IER_THRI 0x02u
#define IER_RLSI 0x04u
#define IER_MSI 0x08u
#define IER_MASK 0x0fu

#define IIR_MSI 0x00u
#define IIR_NONE 0x01u
#define IIR_THRI 0x02u
#define IIR_RDI 0x04u
#define IIR_RLSI 0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO 0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_TRIGGER_SHIFT 6
#define FCR_KEPT 0xc9u /* enable, DMA mode, trigger */

#define LCR_DLAB 0x80u

#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u
#define MCR_MASK 0x1fu

#define LSR_DR 0x01u
#define LSR_OE 0x02u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u

#define MSR_DELTAS 0x0fu
#define MSR_TERI 0x04u /* the one delta that is of a falling edge only */
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u

/* ---- interrupts ---- */

static uint32_t rx_capacity(const struct uart *u)
{
	return u->fcr & FCR_ENABLE ? UART_FIFO_BYTES : 1;
}

static uint32_t rx_trigger(const struct uart *u)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	return u->fcr & FCR_ENABLE ? levels[u->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* The most urgent cause, as IIR names it (datasheet table V). */
static uint8_t pending_cause(const struct uart *u)
{
	if ((u->ier & IER_RLSI) && u->overrun)
		return IIR_RLSI;
	if ((u->ier & IER_RDI) && u->rx_len)
		return u->rx_len >= rx_trigger(u) ? IIR_RDI : IIR_TIMEOUT;
	if ((u->ier & IER_THRI) && u->thre_pending)
		return IIR_THRI;
	if ((u->ier & IER_MSI) && (u->msr & MSR_DELTAS))
		return IIR_MSI;
	return IIR_NONE;
}

static bool irq_wanted(const struct uart *u)
{
	return (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && pending_cause(u) != IIR_NONE;
}

static void update_irq(struct uart *u, const struct uart_pins *pins)
{
	u->irq_level = irq_wanted(u);
	pins->interrupt(pins->opaque, u->irq_level);
}

/* ---- modem lines ---- */

static uint8_t modem_lines(const struct uart *u)
{
	uint8_t lines = 0;

	if (!(u->mcr & MCR_LOOP))
		return u->connected ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
	if (u->mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (u->mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (u->mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (u->mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static void update_modem(struct uart *u)
{
	uint8_t lines = modem_lines(u);
	uint8_t deltas = (uint8_t)((u->msr ^ lines) >> 4);

	if (lines & MSR_RI)
		deltas &= (uint8_t)~MSR_TERI;
	u->msr = (uint8_t)(lines | (u->msr & MSR_DELTAS) | deltas);
}

/* ---- receiver ---- */

/* The chip takes nothing from outside while its input is looped back. */
size_t uart_room(const struct uart *u)
{
	return u->mcr & MCR_LOOP || u->rx_len >= rx_capacity(u) ? 0 : rx_capacity(u) - u->rx_len;
}

static void receive(struct uart *u, uint8_t byte)
{
	if (u->rx_len < rx_capacity(u)) {
		u->rx[u->rx_len++] = byte;
		return;
	}
	/* A full FIFO keeps what it has; without FIFO the new byte takes the old one's place. */
	u->overrun = true;
	if (!(u->fcr & FCR_ENABLE))
		u->rx[0] = byte;
}

static uint8_t read_rbr(struct uart *u, const struct uart_pins *pins)
{
	uint8_t byte = u->rx[0];

	if (!u->rx_len)
		return 0;
	u->rx_len--;
	if (u->rx_len)
		memmove(u->rx, u->rx + 1, u->rx_len);
	pins->has_room(pins->opaque);
	return byte;
}

/* ---- transmitter ---- */

static void write_thr(struct uart *u, const struct uart_pins *pins, uint8_t byte)
{
	/* Full for a moment, then empty again: where THRE was pending the guest sees a new edge. */
	u->thre_pending = false;
	update_irq(u, pins);
	if (u->mcr & MCR_LOOP)
		receive(u, byte);
	else
		pins->transmit(pins->opaque, byte);
	u->thre_pending = true;
}

/* ---- registers ---- */

static void write_ier(struct uart *u, uint8_t value)
{
	if ((value & IER_THRI) && !(u->ier & IER_THRI))
		u->thre_pending = true;
	u->ier = value & IER_MASK;
}

static void write_fcr(struct uart *u, const struct uart_pins *pins, uint8_t value)
{
	/* Without the enable bit the others are not programmed; switching clears the FIFOs. */
	if (!(value & FCR_ENABLE))
		value = 0;
	if ((value & FCR_CLEAR_RX) || ((value ^ u->fcr) & FCR_ENABLE))
		u->rx_len = 0;
	u->fcr = value & FCR_KEPT;
	pins->has_room(pins->opaque);
}

static void write_mcr(struct uart *u, const struct uart_pins *pins, uint8_t value)
{
	u->mcr = value & MCR_MASK;
	update_modem(u);
	pins->has_room(pins->opaque);
}

static uint8_t read_iir(struct uart *u)
{
	uint8_t cause = pending_cause(u);

	if (cause == IIR_THRI)
		u->thre_pending = false;
	return cause | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct uart *u)
{
	uint8_t lsr = LSR_THRE | LSR_TEMT;

	if (u->rx_len)
		lsr |= LSR_DR;
	if (u->overrun)
		lsr |= LSR_OE;
	u->overrun = false;
	return lsr;
}

static uint8_t read_msr(struct uart *u)
{
	uint8_t msr = u->msr;

	u->msr &= (uint8_t)~MSR_DELTAS;
	return msr;
}

static uint8_t read_register(struct uart *u, const struct uart_pins *pins, unsigned int reg)
{
	bool dlab = u->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		return dlab ? u->dll : read_rbr(u, pins);
	case REG_IER:
		return dlab ? u->dlm : u->ier;
	case REG_IIR:
		return read_iir(u);
	case REG_LCR:
		return u->lcr;
	case REG_MCR:
		return u->mcr;
	case REG_LSR:
		return read_lsr(u);
	case REG_MSR:
		return read_msr(u);
	default:
		return u->scr;
	}
}

static void write_register(struct uart *u, const struct uart_pins *pins, unsigned int reg,
			   uint8_t value)
{
	bool dlab = u->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			u->dll = value;
		else
			write_thr(u, pins, value);
		break;
	case REG_IER:
		if (dlab)
			u->dlm = value;
		else
			write_ier(u, value);
		break;
	case REG_IIR:
		write_fcr(u, pins, value);
		break;
	case REG_LCR:
		u->lcr = value;
		break;
	case REG_MCR:
		write_mcr(u, pins, value);
		break;
	case REG_SCR:
		u->scr = value;
		break;
	default: /* LSR and MSR: for the factory's tests */
		break;
	}
}

uint8_t uart_read(struct uart *u, const struct uart_pins *pins, unsigned int reg)
{
	uint8_t value = read_register(u, pins, reg);

	update_irq(u, pins);
	return value;
}

void uart_write(struct uart *u, const struct uart_pins *pins, unsigned int reg, uint8_t value)
{
	write_register(u, pins, reg, value);
	update_irq(u, pins);
}

/* ---- the world ---- */

void uart_receive(struct uart *u, const struct uart_pins *pins, const uint8_t *data, size_t len)
{
	for (size_t i = 0; i < len && !(u->mcr & MCR_LOOP); i++)
		receive(u, data[i]);
	update_irq(u, pins);
}

void uart_connect(struct uart *u, const struct uart_pins *pins, bool connected)
{
	u->connected = connected;
	update_modem(u);
	update_irq(u, pins);
}

void uart_reset(struct uart *u, const struct uart_pins *pins, bool connected)
{
	*u = (struct uart){ .connected = connected, .dll = RESET_DIVISOR };
	u->msr = modem_lines(u);
	update_irq(u, pins);
	pins->has_room(pins->opaque);
}

int uart_check(const struct uart *u, struct error *err)
{
	if (u->rx_len > rx_capacity(u))
		return err_set(err, EINVAL, "serial: %u bytes received, but there is room for %u",
			       u->rx_len, rx_capacity(u));
	if ((u->ier & ~IER_MASK) || (u->mcr & ~MCR_MASK) || (u->fcr & ~FCR_KEPT))
		return err_set(err, EINVAL,
			       "serial: impossible register: IER %#x, MCR %#x, FCR %#x", u->ier,
			       u->mcr, u->fcr);
	if ((u->msr & ~MSR_DELTAS) != modem_lines(u))
		return err_set(err, EINVAL, "serial: MSR %#x does not match the modem lines %#x",
			       u->msr, modem_lines(u));
	return 0;
}
