/* SPDX-License-Identifier: MIT */
/*
 * A virtio 1.x device as its driver sees it (virtio 1.2, chapters 2 and 4.1): status, features,
 * queues and their registers, on a PCI function with MSI-X. What a device of a kind does is behind
 * struct virtio_ops.
 *
 * A device embeds a struct virtio_guest in the part of it that migrates and a struct virtio in its
 * host part. Unless it says otherwise a function here is called with the device's lock held, or
 * with every vCPU parked; so are the operations.
 */
#ifndef MOLT_VIRTIO_VIRTIO_H
#define MOLT_VIRTIO_VIRTIO_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/pci/function.h>
#include <molt/state/vmstate.h>
#include <molt/virtio/queue.h>
#include <molt/vm/device.h>

#define VIRTIO_QUEUES_MAX 64

/* Registers in the BAR; part of the guest's ABI. A queue's notification is 4 bytes. */
#define VIRTIO_BAR_BYTES 0x8000u
#define VIRTIO_BAR_COMMON 0x0000u
#define VIRTIO_BAR_ISR 0x1000u
#define VIRTIO_BAR_CONFIG 0x2000u
#define VIRTIO_BAR_NOTIFY 0x3000u
#define VIRTIO_BAR_MSIX_TABLE 0x4000u
#define VIRTIO_BAR_MSIX_PBA 0x5000u
#define VIRTIO_CONFIG_MAX 0x1000u
#define VIRTIO_NOTIFY_STRIDE 4u

/* What migrates. */
struct virtio_guest {
	struct pci_function_guest pci;
	uint64_t device_features;
	uint64_t driver_features;
	uint64_t desc[VIRTIO_QUEUES_MAX];
	uint64_t avail[VIRTIO_QUEUES_MAX];
	uint64_t used[VIRTIO_QUEUES_MAX];
	uint16_t size[VIRTIO_QUEUES_MAX];
	uint16_t vector[VIRTIO_QUEUES_MAX];
	uint8_t enabled[VIRTIO_QUEUES_MAX];
	uint8_t resetting[VIRTIO_QUEUES_MAX]; /* queue_reset was asked for and is under way */
	uint32_t device_select;
	uint32_t driver_select;
	uint32_t nqueues;
	uint32_t queue_max;
	uint16_t config_vector;
	uint16_t queue_select;
	uint8_t status;
	uint8_t generation;
	uint8_t isr;
	bool resetting_all; /* the driver wrote 0 to status, and it is under way */
};

/* For the field table of struct s, which has it as member m. */
/* clang-format off */
#define VIRTIO_FIELDS(s, m) \
	PCI_FUNCTION_FIELDS(s, m.pci), \
	VMSTATE_U64(s, m.device_features), \
	VMSTATE_U64(s, m.driver_features), \
	VMSTATE_U64_ARRAY(s, m.desc), \
	VMSTATE_U64_ARRAY(s, m.avail), \
	VMSTATE_U64_ARRAY(s, m.used), \
	VMSTATE_U16_ARRAY(s, m.size), \
	VMSTATE_U16_ARRAY(s, m.vector), \
	VMSTATE_U8_ARRAY(s, m.enabled), \
	VMSTATE_U8_ARRAY(s, m.resetting), \
	VMSTATE_U32(s, m.device_select), \
	VMSTATE_U32(s, m.driver_select), \
	VMSTATE_U32(s, m.nqueues), \
	VMSTATE_U32(s, m.queue_max), \
	VMSTATE_U16(s, m.config_vector), \
	VMSTATE_U16(s, m.queue_select), \
	VMSTATE_U8(s, m.status), \
	VMSTATE_U8(s, m.generation), \
	VMSTATE_U8(s, m.isr), \
	VMSTATE_BOOL(s, m.resetting_all)
/* clang-format on */

struct virtio;

/* All may be NULL but kick. */
struct virtio_ops {
	/* DRIVER_OK: features are final, the enabled queues are ready. */
	void (*start)(struct virtio *v);
	/* The driver notified a queue that is enabled, after DRIVER_OK. */
	void (*kick)(struct virtio *v, uint32_t queue);
	/* A queue was enabled after DRIVER_OK (2.6.1). */
	void (*queue_enable)(struct virtio *v, uint32_t queue);
	/*
	 * Stops one queue, or all and the device. True: done. False: under way; the end is told by
	 * virtio_queue_reset_done() or virtio_reset_done().
	 */
	bool (*queue_reset)(struct virtio *v, uint32_t queue);
	bool (*reset)(struct virtio *v);
	/* The device's own configuration (2.5), offset + size <= VIRTIO_CONFIG_MAX. NULL: none. */
	void (*config_read)(struct virtio *v, uint64_t offset, void *data, unsigned int size);
	void (*config_write)(struct virtio *v, uint64_t offset, const void *data,
			     unsigned int size);
	/* Bus mastering or a vector may have changed. */
	void (*changed)(struct virtio *v);
};

/* What a device is. */
struct virtio_identity {
	uint32_t type;       /* device id of virtio 1.2, chapter 5 */
	uint32_t class_code; /* PCI: base class, subclass, interface */
	uint64_t features;   /* of the device, and ring features; the transport adds its own */
	uint32_t nqueues;    /* 1..VIRTIO_QUEUES_MAX */
	uint32_t queue_max;  /* largest queue: a power of 2, up to VIRTQUEUE_SIZE_MAX */
};

struct virtio {
	struct device *dev;
	struct virtio_guest *guest;
	const struct virtio_ops *ops;
	struct virtio_identity id;
	struct pci_function pci;
	uint8_t window; /* offset of the PCI configuration access capability (4.1.4.9) */
};

/*
 * Makes the device's PCI function, in the slot (0: the lowest that is free). guest is not touched
 * before virtio_power_on() or a load. -errno with the sentence as pci_function_init().
 */
int virtio_init(struct virtio *v, struct device *dev, struct virtio_guest *guest,
		const struct virtio_identity *id, const struct virtio_ops *ops, uint32_t slot,
		struct error *err);
void virtio_fini(struct virtio *v);

/* From struct device_class: reset. The device itself must be still. */
void virtio_power_on(struct virtio *v);

/*
 * From post_load: refuses what no guest can have made of it, queues that are not in RAM among it,
 * and puts the function where it was. -EINVAL with the sentence.
 */
int virtio_post_load(struct virtio *v, struct error *err);

/* DRIVER_OK, allowed to touch memory, and neither broken nor being reset. */
bool virtio_is_live(const struct virtio *v);

bool virtio_has_feature(const struct virtio *v, unsigned int bit);

/* A queue as the driver set it up, for virtqueue_setup(). */
struct virtqueue_config virtio_queue_config(const struct virtio *v, uint32_t queue);

/* Interrupts for a queue's used buffers (2.7.7), and for a change of the configuration. */
void virtio_notify_queue(struct virtio *v, uint32_t queue);
void virtio_notify_config(struct virtio *v);

/* NEEDS_RESET (2.1), mostly for a driver that makes no sense; and one line in the log, within a
 * limit. */
void virtio_broken(struct virtio *v, const char *what);

void virtio_queue_reset_done(struct virtio *v, uint32_t queue);
void virtio_reset_done(struct virtio *v);

/*
 * The option's key "slot": 1..31, or 0 where it is not there. list may be NULL. -EINVAL, -ERANGE;
 * what
 * ("--rng") begins the sentence.
 */
int virtio_slot_of(const struct value_list *list, const char *what, uint32_t *slot,
		   struct error *err);

/* ---- registers, src/virtio/registers.c ---- */

/* The common configuration structure (4.1.4.3), offset + size within VIRTIO_BAR_ISR. */
uint64_t virtio_common_read(struct virtio *v, uint64_t offset, unsigned int size);
void virtio_common_write(struct virtio *v, uint64_t offset, uint64_t value, unsigned int size);

#endif
