/* SPDX-License-Identifier: MIT */
/*
 * A PCI function: its configuration space and its BAR.
 *
 * A guest's write to command register or BAR takes effect in two steps. The register changes at
 * once; where the BAR's registers are on the bus, only main can change, with every vCPU parked
 * (MACHINE_REQ_SERVICE). The vCPU that wrote executes no other instruction until that is done;
 * another one may, until main parks it. To find out the BAR's size a guest writes all ones to it,
 * mostly with memory decoding off: then nothing moves.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include <linux/pci_regs.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/pci/bus.h>
#include <molt/pci/function.h>
#include <molt/vm/machine.h>

#define COMMAND_POWER_ON (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER)
#define COMMAND_WRITABLE \
	(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR | \
	 PCI_COMMAND_INTX_DISABLE)
#define FIRST_CAPABILITY 0x40
#define MSIX_CAP_BYTES 12

static void put16(uint8_t *p, uint32_t value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *p, uint32_t value)
{
	put16(p, value);
	put16(p + 2, value >> 16);
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint32_t command(const struct pci_function *f)
{
	return get32(&f->guest->config[PCI_COMMAND]) & 0xffff;
}

bool pci_function_is_master(const struct pci_function *f)
{
	return command(f) & PCI_COMMAND_MASTER;
}

/* ---- making one ---- */

uint8_t pci_function_add_capability(struct pci_function *f, const void *bytes, uint8_t len)
{
	uint8_t at = f->free;

	assert(at + len <= (int)PCI_CONFIG_BYTES);
	memcpy(&f->power_on.bytes[at], bytes, len);
	f->power_on.bytes[at + PCI_CAP_LIST_NEXT] = 0;
	f->power_on.bytes[f->last_cap ? f->last_cap + PCI_CAP_LIST_NEXT : PCI_CAPABILITY_LIST] = at;
	f->power_on.bytes[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	f->last_cap = at;
	f->free = (uint8_t)((at + len + 3) & ~3);
	return at;
}

static void add_msix(struct pci_function *f)
{
	uint8_t cap[MSIX_CAP_BYTES] = { [PCI_CAP_LIST_ID] = PCI_CAP_ID_MSIX };

	put16(&cap[PCI_MSIX_FLAGS], f->id.nvectors - 1);
	put32(&cap[PCI_MSIX_TABLE], f->id.msix_table); /* BAR 0 */
	put32(&cap[PCI_MSIX_PBA], f->id.msix_pba);
	f->msix_cap = pci_function_add_capability(f, cap, sizeof(cap));
	put16(&f->writable.bytes[f->msix_cap + PCI_MSIX_FLAGS],
	      PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL);
}

static void fill_header(struct pci_function *f)
{
	uint64_t base = PCI_BAR_BASE + f->slot * PCI_BAR_STRIDE;
	uint64_t mask = ~(f->id.bar->len - 1);
	uint8_t *on = f->power_on.bytes, *w = f->writable.bytes;

	put16(&on[PCI_VENDOR_ID], f->id.vendor);
	put16(&on[PCI_DEVICE_ID], f->id.device);
	put16(&on[PCI_COMMAND], COMMAND_POWER_ON);
	put32(&on[PCI_CLASS_REVISION], f->id.class_code << 8 | f->id.revision);
	put32(&on[PCI_BASE_ADDRESS_0], (uint32_t)base | PCI_BASE_ADDRESS_MEM_TYPE_64);
	put32(&on[PCI_BASE_ADDRESS_1], (uint32_t)(base >> 32));
	put16(&on[PCI_SUBSYSTEM_VENDOR_ID], f->id.subsystem_vendor);
	put16(&on[PCI_SUBSYSTEM_ID], f->id.subsystem);
	put16(&w[PCI_COMMAND], COMMAND_WRITABLE);
	w[PCI_CACHE_LINE_SIZE] = 0xff;
	w[PCI_INTERRUPT_LINE] = 0xff;
	put32(&w[PCI_BASE_ADDRESS_0], (uint32_t)mask);
	put32(&w[PCI_BASE_ADDRESS_1], (uint32_t)(mask >> 32));
}

int pci_function_init(struct pci_function *f, struct device *dev, struct pci_function_guest *guest,
		      const struct pci_identity *id, uint32_t slot, struct error *err)
{
	struct pci_bus *bus = pci_bus_of(dev->machine);
	int r;

	*f = (struct pci_function){ .free = FIRST_CAPABILITY };
	if (!bus)
		return err_set(err, ENODEV, "this machine has no PCI bus");
	r = pci_bus_add(bus, f, slot, err);
	if (r < 0)
		return r;
	f->dev = dev;
	f->guest = guest;
	f->id = *id;
	f->slot = (uint32_t)r;
	fill_header(f);
	add_msix(f);
	return 0;
}

void pci_function_fini(struct pci_function *f)
{
	if (!f->dev)
		return;
	bus_remove(&f->dev->machine->bus, f->id.bar, f->dev);
	pci_bus_remove(pci_bus_of(f->dev->machine), f);
	f->dev = NULL;
}

/* ---- the BAR ---- */

/* 0: nowhere. */
static uint64_t wanted_base(const struct pci_function *f)
{
	uint64_t low = get32(&f->guest->config[PCI_BASE_ADDRESS_0]) & PCI_BASE_ADDRESS_MEM_MASK;

	if (!(command(f) & PCI_COMMAND_MEMORY))
		return 0;
	return (uint64_t)get32(&f->guest->config[PCI_BASE_ADDRESS_1]) << 32 | (low & 0xffffffff);
}

/* A guest may put it anywhere, over another device's registers too: then it is nowhere. */
static void place(struct pci_function *f)
{
	uint64_t base = wanted_base(f);
	struct error err = ERROR_INIT;

	f->mapped = 0;
	if (base && bus_add(&f->dev->machine->bus, f->id.bar, base, f->dev, &err) == 0)
		f->mapped = base;
	else if (base)
		log_debug("PCI slot %u: %s", f->slot, err.text);
	f->guest->mapped = f->mapped;
}

/* Those that are nowhere may have waited for a place that was left. */
static void place_others(const struct pci_function *left)
{
	struct pci_bus *bus = pci_bus_of(left->dev->machine);

	for (uint32_t i = 0; i < PCI_SLOTS; i++) {
		struct pci_function *f = bus->functions[i];

		if (!f || f == left || f->mapped || !wanted_base(f))
			continue;
		place(f);
		/* What else depends on the place is its device's affair. */
		if (f->mapped)
			machine_request(f->dev->machine, MACHINE_REQ_SERVICE);
	}
}

void pci_function_service(struct pci_function *f)
{
	uint64_t was = f->mapped;

	f->guest->mapped = was;
	if (wanted_base(f) == was)
		return;
	bus_remove(&f->dev->machine->bus, f->id.bar, f->dev);
	place(f);
	if (was)
		place_others(f);
}

/* ---- the guest's accesses ---- */

uint32_t pci_function_config_read(struct pci_function *f, uint64_t offset, unsigned int size)
{
	uint32_t value = 0;

	if (f->access)
		f->access(f->dev, offset, size, false);
	for (unsigned int i = 0; i < size && offset + i < PCI_CONFIG_BYTES; i++)
		value |= (uint32_t)f->guest->config[offset + i] << (8 * i);
	return value;
}

void pci_function_config_write(struct pci_function *f, uint64_t offset, uint32_t value,
			       unsigned int size)
{
	uint64_t base = wanted_base(f);
	bool master = pci_function_is_master(f);

	for (unsigned int i = 0; i < size && offset + i < PCI_CONFIG_BYTES; i++) {
		uint8_t mask = f->writable.bytes[offset + i], *c = &f->guest->config[offset + i];

		*c = (uint8_t)((*c & ~mask) | (value >> (8 * i) & mask));
	}
	if (f->access)
		f->access(f->dev, offset, size, true);
	if (base != wanted_base(f) || master != pci_function_is_master(f))
		machine_request(f->dev->machine, MACHINE_REQ_SERVICE);
	if (master != pci_function_is_master(f) || (offset & ~3ull) == f->msix_cap)
		pci_msix_control_changed(f);
	if (f->changed && (master != pci_function_is_master(f) || (offset & ~3ull) == f->msix_cap))
		f->changed(f->dev);
}

/* ---- life ---- */

void pci_function_reset(struct pci_function *f)
{
	memset(f->guest, 0, sizeof(*f->guest));
	memcpy(f->guest->config, f->power_on.bytes, PCI_CONFIG_BYTES);
	f->guest->slot = f->slot;
	f->guest->nvectors = f->id.nvectors;
	for (uint32_t i = 0; i < f->id.nvectors; i++)
		f->guest->msix_control[i] = 1; /* masked (6.8.2.9) */
	pci_function_service(f);
}

static int check_table(const struct pci_function *f, struct error *err)
{
	const struct pci_function_guest *g = f->guest;

	for (uint32_t i = 0; i < PCI_MSIX_MAX; i++)
		if (g->msix_control[i] > 1 || g->msix_address[i] & 3 ||
		    (i >= f->id.nvectors &&
		     (g->msix_control[i] || g->msix_address[i] || g->msix_data[i])))
			return err_set(err, EINVAL, "MSI-X vector %u cannot be like that", i);
	for (uint32_t i = f->id.nvectors; i < 32 * PCI_MSIX_WORDS; i++)
		if (g->msix_pending[i / 32] >> (i % 32) & 1)
			return err_set(err, EINVAL, "MSI-X vector %u is pending and does not exist",
				       i);
	return 0;
}

/* Of two that want the same place the one that had it has it. */
static int load_place(struct pci_function *f, struct error *err)
{
	uint64_t base = f->guest->mapped;
	int r = 0;

	bus_remove(&f->dev->machine->bus, f->id.bar, f->dev);
	f->mapped = 0;
	if (base & (f->id.bar->len - 1))
		return err_set(err, EINVAL, "the BAR is at 0x%llx", (unsigned long long)base);
	/* The guest has just moved it, and main has not been asked yet. */
	if (base != wanted_base(f))
		machine_request(f->dev->machine, MACHINE_REQ_SERVICE);
	if (base)
		r = bus_add(&f->dev->machine->bus, f->id.bar, base, f->dev, err);
	f->mapped = r < 0 ? 0 : base;
	return r;
}

int pci_function_post_load(struct pci_function *f, struct error *err)
{
	const struct pci_function_guest *g = f->guest;
	int r;

	if (g->slot != f->slot || g->nvectors != f->id.nvectors)
		return err_set(err, EINVAL,
			       "slot %u with %u vectors, but here it is slot %u with %u", g->slot,
			       g->nvectors, f->slot, f->id.nvectors);
	for (unsigned int i = 0; i < PCI_CONFIG_BYTES; i++)
		if ((g->config[i] ^ f->power_on.bytes[i]) & ~f->writable.bytes[i] & 0xff)
			return err_set(err, EINVAL, "read-only register 0x%02x is 0x%02x", i,
				       g->config[i]);
	r = check_table(f, err);
	return r < 0 ? r : load_place(f, err);
}
