/* SPDX-License-Identifier: MIT */
#include "virtio.h"

#define CAP_TYPE 3
#define CAP_BAR 4
#define CAP_OFFSET 8
#define CAP_LENGTH 12
#define CAP_MORE 16
#define CAP_COMMON 1
#define CAP_NOTIFY 2
#define CAP_ISR 3
#define CAP_CONFIG 4
#define CAP_WINDOW 5
#define MSIX_TABLE 4
#define MSIX_PBA 8
#define MSIX_BAR 7u /* of the table's and the pending bits' place: which BAR */
#define BAR_BYTES 0x8000
#define MSI_ADDRESS 0xfee00000u /* the CPU with APIC ID 0 */

/* ------------------------------------------------------------------ the device */

void virtio_at(struct virtio *v, uint64_t bar)
{
	map_range(bar, bar + BAR_BYTES, PTE_UNCACHED);
	if (v->msix_bar == v->bar)
		v->msix_bar = bar;
	v->bar = bar;
}

/* All registers are in one BAR. */
static void take_capability(struct virtio *v, unsigned int at)
{
	uint32_t offset = pci_read(v->slot, at + CAP_OFFSET, 4);

	switch (pci_read(v->slot, at + CAP_TYPE, 1)) {
	case CAP_COMMON:
		v->bar = pci_memory_bar(v->slot, pci_read(v->slot, at + CAP_BAR, 1));
		v->common = offset;
		break;
	case CAP_NOTIFY:
		v->notify = offset;
		v->notify_step = pci_read(v->slot, at + CAP_MORE, 4);
		break;
	case CAP_ISR:
		v->isr = offset;
		break;
	case CAP_CONFIG:
		v->config = offset;
		break;
	case CAP_WINDOW:
		v->window = at;
	}
}

static void take_msix(struct virtio *v)
{
	uint32_t table, pba;

	v->msix = pci_capability(v->slot, PCI_CAP_MSIX, 0);
	table = pci_read(v->slot, v->msix + MSIX_TABLE, 4);
	pba = pci_read(v->slot, v->msix + MSIX_PBA, 4);
	v->msix_bar = pci_memory_bar(v->slot, table & MSIX_BAR);
	v->msix_table = table & ~MSIX_BAR;
	v->msix_pba = pba & ~MSIX_BAR;
	map_range(v->msix_bar, v->msix_bar + BAR_BYTES, PTE_UNCACHED);
}

bool virtio_find(struct virtio *v, unsigned int slot)
{
	uint32_t device = pci_read(slot, PCI_DEVICE, 2);
	unsigned int at = 0;

	if (pci_read(slot, PCI_VENDOR, 2) != VIRTIO_VENDOR || device < VIRTIO_DEVICE(0))
		return false;
	*v = (struct virtio){ .slot = slot, .type = device - VIRTIO_DEVICE(0) };
	while ((at = pci_capability(slot, PCI_CAP_VENDOR, at)) != 0)
		take_capability(v, at);
	take_msix(v);
	virtio_at(v, v->bar);
	return v->msix && v->window && v->isr && v->notify;
}

uint64_t virtio_read(const struct virtio *v, uint32_t offset, unsigned int size)
{
	return mmio_read(v->bar + offset, size);
}

void virtio_write(const struct virtio *v, uint32_t offset, uint64_t value, unsigned int size)
{
	mmio_write(v->bar + offset, value, size);
}

uint32_t virtio_status(const struct virtio *v)
{
	return (uint32_t)virtio_read(v, v->common + COMMON_STATUS, 1);
}

uint64_t virtio_offered(const struct virtio *v)
{
	uint64_t bits = 0;

	for (uint32_t i = 0; i < 2; i++) {
		virtio_write(v, v->common + COMMON_DEVICE_SELECT, i, 4);
		bits |= virtio_read(v, v->common + COMMON_DEVICE_FEATURES, 4) << (32 * i);
	}
	return bits;
}

bool virtio_reset(struct virtio *v)
{
	uint64_t end = rdtsc() + us_to_tsc(30000000);

	virtio_write(v, v->common + COMMON_STATUS, 0, 1);
	while (virtio_status(v))
		if ((int64_t)(rdtsc() - end) > 0)
			return false;
	return true;
}

bool virtio_negotiate(struct virtio *v, uint64_t features)
{
	if (!virtio_reset(v))
		return false;
	virtio_write(v, v->common + COMMON_STATUS, S_ACKNOWLEDGE, 1);
	virtio_write(v, v->common + COMMON_STATUS, S_ACKNOWLEDGE | S_DRIVER, 1);
	for (uint32_t i = 0; i < 2; i++) {
		virtio_write(v, v->common + COMMON_DRIVER_SELECT, i, 4);
		virtio_write(v, v->common + COMMON_DRIVER_FEATURES, features >> (32 * i) & PCI_NONE,
			     4);
	}
	virtio_write(v, v->common + COMMON_STATUS, S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK, 1);
	v->features = features;
	return virtio_status(v) & S_FEATURES_OK;
}

void virtio_driver_ok(const struct virtio *v)
{
	virtio_write(v, v->common + COMMON_STATUS,
		     S_ACKNOWLEDGE | S_DRIVER | S_FEATURES_OK | S_DRIVER_OK, 1);
}

/* ------------------------------------------------------------------ MSI-X */

void virtio_vector(const struct virtio *v, unsigned int entry, unsigned int vector, bool masked)
{
	uint64_t at = v->msix_bar + v->msix_table + 16 * entry;

	mmio_write(at, MSI_ADDRESS, 4);
	mmio_write(at + 4, 0, 4);
	mmio_write(at + 8, vector, 4);
	mmio_write(at + 12, masked, 4);
}

void virtio_mask(const struct virtio *v, unsigned int entry, bool masked)
{
	mmio_write(v->msix_bar + v->msix_table + 16 * entry + 12, masked, 4);
}

void virtio_msix_control(const struct virtio *v, uint32_t bits)
{
	pci_write(v->slot, v->msix + MSIX_CONTROL, bits, 2);
}

bool virtio_pending(const struct virtio *v, unsigned int entry)
{
	return mmio_read(v->msix_bar + v->msix_pba + entry / 64 * 8, 8) >> (entry % 64) & 1;
}

/* ------------------------------------------------------------------ the window */

static void window_set(const struct virtio *v, uint32_t offset, unsigned int size)
{
	pci_write(v->slot, v->window + CAP_BAR, 0, 1);
	pci_write(v->slot, v->window + CAP_OFFSET, offset, 4);
	pci_write(v->slot, v->window + CAP_LENGTH, size, 4);
}

uint32_t virtio_window_read(const struct virtio *v, uint32_t offset, unsigned int size)
{
	window_set(v, offset, size);
	return pci_read(v->slot, v->window + CAP_MORE, size);
}

void virtio_window_write(const struct virtio *v, uint32_t offset, uint32_t value, unsigned int size)
{
	window_set(v, offset, size);
	pci_write(v->slot, v->window + CAP_MORE, value, size);
}
