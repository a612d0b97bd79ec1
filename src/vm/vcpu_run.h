/* SPDX-License-Identifier: MIT */
/* What machine.c needs of vcpu.c. */
#ifndef MOLT_VM_VCPU_RUN_H
#define MOLT_VM_VCPU_RUN_H

#include <signal.h>
#include <stdbool.h>

#include <molt/base/error.h>
#include <molt/vm/machine.h>
#include <molt/vm/vcpu.h>

#define VCPU_KICK_SIGNAL (SIGRTMIN + 1)

/* Once a process, before the first thread. */
int vcpu_install_kick(struct error *err);

/* The KVM side of a vCPU; again after the machine's KVM VM was replaced. */
int vcpu_open(struct vcpu *v, struct error *err);
void vcpu_close(struct vcpu *v);

/* The thread, parked at first. vcpu_stop() ends it wherever it is. */
int vcpu_start(struct vcpu *v, struct error *err);
void vcpu_stop(struct vcpu *v);

/* The thread has gone with the process it was in. */
void vcpu_forget_thread(struct vcpu *v);

/* Whether a request is pending for which every vCPU has to stop by itself. */
bool machine_is_stopping(struct machine *m);

#endif
