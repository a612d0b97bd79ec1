/* SPDX-License-Identifier: MIT */
/* The machine's devices: which there are, and their life. See device.c. */
#ifndef MOLT_VM_DEVICE_LIST_H
#define MOLT_VM_DEVICE_LIST_H

#include <stdbool.h>

#include <molt/base/error.h>
#include <molt/vm/machine.h>

/*
 * Decides which devices there will be: those of the board, then what cfg's options ask for or, for
 * a successor, what its stream lists. -EINVAL, -ENOSPC, -EPROTO (a class that this molt does not
 * have), -ENOMEM; what was planned is devices_destroy()'s to free.
 */
int devices_plan(struct machine *m, const struct machine_config *cfg, struct error *err);

/* Creates those that KVM wants before its vCPUs, or the others; still without state. */
int devices_create(struct machine *m, const struct machine_config *cfg, bool before_vcpus,
		   struct error *err);

/* The same for attach, to the machine's KVM VM. */
int devices_attach(struct machine *m, bool before_vcpus, struct error *err);

/* See struct device_class. */
void devices_before_reset(struct machine *m);

void devices_destroy(struct machine *m);

/* The sections "devices", one for each that is not the board's. */
void devices_save_list(struct machine *m, struct stream_writer *w);

extern const struct vmstate devices_vmstate;

#endif
