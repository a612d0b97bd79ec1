/* SPDX-License-Identifier: MIT */
/*
 * Echoes what comes in on a serial port, by interrupts only: received data and THRE both raise its
 * IRQ, through the PIC or the IOAPIC. It sleeps between them, so a lost interrupt shows as silence.
 *
 * Options: irq=ioapic|pic port=com1|com2. What it has to say itself goes to COM1. Ctrl-D ends it.
 */
#include "lib/guest.h"

#define IER_RX 0x01
#define IER_THRE 0x02
#define IIR_NONE 0x01
#define LSR_DATA 0x01
#define LSR_THRE 0x20
#define CTRL_D 0x04
#define FIFO_SIZE 16

#define VEC_IOAPIC 0x44

static uint16_t port = 0x3f8;
static unsigned int irq = 4;

static char ring[4096];
static unsigned int head, tail; /* free running: filled at head, sent from tail */
static bool ended;

static void receive(void)
{
	while (inb(port + 5) & LSR_DATA) {
		char c = (char)inb(port);

		if (c == CTRL_D)
			ended = true;
		else if (head - tail < sizeof(ring))
			ring[head++ % sizeof(ring)] = c;
	}
}

static void transmit(void)
{
	if (!(inb(port + 5) & LSR_THRE))
		return;
	for (int i = 0; i < FIFO_SIZE && tail != head; i++)
		outb(port, (uint8_t)ring[tail++ % sizeof(ring)]);
}

/* Serve the port until it has nothing more to say: its interrupt is an edge, it comes once. */
static void serve(void)
{
	do {
		receive();
		transmit();
		outb(port + 1, head != tail ? IER_RX | IER_THRE : IER_RX);
	} while (!(inb(port + 2) & IIR_NONE));
}

static unsigned int route(void)
{
	lapic_enable();
	if (option_is("irq", "pic")) {
		outb(0x21, (uint8_t) ~(1u << irq));
		return VEC_PIC + irq;
	}
	ioapic_write(0x10 + 2 * irq + 1, lapic_read(LAPIC_ID));
	ioapic_write(0x10 + 2 * irq, VEC_IOAPIC);
	return VEC_IOAPIC;
}

void guest_main(void)
{
	unsigned int vector;
	const volatile uint64_t *irqs;

	if (option_is("port", "com2")) {
		port = 0x2f8;
		irq = 3;
	}
	vector = route();
	irqs = &this_cpu()->irq_count[vector];
	print("echo: ready irq=%s\n", vector == VEC_IOAPIC ? "ioapic" : "pic");
	outb(port + 4, 0x0b); /* OUT2 lets the interrupt out */
	outb(port + 1, IER_RX);
	while (!ended || head != tail) {
		uint64_t seen = *irqs;

		serve();
		if (!ended || head != tail)
			halt_unless(irqs, seen);
	}
	outb(port + 1, 0);
	print("echo: done irqs=%lu\n", *irqs);
}
