/* SPDX-License-Identifier: MIT */
/*
 * The PCI Express root: bus 0, whose configuration space is memory-mapped (ECAM, PCI Express Base
 * Specification 5.0, section 7.2.2) at 0xe0000000: 4 KiB a function, 32 devices of 8 functions. The
 * MCFG table and the DSDT announce it. There is one function yet, the host bridge 00:00.0; all
 * others read as all ones, which is how a guest learns that nobody is there.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/pci/classes.h>
#include <molt/pci/config.h>
#include <molt/vm/machine.h>

#define ECAM_BASE 0xe0000000ull
#define ECAM_BYTES 0x100000ull
#define FUNCTION_SHIFT 12
#define FUNCTION_MASK 0xfffull

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

struct pci_host {
	struct device dev;
	struct pci_config guest;
};

static const struct vmstate_field host_fields[] = { VMSTATE_U8_ARRAY(struct pci_config, bytes),
						    VMSTATE_END };

static const struct vmstate host_vmstate = {
	.name = "pci-host",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct pci_config),
	.fields = host_fields,
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

static struct pci_config *config_of(struct device *dev)
{
	return &container_of(dev, struct pci_host, dev)->guest;
}

/* Function 0 of device 0, and an access that stays inside a doubleword. */
static bool is_host_bridge(uint64_t offset, unsigned int size)
{
	return offset >> FUNCTION_SHIFT == 0 && size <= 4 && (offset & 3) + size <= 4;
}

static uint64_t ecam_read(struct device *dev, uint64_t offset, unsigned int size)
{
	if (!is_host_bridge(offset, size))
		return UINT64_MAX;
	return pci_config_read(config_of(dev), offset & FUNCTION_MASK, size);
}

static void ecam_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	if (is_host_bridge(offset, size))
		pci_config_write(config_of(dev), &host_writable, offset & FUNCTION_MASK,
				 (uint32_t)value, size);
}

static void host_reset(struct device *dev)
{
	*config_of(dev) = host_power_on;
}

/* What the guest cannot write must be as it was made. */
static int host_post_load(struct device *dev, struct error *err)
{
	const struct pci_config *c = config_of(dev);

	for (unsigned int i = 0; i < PCI_CONFIG_BYTES; i++)
		if ((c->bytes[i] ^ host_power_on.bytes[i]) & ~host_writable.bytes[i] & 0xff)
			return err_set(err, EINVAL, "pci-host: read-only register 0x%02x is 0x%02x",
				       i, c->bytes[i]);
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
	.guest_size = sizeof(struct pci_config),
	.state = &host_vmstate,
	.regions = host_regions,
	.nregions = ARRAY_SIZE(host_regions),
	.reset = host_reset,
	.post_load = host_post_load,
};
