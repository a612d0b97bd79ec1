/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/loop.h>
#include "molt_version.h"

#include "internal.h"

/* What a process needs before it has a guest. */
static int prepare(struct vmm *v, struct error *err)
{
	int r = update_self_init(&v->self, v->cfg.argc, v->cfg.argv, MOLT_VERSION, err);

	sandbox_hide(v->cfg.sandbox);
	if (r == 0 && v->cfg.sandbox)
		r = sandbox_catch_forbidden_calls(err);
	if (r == 0)
		r = loop_create(&v->loop, err);
	return r < 0 ? r : signals_open(&v->signals, v->loop, &v->machine, err);
}

static bool is_stderr(int fd)
{
	struct stat file, err;

	return fstat(fd, &file) == 0 && fstat(STDERR_FILENO, &err) == 0 &&
	       file.st_dev == err.st_dev && file.st_ino == err.st_ino;
}

static void tell_why(const struct vmm *v, int code, const struct error *err)
{
	log_error("%s", err->text);
	become_user_explain(&v->user, code);
}

static int run(struct vmm *v)
{
	struct error err = ERROR_INIT;
	int r = prepare(v, &err);

	if (r == 0)
		r = v->cfg.successor ? vmm_take_over(v, &err) : vmm_cold_start(v, &err);
	if (r == 0) {
		r = loop_run(v->loop);
	} else {
		tell_why(v, r, &err);
		/* Who starts it looks there first, and the log file may be on a full disk. */
		if (!v->cfg.successor && v->log.fd >= 0 && !is_stderr(v->log.fd)) {
			log_set_fd(STDERR_FILENO);
			tell_why(v, r, &err);
		}
	}
	return r == -EINTR ? signals_exit_status(&v->signals) : r;
}

void vmm_tear_down(struct vmm *v)
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
	free(v->control_path);
	fd_close(&v->kvm_fd);
	fd_close(&v->notify_fd);
	log_stop(LOG_END_MS);
	fd_close(&v->log.fd);
}

int vmm_run(const struct vmm_config *cfg, const struct vmm_ops *ops)
{
	struct vmm *v = calloc(1, sizeof(*v));
	int r;

	if (!v)
		return MACHINE_EXIT_FAILURE;
	v->cfg = *cfg;
	v->ops = *ops;
	v->notify_fd = cfg->notify_fd;
	v->kvm_fd = v->signals.fd = v->log.fd = v->self.exe_fd = -1;
	v->boot.kernel_fd = v->boot.initramfs_fd = -1;
	r = run(v);
	vmm_tear_down(v);
	free(v);
	return r < 0 ? MACHINE_EXIT_FAILURE : r;
}
