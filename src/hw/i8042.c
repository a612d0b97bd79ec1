/* SPDX-License-Identifier: MIT */
/*
 * The keyboard controller, as far as a guest without a keyboard needs it: the ways to reset the
 * machine (command 0xfe, output port bit 0) and the answers that let a driver find out quickly that
 * nothing is plugged in. Ports 0x60 (data) and 0x64 (status, command); no interrupt is ever raised.
 */
#include <assert.h>
#include <errno.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#define PORT_DATA 0x60
#define PORT_COMMAND 0x64

#define STATUS_OUTPUT_FULL 0x01u
#define STATUS_SYSTEM 0x04u /* the controller passed its self test */

#define CTR_SYSTEM 0x04u
#define CTR_NO_KEYBOARD 0x10u
#define CTR_NO_MOUSE 0x20u

#define CMD_READ_CTR 0x20
#define CMD_WRITE_CTR 0x60
#define CMD_DISABLE_MOUSE 0xa7
#define CMD_ENABLE_MOUSE 0xa8
#define CMD_TEST_MOUSE 0xa9
#define CMD_SELF_TEST 0xaa
#define CMD_TEST_KEYBOARD 0xab
#define CMD_DISABLE_KEYBOARD 0xad
#define CMD_ENABLE_KEYBOARD 0xae
#define CMD_READ_OUTPUT 0xd0
#define CMD_WRITE_OUTPUT 0xd1
#define CMD_PULSE 0xf0 /* to 0xff: pulls the output port's bits low that are 0 in the command */

#define OUTPUT_NO_RESET 0x01u
#define OUTPUT_A20 0x02u

#define SELF_TEST_PASSED 0x55
#define PORT_TEST_PASSED 0x00
#define PORT_TEST_CLOCK_LOW 0x01 /* what a mouse port without a mouse answers */

struct i8042_guest {
	uint8_t ctr;     /* the command byte */
	uint8_t output;  /* the answer that waits at 0x60 */
	uint8_t pending; /* the command that takes the next byte written to 0x60; 0: none */
	bool output_full;
};

static_assert(sizeof(struct i8042_guest) == 4, "no padding: every byte is saved");

struct i8042 {
	struct device dev;
	struct i8042_guest guest;
};

static const struct vmstate_field i8042_fields[] = {
	VMSTATE_U8(struct i8042_guest, ctr), VMSTATE_U8(struct i8042_guest, output),
	VMSTATE_U8(struct i8042_guest, pending), VMSTATE_BOOL(struct i8042_guest, output_full),
	VMSTATE_END
};

static const struct vmstate i8042_vmstate = {
	.name = "i8042",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct i8042_guest),
	.fields = i8042_fields,
};

static struct i8042_guest *guest_of(struct device *dev)
{
	return &container_of(dev, struct i8042, dev)->guest;
}

static void answer(struct i8042_guest *g, uint8_t value)
{
	g->output = value;
	g->output_full = true;
}

static void self_test(struct i8042_guest *g)
{
	g->ctr |= CTR_SYSTEM;
	answer(g, SELF_TEST_PASSED);
}

static uint64_t status_read(struct device *dev, uint64_t offset, unsigned int size)
{
	const struct i8042_guest *g = guest_of(dev);

	(void)offset;
	(void)size;
	return (g->output_full ? STATUS_OUTPUT_FULL : 0) |
	       (g->ctr & CTR_SYSTEM ? STATUS_SYSTEM : 0);
}

static void command_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct i8042_guest *g = guest_of(dev);
	uint8_t command = (uint8_t)value;

	(void)offset;
	(void)size;
	g->pending = 0;
	switch (command) {
	case CMD_READ_CTR:
		answer(g, g->ctr);
		break;
	case CMD_WRITE_CTR:
	case CMD_WRITE_OUTPUT:
		g->pending = command;
		break;
	case CMD_DISABLE_MOUSE:
		g->ctr |= CTR_NO_MOUSE;
		break;
	case CMD_ENABLE_MOUSE:
		g->ctr &= (uint8_t)~CTR_NO_MOUSE;
		break;
	case CMD_TEST_MOUSE:
		answer(g, PORT_TEST_CLOCK_LOW);
		break;
	case CMD_SELF_TEST:
		self_test(g);
		break;
	case CMD_TEST_KEYBOARD:
		answer(g, PORT_TEST_PASSED);
		break;
	case CMD_DISABLE_KEYBOARD:
		g->ctr |= CTR_NO_KEYBOARD;
		break;
	case CMD_ENABLE_KEYBOARD:
		g->ctr &= (uint8_t)~CTR_NO_KEYBOARD;
		break;
	case CMD_READ_OUTPUT:
		answer(g, OUTPUT_NO_RESET | OUTPUT_A20);
		break;
	default:
		if (command >= CMD_PULSE && !(command & OUTPUT_NO_RESET))
			machine_request(dev->machine, MACHINE_REQ_RESET);
		break;
	}
}

static uint64_t data_read(struct device *dev, uint64_t offset, unsigned int size)
{
	struct i8042_guest *g = guest_of(dev);

	(void)offset;
	(void)size;
	g->output_full = false;
	return g->output;
}

/* Without a pending command the byte is for the keyboard, and there is none to answer. */
static void data_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct i8042_guest *g = guest_of(dev);
	uint8_t command = g->pending;

	(void)offset;
	(void)size;
	g->pending = 0;
	if (command == CMD_WRITE_CTR)
		g->ctr = (uint8_t)value;
	else if (command == CMD_WRITE_OUTPUT && !(value & OUTPUT_NO_RESET))
		machine_request(dev->machine, MACHINE_REQ_RESET);
}

static void i8042_reset(struct device *dev)
{
	*guest_of(dev) = (struct i8042_guest){ 0 };
}

static int i8042_post_load(struct device *dev, struct error *err)
{
	uint8_t pending = guest_of(dev)->pending;

	if (pending && pending != CMD_WRITE_CTR && pending != CMD_WRITE_OUTPUT)
		return err_set(err, EINVAL, "i8042: command %#x takes no data", pending);
	return 0;
}

static const struct bus_region i8042_regions[] = {
	{ .kind = BUS_PIO, .base = PORT_DATA, .len = 1, .read = data_read, .write = data_write },
	{ .kind = BUS_PIO,
	  .base = PORT_COMMAND,
	  .len = 1,
	  .read = status_read,
	  .write = command_write },
};

const struct device_class i8042_class = {
	.name = "i8042",
	.since = 1,
	.board = 1,
	.size = sizeof(struct i8042),
	.guest_offset = offsetof(struct i8042, guest),
	.guest_size = sizeof(struct i8042_guest),
	.state = &i8042_vmstate,
	.regions = i8042_regions,
	.nregions = ARRAY_SIZE(i8042_regions),
	.reset = i8042_reset,
	.post_load = i8042_post_load,
};
