/* SPDX-License-Identifier: MIT */
/*
 * A driver for virtio 1.x devices on PCI (virtio 1.2, 4.1): just enough to drive one in every way
 * that the specification has, and in some that it has not. Registers are found by the capabilities.
 * Nothing here waits for an interrupt or prints.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include "guest.h"
#include "pci.h"

#define VIRTIO_VENDOR 0x1af4
#define VIRTIO_DEVICE(type) (0x1040 + (type))

/* Feature bits */
#define F_BLK_FLUSH (1ull << 9)
#define F_INDIRECT (1ull << 28)
#define F_EVENT_IDX (1ull << 29)
#define F_VERSION_1 (1ull << 32)
#define F_RING_RESET (1ull << 40)

/* Status bits (2.1) */
#define S_ACKNOWLEDGE 0x01u
#define S_DRIVER 0x02u
#define S_DRIVER_OK 0x04u
#define S_FEATURES_OK 0x08u
#define S_NEEDS_RESET 0x40u

/* The common configuration structure (4.1.4.3) */
#define COMMON_DEVICE_SELECT 0x00
#define COMMON_DEVICE_FEATURES 0x04
#define COMMON_DRIVER_SELECT 0x08
#define COMMON_DRIVER_FEATURES 0x0c
#define COMMON_CONFIG_VECTOR 0x10
#define COMMON_QUEUES 0x12
#define COMMON_STATUS 0x14
#define COMMON_GENERATION 0x15
#define COMMON_SELECT 0x16
#define COMMON_SIZE 0x18
#define COMMON_VECTOR 0x1a
#define COMMON_ENABLE 0x1c
#define COMMON_NOTIFY_OFF 0x1e
#define COMMON_DESC 0x20
#define COMMON_DRIVER 0x28
#define COMMON_DEVICE 0x30
#define COMMON_RESET 0x3a

#define NO_VECTOR 0xffffu

struct virtio {
	unsigned int slot;
	unsigned int type;
	uint64_t bar;      /* that has the registers: where it is, identity-mapped */
	uint64_t msix_bar; /* that has the MSI-X table and the pending bits; mostly the same */
	/* offsets in them; 0 for the configuration: there is none */
	uint32_t common, notify, isr, config, msix_table, msix_pba;
	uint32_t notify_step;
	unsigned int msix; /* capabilities' offsets */
	unsigned int window;
	uint64_t features; /* negotiated */
};

/* Finds the device in that slot, and its registers; false: no virtio device, or one without. */
bool virtio_find(struct virtio *v, unsigned int slot);

/* After the BAR moved: maps it. */
void virtio_at(struct virtio *v, uint64_t bar);

uint64_t virtio_read(const struct virtio *v, uint32_t offset, unsigned int size);
void virtio_write(const struct virtio *v, uint32_t offset, uint64_t value, unsigned int size);
uint32_t virtio_status(const struct virtio *v);
uint64_t virtio_offered(const struct virtio *v);

/* Waits until it is done; false: not within 30 seconds. */
bool virtio_reset(struct virtio *v);

/* Reset and feature negotiation up to FEATURES_OK; false: the device does not take them. */
bool virtio_negotiate(struct virtio *v, uint64_t features);
void virtio_driver_ok(const struct virtio *v);

/* MSI-X: a message to the boot CPU for an entry of the table; masked or not. */
void virtio_vector(const struct virtio *v, unsigned int entry, unsigned int vector, bool masked);
void virtio_mask(const struct virtio *v, unsigned int entry, bool masked);
void virtio_msix_control(const struct virtio *v, uint32_t bits);
bool virtio_pending(const struct virtio *v, unsigned int entry);

/* The configuration access capability (4.1.4.9): registers through configuration space. */
uint32_t virtio_window_read(const struct virtio *v, uint32_t offset, unsigned int size);
void virtio_window_write(const struct virtio *v, uint32_t offset, uint32_t value,
			 unsigned int size);

/* ---- split virtqueues (2.7) ---- */

#define VIRTQ_MAX 1024
#define VIRTQ_SEGMENTS 18 /* of one request */

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define DESC_INDIRECT 4u

struct virtq_desc {
	uint64_t address;
	uint32_t length;
	uint16_t flags;
	uint16_t next;
};

struct virtq_used {
	uint32_t id;
	uint32_t length;
};

struct virtq {
	struct virtio *dev;
	unsigned int index;
	unsigned int size;
	struct virtq_desc *desc;
	volatile uint16_t *avail; /* flags, idx, ring, used_event */
	volatile uint16_t *used;  /* flags, idx; the entries are 4 bytes behind */
	struct virtq_desc (*tables)[VIRTQ_SEGMENTS]; /* indirect, one for each head */
	uint64_t *cookie;                            /* by head */
	uint16_t next_avail; /* what was added; idx is behind until published */
	uint16_t published;
	uint16_t kicked; /* idx at the last question whether to kick */
	uint16_t last_used;
	uint16_t free, free_head;
	uint64_t kicks, quiet; /* notifications, and those that were not needed */
};

struct virtq_segment {
	void *at;
	uint32_t length;
	bool write;
};

/* Memory for a queue of any size, for good; false: no more. */
bool virtq_take(struct virtq *q);

/*
 * Empties the queue and sets it up in the device, with an entry of the MSI-X table or NO_VECTOR.
 * false: the device does not take the size.
 */
bool virtq_setup(struct virtq *q, struct virtio *v, unsigned int index, unsigned int size,
		 unsigned int entry);

/* Only the memory: what a device sees once its registers say where it is. */
void virtq_empty(struct virtq *q, struct virtio *v, unsigned int index, unsigned int size);
void virtq_registers(const struct virtq *q, unsigned int entry);

/*
 * Adds a request of n segments, in an indirect table or by a chain. false: no room. The cookie
 * comes back with virtq_done().
 */
bool virtq_add(struct virtq *q, const struct virtq_segment *segments, unsigned int n, bool indirect,
	       uint64_t cookie);
void virtq_publish(struct virtq *q);
/* Whether the device wants to be notified of what was published since the last question. */
bool virtq_wants_kick(struct virtq *q);
/* Notifies the device if it wants that. */
void virtq_kick(struct virtq *q);
/* Whatever it wants. */
void virtq_notify(const struct virtq *q);

/* The next used request; false: none. A head that was not in use is cookie ~0. */
bool virtq_done(struct virtq *q, uint64_t *cookie, uint32_t *length);
bool virtq_has_done(const struct virtq *q);

/* Interrupts: at once from the next used request on, after `more` others, or none. */
void virtq_interrupt_after(struct virtq *q, unsigned int more);
void virtq_no_interrupt(struct virtq *q);

static inline volatile struct virtq_used *virtq_used_ring(const struct virtq *q)
{
	return (volatile struct virtq_used *)(uintptr_t)(q->used + 2);
}

#endif
