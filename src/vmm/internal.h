/* SPDX-License-Identifier: MIT */
/* What the files of src/vmm/ share: the VMM itself. */
#ifndef MOLT_VMM_INTERNAL_H
#define MOLT_VMM_INTERNAL_H

#include <molt/boot/boot_files.h>
#include <molt/control/control.h>
#include <molt/update/update.h>
#include <molt/vm/refault.h>
#include <molt/vmm/vmm.h>

#include "become_user.h"
#include "log_file.h"
#include "signals.h"

struct vmm {
	struct vmm_config cfg;
	struct vmm_ops ops;
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

/*
 * The two ways to a machine: from options (cold_start.c), or from a predecessor (take_over.c). The
 * guest runs, or waits as it is to. The second ends the process where it fails.
 */
int vmm_cold_start(struct vmm *v, struct error *err);
int vmm_take_over(struct vmm *v, struct error *err);

/* services.c: the machine, its configuration being complete but for what is the VMM's own. */
int vmm_open_machine(struct vmm *v, struct machine_config *cfg, struct error *err);
/* The socket and its clients; in is NULL on a cold start. */
int vmm_open_control(struct vmm *v, struct incoming *in, struct error *err);
/* The update server, of a machine that is there. */
int vmm_open_update(struct vmm *v, struct error *err);
/* All three are there: what the socket can be asked. */
void vmm_add_commands(struct vmm *v);

/*
 * parts.c: what all parts have in stream and fd table. describe: for a check, see
 * machine_describe(). A successor opens them in two steps.
 */
int vmm_save_parts(struct vmm *v, struct stream_writer *w, struct fdtable *fds, bool describe,
		   struct error *err);
int vmm_adopt_parts(struct vmm *v, struct incoming *in, struct error *err);
int vmm_build_parts(struct vmm *v, struct incoming *in, struct error *err);

/* Ends all that there is, in whatever state. */
void vmm_tear_down(struct vmm *v);

#endif
