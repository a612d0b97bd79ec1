/* SPDX-License-Identifier: MIT */
/*
 * ACPI fixed hardware (ACPI 6.3, section 4.8): the PM1a event and control blocks with the power
 * button and soft off, and the reset register at 0xcf9.
 *
 *	0x600	PM1_STS, 16 bits, written 1 to clear
 *	0x602	PM1_EN, 16 bits
 *	0x604	PM1_CNT, 16 bits: SLP_TYP 5 with SLP_EN powers off
 *	0xcf9	reset: bit 2 resets, bit 1 (hard) makes no difference here
 *
 * SCI is IRQ 9, level-triggered: asserted while an enabled status bit is set.
 */
#include <assert.h>
#include <errno.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#define PM1_EVT_BASE 0x600
#define PM1_EVT_LEN 4
#define PM1_CNT_BASE 0x604
#define PM1_CNT_LEN 2
#define RESET_PORT 0xcf9
#define SCI_IRQ 9

#define STS_PWRBTN 0x0100u
/* TMR, GBL, PWRBTN, SLPBTN, RTC: a driver reads back what it enabled. */
#define EN_MASK 0x0721u

#define CNT_SCI_EN 0x0001u
#define CNT_BM_RLD 0x0002u
#define CNT_SLP_TYP 0x1c00u
#define CNT_SLP_TYP_SHIFT 10
#define CNT_SLP_EN 0x2000u /* write-only, as GBL_RLS is */
#define CNT_KEPT (CNT_BM_RLD | CNT_SLP_TYP)
#define SLP_TYP_S5 5

#define RESET_HARD 0x02u
#define RESET_CPU 0x04u
#define RESET_FULL 0x08u
#define RESET_KEPT (RESET_HARD | RESET_FULL)

struct power_guest {
	uint16_t status;
	uint16_t enable;
	uint16_t control;
	uint8_t reset;
	bool sci_level;
};

static_assert(sizeof(struct power_guest) == 8, "no padding: every byte is saved");

struct power {
	struct device dev;
	struct power_guest guest;
	struct {
		struct irq_line sci;
	} host;
};

static const struct vmstate_field power_fields[] = {
	VMSTATE_U16(struct power_guest, status),     VMSTATE_U16(struct power_guest, enable),
	VMSTATE_U16(struct power_guest, control),    VMSTATE_U8(struct power_guest, reset),
	VMSTATE_BOOL(struct power_guest, sci_level), VMSTATE_END
};

static const struct vmstate power_vmstate = {
	.name = "power",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct power_guest),
	.fields = power_fields,
};

static struct power *to_power(struct device *dev)
{
	return container_of(dev, struct power, dev);
}

static void update_sci(struct power *p)
{
	p->guest.sci_level = p->guest.status & p->guest.enable;
	irq_line_set(&p->host.sci, p->guest.sci_level);
}

/* byte of a 16-bit register */
static uint8_t get_byte(uint16_t reg, uint64_t index)
{
	return (uint8_t)(reg >> (8 * index));
}

static uint16_t with_byte(uint16_t reg, uint64_t index, uint8_t value)
{
	unsigned int shift = (unsigned int)(8 * index);

	return (uint16_t)((reg & ~(0xffu << shift)) | (unsigned int)value << shift);
}

static uint64_t event_read(struct device *dev, uint64_t offset, unsigned int size)
{
	const struct power_guest *g = &to_power(dev)->guest;
	uint64_t value = 0;

	for (unsigned int i = 0; i < size; i++) {
		uint64_t at = offset + i;
		uint8_t byte = get_byte(at < 2 ? g->status : g->enable, at % 2);

		value |= (uint64_t)byte << (8 * i);
	}
	return value;
}

static void event_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct power *p = to_power(dev);
	struct power_guest *g = &p->guest;

	for (unsigned int i = 0; i < size; i++) {
		uint64_t at = offset + i;
		uint8_t byte = (uint8_t)(value >> (8 * i));

		if (at < 2)
			g->status &= (uint16_t)~with_byte(0, at, byte);
		else
			g->enable = with_byte(g->enable, at - 2, byte) & EN_MASK;
	}
	update_sci(p);
}

static uint64_t control_read(struct device *dev, uint64_t offset, unsigned int size)
{
	uint16_t control = to_power(dev)->guest.control | CNT_SCI_EN;

	(void)size;
	return (uint64_t)control >> (8 * offset);
}

static void control_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct power_guest *g = &to_power(dev)->guest;
	uint16_t control = g->control;

	for (unsigned int i = 0; i < size; i++)
		control = with_byte(control, offset + i, (uint8_t)(value >> (8 * i)));
	g->control = control & CNT_KEPT;
	if ((control & CNT_SLP_EN) && (control & CNT_SLP_TYP) >> CNT_SLP_TYP_SHIFT == SLP_TYP_S5)
		machine_request(dev->machine, MACHINE_REQ_SHUTDOWN);
}

static uint64_t reset_read(struct device *dev, uint64_t offset, unsigned int size)
{
	(void)offset;
	(void)size;
	return to_power(dev)->guest.reset;
}

static void reset_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	(void)offset;
	(void)size;
	to_power(dev)->guest.reset = value & RESET_KEPT;
	if (value & RESET_CPU)
		machine_request(dev->machine, MACHINE_REQ_RESET);
}

static int power_attach(struct device *dev, struct error *err)
{
	(void)err;
	irq_line_init(&to_power(dev)->host.sci, &dev->machine->vm, SCI_IRQ, true);
	return 0;
}

static void power_reset(struct device *dev)
{
	struct power *p = to_power(dev);

	p->guest = (struct power_guest){ 0 };
	update_sci(p);
}

/* The machine holds the device's lock. */
static void power_button(struct device *dev)
{
	struct power *p = to_power(dev);

	p->guest.status |= STS_PWRBTN;
	update_sci(p);
}

static int power_post_load(struct device *dev, struct error *err)
{
	struct power *p = to_power(dev);
	const struct power_guest *g = &p->guest;

	if ((g->status & ~STS_PWRBTN) || (g->enable & ~EN_MASK) || (g->control & ~CNT_KEPT) ||
	    (g->reset & ~RESET_KEPT))
		return err_set(err, EINVAL,
			       "power: impossible register: PM1_STS %#x, PM1_EN %#x, PM1_CNT %#x, "
			       "reset %#x",
			       g->status, g->enable, g->control, g->reset);
	irq_line_restore(&p->host.sci, g->sci_level);
	update_sci(p);
	return 0;
}

static const struct bus_region power_regions[] = {
	{ .kind = BUS_PIO,
	  .base = PM1_EVT_BASE,
	  .len = PM1_EVT_LEN,
	  .read = event_read,
	  .write = event_write },
	{ .kind = BUS_PIO,
	  .base = PM1_CNT_BASE,
	  .len = PM1_CNT_LEN,
	  .read = control_read,
	  .write = control_write },
	{ .kind = BUS_PIO, .base = RESET_PORT, .len = 1, .read = reset_read, .write = reset_write },
};

const struct device_class power_class = {
	.name = "power",
	.since = 1,
	.board = 1,
	.size = sizeof(struct power),
	.guest_offset = offsetof(struct power, guest),
	.guest_size = sizeof(struct power_guest),
	.state = &power_vmstate,
	.regions = power_regions,
	.nregions = ARRAY_SIZE(power_regions),
	.attach = power_attach,
	.reset = power_reset,
	.power_button = power_button,
	.post_load = power_post_load,
};
