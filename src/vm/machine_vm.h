/* SPDX-License-Identifier: MIT */
/* The machine's KVM VM, see machine_vm.c. */
#ifndef MOLT_VM_MACHINE_VM_H
#define MOLT_VM_MACHINE_VM_H

#include <molt/vm/machine.h>

/*
 * Makes the KVM VM with all that is in it, vCPUs and devices. vCPUs have their state where there is
 * a stream; devices that do not exist yet are created from cfg (NULL: all do), still without state.
 * 0 or -errno; what was made is machine_tear_down_vm()'s.
 */
int machine_build_vm(struct machine *m, const struct machine_config *cfg, struct error *err);
void machine_tear_down_vm(struct machine *m);

/* Power-on state for a VM that was just built. */
int machine_power_on(struct machine *m, struct error *err);

#endif
