/* SPDX-License-Identifier: MIT */
/*
 * The common configuration structure (virtio 1.2, 4.1.4.3): features, status and queues as a driver
 * sets them up.
 *
 * A driver is to access a field by its own width, a 64-bit one by its halves. Reads may be of any
 * bytes; a write that is not of a field does nothing. What a driver writes at the wrong time, or
 * what no device could do, does nothing either, as far as the specification has no other answer.
 */
#include <stddef.h>
#include <string.h>

#include <linux/virtio_config.h>
#include <linux/virtio_pci.h>

#include <molt/base/fd.h>
#include <molt/virtio/virtio.h>
#include <molt/vm/machine.h>

#define RING_RESET_BIT 40 /* VIRTIO_F_RING_RESET */

struct field {
	uint32_t offset;
	uint32_t len;
	uint64_t (*read)(const struct virtio *v);
	void (*write)(struct virtio *v, uint64_t value); /* NULL: read-only */
};

/* The selected queue, or NULL where there is no such queue. */
#define SELECTED(g, array) \
	((g)->queue_select < (g)->nqueues ? &(g)->array[(g)->queue_select] : NULL)

static bool can_set_queue_up(const struct virtio *v)
{
	const struct virtio_guest *g = v->guest;
	uint32_t q = g->queue_select;

	return q < g->nqueues && !g->enabled[q] && !g->resetting[q] && !g->resetting_all;
}

/* ---- features ---- */

static uint32_t half(uint64_t bits, uint32_t select)
{
	return select < 2 ? (uint32_t)(bits >> (32 * select)) : 0;
}

static uint64_t read_device_select(const struct virtio *v)
{
	return v->guest->device_select;
}

static void write_device_select(struct virtio *v, uint64_t value)
{
	v->guest->device_select = (uint32_t)value;
}

static uint64_t read_device_features(const struct virtio *v)
{
	return half(v->guest->device_features, v->guest->device_select);
}

static uint64_t read_driver_select(const struct virtio *v)
{
	return v->guest->driver_select;
}

static void write_driver_select(struct virtio *v, uint64_t value)
{
	v->guest->driver_select = (uint32_t)value;
}

static uint64_t read_driver_features(const struct virtio *v)
{
	return half(v->guest->driver_features, v->guest->driver_select);
}

static void write_driver_features(struct virtio *v, uint64_t value)
{
	struct virtio_guest *g = v->guest;
	uint32_t shift = 32 * g->driver_select;

	if (g->driver_select > 1 || g->status & VIRTIO_CONFIG_S_FEATURES_OK)
		return;
	g->driver_features = (g->driver_features & ~(0xffffffffull << shift)) | value << shift;
}

/* ---- status ---- */

/* 0 tells that a reset is done (2.4.2): so not before, whatever it was when the driver asked. */
static uint64_t read_status(const struct virtio *v)
{
	const struct virtio_guest *g = v->guest;

	return g->resetting_all && !g->status ? VIRTIO_CONFIG_S_ACKNOWLEDGE : g->status;
}

static bool features_are_good(const struct virtio_guest *g)
{
	return !(g->driver_features & ~g->device_features) &&
	       g->driver_features >> VIRTIO_F_VERSION_1 & 1;
}

static void begin_reset(struct virtio *v)
{
	if (v->guest->resetting_all)
		return;
	v->guest->resetting_all = true;
	if (!v->ops->reset || v->ops->reset(v))
		virtio_reset_done(v);
}

/* A driver only ever adds bits, but for the reset. */
static void write_status(struct virtio *v, uint64_t value)
{
	struct virtio_guest *g = v->guest;
	uint8_t old = g->status, more = (uint8_t)value & (uint8_t)~VIRTIO_CONFIG_S_NEEDS_RESET;

	if (value == 0) {
		begin_reset(v);
		return;
	}
	if (g->resetting_all)
		return;
	if (more & VIRTIO_CONFIG_S_FEATURES_OK && !(old & VIRTIO_CONFIG_S_FEATURES_OK) &&
	    !features_are_good(g))
		more &= (uint8_t)~VIRTIO_CONFIG_S_FEATURES_OK;
	if (!((old | more) & VIRTIO_CONFIG_S_FEATURES_OK))
		more &= (uint8_t)~VIRTIO_CONFIG_S_DRIVER_OK;
	g->status = old | more;
	if (more & VIRTIO_CONFIG_S_DRIVER_OK && !(old & VIRTIO_CONFIG_S_DRIVER_OK) && v->ops->start)
		v->ops->start(v);
}

static uint64_t read_generation(const struct virtio *v)
{
	return v->guest->generation;
}

/* ---- vectors ---- */

static uint16_t checked_vector(const struct virtio *v, uint64_t value)
{
	return value < v->pci.id.nvectors ? (uint16_t)value : PCI_MSIX_NONE;
}

static uint64_t read_config_vector(const struct virtio *v)
{
	return v->guest->config_vector;
}

static void write_config_vector(struct virtio *v, uint64_t value)
{
	v->guest->config_vector = checked_vector(v, value);
}

static uint64_t read_queue_vector(const struct virtio *v)
{
	const uint16_t *vector = SELECTED(v->guest, vector);

	return vector ? *vector : PCI_MSIX_NONE;
}

static void write_queue_vector(struct virtio *v, uint64_t value)
{
	uint16_t *vector = SELECTED(v->guest, vector);

	if (!vector)
		return;
	*vector = checked_vector(v, value);
	if (v->ops->changed)
		v->ops->changed(v);
}

/* ---- queues ---- */

static uint64_t read_nqueues(const struct virtio *v)
{
	return v->guest->nqueues;
}

static uint64_t read_queue_select(const struct virtio *v)
{
	return v->guest->queue_select;
}

static void write_queue_select(struct virtio *v, uint64_t value)
{
	v->guest->queue_select = (uint16_t)value;
}

static uint64_t read_queue_size(const struct virtio *v)
{
	const uint16_t *size = SELECTED(v->guest, size);

	return size ? *size : 0;
}

static void write_queue_size(struct virtio *v, uint64_t value)
{
	if (can_set_queue_up(v) && value && value <= v->guest->queue_max && !(value & (value - 1)))
		v->guest->size[v->guest->queue_select] = (uint16_t)value;
}

static uint64_t read_queue_enable(const struct virtio *v)
{
	const uint8_t *enabled = SELECTED(v->guest, enabled);

	return enabled ? *enabled : 0;
}

static void write_queue_enable(struct virtio *v, uint64_t value)
{
	struct virtio_guest *g = v->guest;
	uint32_t q = g->queue_select;
	struct virtqueue_config config;
	struct error err = ERROR_INIT;
	struct virtqueue probe;

	if (value != 1 || !can_set_queue_up(v))
		return;
	config = virtio_queue_config(v, q);
	if (virtqueue_setup(&probe, &v->dev->machine->memory, &config, 0, 0, &err) < 0) {
		virtio_broken(v, err.text);
		return;
	}
	g->enabled[q] = 1;
	if (g->status & VIRTIO_CONFIG_S_DRIVER_OK && v->ops->queue_enable)
		v->ops->queue_enable(v, q);
}

/* 4.1.4.3: where in the notification structure, in units of the multiplier. */
static uint64_t read_notify_off(const struct virtio *v)
{
	return v->guest->queue_select < v->guest->nqueues ? v->guest->queue_select : 0;
}

static uint64_t read_queue_reset(const struct virtio *v)
{
	const uint8_t *resetting = SELECTED(v->guest, resetting);

	return resetting ? *resetting : 0;
}

static void write_queue_reset(struct virtio *v, uint64_t value)
{
	struct virtio_guest *g = v->guest;
	uint32_t q = g->queue_select;

	if (value != 1 || q >= g->nqueues || !g->enabled[q] || g->resetting[q] ||
	    g->resetting_all || !virtio_has_feature(v, RING_RESET_BIT))
		return;
	g->resetting[q] = 1;
	if (!v->ops->queue_reset || v->ops->queue_reset(v, q))
		virtio_queue_reset_done(v, q);
}

static uint64_t read_address(const struct virtio *v, const uint64_t *array)
{
	return v->guest->queue_select < v->guest->nqueues ? array[v->guest->queue_select] : 0;
}

static void write_address(struct virtio *v, uint64_t *array, uint64_t value)
{
	if (can_set_queue_up(v))
		array[v->guest->queue_select] = value;
}

static uint64_t read_desc(const struct virtio *v)
{
	return read_address(v, v->guest->desc);
}

static void write_desc(struct virtio *v, uint64_t value)
{
	write_address(v, v->guest->desc, value);
}

static uint64_t read_driver(const struct virtio *v)
{
	return read_address(v, v->guest->avail);
}

static void write_driver(struct virtio *v, uint64_t value)
{
	write_address(v, v->guest->avail, value);
}

static uint64_t read_device(const struct virtio *v)
{
	return read_address(v, v->guest->used);
}

static void write_device(struct virtio *v, uint64_t value)
{
	write_address(v, v->guest->used, value);
}

/* ---- the structure ---- */

static const struct field fields[] = {
	{ VIRTIO_PCI_COMMON_DFSELECT, 4, read_device_select, write_device_select },
	{ VIRTIO_PCI_COMMON_DF, 4, read_device_features, NULL },
	{ VIRTIO_PCI_COMMON_GFSELECT, 4, read_driver_select, write_driver_select },
	{ VIRTIO_PCI_COMMON_GF, 4, read_driver_features, write_driver_features },
	{ VIRTIO_PCI_COMMON_MSIX, 2, read_config_vector, write_config_vector },
	{ VIRTIO_PCI_COMMON_NUMQ, 2, read_nqueues, NULL },
	{ VIRTIO_PCI_COMMON_STATUS, 1, read_status, write_status },
	{ VIRTIO_PCI_COMMON_CFGGENERATION, 1, read_generation, NULL },
	{ VIRTIO_PCI_COMMON_Q_SELECT, 2, read_queue_select, write_queue_select },
	{ VIRTIO_PCI_COMMON_Q_SIZE, 2, read_queue_size, write_queue_size },
	{ VIRTIO_PCI_COMMON_Q_MSIX, 2, read_queue_vector, write_queue_vector },
	{ VIRTIO_PCI_COMMON_Q_ENABLE, 2, read_queue_enable, write_queue_enable },
	{ VIRTIO_PCI_COMMON_Q_NOFF, 2, read_notify_off, NULL },
	{ VIRTIO_PCI_COMMON_Q_DESCLO, 8, read_desc, write_desc },
	{ VIRTIO_PCI_COMMON_Q_AVAILLO, 8, read_driver, write_driver },
	{ VIRTIO_PCI_COMMON_Q_USEDLO, 8, read_device, write_device },
	{ 0x3a, 2, read_queue_reset, write_queue_reset }, /* 0x38 is for NOTIFICATION_DATA */
};

static const struct field *field_at(uint64_t offset)
{
	for (size_t i = 0; i < ARRAY_SIZE(fields); i++)
		if (offset >= fields[i].offset && offset - fields[i].offset < fields[i].len)
			return &fields[i];
	return NULL;
}

uint64_t virtio_common_read(struct virtio *v, uint64_t offset, unsigned int size)
{
	uint64_t value = 0;

	for (unsigned int i = 0; i < size; i++) {
		const struct field *f = field_at(offset + i);

		if (f)
			value |= (f->read(v) >> (8 * (offset + i - f->offset)) & 0xff) << (8 * i);
	}
	return value;
}

void virtio_common_write(struct virtio *v, uint64_t offset, uint64_t value, unsigned int size)
{
	const struct field *f = field_at(offset);
	uint64_t shift = f ? 8 * (offset - f->offset) : 0, mask;

	if (!f || !f->write)
		return;
	if (f->len == 8 && size == 4 && offset % 4 == 0) {
		mask = 0xffffffffull << shift;
		value = (f->read(v) & ~mask) | (value & 0xffffffff) << shift;
	} else if (offset != f->offset || size != f->len) {
		return;
	}
	if (f->len < 8)
		value &= (1ull << (8 * f->len)) - 1;
	f->write(v, value);
}
