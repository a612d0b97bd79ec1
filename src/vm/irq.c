/* SPDX-License-Identifier: MIT */
#include <string.h>

#include <molt/base/log.h>
#include <molt/vm/irq.h>

void irq_line_init(struct irq_line *line, struct kvm_vm *vm, uint32_t gsi, bool level_triggered)
{
	*line = (struct irq_line){ .vm = vm, .gsi = gsi, .level_triggered = level_triggered };
}

/* #syscalls vcpu: ioctl(KVM_IRQ_LINE) */
static void drive(struct irq_line *line)
{
	struct kvm_irq_level il = { .irq = line->gsi, .level = line->level };
	int r = kvm_vm_call(line->vm, KVM_IRQ_LINE, &il);

	if (r < 0)
		log_error("KVM_IRQ_LINE for GSI %u: %s", line->gsi, error_text(-r));
}

void irq_line_set(struct irq_line *line, bool level)
{
	if (line->level == level)
		return;
	line->level = level;
	drive(line);
}

int irq_line_pulse(struct irq_line *line)
{
	struct kvm_irq_level il = { .irq = line->gsi, .level = 1 };
	int r = kvm_vm_call(line->vm, KVM_IRQ_LINE_STATUS, &il), accepted = il.status;

	if (r == 0) {
		il = (struct kvm_irq_level){ .irq = line->gsi }; /* the status took its place */
		r = kvm_vm_call(line->vm, KVM_IRQ_LINE_STATUS, &il);
	}
	if (r < 0)
		log_error("KVM_IRQ_LINE_STATUS for GSI %u: %s", line->gsi, error_text(-r));
	return r < 0 ? -1 : accepted;
}

void irq_line_restore(struct irq_line *line, bool level)
{
	bool was = line->level;

	line->level = level;
	if ((level || was) && line->level_triggered)
		drive(line);
}

/* #syscalls vcpu: ioctl(KVM_SIGNAL_MSI) */
void irq_msi(struct kvm_vm *vm, uint64_t address, uint32_t data)
{
	const struct kvm_msi msi = {
		.address_lo = (uint32_t)address,
		.address_hi = (uint32_t)(address >> 32),
		.data = data,
	};

	/* What it refuses is the guest's nonsense. */
	kvm_vm_call(vm, KVM_SIGNAL_MSI, &msi);
}
