/* SPDX-License-Identifier: MIT */
/* What machine_create.c, machine_vm.c, machine_state.c and run_state.c share. */
#ifndef MOLT_VM_MACHINE_STATE_H
#define MOLT_VM_MACHINE_STATE_H

#include <molt/vm/machine.h>

/*
 * For a vCPU's thread to come to the park, while nobody turns the event loop. A cgroup beyond its
 * memory.high may keep it for 2 s.
 */
#define MACHINE_STOP_NS 3000000000ull

/* The stream's "machine" section into m->guest, with header's version and uuid. */
int machine_load_config(struct machine *m, struct stream *s, struct error *err);

/* Refuses a configuration that no machine can have. */
int machine_check_config(const struct machine *m, struct error *err);

/* A job of the crew's: the state from m->incoming of a vCPU that was just made; opaque: m. */
int machine_load_vcpu(void *opaque, uint32_t id, struct error *err);

/* Everything else of a machine whose VM was just built. */
int machine_load(struct machine *m, struct stream *s, const struct fdtable *fds, struct error *err);

/*
 * Where and how the host runs vCPUs' threads; see vcpu_place.c. The first notes it of the threads
 * that run them now; by main, whose own place is what they are held against. The others: the
 * section "vcpu-thread", where there is one to be sent, and whether there is any.
 */
extern const struct vmstate vcpu_place_vmstate;
void machine_note_places(struct machine *m);
void machine_save_place(const struct machine *m, struct stream_writer *w, uint32_t id);
bool machine_has_places(const struct machine *m);
int machine_load_places(struct machine *m, struct stream *s, struct error *err);

/* Main's side of machine_request(). */
void machine_handle_requests(void *opaque);

#endif
