/* SPDX-License-Identifier: MIT */
/* The in-kernel interrupt controllers, two 8259 PICs and an IOAPIC, as an ordinary device. */
#include <errno.h>
#include <string.h>

#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

/* Of an entry of the IOAPIC's table. */
#define REMOTE_IRR (1u << 14) /* a local APIC has it, and has not acknowledged it yet */
#define LEVEL_TRIGGERED (1u << 15)
#define MASKED (1u << 16)

struct irqchip_guest {
	uint64_t ioapic_base;
	uint64_t ioapic_redirtbl[KVM_IOAPIC_NUM_PINS];
	uint32_t ioapic_ioregsel;
	uint32_t ioapic_id;
	uint32_t ioapic_irr;
	uint8_t pic_master[sizeof(struct kvm_pic_state)];
	uint8_t pic_slave[sizeof(struct kvm_pic_state)];
	uint8_t reserved[4];
};

struct irqchip {
	struct device dev;
	struct irqchip_guest guest;
};

static const struct vmstate_field irqchip_fields[] = {
	VMSTATE_U64(struct irqchip_guest, ioapic_base),
	VMSTATE_U64_ARRAY(struct irqchip_guest, ioapic_redirtbl),
	VMSTATE_U32(struct irqchip_guest, ioapic_ioregsel),
	VMSTATE_U32(struct irqchip_guest, ioapic_id),
	VMSTATE_U32(struct irqchip_guest, ioapic_irr),
	VMSTATE_U8_ARRAY(struct irqchip_guest, pic_master),
	VMSTATE_U8_ARRAY(struct irqchip_guest, pic_slave),
	VMSTATE_UNSAVED(struct irqchip_guest, reserved, "padding"),
	VMSTATE_END
};

static const struct vmstate irqchip_vmstate = {
	.name = "irqchip",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct irqchip_guest),
	.fields = irqchip_fields,
};

static int irqchip_attach(struct device *dev, struct error *err)
{
	int r = kvm_vm_call(&dev->machine->vm, KVM_CREATE_IRQCHIP, NULL);

	return r < 0 ? err_sys(err, -r, "KVM_CREATE_IRQCHIP") : 0;
}

static int get_chip(struct device *dev, uint32_t id, struct kvm_irqchip *chip, struct error *err)
{
	int r;

	memset(chip, 0, sizeof(*chip));
	chip->chip_id = id;
	r = kvm_vm_call(&dev->machine->vm, KVM_GET_IRQCHIP, chip);
	return r < 0 ? err_sys(err, -r, "KVM_GET_IRQCHIP %u", id) : 0;
}

static int set_chip(struct device *dev, struct kvm_irqchip *chip, struct error *err)
{
	int r = kvm_vm_call(&dev->machine->vm, KVM_SET_IRQCHIP, chip);

	return r < 0 ? err_sys(err, -r, "KVM_SET_IRQCHIP %u", chip->chip_id) : 0;
}

static int irqchip_pre_save(struct device *dev, struct error *err)
{
	struct irqchip_guest *g = device_guest(dev);
	struct kvm_irqchip chip;
	int r = get_chip(dev, KVM_IRQCHIP_PIC_MASTER, &chip, err);

	memcpy(g->pic_master, &chip.chip.pic, sizeof(g->pic_master));
	if (r == 0)
		r = get_chip(dev, KVM_IRQCHIP_PIC_SLAVE, &chip, err);
	memcpy(g->pic_slave, &chip.chip.pic, sizeof(g->pic_slave));
	if (r == 0)
		r = get_chip(dev, KVM_IRQCHIP_IOAPIC, &chip, err);
	g->ioapic_base = chip.chip.ioapic.base_address;
	g->ioapic_ioregsel = chip.chip.ioapic.ioregsel;
	g->ioapic_id = chip.chip.ioapic.id;
	g->ioapic_irr = chip.chip.ioapic.irr;
	memcpy(g->ioapic_redirtbl, chip.chip.ioapic.redirtbl, sizeof(g->ioapic_redirtbl));
	return r;
}

static int irqchip_post_load(struct device *dev, struct error *err)
{
	const struct irqchip_guest *g = device_guest(dev);
	struct kvm_irqchip chip = { .chip_id = KVM_IRQCHIP_PIC_MASTER };
	int r;

	memcpy(&chip.chip.pic, g->pic_master, sizeof(g->pic_master));
	r = set_chip(dev, &chip, err);
	chip.chip_id = KVM_IRQCHIP_PIC_SLAVE;
	memcpy(&chip.chip.pic, g->pic_slave, sizeof(g->pic_slave));
	if (r == 0)
		r = set_chip(dev, &chip, err);
	memset(&chip, 0, sizeof(chip));
	chip.chip_id = KVM_IRQCHIP_IOAPIC;
	chip.chip.ioapic.base_address = g->ioapic_base;
	chip.chip.ioapic.ioregsel = g->ioapic_ioregsel;
	chip.chip.ioapic.id = g->ioapic_id;
	chip.chip.ioapic.irr = g->ioapic_irr;
	memcpy(chip.chip.ioapic.redirtbl, g->ioapic_redirtbl, sizeof(g->ioapic_redirtbl));
	if (r == 0)
		r = set_chip(dev, &chip, err);
	return r;
}

/*
 * When it is set KVM hands out each line that is up and that no local APIC has taken: all were off,
 * or a guest has acknowledged it thousands of times in a row, and KVM lets it wait for 10 ms. In
 * the rehearsal that went to local APICs that have been set once more since: the IOAPIC would wait
 * for ever for one of them to acknowledge it.
 */
static bool irqchip_kvm_has_changed(struct device *dev)
{
	const struct irqchip_guest *g = device_guest(dev);

	for (unsigned int pin = 0; pin < KVM_IOAPIC_NUM_PINS; pin++)
		if (g->ioapic_irr >> pin & 1 &&
		    (g->ioapic_redirtbl[pin] & (MASKED | LEVEL_TRIGGERED | REMOTE_IRR)) ==
			    LEVEL_TRIGGERED)
			return true;
	return false;
}

const struct device_class irqchip_class = {
	.name = "irqchip",
	.since = 1,
	.board = 1,
	.size = sizeof(struct irqchip),
	.guest_offset = offsetof(struct irqchip, guest),
	.guest_size = sizeof(struct irqchip_guest),
	.state = &irqchip_vmstate,
	.before_vcpus = true,
	.attach = irqchip_attach,
	.pre_save = irqchip_pre_save,
	.kvm_has_changed = irqchip_kvm_has_changed,
	.post_load = irqchip_post_load,
};
