/* SPDX-License-Identifier: MIT */
/*
 * The parts: who owns state, in the order in which it is saved. A new owner is named here and
 * nowhere else: saving, the description for a check, taking over and the check's answer walk this
 * list, and a test looks for what it has in the documents.
 *
 * What is taken over is opened in two steps of the update, each in the list's order: in `adopt`
 * what tells how this process is to be, in `build` the rest.
 */
#include <molt/base/fd.h>

#include "internal.h"

struct part {
	const char *name;
	/* What it may have in stream and fd table, whatever the machine's version. */
	void (*kinds)(struct takeover_kinds *kinds);
	/* Adds that; describe: for a check, while the guest runs, and the values do not matter. */
	int (*save)(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
		    struct error *err);
	/* Takes it; one of the two, or both. */
	int (*adopt)(struct vmm *v, struct incoming *in, struct error *err);
	int (*build)(struct vmm *v, struct incoming *in, struct error *err);
};

/* ---- machine: guest RAM, vCPUs, devices ---- */

static void machine_kinds(struct takeover_kinds *kinds)
{
	machine_takeover_kinds(&machine_model, kinds);
}

static int save_machine(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
			struct error *err)
{
	return describe ? machine_describe(&v->machine, w, fds, err)
			: machine_save(&v->machine, w, fds, err);
}

static int build_machine(struct vmm *v, struct incoming *in, struct error *err)
{
	struct machine_config machine = { .stream = &in->stream,
					  .fds = in->fds,
					  .rehearsal = update_is_rehearsal(in),
					  .vcpu_cpus = update_usual_cpus(in),
					  .memory = v->cfg.machine.memory };

	return vmm_open_machine(v, &machine, err);
}

/* ---- update: who asked for it, and how we were started. Its descriptors are its own affair. ---- */

static int save_update(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
		       struct error *err)
{
	(void)fds;
	(void)describe;
	(void)err;
	update_save(v->update, w);
	return 0;
}

static int build_update(struct vmm *v, struct incoming *in, struct error *err)
{
	(void)in;
	return vmm_open_update(v, err);
}

/* ---- boot files: for the next guest reset ---- */

static void boot_kinds(struct takeover_kinds *kinds)
{
	takeover_kinds_add(kinds, &boot_files_kind);
}

static int save_boot(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
		     struct error *err)
{
	(void)describe;
	return boot_files_save(&v->boot, w, fds, err);
}

static int build_boot(struct vmm *v, struct incoming *in, struct error *err)
{
	return boot_files_load(&v->boot, &in->stream, in->fds, err);
}

/* ---- control: the socket and its clients ---- */

static int save_control(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
			struct error *err)
{
	(void)describe;
	return control_save(v->control, w, fds, err);
}

static int build_control(struct vmm *v, struct incoming *in, struct error *err)
{
	return vmm_open_control(v, in, err);
}

/* ---- log: its file ---- */

static void log_kinds(struct takeover_kinds *kinds)
{
	takeover_kinds_add(kinds, &log_file_kind);
}

static int save_log(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
		    struct error *err)
{
	(void)describe;
	return log_file_save(&v->log, w, fds, err);
}

static int adopt_log(struct vmm *v, struct incoming *in, struct error *err)
{
	return log_file_open(&v->log, v->cfg.log_file, v->cfg.log_level, in->fds, &in->stream, err);
}

/* ---- notify: the service manager's socket, where there is one ---- */

#define NOTIFY "notify"

static void notify_kinds(struct takeover_kinds *kinds)
{
	static const char *const fds[] = { NOTIFY, NULL };

	takeover_kinds_add(kinds, &(struct takeover_kind){ .fds = fds });
}

static int save_notify(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
		       struct error *err)
{
	(void)w;
	(void)describe;
	return v->notify_fd < 0 ? 0 : fdtable_add(fds, NOTIFY, 0, v->notify_fd, err);
}

static int build_notify(struct vmm *v, struct incoming *in, struct error *err)
{
	if (!fdtable_has(in->fds, NOTIFY, 0))
		return 0;
	v->notify_fd = fdtable_take(in->fds, NOTIFY, 0, 0, err);
	return v->notify_fd < 0 ? v->notify_fd : 0;
}

/* ---- the list ---- */

/* clang-format off */
static const struct part parts[] = {
	/* name         kinds                   save          adopt      build */
	{ "machine",    machine_kinds,          save_machine, NULL,      build_machine },
	{ "update",     update_takeover_kinds,  save_update,  NULL,      build_update },
	{ "boot files", boot_kinds,             save_boot,    NULL,      build_boot },
	{ "control",    control_takeover_kinds, save_control, NULL,      build_control },
	{ "log",        log_kinds,              save_log,     adopt_log, NULL },
	{ "notify",     notify_kinds,           save_notify,  NULL,      build_notify },
};
/* clang-format on */

void vmm_takeover_kinds(struct takeover_kinds *kinds)
{
	for (size_t i = 0; i < ARRAY_SIZE(parts); i++)
		parts[i].kinds(kinds);
}

int vmm_save_parts(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
		   struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(parts) && r == 0; i++)
		r = parts[i].save(v, w, fds, describe, err);
	return r;
}

int vmm_adopt_parts(struct vmm *v, struct incoming *in, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(parts) && r == 0; i++)
		if (parts[i].adopt)
			r = parts[i].adopt(v, in, err);
	return r;
}

int vmm_build_parts(struct vmm *v, struct incoming *in, struct error *err)
{
	int r = 0;

	for (size_t i = 0; i < ARRAY_SIZE(parts) && r == 0; i++)
		if (parts[i].build)
			r = parts[i].build(v, in, err);
	return r;
}
