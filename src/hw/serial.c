/* SPDX-License-Identifier: MIT */
/*
 * COM1 and COM2: National Semiconductor 16550A (datasheet PC16550D) at ports 0x3f8 to 0x3ff with
 * IRQ 4, and at 0x2f8 to 0x2ff with IRQ 3.
 *
 * Theory of operation
 *
 * There is no baud rate: a byte written to THR is on its way at once, so the transmitter is always
 * empty and LSR says THRE and TEMT at any time. The THRE interrupt is edge-like: it is raised by
 * each byte sent and by turning IER.THRI on, and taken back by the IIR read that reports it.
 *
 * The receiver takes from the backend only what its FIFO has room for, so an overrun happens in
 * loopback mode alone. A character timeout needs no timer: what the host had is here already, so
 * waiting four character times for more would only delay what is there; bytes below the trigger
 * level are reported as a timeout at once.
 *
 * The interrupt leaves the chip through OUT2, as on a PC. Loopback mode forces the pins inactive,
 * so it also cuts the interrupt off. The line is an edge for the PIC and the IOAPIC: it falls when
 * the last cause is gone.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include <molt/backend/chardev.h>
#include <molt/base/fd.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#define PORTS 2
#define FIFO_BYTES 16
#define RESET_DIVISOR 12 /* 9600 baud, as firmware leaves it: guests divide by it */

/* Registers; two share an offset by direction or by DLAB. */
enum {
	REG_DATA, /* RBR and THR, or DLL */
	REG_IER,  /* or DLM */
	REG_IIR,  /* FCR when written */
	REG_LCR,
	REG_MCR,
	REG_LSR,
	REG_MSR,
	REG_SCR,
	REG_COUNT
};

#define IER_RDI 0x01u
#define IER_THRI 0x02u
#define IER_RLSI 0x04u
#define IER_MSI 0x08u
#define IER_MASK 0x0fu

#define IIR_MSI 0x00u
#define IIR_NONE 0x01u
#define IIR_THRI 0x02u
#define IIR_RDI 0x04u
#define IIR_RLSI 0x06u
#define IIR_TIMEOUT 0x0cu
#define IIR_FIFO 0xc0u

#define FCR_ENABLE 0x01u
#define FCR_CLEAR_RX 0x02u
#define FCR_TRIGGER_SHIFT 6
#define FCR_KEPT 0xc9u /* enable, DMA mode, trigger */

#define LCR_DLAB 0x80u

#define MCR_DTR 0x01u
#define MCR_RTS 0x02u
#define MCR_OUT1 0x04u
#define MCR_OUT2 0x08u
#define MCR_LOOP 0x10u
#define MCR_MASK 0x1fu

#define LSR_DR 0x01u
#define LSR_OE 0x02u
#define LSR_THRE 0x20u
#define LSR_TEMT 0x40u

#define MSR_DELTAS 0x0fu
#define MSR_TERI 0x04u /* the one delta that is of a falling edge only */
#define MSR_CTS 0x10u
#define MSR_DSR 0x20u
#define MSR_RI 0x40u
#define MSR_DCD 0x80u

struct serial_guest {
	uint32_t rx_len;
	uint8_t rx[FIFO_BYTES]; /* the oldest first */
	uint8_t dll;
	uint8_t dlm;
	uint8_t ier;
	uint8_t fcr;
	uint8_t lcr;
	uint8_t mcr;
	uint8_t msr;
	uint8_t scr;
	bool overrun;      /* LSR.OE */
	bool thre_pending; /* the THRE interrupt was raised and not reported yet */
	bool connected;    /* what the modem lines outside say */
	bool irq_level;
};

static_assert(sizeof(struct serial_guest) == 32, "no padding: every byte is saved");

struct serial {
	struct device dev;
	struct serial_guest guest;
	struct {
		struct chardev *cd;
		struct irq_line irq;
	} host;
};

static const struct vmstate_field serial_fields[] = {
	VMSTATE_U8_VAR(struct serial_guest, rx, rx_len),
	VMSTATE_U8(struct serial_guest, dll),
	VMSTATE_U8(struct serial_guest, dlm),
	VMSTATE_U8(struct serial_guest, ier),
	VMSTATE_U8(struct serial_guest, fcr),
	VMSTATE_U8(struct serial_guest, lcr),
	VMSTATE_U8(struct serial_guest, mcr),
	VMSTATE_U8(struct serial_guest, msr),
	VMSTATE_U8(struct serial_guest, scr),
	VMSTATE_BOOL(struct serial_guest, overrun),
	VMSTATE_BOOL(struct serial_guest, thre_pending),
	VMSTATE_BOOL(struct serial_guest, connected),
	VMSTATE_BOOL(struct serial_guest, irq_level),
	VMSTATE_END
};

static const struct vmstate serial_vmstate = {
	.name = "serial",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct serial_guest),
	.fields = serial_fields,
};

static struct serial *to_serial(struct device *dev)
{
	return container_of(dev, struct serial, dev);
}

/* ---- interrupts ---- */

static uint32_t rx_capacity(const struct serial_guest *g)
{
	return g->fcr & FCR_ENABLE ? FIFO_BYTES : 1;
}

static uint32_t rx_trigger(const struct serial_guest *g)
{
	static const uint8_t levels[] = { 1, 4, 8, 14 };

	return g->fcr & FCR_ENABLE ? levels[g->fcr >> FCR_TRIGGER_SHIFT] : 1;
}

/* The most urgent cause, as IIR names it (datasheet table V). */
static uint8_t pending_cause(const struct serial_guest *g)
{
	if ((g->ier & IER_RLSI) && g->overrun)
		return IIR_RLSI;
	if ((g->ier & IER_RDI) && g->rx_len)
		return g->rx_len >= rx_trigger(g) ? IIR_RDI : IIR_TIMEOUT;
	if ((g->ier & IER_THRI) && g->thre_pending)
		return IIR_THRI;
	if ((g->ier & IER_MSI) && (g->msr & MSR_DELTAS))
		return IIR_MSI;
	return IIR_NONE;
}

static bool irq_wanted(const struct serial_guest *g)
{
	return (g->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2 && pending_cause(g) != IIR_NONE;
}

static void update_irq(struct serial *s)
{
	s->guest.irq_level = irq_wanted(&s->guest);
	irq_line_set(&s->host.irq, s->guest.irq_level);
}

/* ---- modem lines ---- */

static uint8_t modem_lines(const struct serial_guest *g)
{
	uint8_t lines = 0;

	if (!(g->mcr & MCR_LOOP))
		return g->connected ? MSR_CTS | MSR_DSR | MSR_DCD : 0;
	if (g->mcr & MCR_RTS)
		lines |= MSR_CTS;
	if (g->mcr & MCR_DTR)
		lines |= MSR_DSR;
	if (g->mcr & MCR_OUT1)
		lines |= MSR_RI;
	if (g->mcr & MCR_OUT2)
		lines |= MSR_DCD;
	return lines;
}

static void update_modem(struct serial_guest *g)
{
	uint8_t lines = modem_lines(g);
	uint8_t deltas = (uint8_t)((g->msr ^ lines) >> 4);

	if (lines & MSR_RI)
		deltas &= (uint8_t)~MSR_TERI;
	g->msr = (uint8_t)(lines | (g->msr & MSR_DELTAS) | deltas);
}

/* ---- receiver ---- */

/* The device takes nothing from outside while its input is looped back. */
static uint32_t rx_room(const struct serial_guest *g)
{
	return g->mcr & MCR_LOOP || g->rx_len >= rx_capacity(g) ? 0 : rx_capacity(g) - g->rx_len;
}

static void receive(struct serial_guest *g, uint8_t byte)
{
	if (g->rx_len < rx_capacity(g)) {
		g->rx[g->rx_len++] = byte;
		return;
	}
	/* A full FIFO keeps what it has; without FIFO the new byte takes the old one's place. */
	g->overrun = true;
	if (!(g->fcr & FCR_ENABLE))
		g->rx[0] = byte;
}

static uint8_t read_rbr(struct serial *s)
{
	struct serial_guest *g = &s->guest;
	uint8_t byte = g->rx[0];

	if (!g->rx_len)
		return 0;
	g->rx_len--;
	if (g->rx_len)
		memmove(g->rx, g->rx + 1, g->rx_len);
	chardev_input_ready(s->host.cd);
	return byte;
}

/* ---- transmitter ---- */

static void write_thr(struct serial *s, uint8_t byte)
{
	struct serial_guest *g = &s->guest;

	/* Full for a moment, then empty again: where THRE was pending the guest sees a new edge. */
	g->thre_pending = false;
	update_irq(s);
	if (g->mcr & MCR_LOOP)
		receive(g, byte);
	else
		chardev_write(s->host.cd, &byte, 1);
	g->thre_pending = true;
}

/* ---- registers ---- */

static void write_ier(struct serial_guest *g, uint8_t value)
{
	if ((value & IER_THRI) && !(g->ier & IER_THRI))
		g->thre_pending = true;
	g->ier = value & IER_MASK;
}

static void write_fcr(struct serial *s, uint8_t value)
{
	struct serial_guest *g = &s->guest;

	/* Without the enable bit the others are not programmed; switching clears the FIFOs. */
	if (!(value & FCR_ENABLE))
		value = 0;
	if ((value & FCR_CLEAR_RX) || ((value ^ g->fcr) & FCR_ENABLE))
		g->rx_len = 0;
	g->fcr = value & FCR_KEPT;
	chardev_input_ready(s->host.cd);
}

static void write_mcr(struct serial *s, uint8_t value)
{
	s->guest.mcr = value & MCR_MASK;
	update_modem(&s->guest);
	chardev_input_ready(s->host.cd);
}

static uint8_t read_iir(struct serial_guest *g)
{
	uint8_t cause = pending_cause(g);

	if (cause == IIR_THRI)
		g->thre_pending = false;
	return cause | (g->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static uint8_t read_lsr(struct serial_guest *g)
{
	uint8_t lsr = LSR_THRE | LSR_TEMT;

	if (g->rx_len)
		lsr |= LSR_DR;
	if (g->overrun)
		lsr |= LSR_OE;
	g->overrun = false;
	return lsr;
}

static uint8_t read_msr(struct serial_guest *g)
{
	uint8_t msr = g->msr;

	g->msr &= (uint8_t)~MSR_DELTAS;
	return msr;
}

static uint8_t read_register(struct serial *s, uint64_t reg)
{
	struct serial_guest *g = &s->guest;
	bool dlab = g->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		return dlab ? g->dll : read_rbr(s);
	case REG_IER:
		return dlab ? g->dlm : g->ier;
	case REG_IIR:
		return read_iir(g);
	case REG_LCR:
		return g->lcr;
	case REG_MCR:
		return g->mcr;
	case REG_LSR:
		return read_lsr(g);
	case REG_MSR:
		return read_msr(g);
	default:
		return g->scr;
	}
}

static void write_register(struct serial *s, uint64_t reg, uint8_t value)
{
	struct serial_guest *g = &s->guest;
	bool dlab = g->lcr & LCR_DLAB;

	switch (reg) {
	case REG_DATA:
		if (dlab)
			g->dll = value;
		else
			write_thr(s, value);
		break;
	case REG_IER:
		if (dlab)
			g->dlm = value;
		else
			write_ier(g, value);
		break;
	case REG_IIR:
		write_fcr(s, value);
		break;
	case REG_LCR:
		g->lcr = value;
		break;
	case REG_MCR:
		write_mcr(s, value);
		break;
	case REG_SCR:
		g->scr = value;
		break;
	default: /* LSR and MSR: for the factory's tests */
		break;
	}
}

/* The chip has an 8-bit bus: a wider access is one to each register in turn. */
static uint64_t serial_read(struct device *dev, uint64_t offset, unsigned int size)
{
	struct serial *s = to_serial(dev);
	uint64_t value = 0;

	for (unsigned int i = 0; i < size; i++) {
		value |= (uint64_t)read_register(s, offset + i) << (8 * i);
		update_irq(s);
	}
	return value;
}

static void serial_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct serial *s = to_serial(dev);

	for (unsigned int i = 0; i < size; i++) {
		write_register(s, offset + i, (uint8_t)(value >> (8 * i)));
		update_irq(s);
	}
}

/* ---- the backend's side, on the main thread ---- */

static size_t backend_room(void *opaque)
{
	struct serial *s = opaque;
	size_t n;

	pthread_mutex_lock(&s->dev.lock);
	n = rx_room(&s->guest);
	pthread_mutex_unlock(&s->dev.lock);
	return n;
}

/*
 * Since it was asked for room the guest may have dropped its FIFO, which is an overrun, or gone
 * into loopback mode, where the chip does not hear its input.
 */
static void backend_input(void *opaque, const uint8_t *data, size_t len)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->dev.lock);
	for (size_t i = 0; i < len && !(s->guest.mcr & MCR_LOOP); i++)
		receive(&s->guest, data[i]);
	update_irq(s);
	pthread_mutex_unlock(&s->dev.lock);
}

static void backend_connected(void *opaque, bool connected)
{
	struct serial *s = opaque;

	pthread_mutex_lock(&s->dev.lock);
	s->guest.connected = connected;
	update_modem(&s->guest);
	update_irq(s);
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
	bool connected = chardev_connected(s->host.cd);

	s->guest = (struct serial_guest){ .connected = connected, .dll = RESET_DIVISOR };
	/* The lines are as they are; a reset is no change of them. */
	s->guest.msr = modem_lines(&s->guest);
	update_irq(s);
	chardev_input_ready(s->host.cd);
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
	struct serial_guest *g = &s->guest;

	if (g->rx_len > FIFO_BYTES || g->rx_len > rx_capacity(g))
		return err_set(err, EINVAL, "serial: %u bytes received, but there is room for %u",
			       g->rx_len, rx_capacity(g));
	if ((g->ier & ~IER_MASK) || (g->mcr & ~MCR_MASK) || (g->fcr & ~FCR_KEPT))
		return err_set(err, EINVAL,
			       "serial: impossible register: IER %#x, MCR %#x, FCR %#x", g->ier,
			       g->mcr, g->fcr);
	if ((g->msr & ~MSR_DELTAS) != modem_lines(g))
		return err_set(err, EINVAL, "serial: MSR %#x does not match the modem lines %#x",
			       g->msr, modem_lines(g));
	irq_line_restore(&s->host.irq, g->irq_level);
	g->connected = chardev_connected(s->host.cd);
	update_modem(g);
	update_irq(s);
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
		.len = REG_COUNT,
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
	.guest_size = sizeof(struct serial_guest),
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
