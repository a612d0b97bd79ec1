/* SPDX-License-Identifier: MIT */
/*
 * The PCI Express root: bus 0, whose configuration space is memory-mapped (ECAM, PCI Express Base
 * Specification 5.0, section 7.2.2) at 0xe0000000: 4 KiB a function, 32 devices of 8 functions. The
 * MCFG table and the DSDT announce it. From machine version 2 on the same registers are behind the
 * ports 0xcf8 and 0xcfc as well (PCI Local Bus Specification 3.0, section 3.2.2.3.2), for code that
 * runs before it knows the tables.
 *
 * Slot 0 is the host bridge, slots 1 to 31 are for functions, of which each slot has one. All
 * others read as all ones, which is how a guest learns that nobody is there.
 *
 * Locks: this device's, then the function's.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/pci/bus.h>
#include <molt/pci/classes.h>
#include <molt/pci/config.h>
#include <molt/pci/function.h>
#include <molt/vm/machine.h>

#define ECAM_BASE 0xe0000000ull
#define ECAM_BYTES 0x100000ull
#define SLOT_SHIFT 15
#define FUNCTION_SHIFT 12
#define FUNCTION_MASK 0xfffull
#define CONFIG_PORTS 0xcf8
#define CONFIG_PORTS_SINCE 2
#define ADDRESS_ENABLE 0x80000000u
#define ADDRESS_KEPT 0x80fffffcu /* enable, bus, device, function, register */

/* What Linux and its udev rules know as a plain PCIe host bridge. */
#define HOST_VENDOR 0x1b36
#define HOST_DEVICE 0x0008
#define CLASS_HOST_BRIDGE 0x06

/* Offsets of header type 0, and the writable bits of its command register. */
#define PCI_VENDOR 0x00
#define PCI_DEVICE 0x02
#define PCI_COMMAND 0x04
#define PCI_CLASS 0x0b
#define PCI_CACHE_LINE 0x0c
#define PCI_INTERRUPT_LINE 0x3c
#define COMMAND_LOW 0x47  /* I/O, memory, bus master, parity error response */
#define COMMAND_HIGH 0x05 /* SERR, INTx disable */

struct host_guest {
	struct pci_config config;
	uint32_t address; /* what was written to 0xcf8; 0 in machines without */
};

struct pci_host {
	struct device dev;
	struct host_guest guest;
	struct {
		struct pci_bus bus;
	} host;
};

/* The name in the stream is that of the time when there was nothing else. */
static const struct vmstate_field host_fields[] = {
	{ .name = "bytes",
	  .offset = offsetof(struct host_guest, config.bytes),
	  .type = FIELD_U8,
	  .max = PCI_CONFIG_BYTES,
	  .bytes = PCI_CONFIG_BYTES },
	VMSTATE_END,
};

static const struct vmstate_field ports_fields[] = { VMSTATE_U32(struct host_guest, address),
						     VMSTATE_END };

static bool ports_used(const void *data)
{
	return ((const struct host_guest *)data)->address != 0;
}

static const struct vmstate ports_vmstate = {
	.name = "ports",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct host_guest),
	.fields = ports_fields,
	.needed = ports_used,
};

static const struct vmstate *const host_subsections[] = { &ports_vmstate, NULL };

static const struct vmstate host_vmstate = {
	.name = "pci-host",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct host_guest),
	.fields = host_fields,
	.subsections = host_subsections,
};

static const struct pci_config host_writable = {
	.bytes = {
		[PCI_COMMAND] = COMMAND_LOW,
		[PCI_COMMAND + 1] = COMMAND_HIGH,
		[PCI_CACHE_LINE] = 0xff,
		[PCI_INTERRUPT_LINE] = 0xff,
	},
};

static const struct pci_config host_power_on = {
	.bytes = {
		[PCI_VENDOR] = HOST_VENDOR & 0xff,
		[PCI_VENDOR + 1] = HOST_VENDOR >> 8,
		[PCI_DEVICE] = HOST_DEVICE & 0xff,
		[PCI_DEVICE + 1] = HOST_DEVICE >> 8,
		[PCI_CLASS] = CLASS_HOST_BRIDGE,
	},
};

static struct pci_host *to_host(struct device *dev)
{
	return container_of(dev, struct pci_host, dev);
}

static struct pci_config *config_of(struct device *dev)
{
	return &to_host(dev)->guest.config;
}

/* ---- the bus ---- */

struct pci_bus *pci_bus_of(struct machine *m)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls == &pci_host_class)
			return &to_host(m->devices[i])->host.bus;
	return NULL;
}

int pci_bus_add(struct pci_bus *bus, struct pci_function *f, uint32_t slot, struct error *err)
{
	if (slot >= PCI_SLOTS)
		return err_set(err, EINVAL, "slot %u: a PCI bus has slots 1 to %u", slot,
			       PCI_SLOTS - 1);
	if (slot && bus->functions[slot])
		return err_set(err, EEXIST, "PCI slot %u is taken by '%s'", slot,
			       bus->functions[slot]->dev->id);
	for (uint32_t i = 1; !slot && i < PCI_SLOTS; i++)
		if (!bus->functions[i])
			slot = i;
	if (!slot)
		return err_set(err, ENOSPC, "all %u PCI slots are taken", PCI_SLOTS - 1);
	bus->functions[slot] = f;
	return (int)slot;
}

void pci_bus_remove(struct pci_bus *bus, const struct pci_function *f)
{
	for (uint32_t i = 0; bus && i < PCI_SLOTS; i++)
		if (bus->functions[i] == f)
			bus->functions[i] = NULL;
}

/* ---- configuration space ---- */

/* An access that stays inside a doubleword; offset as in the ECAM. */
static bool is_possible(uint64_t offset, unsigned int size)
{
	return size <= 4 && (offset & 3) + size <= 4;
}

/* NULL where there is none. */
static struct pci_function *function_at(struct pci_host *h, uint64_t offset)
{
	if (offset >> FUNCTION_SHIFT & 7)
		return NULL;
	return h->host.bus.functions[offset >> SLOT_SHIFT];
}

static uint64_t ecam_read(struct device *dev, uint64_t offset, unsigned int size)
{
	struct pci_function *f;
	uint32_t value;

	if (!is_possible(offset, size))
		return UINT64_MAX;
	if (offset >> FUNCTION_SHIFT == 0)
		return pci_config_read(config_of(dev), offset & FUNCTION_MASK, size);
	f = function_at(to_host(dev), offset);
	if (!f)
		return UINT64_MAX;
	pthread_mutex_lock(&f->dev->lock);
	value = pci_function_config_read(f, offset & FUNCTION_MASK, size);
	pthread_mutex_unlock(&f->dev->lock);
	return value;
}

static void ecam_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct pci_function *f;

	if (!is_possible(offset, size))
		return;
	if (offset >> FUNCTION_SHIFT == 0)
		pci_config_write(config_of(dev), &host_writable, offset & FUNCTION_MASK,
				 (uint32_t)value, size);
	f = function_at(to_host(dev), offset);
	if (!f)
		return;
	pthread_mutex_lock(&f->dev->lock);
	pci_function_config_write(f, offset & FUNCTION_MASK, (uint32_t)value, size);
	pthread_mutex_unlock(&f->dev->lock);
}

/* Where in the ECAM an access to 0xcfc + port goes; false: nowhere. */
static bool port_target(const struct pci_host *h, uint64_t port, uint64_t *offset)
{
	uint32_t address = h->guest.address;

	if (!(address & ADDRESS_ENABLE) || address >> 16 & 0xff)
		return false;
	*offset = (uint64_t)(address >> 8 & 0xff) << FUNCTION_SHIFT | (address & 0xfc) | port;
	return true;
}

/* Of the address port only the whole doubleword answers. */
static uint64_t ports_read(struct device *dev, uint64_t port, unsigned int size)
{
	uint64_t offset;

	if (port == 0 && size == 4)
		return to_host(dev)->guest.address;
	if (port < 4 || !port_target(to_host(dev), port - 4, &offset))
		return UINT64_MAX;
	return ecam_read(dev, offset, size);
}

static void ports_write(struct device *dev, uint64_t port, uint64_t value, unsigned int size)
{
	uint64_t offset;

	if (port == 0 && size == 4)
		to_host(dev)->guest.address = (uint32_t)value & ADDRESS_KEPT;
	else if (port >= 4 && port_target(to_host(dev), port - 4, &offset))
		ecam_write(dev, offset, value, size);
}

/* The reset register, 0xcf9, lies over it. */
static const struct bus_region ports_region = {
	.kind = BUS_PIO,
	.base = CONFIG_PORTS,
	.len = 8,
	.beneath = true,
	.read = ports_read,
	.write = ports_write,
};

/* ---- life ---- */

static int host_create(struct device *dev, const struct device_env *env, struct error *err)
{
	struct machine *m = env->machine;

	if (m->machine_version < CONFIG_PORTS_SINCE)
		return 0;
	return bus_add(&m->bus, &ports_region, ports_region.base, dev, err);
}

static void host_reset(struct device *dev)
{
	to_host(dev)->guest = (struct host_guest){ .config = host_power_on };
}

/* What the guest cannot write must be as it was made. */
static int host_post_load(struct device *dev, struct error *err)
{
	const struct pci_config *c = config_of(dev);

	for (unsigned int i = 0; i < PCI_CONFIG_BYTES; i++)
		if ((c->bytes[i] ^ host_power_on.bytes[i]) & ~host_writable.bytes[i] & 0xff)
			return err_set(err, EINVAL, "pci-host: read-only register 0x%02x is 0x%02x",
				       i, c->bytes[i]);
	if (to_host(dev)->guest.address & ~ADDRESS_KEPT)
		return err_set(err, EINVAL, "pci-host: address port 0x%08x",
			       to_host(dev)->guest.address);
	return 0;
}

static const struct bus_region host_regions[] = {
	{ .kind = BUS_MMIO,
	  .base = ECAM_BASE,
	  .len = ECAM_BYTES,
	  .read = ecam_read,
	  .write = ecam_write },
};

const struct device_class pci_host_class = {
	.name = "pci-host",
	.since = 1,
	.board = 1,
	.size = sizeof(struct pci_host),
	.guest_offset = offsetof(struct pci_host, guest),
	.guest_size = sizeof(struct host_guest),
	.state = &host_vmstate,
	.regions = host_regions,
	.nregions = ARRAY_SIZE(host_regions),
	.create = host_create,
	.reset = host_reset,
	.post_load = host_post_load,
};
