/* SPDX-License-Identifier: MIT */
/* Who owns state besides machine and update, and what all of them have in stream and fd table. */
#include "internal.h"

static const char *const notify_fds[] = { "notify", NULL };

int vmm_save_parts(struct vmm *v, struct stream_writer *w, struct fdtable *fds, struct error *err)
{
	int r = boot_files_save(&v->boot, w, fds, err);

	if (r == 0)
		r = control_save(v->control, w, fds, err);
	if (r == 0)
		r = log_file_save(&v->log, w, fds, err);
	if (r == 0 && v->notify_fd >= 0)
		r = fdtable_add(fds, notify_fds[0], 0, v->notify_fd, err);
	return r;
}

void vmm_takeover_kinds(struct takeover_kinds *kinds)
{
	machine_takeover_kinds(&machine_model, kinds);
	takeover_kinds_add(kinds, &boot_files_kind);
	control_takeover_kinds(kinds);
	update_takeover_kinds(kinds);
	takeover_kinds_add(kinds, &log_file_kind);
	takeover_kinds_add(kinds, &(struct takeover_kind){ .fds = notify_fds });
}
