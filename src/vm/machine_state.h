/* SPDX-License-Identifier: MIT */
/* What machine_create.c, machine_vm.c, machine_state.c and run_state.c share. */
#ifndef MOLT_VM_MACHINE_STATE_H
#define MOLT_VM_MACHINE_STATE_H

#include <molt/vm/machine.h>

/* The stream's "machine" section into m->guest, with header's version and uuid. */
int machine_load_config(struct machine *m, struct stream *s, struct error *err);

/* Refuses a configuration that no machine can have. */
int machine_check_config(const struct machine *m, struct error *err);

/* A job of the crew's: the state from m->incoming of a vCPU that was just made; opaque: m. */
int machine_load_vcpu(void *opaque, uint32_t id, struct error *err);

/* Everything else of a machine whose VM was just built. */
int machine_load(struct machine *m, struct stream *s, const struct fdtable *fds, struct error *err);

/* Main's side of machine_request(). */
void machine_handle_requests(void *opaque);

#endif
