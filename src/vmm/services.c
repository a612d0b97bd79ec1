/* SPDX-License-Identifier: MIT */
/* What machine and update call back, and the commands of the control socket. */
#include <stdlib.h>
#include <unistd.h>

#include <molt/base/log.h>
#include <molt/base/loop.h>
#include <molt/base/notify.h>
#include <molt/boot/boot.h>
#include <molt/control/commands.h>

#include "confine.h"
#include "internal.h"

extern const unsigned char blob_dsdt1[], blob_dsdt1_end[], blob_dsdt2[], blob_dsdt2_end[];
extern const unsigned char blob_ticker[], blob_ticker_end[];

/* ---- the machine's ---- */

static int load_boot(struct machine *m, void *opaque, struct error *err)
{
	const struct vmm *v = opaque;
	const struct boot_source src = {
		.kernel_fd = v->boot.kernel_fd,
		.kernel_name = v->boot.kernel_name,
		.initramfs_fd = v->boot.initramfs_fd,
		.initramfs_name = v->boot.initramfs_name,
		.cmdline = v->boot.cmdline,
		.builtin = blob_ticker,
		.builtin_len = (size_t)(blob_ticker_end - blob_ticker),
		.dsdt = m->machine_version == 1 ? blob_dsdt1 : blob_dsdt2,
		.dsdt_len = m->machine_version == 1 ? (size_t)(blob_dsdt1_end - blob_dsdt1)
						    : (size_t)(blob_dsdt2_end - blob_dsdt2),
		.cpus = m->guest.cpus,
		.machine_version = m->machine_version,
	};
	struct boot_entry entry;
	int r = boot_load(&src, &m->memory, &entry, err);

	return r < 0 ? r : boot_set_registers(&entry, &m->kvm, m->vcpus[0].fd, err);
}

static void machine_event(struct machine *m, void *opaque, enum machine_event ev,
			  const char *detail)
{
	const struct vmm *v = opaque;

	(void)m;
	control_machine_event(v->control, ev, detail);
}

int vmm_open_machine(struct vmm *v, struct machine_config *cfg, struct error *err)
{
	int r;

	cfg->loop = v->loop;
	cfg->model = &machine_model;
	cfg->ops = (struct machine_ops){
		.load_boot = load_boot,
		.event = machine_event,
		.confine = confine_thread(&v->cfg),
		.opaque = v,
	};
	r = machine_create(&v->machine, cfg, err);
	v->machine_made = r == 0;
	return r;
}

/* ---- the update's ---- */

static int save(void *opaque, struct stream_writer *w, struct fdtable *fds, bool describe,
		struct error *err)
{
	return vmm_save_parts(opaque, w, fds, describe, err);
}

static void flush_control(void *opaque)
{
	control_flush(((struct vmm *)opaque)->control);
}

static void reply(void *opaque, uint32_t client, const char *id, json_t *result,
		  const struct error *err)
{
	control_reply(((struct vmm *)opaque)->control, client, id, result, err);
}

static int take_fd(void *opaque, uint32_t client, const char *name, struct error *err)
{
	return control_take_fd(((struct vmm *)opaque)->control, client, name, err);
}

static void send_event(void *opaque, const char *name, json_t *data)
{
	control_event(((struct vmm *)opaque)->control, name, data);
}

static void send_passing_event(void *opaque, const char *name, json_t *data)
{
	control_passing_event(((struct vmm *)opaque)->control, name, data);
}

static int main_pid(void *opaque, pid_t pid, unsigned int wait_ms)
{
	return notify_main_pid(((struct vmm *)opaque)->notify_fd, pid, wait_ms);
}

static bool can_tell_main_pid(void *opaque)
{
	return notify_can_tell(((struct vmm *)opaque)->notify_fd);
}

/* A signalfd gives the signals of the process that put it into the epoll set: that one is gone. */
static int reborn(void *opaque, struct error *err)
{
	struct vmm *v = opaque;

	signals_close(&v->signals);
	control_listen_again(v->control);
	return signals_open(&v->signals, v->loop, &v->machine, err);
}

static void run_on(void *opaque)
{
	struct vmm *v = opaque;
	int status = loop_run(v->loop);

	vmm_tear_down(v);
	/* Not through main's frames, which are another process's. */
	_exit(status < 0 ? MACHINE_EXIT_FAILURE : status);
}

int vmm_open_update(struct vmm *v, struct error *err)
{
	const struct update_ops ops = {
		.save = save,
		.flush = flush_control,
		.reply = reply,
		.event = send_event,
		.passing_event = send_passing_event,
		.take_fd = take_fd,
		.main_pid = main_pid,
		.can_tell_main_pid = can_tell_main_pid,
		.reborn = reborn,
		.run_on = run_on,
		.opaque = v,
	};

	return update_create(&v->update, &v->machine, &v->self, &ops, err);
}

int vmm_open_control(struct vmm *v, struct incoming *in, struct error *err)
{
	return control_create(&v->control, v->control_path, v->loop, in ? in->fds : NULL,
			      in ? &in->stream : NULL, err);
}

void vmm_add_commands(struct vmm *v)
{
	control_add_machine_commands(v->control, &v->machine);
	control_add_commands(v->control, update_commands, update_commands_count, v->update);
	control_add_commands(v->control, migrate_commands, migrate_commands_count, v->update);
	control_add_events(v->control, update_events, update_events_count);
	control_add_commands(v->control, log_file_commands, log_file_commands_count, &v->log);
}
