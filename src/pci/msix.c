/* SPDX-License-Identifier: MIT */
/*
 * MSI-X: a table of messages, one bit each for those that wait for their vector to be unmasked.
 *
 * Messages go out in two ways. The slow one is here: whoever has an interrupt calls
 * pci_msix_notify(). For a vector that is fast an eventfd goes straight to KVM, which knows nothing
 * of masks. So when a guest changes such a vector its vCPU stops (MACHINE_REQ_SERVICE) until the
 * device has taken the eventfd off: its next instruction finds the vector as the guest wanted it.
 */
#include <string.h>

#include <molt/pci/function.h>
#include <molt/vm/irq.h>
#include <molt/vm/machine.h>

#define ENTRY_BYTES 16u
#define ENTRY_CONTROL 12u
#define VECTOR_MASKED 1u
#define CONTROL_ENABLE 0x8000u
#define CONTROL_MASK_ALL 0x4000u
#define MESSAGE_CONTROL 2u /* offset in the capability */

static bool bit(const uint32_t *words, uint32_t n)
{
	return words[n / 32] >> (n % 32) & 1;
}

static void set_bit(uint32_t *words, uint32_t n, bool on)
{
	if (on)
		words[n / 32] |= 1u << (n % 32);
	else
		words[n / 32] &= ~(1u << (n % 32));
}

static uint32_t control(const struct pci_function *f)
{
	const uint8_t *c = &f->guest->config[f->msix_cap + MESSAGE_CONTROL];

	return (uint32_t)(c[0] | c[1] << 8);
}

static bool is_masked(const struct pci_function *f, uint32_t vector)
{
	return control(f) & CONTROL_MASK_ALL || f->guest->msix_control[vector] & VECTOR_MASKED;
}

static void send(struct pci_function *f, uint32_t vector)
{
	const struct pci_function_guest *g = f->guest;

	irq_msi(&f->dev->machine->vm, g->msix_address[vector], g->msix_data[vector]);
}

bool pci_msix_message(const struct pci_function *f, uint32_t vector, uint64_t *address,
		      uint32_t *data)
{
	if (vector >= f->id.nvectors || !(control(f) & CONTROL_ENABLE) || is_masked(f, vector) ||
	    !pci_function_is_master(f))
		return false;
	*address = f->guest->msix_address[vector];
	*data = f->guest->msix_data[vector];
	return true;
}

void pci_msix_notify(struct pci_function *f, uint32_t vector)
{
	if (vector >= f->id.nvectors || !(control(f) & CONTROL_ENABLE))
		return;
	if (is_masked(f, vector) || !pci_function_is_master(f))
		set_bit(f->guest->msix_pending, vector, true);
	else
		send(f, vector);
}

static void send_pending(struct pci_function *f, uint32_t vector)
{
	if (!bit(f->guest->msix_pending, vector) || is_masked(f, vector) ||
	    !(control(f) & CONTROL_ENABLE) || !pci_function_is_master(f))
		return;
	set_bit(f->guest->msix_pending, vector, false);
	send(f, vector);
}

void pci_msix_forget(struct pci_function *f, uint32_t vector)
{
	if (vector < f->id.nvectors)
		set_bit(f->guest->msix_pending, vector, false);
}

void pci_msix_fast(struct pci_function *f, uint32_t vector, bool on)
{
	set_bit(f->fast, vector, on);
}

/* Any change to a vector: one that is fast is looked at again, one that is to be may be now. */
static void vector_changed(struct pci_function *f, uint32_t vector)
{
	if (bit(f->fast, vector))
		machine_request(f->dev->machine, MACHINE_REQ_SERVICE);
	send_pending(f, vector);
	if (f->changed)
		f->changed(f->dev);
}

void pci_msix_control_changed(struct pci_function *f)
{
	for (uint32_t i = 0; i < f->id.nvectors; i++) {
		if (bit(f->fast, i))
			machine_request(f->dev->machine, MACHINE_REQ_SERVICE);
		send_pending(f, i);
	}
}

static uint32_t read_entry(const struct pci_function_guest *g, uint32_t vector, uint32_t word)
{
	switch (word) {
	case 0:
		return (uint32_t)g->msix_address[vector];
	case 1:
		return (uint32_t)(g->msix_address[vector] >> 32);
	case 2:
		return g->msix_data[vector];
	default:
		return g->msix_control[vector];
	}
}

static void write_entry(struct pci_function_guest *g, uint32_t vector, uint32_t word,
			uint32_t value)
{
	uint64_t *address = &g->msix_address[vector];

	switch (word) {
	case 0:
		*address = (*address & ~0xffffffffull) | (value & ~3u);
		break;
	case 1:
		*address = (*address & 0xffffffff) | (uint64_t)value << 32;
		break;
	case 2:
		g->msix_data[vector] = value;
		break;
	default:
		g->msix_control[vector] = value & VECTOR_MASKED;
		break;
	}
}

/* Doublewords and quadwords, as the specification asks of software; of others nothing is known. */
static bool is_whole(uint64_t offset, unsigned int size)
{
	return (size == 4 || size == 8) && offset % size == 0;
}

static bool in_table(const struct pci_function *f, uint64_t offset, unsigned int size)
{
	return offset >= f->id.msix_table &&
	       offset + size <= f->id.msix_table + ENTRY_BYTES * f->id.nvectors;
}

static bool in_pba(const struct pci_function *f, uint64_t offset, unsigned int size)
{
	return offset >= f->id.msix_pba &&
	       offset + size <= f->id.msix_pba + 8 * ((f->id.nvectors + 63) / 64);
}

bool pci_msix_read(struct pci_function *f, uint64_t offset, unsigned int size, uint64_t *value)
{
	bool table = in_table(f, offset, size), pba = in_pba(f, offset, size);

	if (!table && !pba)
		return false;
	*value = 0;
	if (!is_whole(offset, size))
		return true;
	for (unsigned int i = 0; i < size / 4; i++) {
		uint64_t word = (offset - (table ? f->id.msix_table : f->id.msix_pba)) / 4 + i;
		uint32_t v = 0;

		if (table)
			v = read_entry(f->guest, (uint32_t)(word / 4), word % 4);
		else if (word < PCI_MSIX_WORDS)
			v = f->guest->msix_pending[word];
		*value |= (uint64_t)v << (32 * i);
	}
	return true;
}

bool pci_msix_write(struct pci_function *f, uint64_t offset, uint64_t value, unsigned int size)
{
	if (in_pba(f, offset, size))
		return true; /* read-only */
	if (!in_table(f, offset, size))
		return false;
	if (!is_whole(offset, size))
		return true;
	for (unsigned int i = 0; i < size / 4; i++) {
		uint32_t word = (uint32_t)(offset - f->id.msix_table) / 4 + i;

		write_entry(f->guest, word / 4, word % 4, (uint32_t)(value >> (32 * i)));
	}
	vector_changed(f, (uint32_t)(offset - f->id.msix_table) / ENTRY_BYTES);
	return true;
}
