/* SPDX-License-Identifier: MIT */
/*
 * `molt run`: puts the rooms together, for a cold start and for a successor alike, and runs the
 * event loop until the machine ends.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/loop.h>
#include <molt/base/notify.h>
#include <molt/boot/boot.h>
#include <molt/boot/boot_files.h>
#include <molt/control/commands.h>
#include <molt/control/control.h>
#include <molt/update/update.h>
#include <molt/vm/machine.h>
#include <molt/vm/refault.h>
#include "molt_version.h"

#include "become_user.h"
#include "cli.h"
#include "confine.h"
#include "control_path.h"
#include "init.h"
#include "log_file.h"
#include "machine_args.h"
#include "signals.h"

extern const unsigned char blob_dsdt1[], blob_dsdt1_end[], blob_dsdt2[], blob_dsdt2_end[];
extern const unsigned char blob_ticker[], blob_ticker_end[];

struct vmm;
static void tear_down(struct vmm *v);

struct vmm {
	const struct cli_args *args;
	struct cli_args own_args; /* after a way back */
	struct confinement confinement;
	struct chosen_user user; /* of a cold start */
	char *control_path;
	struct update_self self;
	struct loop *loop;
	struct machine machine;
	bool machine_made;
	struct boot_files boot;
	struct control *control;
	struct update *update;
	struct refault refault;
	struct signals signals;
	struct log_file log;
	int notify_fd; /* service manager, -1: none */
	int kvm_fd;    /* until the machine has it, -1: none */
};

/* ---- what the machine and the update call back ---- */

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

static int save_rest(void *opaque, struct stream_writer *w, struct fdtable *fds, struct error *err)
{
	const struct vmm *v = opaque;
	int r = boot_files_save(&v->boot, w, fds, err);

	if (r == 0)
		r = control_save(v->control, w, fds, err);
	if (r == 0)
		r = log_file_save(&v->log, w, fds, err);
	if (r == 0 && v->notify_fd >= 0)
		r = fdtable_add(fds, "notify", 0, v->notify_fd, err);
	return r;
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

static void main_pid(void *opaque, pid_t pid)
{
	notify_main_pid(((struct vmm *)opaque)->notify_fd, pid, false);
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

	tear_down(v);
	/* Not through main's frames, which are another process's. */
	_exit(status < 0 ? MACHINE_EXIT_FAILURE : status);
}

/* ---- building ---- */

static struct machine_config base_config(struct vmm *v)
{
	return (struct machine_config){
		.name = cli_given(v->args, "name") ? cli_value(v->args, "name") : "",
		.no_reboot = cli_given(v->args, "no-reboot"),
		.ops = {
			.load_boot = load_boot, .event = machine_event,
			.confine = confine_thread(&v->confinement), .opaque = v,
		},
		.loop = v->loop,
	};
}

/* Commands, and from here on the socket. in is NULL on a cold start. */
static int open_services(struct vmm *v, struct incoming *in, struct error *err)
{
	const struct update_ops ops = {
		.save = save_rest,
		.flush = flush_control,
		.reply = reply,
		.event = send_event,
		.take_fd = take_fd,
		.main_pid = main_pid,
		.reborn = reborn,
		.run_on = run_on,
		.opaque = v,
	};
	int r = control_create(&v->control, v->control_path, v->loop, in ? in->fds : NULL,
			       in ? &in->stream : NULL, err);

	if (r == 0)
		r = update_create(&v->update, &v->machine, &v->self, &ops, err);
	if (r < 0)
		return r;
	control_add_machine_commands(v->control, &v->machine);
	control_add_commands(v->control, update_commands, update_commands_count, v->update);
	control_add_commands(v->control, migrate_commands, migrate_commands_count, v->update);
	control_add_events(v->control, update_events, update_events_count);
	control_add_commands(v->control, log_file_commands, log_file_commands_count, &v->log);
	return 0;
}

/* A guest does not wait for a service manager that cannot be told. */
static void open_notify(struct vmm *v)
{
	struct error err = ERROR_INIT;

	if (v->notify_fd < 0 && notify_open(&v->notify_fd, &err) < 0)
		log_warn("the service manager will not be told of this guest: %s", err.text);
}

/* From here on everything is opened with that user's rights, but what is open already. */
static int become(struct vmm *v, struct error *err)
{
	const char *control = cli_value(v->args, "control");
	int r = choose_user(&v->user, v->args, err);

	if (r == 0)
		r = v->kvm_fd = kvm_open_device(err);
	if (r < 0)
		return r;
	v->control_path = control ? control_path_of(control, err) : NULL;
	if (control && !v->control_path)
		return -err->code;
	r = become_user(&v->user, v->args, err);
	/* A change of user hides the process; whether it stays so is --sandbox's affair. */
	sandbox_hide(v->confinement.on);
	return r;
}

static int cold_start(struct vmm *v, struct error *err)
{
	struct machine_config cfg = { 0 };
	const char *kernel = cli_value(v->args, "kernel");
	const char *initramfs = cli_value(v->args, "initramfs");
	struct device_requests devices = { 0 };
	struct memory_arg memory;
	int r;

	open_notify(v);
	r = become(v, err);
	if (r == 0)
		r = log_file_open(&v->log, v->args, NULL, NULL, err);
	cfg = base_config(v);
	cfg.kvm_fd = &v->kvm_fd;
	if (r == 0)
		r = cli_parse_machine(v->args, &cfg, &memory, err);
	if (r == 0)
		r = boot_files_open(&v->boot, kernel, initramfs, cli_value(v->args, "cmdline"),
				    err);
	if (r == 0)
		r = cli_device_requests(v->args, &devices, err);
	cfg.devices = devices.list;
	cfg.ndevices = devices.count;
	if (r == 0)
		r = machine_create(&v->machine, &cfg, err);
	free(devices.list);
	v->machine_made = r == 0;
	if (r == 0)
		r = open_services(v, NULL, err);
	/* All that options named is open by now, a /dev/fd/N among it. */
	if (r == 0)
		fd_close_inherited();
	if (r == 0)
		r = confine_cold(&v->confinement, v->args, control_path(v->control),
				 machine_has_back_ends(&v->machine), err);
	if (r == 0)
		r = log_start(err);
	if (r < 0)
		return r;
	control_start(v->control);
	memory_log_trouble(&v->machine.memory);
	log_info("molt %s runs %s with %u vCPU(s), %llu MiB", MOLT_VERSION,
		 kernel ? kernel : "the built-in demo guest", cfg.cpus,
		 (unsigned long long)(cfg.ram_size >> 20));
	if (!cli_given(v->args, "pause"))
		r = machine_resume(&v->machine, err);
	if (r == 0)
		notify_main_pid(v->notify_fd, getpid(), true);
	return r;
}

/*
 * How this process treats guest RAM, log and sandbox is its own command line's affair. After a way
 * back that is the one that came with the stream: the way back itself knows no options.
 */
static int take_own_args(struct vmm *v, const struct incoming *in, struct error *err)
{
	int argc = 0, r;

	while (in->failure && v->self.argv[1 + argc])
		argc++;
	if (!argc)
		return 0;
	r = cli_args_parse(&v->own_args, &run_command, argc, v->self.argv + 1, err);
	if (r < 0) {
		err_prefix(err, "the command line that this guest was started with");
		return r;
	}
	v->args = &v->own_args;
	log_set_level((enum log_level)log_level_parse(cli_value(v->args, "log-level")));
	confine_fini(&v->confinement);
	r = confine_parse(&v->confinement, v->args, err);
	sandbox_hide(v->confinement.on);
	return r;
}

/* After the commit: nobody waits for this. */
static void start_refault(struct vmm *v)
{
	struct error err = ERROR_INIT;

	if (refault_start(&v->refault, &v->machine.memory, v->loop, &err) < 0)
		log_warn("mapping guest RAM in the background: %s", err.text);
}

/* Also after the commit; in a blackout nobody logs, and until here lines have waited. */
static void start_log(void)
{
	struct error err = ERROR_INIT;

	if (log_start(&err) < 0)
		log_error("the log is written by whoever has something to say: %s", err.text);
}

static int take_over(struct vmm *v, uint64_t main_ns, struct error *err)
{
	struct machine_config cfg = { 0 };
	struct memory_arg memory = { 0 };
	struct error wrong = ERROR_INIT;
	struct incoming in;
	int r = update_adopt(&in, cli_value(v->args, "incoming"), main_ns, err);

	if (r == 0)
		r = log_file_open(&v->log, v->args, in.fds, &in.stream, err);
	log_hold();
	if (r == 0)
		r = update_self_load(&v->self, &in, err);
	if (r == 0 && fdtable_has(in.fds, "notify", 0))
		v->notify_fd = fdtable_take(in.fds, "notify", 0, 0, err);
	if (r == 0)
		r = take_own_args(v, &in, err);
	/* A bad one is told later (cli_warn_of_differences()) and ends nobody. */
	if (cli_parse_memory(cli_value(v->args, "memory"), &memory, &wrong) < 0)
		memory = (struct memory_arg){ 0 };
	cfg = base_config(v);
	cfg.stream = &in.stream;
	cfg.fds = in.fds;
	cfg.rehearsal = update_is_rehearsal(&in);
	cfg.memory = memory.options;
	if (r == 0)
		r = boot_files_load(&v->boot, &in.stream, in.fds, err);
	if (r == 0)
		r = machine_create(&v->machine, &cfg, err);
	v->machine_made = r == 0;
	if (r == 0)
		r = open_services(v, &in, err);
	if (r == 0 && update_is_rehearsal(&in) && memory.refault == REFAULT_BEFORE &&
	    update_map_ram(v->update, &in, &v->refault, memory.refault_limit_ns, &wrong) < 0)
		log_warn("%s; the guest does it itself", wrong.text);
	if (r == 0)
		r = update_commit(v->update, &in, err);
	if (r == 0) {
		fd_close_inherited();
		confine_successor(&v->confinement, v->args, control_path(v->control),
				  machine_has_back_ends(&v->machine));
		start_log();
		control_start(v->control);
		cli_warn_of_differences(v->args, &v->machine);
		memory_log_trouble(&v->machine.memory);
		if (!update_leaves_io(&in))
			machine_updated(&v->machine);
		if (memory.refault != REFAULT_LAZY)
			start_refault(v);
	}
	if (r < 0) {
		log_error("%s", err->text);
		log_stop(LOG_DRAIN_MS);
		update_give_up(&in, err);
		/* Terminal, sockets and their paths are the stand-in's: nothing is torn down. */
		_exit(MACHINE_EXIT_FAILURE);
	}
	update_incoming_fini(&in);
	return 0;
}

static void tear_down(struct vmm *v)
{
	control_flush(v->control);
	update_destroy(v->update);
	refault_stop(&v->refault);
	if (v->machine_made)
		machine_destroy(&v->machine);
	control_destroy(v->control);
	boot_files_close(&v->boot);
	signals_close(&v->signals);
	loop_destroy(v->loop);
	update_self_fini(&v->self);
	confine_fini(&v->confinement);
	free(v->control_path);
	fd_close(&v->kvm_fd);
	cli_args_fini(&v->own_args);
	fd_close(&v->notify_fd);
	log_stop(LOG_END_MS);
	fd_close(&v->log.fd);
}

static int run(struct vmm *v, int argc, char **argv, uint64_t main_ns)
{
	struct error err = ERROR_INIT;
	int r = init_stay_behind(&v->notify_fd, &err);

	if (r == 0)
		r = update_self_init(&v->self, argc, argv, MOLT_VERSION, &err);
	if (r == 0)
		r = confine_parse(&v->confinement, v->args, &err);
	sandbox_hide(v->confinement.on);
	if (r == 0 && v->confinement.on)
		r = sandbox_catch_forbidden_calls(&err);
	if (r == 0)
		r = loop_create(&v->loop, &err);
	if (r == 0)
		r = signals_open(&v->signals, v->loop, &v->machine, &err);
	if (r == 0 && (update_is_successor() || cli_given(v->args, "incoming")))
		r = take_over(v, main_ns, &err);
	else if (r == 0)
		r = cold_start(v, &err);
	if (r == 0) {
		r = loop_run(v->loop);
	} else {
		log_error("%s", err.text);
		become_user_explain(&v->user, r);
	}
	if (r == -EINTR)
		r = signals_exit_status(&v->signals);
	tear_down(v);
	return r < 0 ? MACHINE_EXIT_FAILURE : r;
}

int cmd_run(int argc, char **argv)
{
	uint64_t main_ns = now_ns();
	struct vmm *v;
	struct error wrong = ERROR_INIT;
	struct cli_args args;
	int status;

	sandbox_hide(true);
	if (update_is_check())
		return cli_answer_check(argc, argv);
	if (!cli_begin(&args, &run_command, argc, argv, &status)) {
		cli_args_fini(&args);
		return status;
	}
	if (args.nwords) {
		status = cli_usage_error(&run_command, "unexpected argument '%s'", args.words[0]);
		cli_args_fini(&args);
		return status;
	}
	if (!update_is_successor() && !cli_given(&args, "incoming") &&
	    cli_check_run_values(&args, &wrong) < 0) {
		status = cli_usage_error(&run_command, "%s", wrong.text);
		cli_args_fini(&args);
		return status;
	}
	v = calloc(1, sizeof(*v));
	if (!v)
		return MACHINE_EXIT_FAILURE;
	v->args = &args;
	v->kvm_fd = v->signals.fd = v->log.fd = v->notify_fd = v->self.exe_fd = -1;
	v->boot.kernel_fd = v->boot.initramfs_fd = -1;
	status = run(v, argc, argv, main_ns);
	free(v);
	cli_args_fini(&args);
	return status;
}
