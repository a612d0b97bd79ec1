/* SPDX-License-Identifier: MIT */
/*
 * A guest from nothing: everything that options name is opened, by the user that molt becomes for
 * it, and then the sandbox closes.
 */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include <molt/base/child.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/notify.h>
#include <molt/control/control_path.h>
#include "molt_version.h"

#include "confine.h"
#include "internal.h"

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
	const char *control = v->cfg.control;
	int r = choose_user(&v->user, &v->cfg, err);

	if (r == 0)
		r = v->kvm_fd = kvm_open_device(err);
	if (r < 0)
		return r;
	v->control_path = control ? control_path_of(control, err) : NULL;
	if (control && !v->control_path)
		return -err->code;
	r = become_user(&v->user, &v->cfg, err);
	/* A change of user hides the process; whether it stays so is --sandbox's affair. */
	sandbox_hide(v->cfg.sandbox);
	return r;
}

static int open_parts(struct vmm *v, struct error *err)
{
	const struct vmm_config *cfg = &v->cfg;
	struct machine_config machine = cfg->machine;
	int r = log_file_open(&v->log, cfg->log_file, cfg->log_level, NULL, NULL, err);

	machine.kvm_fd = &v->kvm_fd;
	if (r == 0)
		r = boot_files_open(&v->boot, cfg->kernel, cfg->initramfs, cfg->cmdline, err);
	if (r == 0)
		r = vmm_open_machine(v, &machine, err);
	if (r == 0)
		r = vmm_open_control(v, NULL, err);
	if (r == 0)
		r = vmm_open_update(v, err);
	if (r == 0)
		vmm_add_commands(v);
	return r;
}

/* As the user that molt is now, with what he may. */
static void log_own_binary(void)
{
	struct error err = ERROR_INIT;
	_cleanup_close_ int fd = program_open_self(&err);

	if (fd == -EACCES)
		log_warn("this guest cannot be updated, nor a disk's I/O process be started again: "
			 "%s",
			 err.text);
}

static int start(struct vmm *v, struct error *err)
{
	const struct machine *m = &v->machine;
	int r = 0;

	control_start(v->control);
	memory_log_trouble(&m->memory);
	log_own_binary();
	log_info("molt %s runs %s with %u vCPU(s), %llu MiB", MOLT_VERSION,
		 v->cfg.kernel ? v->cfg.kernel : "the built-in demo guest", m->guest.cpus,
		 (unsigned long long)(m->guest.ram_size >> 20));
	if (!v->cfg.pause)
		r = machine_resume(&v->machine, err);
	if (r == 0)
		notify_ready(v->notify_fd, getpid());
	return r;
}

int vmm_cold_start(struct vmm *v, struct error *err)
{
	int r;

	open_notify(v);
	r = become(v, err);
	if (r == 0 && v->cfg.sandbox)
		sandbox_scope_signals(); /* the disks' I/O processes are started next */
	if (r == 0)
		r = open_parts(v, err);
	if (r < 0)
		return r;
	/* All that options named is open by now, a /dev/fd/N among it. */
	fd_close_inherited();
	r = confine_cold(&v->cfg, control_path(v->control), machine_has_back_ends(&v->machine),
			 err);
	if (r == 0)
		r = log_start(err);
	return r < 0 ? r : start(v, err);
}
