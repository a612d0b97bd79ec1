/* SPDX-License-Identifier: MIT */
/*
 * COM1 and COM2: a 16550A (uart.c) at ports 0x3f8 to 0x3ff with IRQ 4, and at 0x2f8 to 0x2ff with
 * IRQ 3, plugged into a backend.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include <molt/backend/chardev.h>
#include <molt/base/fd.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#include "uart.h"

#define PORTS 2

static_assert(sizeof(struct uart) == 32, "no padding: every byte is saved");

struct serial {
	struct device dev;
	struct uart guest;
	struct {
		struct chardev *cd;
		struct irq_line irq;
		struct uart_pins pins;
	} host;
};

static const struct vmstate_field serial_fields[] = {
	VMSTATE_U8_VAR(struct uart, rx, rx_len),
	VMSTATE_U8(struct uart, dll),
	VMSTATE_U8(struct uart, dlm),
	VMSTATE_U8(struct uart, ier),
	VMSTATE_U8(struct uart, fcr),
	VMSTATE_U8(struct uart, lcr),
	VMSTATE_U8(struct uart, mcr),
	VMSTATE_U8(struct uart, msr),
	VMSTATE_U8(struct uart, scr),
	VMSTATE_BOOL(struct uart, overrun),
	VMSTATE_BOOL(struct uart, thre_pending),
	VMSTATE_BOOL(struct uart, connected),
	VMSTATE_BOOL(struct uart, irq_level),
	VMSTATE_END
};

static const struct vmstate serial_vmstate = {
	.name = "serial",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct uart),
	.fields = serial_fields,
};

static struct serial *to_serial(struct device *dev)
{
	return container_of(dev, struct serial, dev);
}

/* ---- the chip's pins ---- */

static void transmit(void *opaque, uint8_t byte)
{
	struct serial *s = opaque;

	chardev_write(s->host.cd, &byte, 1);
}

static void has_room(void *opaque)
{
	struct serial *s = opaque;

	chardev_input_ready(s->host.cd);
}

/* An edge for the PIC and the IOAPIC: the line falls when the last cause is gone. */
static void interrupt(void *opaque, bool level)
{
	struct serial *s = opaque;

	irq_line_set(&s->host.irq, level);
}

/* The chip has an 8-bit bus: a wider access is one to each register in turn. */
static uint64_t serial_read(struct device *dev, uint64_t offset, unsigned int size)
{
	struct serial *s = to_serial(dev);
	uint64_t value = 0;

	for (unsigned int i = 0; i < size; i++)
		value |= (uint64_t)uart_read(&s->guest, &s->host.pins, (unsigned int)offset + i)
			 << (8 * i);
	return value;
}

static void serial_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct serial *s = to_serial(dev);

	for (unsigned int i = 0; i < size; i++)
		uart_write(&s->guest, &s->host.pins, (unsigned int)offset + i,
			   (uint8_t)(value >> (8 * i)));
}

/* ---- the backend's side, on the main thread ---- */

static size_t backend_room(void *opaque)
{
	struct serial *s = opaque;
	size_t n;

	pthread_mutex_lock(&s->dev.lock);
	n = uart_room(&s->guest);
	pthread_mutex_unlock(&s->dev.lock);
	return n;
}

static void backend_input(void *opaque, const uint8_t *data, size_t len)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->dev.lock);
	uart_receive(&s->guest, &s->host.pins, data, len);
	pthread_mutex_unlock(&s->dev.lock);
}

static void backend_connected(void *opaque, bool connected)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->dev.lock);
	uart_connect(&s->guest, &s->host.pins, connected);
	pthread_mutex_unlock(&s->dev.lock);
}

static void backend_quit(void *opaque)
{
	struct serial *s = opaque;

	machine_exit(s->dev.machine, MACHINE_EXIT_OK, "host-ui");
}

/* ---- life ---- */

/* A terminal's input cannot go to two ports. */
static bool terminal_is_taken(const struct device *dev)
{
	const struct machine *m = dev->machine;

	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls == dev->cls && m->devices[i]->args &&
		    strcmp(m->devices[i]->args, "tty") == 0)
			return true;
	return false;
}

static int serial_create(struct device *dev, const struct device_env *env, struct error *err)
{
	struct serial *s = to_serial(dev);
	const struct chardev_ops ops = {
		.room = backend_room,
		.input = backend_input,
		.connected = backend_connected,
		.quit = backend_quit,
		.opaque = s,
	};

	if (!env->stream && env->args && strcmp(env->args, "tty") == 0 && terminal_is_taken(dev))
		return err_set(err, EINVAL, "--serial2 tty: the terminal is COM1's");
	s->host.pins = (struct uart_pins){ .transmit = transmit,
					   .has_room = has_room,
					   .interrupt = interrupt,
					   .opaque = s };
	return chardev_open(&s->host.cd, "serial", dev->instance, env->args ? env->args : "null",
			    env->loop, &ops, env->fds, env->stream, err);
}

static int serial_attach(struct device *dev, struct error *err)
{
	static const uint32_t irqs[PORTS] = { 4, 3 };

	(void)err;
	irq_line_init(&to_serial(dev)->host.irq, &dev->machine->vm, irqs[dev->instance], false);
	return 0;
}

static void serial_reset(struct device *dev)
{
	struct serial *s = to_serial(dev);

	uart_reset(&s->guest, &s->host.pins, chardev_connected(s->host.cd));
}

static int serial_quiesce(struct device *dev, struct error *err)
{
	return chardev_quiesce(to_serial(dev)->host.cd, err);
}

static void serial_resume(struct device *dev)
{
	chardev_resume(to_serial(dev)->host.cd);
}

static int serial_rest(struct device *dev, struct error *err)
{
	return chardev_rest(to_serial(dev)->host.cd, err);
}

static void serial_go_on(struct device *dev)
{
	chardev_go_on(to_serial(dev)->host.cd);
}

static void serial_serve(struct device *dev)
{
	chardev_serve(to_serial(dev)->host.cd);
}

static void serial_revive(struct device *dev, bool stood_in)
{
	chardev_revive(to_serial(dev)->host.cd, stood_in);
	chardev_listen_again(to_serial(dev)->host.cd);
}

static int serial_save_host(struct device *dev, struct stream_writer *w, struct fdtable *fds,
			    struct error *err)
{
	return chardev_save(to_serial(dev)->host.cd, w, fds, err);
}

static int serial_load_host_again(struct device *dev, struct stream *s, struct error *err)
{
	return chardev_load_again(to_serial(dev)->host.cd, s, err);
}

static int serial_post_load(struct device *dev, struct error *err)
{
	struct serial *s = to_serial(dev);
	int r = uart_check(&s->guest, err);

	if (r < 0)
		return r;
	irq_line_restore(&s->host.irq, s->guest.irq_level);
	uart_connect(&s->guest, &s->host.pins, chardev_connected(s->host.cd));
	return 0;
}

static const struct chardev *serial_chardev(struct device *dev)
{
	return to_serial(dev)->host.cd;
}

static void serial_job_control(struct device *dev, bool stopping)
{
	chardev_job_control(to_serial(dev)->host.cd, stopping);
}

static void serial_destroy(struct device *dev)
{
	chardev_close(to_serial(dev)->host.cd);
}

static const uint64_t com2[PORTS - 1] = { 0x2f8 };

static const struct bus_region serial_regions[] = {
	{
		.kind = BUS_PIO,
		.base = 0x3f8,
		.more_bases = com2,
		.len = UART_REGISTERS,
		.read = serial_read,
		.write = serial_write,
	},
};

static int check_com1(const char *text, const struct value_list *list, struct error *err)
{
	(void)list;
	return chardev_check_spec("--serial", text, err);
}

static int check_com2(const char *text, const struct value_list *list, struct error *err)
{
	(void)list;
	return chardev_check_spec("--serial2", text, err);
}

#define BACKENDS "tty pty null file= socket="

static const struct device_option com1_option = {
	.def = {
		.name = "serial",
		.arg = "BACKEND",
		.help = "what COM1 is plugged into: tty, pty, null, file=PATH or socket=PATH",
		.def = "tty",
		.values = BACKENDS,
	},
	.check = check_com1,
};

static const struct device_option com2_option = {
	.def = {
		.name = "serial2",
		.arg = "BACKEND",
		.help = "add a second serial port, COM2, plugged into the like",
		.values = BACKENDS,
	},
	.check = check_com2,
};

static const char *const serial_fds[] = { CHARDEV_FD_NAMES("serial"), NULL };

static const struct takeover_kind serial_host = {
	.section = "serial-chardev",
	.vms = &chardev_vmstate,
	.required = true,
	.fds = serial_fds,
};

const struct device_class serial_class = {
	.name = "serial",
	.since = 1,
	.board = 1,
	.most = PORTS,
	.option = &com1_option,
	.more = &com2_option,
	.host = &serial_host,
	.size = sizeof(struct serial),
	.guest_offset = offsetof(struct serial, guest),
	.guest_size = sizeof(struct uart),
	.state = &serial_vmstate,
	.regions = serial_regions,
	.nregions = ARRAY_SIZE(serial_regions),
	.chardev = serial_chardev,
	.create = serial_create,
	.attach = serial_attach,
	.reset = serial_reset,
	.quiesce = serial_quiesce,
	.resume = serial_resume,
	.rest = serial_rest,
	.go_on = serial_go_on,
	.serve = serial_serve,
	.revive = serial_revive,
	.save_host = serial_save_host,
	.load_host_again = serial_load_host_again,
	.post_load = serial_post_load,
	.job_control = serial_job_control,
	.destroy = serial_destroy,
};
