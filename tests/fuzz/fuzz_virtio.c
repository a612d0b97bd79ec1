/* SPDX-License-Identifier: MIT */
/*
 * PCI functions and virtio's transport as a guest can reach them: configuration space by both ways,
 * whatever is in the 64-bit window, MSI-X, and rings in the first bytes of RAM, of a machine with
 * two virtio-rng. In between main does what was asked of it, and the state is loaded into the
 * device that it came from, as an update would: what a guest can do is never refused.
 */
#include "../unit/machine_bench.h"

#include <molt/hw/classes.h>
#include <molt/pci/classes.h>
#include <molt/pci/function.h>
#include <molt/virtio/classes.h>
#include <molt/base/log.h>

#include "fuzz.h"

#define RAM_USED 0x10000u
#define ECAM 0xe0000000ull
#define SLOTS 4
#define STEPS_MAX 400

enum op {
	OP_CONFIG, /* by the ECAM */
	OP_PORTS,  /* by 0xcf8 and 0xcfc */
	OP_BAR,    /* at a slot's place at power-on */
	OP_WINDOW, /* anywhere in the first BARs' place */
	OP_RAM,
	OP_KICK,
	OP_SET_UP, /* a driver's first steps, so that more than the door is seen */
	OP_LOAD,
	OPS
};

static struct bench b;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const struct device_request devices[] = {
		{ .cls = &serial_class, .args = "null" },
		{ .cls = &virtio_rng_class, .args = "host" },
		{ .cls = &virtio_rng_class, .args = "host" },
	};
	struct error err = ERROR_INIT;

	(void)argc;
	(void)argv;
	log_set_fd(-1);
	bench_prepare(&b, 1);
	b.cfg.devices = devices;
	b.cfg.ndevices = sizeof(devices) / sizeof(devices[0]);
	fuzz_must_work(bench_create(&b, &err), &err);
	return 0;
}

static bool is_pci(const struct device *dev)
{
	return dev->cls == &pci_host_class || dev->cls == &virtio_rng_class;
}

static void do_access(enum bus_kind kind, uint64_t addr, uint64_t value, unsigned int size,
		      bool write)
{
	bus_access(&b.m.bus, kind, addr, &value, size, write);
}

/* What main does before the guest's next instruction. */
static void serve_requests(void)
{
	for (int turn = 0; atomic_load(&b.m.requests); turn++) {
		fuzz_must(turn < 100);
		atomic_store(&b.m.requests, 0);
		for (unsigned int i = 0; i < b.m.ndevices; i++)
			if (b.m.devices[i]->cls->service)
				b.m.devices[i]->cls->service(b.m.devices[i]);
	}
}

static void load_again(void)
{
	struct error err = ERROR_INIT;

	for (unsigned int i = 0; i < b.m.ndevices; i++)
		if (is_pci(b.m.devices[i]))
			fuzz_must_work(b.m.devices[i]->cls->post_load(b.m.devices[i], &err), &err);
}

static uint64_t bar(unsigned int slot)
{
	return PCI_BAR_BASE + slot * PCI_BAR_STRIDE;
}

/* Features, one queue of 8 at fixed places, DRIVER_OK; MSI-X on. */
static void set_up(unsigned int slot)
{
	const uint64_t at = bar(slot);
	const struct {
		uint64_t offset;
		uint64_t value;
		unsigned int size;
	} steps[] = {
		{ 0x14, 0, 1 },          { 0x14, 3, 1 },      { 0x08, 0, 4 },
		{ 0x0c, 0x30000000, 4 }, { 0x08, 1, 4 },      { 0x0c, 0x101, 4 },
		{ 0x14, 11, 1 },         { 0x16, 0, 2 },      { 0x18, 8, 2 },
		{ 0x1a, 1, 2 },          { 0x20, 0x1000, 8 }, { 0x28, 0x2000, 8 },
		{ 0x30, 0x3000, 8 },     { 0x1c, 1, 2 },      { 0x14, 15, 1 },
	};

	for (size_t i = 0; i < sizeof(steps) / sizeof(steps[0]); i++)
		do_access(BUS_MMIO, at + steps[i].offset, steps[i].value, steps[i].size, true);
}

static void write_ram(struct fuzz_input *in)
{
	uint8_t bytes[64];
	uint64_t gpa = fuzz_u16(in);
	size_t n = fuzz_u8(in) % sizeof(bytes);

	fuzz_bytes(in, bytes, n);
	if (gpa + n <= RAM_USED)
		memory_write(&b.m.memory, gpa, bytes, n);
}

static void step(struct fuzz_input *in)
{
	uint8_t op = fuzz_u8(in), slot = fuzz_u8(in) % SLOTS,
		size = (uint8_t)(1u << fuzz_u8(in) % 4);
	bool write = !(op & 0x80);

	switch (op % OPS) {
	case OP_CONFIG:
		do_access(BUS_MMIO, ECAM + slot * 0x8000u + fuzz_u16(in) % 0x1100, fuzz_u64(in),
			  size, write);
		break;
	case OP_PORTS:
		do_access(BUS_PIO, 0xcf8, 0x80000000u | slot * 0x800u | fuzz_u8(in), 4, true);
		do_access(BUS_PIO, 0xcfcu + fuzz_u8(in) % 4, fuzz_u64(in), size > 4 ? 4 : size,
			  write);
		break;
	case OP_BAR:
		do_access(BUS_MMIO, bar(slot) + fuzz_u16(in) % 0x8010, fuzz_u64(in), size, write);
		break;
	case OP_WINDOW:
		do_access(BUS_MMIO, PCI_BAR_BASE + fuzz_u64(in) % (SLOTS * PCI_BAR_STRIDE),
			  fuzz_u64(in), size, write);
		break;
	case OP_RAM:
		write_ram(in);
		break;
	case OP_KICK:
		do_access(BUS_MMIO, bar(slot) + 0x3000, 0, 2, true);
		break;
	case OP_SET_UP:
		set_up(slot);
		break;
	default:
		load_again();
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint8_t zeroes[RAM_USED];
	struct fuzz_input in = { data, size };

	memory_write(&b.m.memory, 0, zeroes, sizeof(zeroes));
	for (unsigned int i = 0; i < b.m.ndevices; i++)
		if (is_pci(b.m.devices[i]))
			b.m.devices[i]->cls->reset(b.m.devices[i]);
	serve_requests();
	for (int i = 0; i < STEPS_MAX && in.len; i++) {
		step(&in);
		serve_requests();
	}
	load_again();
	return 0;
}
