/* SPDX-License-Identifier: MIT */
/*
 * Echoes what comes in on COM1, by interrupts only: received data and THRE both raise IRQ 4,
 * through the PIC or the IOAPIC. It sleeps between them, so a lost interrupt shows as silence.
 *
 * Options: irq=ioapic|pic. Ctrl-D ends it.
 */
#include "lib/guest.h"

#define COM1 0x3f8
#define IER_RX 0x01
#define IER_THRE 0x02
#define IIR_NONE 0x01
#define LSR_DATA 0x01
#define LSR_THRE 0x20
#define CTRL_D 0x04
#define FIFO_SIZE 16

#define IRQ_COM1 4
#define VEC_IOAPIC_COM1 0x44

static char ring[4096];
static unsigned int head, tail; /* free running: filled at head, sent from tail */
static bool ended;

static void receive(void)
{
	while (inb(COM1 + 5) & LSR_DATA) {
		char c = (char)inb(COM1);

		if (c == CTRL_D)
			ended = true;
		else if (head - tail < sizeof(ring))
			ring[head++ % sizeof(ring)] = c;
	}
}

static void transmit(void)
{
	if (!(inb(COM1 + 5) & LSR_THRE))
		return;
	for (int i = 0; i < FIFO_SIZE && tail != head; i++)
		outb(COM1, (uint8_t)ring[tail++ % sizeof(ring)]);
}

/* Serve the port until it has nothing more to say: its interrupt is an edge, it comes once. */
static void serve(void)
{
	do {
		receive();
		transmit();
		outb(COM1 + 1, head != tail ? IER_RX | IER_THRE : IER_RX);
	} while (!(inb(COM1 + 2) & IIR_NONE));
}

static unsigned int route(void)
{
	lapic_enable();
	if (option_is("irq", "pic")) {
		outb(0x21, (uint8_t) ~(1u << IRQ_COM1));
		return VEC_PIC + IRQ_COM1;
	}
	ioapic_write(0x10 + 2 * IRQ_COM1 + 1, lapic_read(LAPIC_ID));
	ioapic_write(0x10 + 2 * IRQ_COM1, VEC_IOAPIC_COM1);
	return VEC_IOAPIC_COM1;
}

void guest_main(void)
{
	unsigned int vector = route();
	const volatile uint64_t *irqs = &this_cpu()->irq_count[vector];

	print("echo: ready irq=%s\n", vector == VEC_IOAPIC_COM1 ? "ioapic" : "pic");
	outb(COM1 + 4, 0x0b); /* OUT2 lets the interrupt out */
	outb(COM1 + 1, IER_RX);
	while (!ended || head != tail) {
		uint64_t seen = *irqs;

		serve();
		if (!ended || head != tail)
			halt_unless(irqs, seen);
	}
	outb(COM1 + 1, 0);
	print("echo: done irqs=%lu\n", *irqs);
}
