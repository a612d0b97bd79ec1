/* SPDX-License-Identifier: MIT */
/*
 * The virtio device that is common to all: its life, its PCI function and where its registers are.
 *
 * All of them run on vCPU threads, under the device's lock. A reset, of the device or of a queue,
 * may have to wait for somebody else, so it has two ends: the driver asks, and reads until it is
 * told that it is done (2.4, 2.6.1, 4.1.4.3). In between nothing is handed to the device.
 */
#include <errno.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>
#include <linux/virtio_ring.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/pci/bus.h>
#include <molt/virtio/virtio.h>
#include <molt/vm/machine.h>

#define RING_RESET_BIT 40 /* VIRTIO_F_RING_RESET */
#define TRANSPORT_FEATURES (1ull << VIRTIO_F_VERSION_1 | 1ull << RING_RESET_BIT)
#define VENDOR_REDHAT_QUMRANET 0x1af4 /* 4.1.2 */
#define DEVICE_BASE 0x1040
#define SUBSYSTEM 0x0040 /* any, from 0x40 on (4.1.2.1) */
#define REVISION 1
#define ISR_QUEUE 1u
#define ISR_CONFIG 2u

struct pci_cap { /* 4.1.4 */
	uint8_t id;
	uint8_t next;
	uint8_t len;
	uint8_t type;
	uint8_t bar;
	uint8_t padding[3];
	uint32_t offset;
	uint32_t length;
	uint32_t more; /* notify: the multiplier; window: the data */
};

#define WINDOW_BAR 4
#define WINDOW_OFFSET 8
#define WINDOW_LENGTH 12
#define WINDOW_DATA 16

/* ---- what devices ask ---- */

bool virtio_has_feature(const struct virtio *v, unsigned int bit)
{
	return v->guest->driver_features >> bit & 1;
}

bool virtio_is_live(const struct virtio *v)
{
	const struct virtio_guest *g = v->guest;

	return (g->status & (VIRTIO_CONFIG_S_DRIVER_OK | VIRTIO_CONFIG_S_NEEDS_RESET)) ==
		       VIRTIO_CONFIG_S_DRIVER_OK &&
	       !g->resetting_all && pci_function_is_master(&v->pci);
}

struct virtqueue_config virtio_queue_config(const struct virtio *v, uint32_t queue)
{
	const struct virtio_guest *g = v->guest;

	return (struct virtqueue_config){
		.size = g->size[queue],
		.desc_gpa = g->desc[queue],
		.avail_gpa = g->avail[queue],
		.used_gpa = g->used[queue],
		.event_idx = virtio_has_feature(v, VIRTIO_RING_F_EVENT_IDX),
		.indirect = virtio_has_feature(v, VIRTIO_RING_F_INDIRECT_DESC),
	};
}

void virtio_notify_queue(struct virtio *v, uint32_t queue)
{
	v->guest->isr |= ISR_QUEUE;
	pci_msix_notify(&v->pci, v->guest->vector[queue]);
}

void virtio_notify_config(struct virtio *v)
{
	v->guest->generation++;
	v->guest->isr |= ISR_CONFIG;
	if (v->guest->status & VIRTIO_CONFIG_S_DRIVER_OK)
		pci_msix_notify(&v->pci, v->guest->config_vector);
}

void virtio_broken(struct virtio *v, const char *what)
{
	if (v->guest->status & VIRTIO_CONFIG_S_NEEDS_RESET)
		return;
	log_warn("device '%s' needs a reset by the guest's driver: %s", v->dev->id, what);
	v->guest->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	virtio_notify_config(v);
}

/* ---- resets ---- */

static void forget_queue(struct virtio *v, uint32_t q)
{
	struct virtio_guest *g = v->guest;

	g->desc[q] = g->avail[q] = g->used[q] = 0;
	g->size[q] = (uint16_t)g->queue_max;
	g->vector[q] = PCI_MSIX_NONE;
	g->enabled[q] = g->resetting[q] = 0;
}

static bool has_vector(const struct virtio_guest *g, uint16_t vector)
{
	for (uint32_t q = 0; q < g->nqueues; q++)
		if (g->vector[q] == vector)
			return true;
	return g->config_vector == vector;
}

void virtio_queue_reset_done(struct virtio *v, uint32_t queue)
{
	uint16_t vector = v->guest->vector[queue];

	forget_queue(v, queue);
	/* 2.6.1.1.1: no notifications. Others' interrupts may wait there, too. */
	if (!has_vector(v->guest, vector))
		pci_msix_forget(&v->pci, vector);
	if (v->ops->changed)
		v->ops->changed(v);
}

void virtio_reset_done(struct virtio *v)
{
	struct virtio_guest *g = v->guest;

	for (uint32_t q = 0; q < g->nqueues; q++)
		forget_queue(v, q);
	g->driver_features = 0;
	g->device_select = g->driver_select = 0;
	g->config_vector = PCI_MSIX_NONE;
	g->queue_select = 0;
	g->status = 0;
	g->isr = 0;
	for (uint32_t i = 0; i < v->pci.id.nvectors; i++)
		pci_msix_forget(&v->pci, i);
	g->resetting_all = false;
	if (v->ops->changed)
		v->ops->changed(v);
}

/* ---- registers ---- */

static void config_read(struct virtio *v, uint64_t offset, void *data, unsigned int size)
{
	if (v->ops->config_read)
		v->ops->config_read(v, offset, data, size);
}

static uint64_t bar_read(struct device *dev, uint64_t offset, unsigned int size)
{
	struct virtio *v = dev->transport;
	uint64_t value = 0;

	if (offset + size <= VIRTIO_BAR_ISR) {
		value = virtio_common_read(v, offset, size);
	} else if (offset == VIRTIO_BAR_ISR) {
		value = v->guest->isr;
		v->guest->isr = 0;
	} else if (offset >= VIRTIO_BAR_CONFIG && offset + size <= VIRTIO_BAR_NOTIFY) {
		config_read(v, offset - VIRTIO_BAR_CONFIG, &value, size);
	} else {
		pci_msix_read(&v->pci, offset, size, &value);
	}
	return value;
}

static void notified(struct virtio *v, uint64_t offset)
{
	uint64_t q = offset / VIRTIO_NOTIFY_STRIDE;

	if (offset % VIRTIO_NOTIFY_STRIDE == 0 && q < v->guest->nqueues && v->guest->enabled[q] &&
	    !v->guest->resetting[q] && virtio_is_live(v))
		v->ops->kick(v, (uint32_t)q);
}

static void bar_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct virtio *v = dev->transport;

	if (offset + size <= VIRTIO_BAR_ISR)
		virtio_common_write(v, offset, value, size);
	else if (offset >= VIRTIO_BAR_NOTIFY && offset < VIRTIO_BAR_MSIX_TABLE)
		notified(v, offset - VIRTIO_BAR_NOTIFY);
	else if (offset >= VIRTIO_BAR_CONFIG && offset + size <= VIRTIO_BAR_NOTIFY &&
		 v->ops->config_write)
		v->ops->config_write(v, offset - VIRTIO_BAR_CONFIG, &value, size);
	else
		pci_msix_write(&v->pci, offset, value, size);
}

static const struct bus_region bar_region = {
	.kind = BUS_MMIO,
	.len = VIRTIO_BAR_BYTES,
	.read = bar_read,
	.write = bar_write,
};

/* ---- the PCI function ---- */

/* 4.1.4.9: registers for who can reach the configuration space alone. */
static void window_access(struct device *dev, uint64_t offset, unsigned int size, bool write)
{
	struct virtio *v = dev->transport;
	uint8_t *cap = &v->guest->pci.config[v->window];
	uint32_t at, len, data = 0;

	if (offset < v->window + WINDOW_DATA + 0u || offset + size > v->window + WINDOW_DATA + 4u)
		return;
	memcpy(&at, cap + WINDOW_OFFSET, sizeof(at));
	memcpy(&len, cap + WINDOW_LENGTH, sizeof(len));
	if (cap[WINDOW_BAR] != 0 || (len != 1 && len != 2 && len != 4) || at % len ||
	    at >= VIRTIO_BAR_BYTES)
		return;
	if (write) {
		memcpy(&data, cap + WINDOW_DATA, len);
		bar_write(dev, at, data, len);
	} else {
		data = (uint32_t)bar_read(dev, at, len);
		memcpy(cap + WINDOW_DATA, &data, len);
	}
}

static void function_changed(struct device *dev)
{
	struct virtio *v = dev->transport;

	if (v->ops->changed)
		v->ops->changed(v);
}

static uint8_t add_cap(struct virtio *v, uint8_t type, uint32_t offset, uint32_t length,
		       uint32_t more)
{
	bool has_more = type == VIRTIO_PCI_CAP_NOTIFY_CFG || type == VIRTIO_PCI_CAP_PCI_CFG;
	uint8_t len = has_more ? sizeof(struct pci_cap) : offsetof(struct pci_cap, more);
	const struct pci_cap cap = {
		.id = 0x09, /* vendor-specific */
		.len = len,
		.type = type,
		.offset = offset,
		.length = length,
		.more = more,
	};

	return pci_function_add_capability(&v->pci, &cap, len);
}

static void add_caps(struct virtio *v)
{
	add_cap(v, VIRTIO_PCI_CAP_COMMON_CFG, VIRTIO_BAR_COMMON, 0x3c, 0);
	add_cap(v, VIRTIO_PCI_CAP_ISR_CFG, VIRTIO_BAR_ISR, 1, 0);
	add_cap(v, VIRTIO_PCI_CAP_NOTIFY_CFG, VIRTIO_BAR_NOTIFY,
		VIRTIO_NOTIFY_STRIDE * VIRTIO_QUEUES_MAX, VIRTIO_NOTIFY_STRIDE);
	if (v->ops->config_read)
		add_cap(v, VIRTIO_PCI_CAP_DEVICE_CFG, VIRTIO_BAR_CONFIG, VIRTIO_CONFIG_MAX, 0);
	v->window = add_cap(v, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0);
	memset(&v->pci.writable.bytes[v->window + WINDOW_BAR], 0xff, 1);
	memset(&v->pci.writable.bytes[v->window + WINDOW_OFFSET], 0xff, 12);
	v->pci.access = window_access;
	v->pci.changed = function_changed;
}

/* ---- life ---- */

int virtio_slot_of(const struct value_list *list, const char *what, uint32_t *slot,
		   struct error *err)
{
	const char *text = list ? value_list_get(list, "slot") : NULL;
	uint64_t n = 0;
	int r = text ? value_number("slot", text, 1, PCI_SLOTS - 1, &n, err) : 0;

	*slot = (uint32_t)n;
	if (r < 0)
		err_prefix(err, "%s", what);
	return r;
}

int virtio_init(struct virtio *v, struct device *dev, struct virtio_guest *guest,
		const struct virtio_identity *id, const struct virtio_ops *ops, uint32_t slot,
		struct error *err)
{
	const struct pci_identity pci = {
		.vendor = VENDOR_REDHAT_QUMRANET,
		.device = (uint16_t)(DEVICE_BASE + id->type),
		.subsystem_vendor = VENDOR_REDHAT_QUMRANET,
		.subsystem = SUBSYSTEM,
		.class_code = id->class_code,
		.revision = REVISION,
		.bar = &bar_region,
		.nvectors = id->nqueues + 1,
		.msix_table = VIRTIO_BAR_MSIX_TABLE,
		.msix_pba = VIRTIO_BAR_MSIX_PBA,
	};
	int r = pci_function_init(&v->pci, dev, &guest->pci, &pci, slot, err);

	if (r < 0)
		return r;
	v->dev = dev;
	v->guest = guest;
	v->ops = ops;
	v->id = *id;
	v->id.features |= TRANSPORT_FEATURES;
	dev->transport = v;
	add_caps(v);
	return 0;
}

void virtio_fini(struct virtio *v)
{
	pci_function_fini(&v->pci);
}

void virtio_power_on(struct virtio *v)
{
	struct virtio_guest *g = v->guest;

	memset(g, 0, sizeof(*g));
	g->device_features = v->id.features;
	g->nqueues = v->id.nqueues;
	g->queue_max = v->id.queue_max;
	pci_function_reset(&v->pci);
	virtio_reset_done(v);
}

static int check_queue(const struct virtio *v, uint32_t q, struct error *err)
{
	const struct virtio_guest *g = v->guest;
	struct virtqueue_config config = virtio_queue_config(v, q);
	struct virtqueue probe;
	int r = 0;

	if (g->enabled[q] > 1 || g->resetting[q] > 1 || (g->resetting[q] && !g->enabled[q]) ||
	    !g->size[q] || g->size[q] > g->queue_max || (g->size[q] & (g->size[q] - 1)))
		return err_set(err, EINVAL, "queue %u cannot be like that", q);
	if (g->enabled[q])
		r = virtqueue_setup(&probe, &v->dev->machine->memory, &config, 0, 0, err);
	if (r < 0)
		err_prefix(err, "queue %u", q);
	return r;
}

int virtio_post_load(struct virtio *v, struct error *err)
{
	const struct virtio_guest *g = v->guest;
	int r;

	if (g->nqueues != v->id.nqueues || g->queue_max != v->id.queue_max)
		return err_set(err, EINVAL, "%u queues of %u, but here they are %u of %u",
			       g->nqueues, g->queue_max, v->id.nqueues, v->id.queue_max);
	/* Until it says FEATURES_OK a driver may write what it likes. */
	if (g->device_features & ~v->id.features ||
	    (g->status & VIRTIO_CONFIG_S_FEATURES_OK && g->driver_features & ~g->device_features))
		return err_set(err, EINVAL, "features 0x%llx of 0x%llx, but this molt has 0x%llx",
			       (unsigned long long)g->driver_features,
			       (unsigned long long)g->device_features,
			       (unsigned long long)v->id.features);
	if (g->status & VIRTIO_CONFIG_S_DRIVER_OK && !(g->status & VIRTIO_CONFIG_S_FEATURES_OK))
		return err_set(err, EINVAL, "status 0x%02x", g->status);
	r = pci_function_post_load(&v->pci, err);
	for (uint32_t q = 0; q < g->nqueues && r == 0; q++)
		r = check_queue(v, q, err);
	return r;
}
