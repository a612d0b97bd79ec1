/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/msi_route.h>

#define PIC_PINS 16
#define PIC_CHIP_PINS 8
#define GROW 64

void msi_routes_fini(struct msi_routes *r)
{
	free(r->list);
	*r = (struct msi_routes){ 0 };
}

void msi_routes_forget_vm(struct msi_routes *r)
{
	r->changed = r->count > 0;
}

static int grow(struct msi_routes *r)
{
	struct msi_route *list;

	if (r->count == MSI_ROUTES_MAX)
		return -ENOSPC;
	list = realloc(r->list, (r->count + GROW) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	memset(list + r->count, 0, GROW * sizeof(*list));
	r->list = list;
	r->count += GROW;
	return 0;
}

int msi_route_alloc(struct msi_routes *r)
{
	uint32_t i = 0;

	while (i < r->count && r->list[i].used)
		i++;
	if (i == r->count) {
		int ret = grow(r);

		if (ret < 0)
			return ret;
	}
	r->list[i] = (struct msi_route){ .used = true };
	return (int)(MSI_ROUTE_FIRST + i);
}

void msi_route_free(struct msi_routes *r, uint32_t gsi)
{
	r->list[gsi - MSI_ROUTE_FIRST].used = false;
}

void msi_route_set(struct msi_routes *r, uint32_t gsi, uint64_t address, uint32_t data)
{
	struct msi_route *route = &r->list[gsi - MSI_ROUTE_FIRST];

	if (route->address == address && route->data == data)
		return;
	route->address = address;
	route->data = data;
	r->changed = true;
}

static void add_pin(struct kvm_irq_routing *table, uint32_t gsi, uint32_t chip, uint32_t pin)
{
	table->entries[table->nr++] = (struct kvm_irq_routing_entry){
		.gsi = gsi,
		.type = KVM_IRQ_ROUTING_IRQCHIP,
		.u.irqchip = { .irqchip = chip, .pin = pin },
	};
}

/* As KVM makes it for a VM with its irqchips (arch/x86/kvm/irq_comm.c: default_routing). */
static void add_pins(struct kvm_irq_routing *table)
{
	for (uint32_t gsi = 0; gsi < MSI_ROUTE_FIRST; gsi++) {
		add_pin(table, gsi, KVM_IRQCHIP_IOAPIC, gsi);
		if (gsi < PIC_PINS)
			add_pin(table, gsi,
				gsi < PIC_CHIP_PINS ? KVM_IRQCHIP_PIC_MASTER
						    : KVM_IRQCHIP_PIC_SLAVE,
				gsi % PIC_CHIP_PINS);
	}
}

int msi_routes_commit(struct msi_routes *r, struct kvm_vm *vm)
{
	size_t most = MSI_ROUTE_FIRST + PIC_PINS + r->count;
	_cleanup_free_ struct kvm_irq_routing *table = NULL;
	int ret;

	if (!r->changed)
		return 0;
	table = calloc(1, sizeof(*table) + most * sizeof(table->entries[0]));
	if (!table)
		return -ENOMEM;
	add_pins(table);
	for (uint32_t i = 0; i < r->count; i++)
		if (r->list[i].used)
			table->entries[table->nr++] = (struct kvm_irq_routing_entry){
				.gsi = MSI_ROUTE_FIRST + i,
				.type = KVM_IRQ_ROUTING_MSI,
				.u.msi = {
					.address_lo = (uint32_t)r->list[i].address,
					.address_hi = (uint32_t)(r->list[i].address >> 32),
					.data = r->list[i].data,
				},
			};
	ret = kvm_vm_call(vm, KVM_SET_GSI_ROUTING, table);
	if (ret == 0)
		r->changed = false;
	return ret;
}

int msi_irqfd(struct kvm_vm *vm, int eventfd, uint32_t gsi, bool on)
{
	const struct kvm_irqfd irqfd = {
		.fd = (uint32_t)eventfd,
		.gsi = gsi,
		.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	return kvm_vm_call(vm, KVM_IRQFD, &irqfd);
}

int msi_ioeventfd(struct kvm_vm *vm, int eventfd, uint64_t address, bool on)
{
	const struct kvm_ioeventfd io = {
		.addr = address,
		.fd = eventfd,
		.flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN,
	};

	return kvm_vm_call(vm, KVM_IOEVENTFD, &io);
}
