/* SPDX-License-Identifier: MIT */
/*
 * Interrupts: messages (MSI), and lines, which are a device's wire to the in-kernel interrupt
 * controllers (KVM_IRQ_LINE). A GSI below 24 is the IOAPIC pin of that number and, below 16, the
 * PIC pin too (KVM's default routing).
 */
#ifndef MOLT_VM_IRQ_H
#define MOLT_VM_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/vm/kvm.h>

struct irq_line {
	struct kvm_vm *vm;
	uint32_t gsi;
	bool level_triggered; /* level (active high), else a rising edge interrupts */
	bool level;           /* of the wire now; the device saves it in its guest state */
};

void irq_line_init(struct irq_line *line, struct kvm_vm *vm, uint32_t gsi, bool level_triggered);

/* Drives the wire. Does nothing where it has that level already. */
void irq_line_set(struct irq_line *line, bool level);

/*
 * One edge of a wire that is low. Positive: an interrupt controller took it. 0: the one before
 * still waits in there, and this one is nothing; the IOAPIC always takes it, and if the one before
 * waits in a local APIC they are one. Negative: masked (or an error, which is logged). Main only.
 */
int irq_line_pulse(struct irq_line *line);

/*
 * After an update, when KVM's own irqchip state is back: takes the wire's level without making a
 * second edge. A level-triggered line that is high is asserted again; an edge line is not, for its
 * edge is in the irqchip's state already.
 */
void irq_line_restore(struct irq_line *line, bool level);

/*
 * A message-signalled interrupt, as a device writes it: address and data are the guest's. Where
 * they make no sense nothing happens. Any thread.
 */
void irq_msi(struct kvm_vm *vm, uint64_t address, uint32_t data);

#endif
