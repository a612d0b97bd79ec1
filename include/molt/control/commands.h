/* SPDX-License-Identifier: MIT */
/* The machine as the control socket shows it: its commands and its events. Main thread only. */
#ifndef MOLT_CONTROL_COMMANDS_H
#define MOLT_CONTROL_COMMANDS_H

#include <molt/control/control.h>
#include <molt/vm/machine.h>

/*
 * Adds the machine's commands: query-status, query-cpus-fast, query-kvm, query-name, query-uuid,
 * query-target, query-machines, query-chardev, stop, cont, system_reset, system_powerdown, quit;
 * those about its disks, query-block, query-blockstats, block_resize, block_set_io_throttle; and
 * its events. m must outlive c. c may be NULL.
 */
void control_add_machine_commands(struct control *c, struct machine *m);

/* Sends a machine's event under QMP's name for it. For machine_ops.event. c may be NULL. */
void control_machine_event(struct control *c, enum machine_event event, const char *detail);

#endif
