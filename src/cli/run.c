/* SPDX-License-Identifier: MIT */
/*
 * `molt run`: puts the rooms together, for a cold start and for a successor alike, and runs the
 * event loop until the machine ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
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
#include "molt_version.h"

#include "cli.h"

extern const unsigned char blob_dsdt[], blob_dsdt_end[];
extern const unsigned char blob_ticker[], blob_ticker_end[];

struct vmm;
static void tear_down(struct vmm *v);

struct vmm {
	const struct cli_args *args;
	struct update_self self;
	struct loop *loop;
	struct machine machine;
	bool machine_made;
	struct boot_files boot;
	struct control *control;
	struct update *update;
	struct loop_source signals;
	int signal_fd;
	int log_fd; /* -1: standard error */
	int notify_fd; /* service manager, -1: none */
};

/* ---- signals: blocked from before the first thread on, so that none is lost in an exec ---- */

static void on_signal(void *opaque, uint32_t events)
{
	struct vmm *v = opaque;
	struct signalfd_siginfo info;

	(void)events;
	if (read(v->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return;
	log_info("ended by signal %u", info.ssi_signo);
	machine_exit(&v->machine, 128 + (int)info.ssi_signo, "host-signal");
}

static int block_signals(struct vmm *v, struct error *err)
{
	struct sigaction ignore = { .sa_handler = SIG_IGN };
	sigset_t set;
	int r;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	/* A peer that is gone or a file that may not grow is an error of that write, not our end. */
	if (sigprocmask(SIG_BLOCK, &set, NULL) < 0 || sigaction(SIGPIPE, &ignore, NULL) < 0 ||
	    sigaction(SIGXFSZ, &ignore, NULL) < 0)
		return err_sys(err, errno, "blocking signals");
	v->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (v->signal_fd < 0)
		return err_sys(err, errno, "signalfd");
	r = loop_add(v->loop, &v->signals, v->signal_fd, EPOLLIN, on_signal, v);
	return r < 0 ? err_sys(err, -r, "epoll on the signalfd") : 0;
}

/* ---- log ---- */

static int open_log(struct vmm *v, struct fdtable *fds, struct error *err)
{
	const char *path = cli_value(v->args, "log-file");
	const char *name = cli_value(v->args, "log-level");
	int level = log_level_parse(name);

	if (level < 0)
		return err_set(err, EINVAL,
			       "--log-level '%s': it must be error, warn, info or debug", name);
	log_set_level((enum log_level)level);
	if (fds && fdtable_has(fds, "log", 0)) {
		v->log_fd = fdtable_take(fds, "log", 0, 0, err);
	} else if (path && !fds) {
		v->log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY, 0600);
		if (v->log_fd < 0)
			return err_sys(err, errno, "--log-file %s", path);
	}
	if (v->log_fd >= 0)
		log_set_fd(v->log_fd);
	return 0;
}

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
		.dsdt = blob_dsdt,
		.dsdt_len = (size_t)(blob_dsdt_end - blob_dsdt),
		.cpus = m->guest.cpus,
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

static int save_rest(void *opaque, struct stream_writer *w, struct fdtable *fds,
		     struct error *err)
{
	const struct vmm *v = opaque;
	int r = boot_files_save(&v->boot, w, fds, err);

	if (r == 0)
		r = control_save(v->control, w, fds, err);
	if (r == 0 && v->log_fd >= 0)
		r = fdtable_add(fds, "log", 0, v->log_fd, err);
	if (r == 0 && v->notify_fd >= 0)
		r = fdtable_add(fds, "notify", 0, v->notify_fd, err);
	return r;
}

static void flush_control(void *opaque)
{
	control_flush(((struct vmm *)opaque)->control);
}

static void reply(void *opaque, uint32_t client, json_t *id, json_t *result,
		  const struct error *err)
{
	control_reply(((struct vmm *)opaque)->control, client, id, result, err);
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

	loop_del(&v->signals);
	fd_close(&v->signal_fd);
	return block_signals(v, err);
}

static void run_on(void *opaque)
{
	struct vmm *v = opaque;
	int status = loop_run(v->loop);

	tear_down(v);
	/* Not through main's frames, which are another process's. */
	_exit(status < 0 ? MACHINE_EXIT_FAILURE : status);
}

static const char *device_option(const struct device_env *env, const char *name)
{
	return cli_value(((struct vmm *)env->opaque)->args, name);
}

/* ---- building ---- */

static int parse_sizes(const struct cli_args *args, struct machine_config *cfg, struct error *err)
{
	static const char *const memory_keys[] = { "size", NULL };
	static const char *const cpu_keys[] = { "count", NULL };
	struct cli_list memory = { 0 }, cpus = { 0 };
	uint64_t n = 0;
	int r = cli_list_parse(&memory, "--memory", cli_value(args, "memory"), memory_keys, err);

	if (r == 0)
		r = cli_list_parse(&cpus, "--cpus", cli_value(args, "cpus"), cpu_keys, err);
	if (r == 0)
		r = cli_parse_size("--memory", cli_list_get(&memory, "size"), &cfg->ram_size, err);
	if (r == 0)
		r = cli_parse_number("--cpus", cli_list_get(&cpus, "count"), 1, MACHINE_MAX_VCPUS,
				     &n, err);
	cfg->cpus = (uint32_t)n;
	cli_list_fini(&memory);
	cli_list_fini(&cpus);
	return r;
}

static struct machine_config base_config(struct vmm *v)
{
	return (struct machine_config){
		.name = cli_given(v->args, "name") ? cli_value(v->args, "name") : "",
		.no_reboot = cli_given(v->args, "no-reboot"),
		.ops = { .load_boot = load_boot, .event = machine_event, .opaque = v },
		.loop = v->loop,
		.option = device_option,
		.option_opaque = v,
	};
}

/* Commands, and from here on the socket. in is NULL on a cold start. */
static int open_services(struct vmm *v, struct incoming *in, struct error *err)
{
	const struct update_ops ops = {
		.save = save_rest, .flush = flush_control, .reply = reply, .event = send_event,
		.main_pid = main_pid, .reborn = reborn, .run_on = run_on, .opaque = v,
	};
	int r = control_create(&v->control, cli_value(v->args, "control"), v->loop,
			       in ? in->fds : NULL, in ? &in->stream : NULL, err);

	if (r == 0)
		r = update_create(&v->update, &v->machine, &v->self, &ops, err);
	if (r < 0)
		return r;
	control_add_machine_commands(v->control, &v->machine);
	control_add_commands(v->control, update_commands, update_commands_count, v->update);
	control_add_commands(v->control, migrate_commands, migrate_commands_count, v->update);
	return 0;
}

static int cold_start(struct vmm *v, struct error *err)
{
	struct machine_config cfg = base_config(v);
	const char *kernel = cli_value(v->args, "kernel");
	const char *initramfs = cli_value(v->args, "initramfs");
	int r;

	if (initramfs && !kernel)
		return err_set(err, EINVAL, "--initramfs needs a --kernel");
	r = open_log(v, NULL, err);
	if (r == 0)
		r = notify_open(&v->notify_fd, err);
	if (r == 0)
		r = parse_sizes(v->args, &cfg, err);
	if (r == 0)
		r = boot_files_open(&v->boot, kernel, initramfs, cli_value(v->args, "cmdline"),
				    err);
	if (r == 0)
		r = machine_create(&v->machine, &cfg, err);
	v->machine_made = r == 0;
	if (r == 0)
		r = open_services(v, NULL, err);
	if (r < 0)
		return r;
	control_start(v->control);
	log_info("molt %s runs %s with %u vCPU(s), %llu MiB", MOLT_VERSION,
		 kernel ? kernel : "the built-in demo guest", cfg.cpus,
		 (unsigned long long)(cfg.ram_size >> 20));
	if (!cli_given(v->args, "pause"))
		r = machine_resume(&v->machine, err);
	if (r == 0)
		notify_main_pid(v->notify_fd, getpid(), true);
	return r;
}

/* What the guest sees comes from the stream; a command line that says otherwise changes nothing. */
static void warn_of_differences(const struct vmm *v)
{
	struct machine_config asked = { 0 };
	struct error err = ERROR_INIT;

	if (parse_sizes(v->args, &asked, &err) < 0) {
		log_warn("%s; the guest keeps what it has", err.text);
		return;
	}
	if (cli_given(v->args, "cpus") && asked.cpus != v->machine.guest.cpus)
		log_warn("--cpus %u: the guest keeps its %u vCPUs", asked.cpus,
			 v->machine.guest.cpus);
	if (cli_given(v->args, "memory") && asked.ram_size != v->machine.guest.ram_size)
		log_warn("--memory %llu: the guest keeps its %llu bytes of RAM",
			 (unsigned long long)asked.ram_size,
			 (unsigned long long)v->machine.guest.ram_size);
}

static int take_over(struct vmm *v, uint64_t main_ns, struct error *err)
{
	struct machine_config cfg = base_config(v);
	struct incoming in;
	int r = update_adopt(&in, cli_value(v->args, "incoming"), main_ns, err);

	cfg.stream = &in.stream;
	cfg.fds = in.fds;
	if (r == 0)
		r = open_log(v, in.fds, err);
	if (r == 0)
		r = update_self_load(&v->self, &in, err);
	if (r == 0 && fdtable_has(in.fds, "notify", 0))
		v->notify_fd = fdtable_take(in.fds, "notify", 0, 0, err);
	if (r == 0)
		r = boot_files_load(&v->boot, &in.stream, in.fds, err);
	if (r == 0)
		r = machine_create(&v->machine, &cfg, err);
	v->machine_made = r == 0;
	if (r == 0)
		r = open_services(v, &in, err);
	if (r == 0)
		r = update_commit(v->update, &in, err);
	if (r == 0) {
		control_start(v->control);
		warn_of_differences(v);
	}
	if (r < 0) {
		log_error("%s", err->text);
		update_give_up(&in, err);
		/* Terminal, sockets and their paths are the guardian's: nothing is torn down. */
		_exit(MACHINE_EXIT_FAILURE);
	}
	update_incoming_fini(&in);
	return 0;
}

/* What the guest sees may not change: a command line that asks for it is refused in the check. */
static void check_options(void *opaque, struct stream *s, json_t *reasons)
{
	const struct vmm *v = opaque;
	struct machine_config asked = { 0 };
	struct machine_guest guest = { 0 };
	struct error err = ERROR_INIT;

	if (log_level_parse(cli_value(v->args, "log-level")) < 0)
		update_check_reason(reasons, "--log-level '%s' does not exist",
				    cli_value(v->args, "log-level"));
	if (machine_peek_config(&guest, s, &err) < 0 || parse_sizes(v->args, &asked, &err) < 0) {
		update_check_reason(reasons, "%s", err.text);
		return;
	}
	if (cli_given(v->args, "cpus") && asked.cpus != guest.cpus)
		update_check_reason(reasons, "--cpus %u, but the guest has %u", asked.cpus,
				    guest.cpus);
	if (cli_given(v->args, "memory") && asked.ram_size != guest.ram_size)
		update_check_reason(reasons, "--memory %llu, but the guest has %llu bytes",
				    (unsigned long long)asked.ram_size,
				    (unsigned long long)guest.ram_size);
}

static int answer_check(struct vmm *v)
{
	static const char *const log_fds[] = { "log", "notify", NULL };
	struct takeover_kinds kinds = { 0 };
	struct error err = ERROR_INIT;

	machine_takeover_kinds(&kinds);
	takeover_kinds_add(&kinds, &boot_files_kind);
	control_takeover_kinds(&kinds);
	update_takeover_kinds(&kinds);
	takeover_kinds_add(&kinds, &(struct takeover_kind){ .fds = log_fds });
	if (update_check_answer(&kinds, check_options, v, &err) == 0)
		return MACHINE_EXIT_OK;
	log_error("%s", err.text);
	return MACHINE_EXIT_FAILURE;
}

static void tear_down(struct vmm *v)
{
	control_flush(v->control);
	update_destroy(v->update);
	if (v->machine_made)
		machine_destroy(&v->machine);
	control_destroy(v->control);
	boot_files_close(&v->boot);
	loop_del(&v->signals);
	fd_close(&v->signal_fd);
	loop_destroy(v->loop);
	update_self_fini(&v->self);
	fd_close(&v->log_fd);
	fd_close(&v->notify_fd);
}

static int run(struct vmm *v, int argc, char **argv, uint64_t main_ns)
{
	struct error err = ERROR_INIT;
	int r = update_self_init(&v->self, argc, argv, MOLT_VERSION, &err);

	if (r == 0)
		r = loop_create(&v->loop, &err);
	if (r == 0)
		r = block_signals(v, &err);
	if (r == 0 && (update_is_successor() || cli_given(v->args, "incoming")))
		r = take_over(v, main_ns, &err);
	else if (r == 0)
		r = cold_start(v, &err);
	if (r == 0)
		r = loop_run(v->loop);
	else
		log_error("%s", err.text);
	tear_down(v);
	return r < 0 ? MACHINE_EXIT_FAILURE : r;
}

int cmd_run(int argc, char **argv)
{
	uint64_t main_ns = now_ns();
	struct vmm *v;
	struct cli_args args;
	int status;

	if (!cli_begin(&args, &run_command, argc, argv, &status)) {
		cli_args_fini(&args);
		return status;
	}
	if (args.nwords) {
		status = cli_usage_error(&run_command, "unexpected argument '%s'", args.words[0]);
		cli_args_fini(&args);
		return status;
	}
	v = calloc(1, sizeof(*v));
	if (!v)
		return MACHINE_EXIT_FAILURE;
	v->args = &args;
	v->signal_fd = v->log_fd = v->notify_fd = -1;
	v->boot.kernel_fd = v->boot.initramfs_fd = -1;
	status = update_is_check() ? answer_check(v) : run(v, argc, argv, main_ns);
	free(v);
	cli_args_fini(&args);
	return status;
}
