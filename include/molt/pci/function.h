/* SPDX-License-Identifier: MIT */
/*
 * A PCI function with one 64-bit memory BAR and MSI-X (PCI Local Bus Specification 3.0, chapter 6).
 *
 * A device embeds a struct pci_function_guest in the part of it that migrates, and a struct
 * pci_function in its host part. At power-on the BAR has its address and memory decoding and bus
 * mastering are on, as firmware would leave them; the guest may change all of that.
 *
 * Unless it says otherwise a function here is called with the device's lock held, or with every
 * vCPU parked.
 */
#ifndef MOLT_PCI_FUNCTION_H
#define MOLT_PCI_FUNCTION_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/pci/config.h>
#include <molt/state/vmstate.h>
#include <molt/vm/bus.h>
#include <molt/vm/device.h>

/* Where slot N's BAR is at power-on: PCI_BAR_BASE + N * PCI_BAR_STRIDE. Part of the guest's ABI. */
#define PCI_BAR_BASE 0x4000000000ull
#define PCI_BAR_STRIDE 0x100000ull

#define PCI_MSIX_MAX 65      /* vectors: one for configuration changes, one for each of 64 queues */
#define PCI_MSIX_NONE 0xffff /* "no vector", as virtio has it */
#define PCI_MSIX_WORDS (2 * ((PCI_MSIX_MAX + 63) / 64)) /* the pending bits come in quadwords */

/* What migrates. */
struct pci_function_guest {
	uint8_t config[PCI_CONFIG_BYTES];
	uint64_t msix_address[PCI_MSIX_MAX];
	uint32_t msix_data[PCI_MSIX_MAX];
	uint32_t msix_control[PCI_MSIX_MAX]; /* vector control: bit 0 masks */
	uint32_t msix_pending[PCI_MSIX_WORDS];
	uint64_t mapped; /* as in struct pci_function, for who comes after */
	uint32_t slot;
	uint32_t nvectors;
};

/* For the field table of struct s, which has it as member m. */
/* clang-format off */
#define PCI_FUNCTION_FIELDS(s, m) \
	VMSTATE_U8_ARRAY(s, m.config), \
	VMSTATE_U64_ARRAY(s, m.msix_address), \
	VMSTATE_U32_ARRAY(s, m.msix_data), \
	VMSTATE_U32_ARRAY(s, m.msix_control), \
	VMSTATE_U32_ARRAY(s, m.msix_pending), \
	VMSTATE_U64(s, m.mapped), \
	VMSTATE_U32(s, m.slot), \
	VMSTATE_U32(s, m.nvectors)
/* clang-format on */

/* What a function is. */
struct pci_identity {
	uint16_t vendor;
	uint16_t device;
	uint16_t subsystem_vendor;
	uint16_t subsystem;
	uint32_t class_code; /* base class, subclass, programming interface */
	uint8_t revision;
	const struct bus_region *bar; /* its registers; len is a power of 2, up to PCI_BAR_STRIDE */
	uint32_t nvectors;            /* 1..PCI_MSIX_MAX */
	uint32_t msix_table;          /* offsets in the BAR; 16 bytes and 1 bit a vector */
	uint32_t msix_pba;
};

struct pci_function {
	struct device *dev;
	struct pci_function_guest *guest;
	struct pci_identity id;
	struct pci_config power_on; /* with the capabilities */
	struct pci_config writable;
	uint32_t slot;
	uint8_t last_cap; /* offset of the last capability, 0: none */
	uint8_t free;     /* offset of the first byte behind them */
	uint8_t msix_cap;
	uint64_t mapped;               /* where the BAR is on the bus; 0: nowhere */
	uint32_t fast[PCI_MSIX_WORDS]; /* vectors that KVM delivers by itself: see pci_msix_fast() */
	/* Bus mastering or a vector may have changed. NULL: the device does not care. */
	void (*changed)(struct device *dev);
	/*
	 * Before the guest reads these bytes of the configuration space, and after it wrote them.
	 * NULL: they are plain bytes.
	 */
	void (*access)(struct device *dev, uint64_t offset, unsigned int size, bool write);
};

/*
 * Makes the function and puts it into the slot (0: the lowest that is free) of the machine's bus.
 * guest belongs to the device and is not touched. -EEXIST, -ENOSPC, -EINVAL with the sentence.
 */
int pci_function_init(struct pci_function *f, struct device *dev, struct pci_function_guest *guest,
		      const struct pci_identity *id, uint32_t slot, struct error *err);

/* Off the bus; harmless where pci_function_init() was not called or failed. */
void pci_function_fini(struct pci_function *f);

/*
 * Adds a capability of len bytes, of which the second is filled in here, and returns its offset;
 * only right after pci_function_init(). That there is room is the caller's affair, and asserted.
 */
uint8_t pci_function_add_capability(struct pci_function *f, const void *bytes, uint8_t len);

/* Power-on. */
void pci_function_reset(struct pci_function *f);

/*
 * From struct device_class.service: the BAR is put where the guest wants it, and so are those that
 * waited for the place that it leaves.
 */
void pci_function_service(struct pci_function *f);

/* Refuses what no guest can have made of it. -EINVAL with the sentence. */
int pci_function_post_load(struct pci_function *f, struct error *err);

/* The guest's access to the configuration space, 1, 2 or 4 bytes, aligned. */
uint32_t pci_function_config_read(struct pci_function *f, uint64_t offset, unsigned int size);
void pci_function_config_write(struct pci_function *f, uint64_t offset, uint32_t value,
			       unsigned int size);

/* Whether it may access memory and send interrupts. */
bool pci_function_is_master(const struct pci_function *f);

/* ---- MSI-X (PCI 3.0, 6.8.2), src/pci/msix.c ---- */

/* The guest's access to table and pending bits, at an offset in the BAR; false: neither is there. */
bool pci_msix_read(struct pci_function *f, uint64_t offset, unsigned int size, uint64_t *value);
bool pci_msix_write(struct pci_function *f, uint64_t offset, uint64_t value, unsigned int size);

/* Interrupts by a vector, now or when it is unmasked. Nothing where MSI-X is off. */
void pci_msix_notify(struct pci_function *f, uint32_t vector);

/* Who had interrupts to send by it was reset: one that waits is not sent any more. */
void pci_msix_forget(struct pci_function *f, uint32_t vector);

/* Whether a message of that vector would go out now; then what it is. */
bool pci_msix_message(const struct pci_function *f, uint32_t vector, uint64_t *address,
		      uint32_t *data);

/*
 * Whether KVM sends this vector's message by itself (irqfd). Where it does, a change that the guest
 * makes to the vector asks for service before the guest runs on.
 */
void pci_msix_fast(struct pci_function *f, uint32_t vector, bool on);

/* After the guest changed what MSI-X goes by as a whole (pci_function_config_write()). */
void pci_msix_control_changed(struct pci_function *f);

#endif
