/* SPDX-License-Identifier: MIT */
/*
 * Eventfds that KVM serves by itself: a message-signalled interrupt for each time that one is
 * written (irqfd), and one that is written for each of the guest's writes to an address
 * (ioeventfd). KVM API: KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_IOEVENTFD.
 *
 * An irqfd names a GSI, and a table of routes says what message that is. The table is KVM's as a
 * whole, so that of all devices is kept here, together with the routes of the interrupt
 * controllers' pins as KVM has them without a table.
 *
 * For the main thread. None of it is anything that the guest sees, so none of it migrates.
 */
#ifndef MOLT_VM_MSI_ROUTE_H
#define MOLT_VM_MSI_ROUTE_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/vm/kvm.h>

#define MSI_ROUTES_MAX 2048 /* 31 slots of 64 queues need 1984; KVM has room for 4096 */
#define MSI_ROUTE_FIRST 24  /* GSIs below are pins */

struct msi_route {
	bool used;
	uint64_t address;
	uint32_t data;
};

struct msi_routes {
	struct msi_route *list; /* grown as needed; the GSI is MSI_ROUTE_FIRST plus the index */
	uint32_t count;
	bool changed; /* KVM does not have it yet */
};

void msi_routes_fini(struct msi_routes *r);

/* The KVM VM was replaced: it has no routes. */
void msi_routes_forget_vm(struct msi_routes *r);

/* A GSI for a message, or -ENOSPC, -ENOMEM. */
int msi_route_alloc(struct msi_routes *r);
void msi_route_free(struct msi_routes *r, uint32_t gsi);

/* What the GSI's message is; KVM has it after msi_routes_commit(). */
void msi_route_set(struct msi_routes *r, uint32_t gsi, uint64_t address, uint32_t data);

/* Gives KVM the table if it changed: 10 us to some ms. 0 or -errno. */
int msi_routes_commit(struct msi_routes *r, struct kvm_vm *vm);

/*
 * on: each write to the eventfd interrupts by the GSI from now on, and what is counted in it
 * already does at once. -EBUSY while another VM has that eventfd.
 */
int msi_irqfd(struct kvm_vm *vm, int eventfd, uint32_t gsi, bool on);

/* on: a write of any size to address is counted in the eventfd and does not leave KVM. */
int msi_ioeventfd(struct kvm_vm *vm, int eventfd, uint64_t address, bool on);

#endif
