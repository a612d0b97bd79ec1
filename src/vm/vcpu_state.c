/* SPDX-License-Identifier: MIT */
/*
 * vCPU state, out of KVM and back. Theory of operation, that is: why this order.
 *
 * The table vcpu_kinds (vcpu_kinds.c) has the kinds of state in the order in which they are set;
 * save_at is their place in the order of reading. Some of that order is free, this is not:
 *
 * Reading: MP state first, because it lets a pending INIT or SIPI take effect and so may change
 * every other register, and what the events can be depends on it. The TSC deadline, with the MSRs,
 *before the LAPIC: when it passes, KVM clears it and sets a bit in the IRR. Read in between, it is
 *twice the same interrupt, not none.
 *
 * Setting:
 *	CPUID		first: it decides which bits of everything else are valid
 *	TSC kHz, offset	before any timer that is a TSC value
 *	sregs		EFER and CR4 for the MSRs, the APIC base (x2APIC or not) for the LAPIC
 *	MSRs		all but the TSC deadline
 *	regs		KVM_SET_REGS forgets pending exceptions: before the events
 *	xcrs, xsave
 *	LAPIC		restarts the APIC timer from its current count, less the time that passed
 *	TSC deadline	needs the LAPIC's timer mode and the TSC
 *	MP state, events, debug registers
 *
 * The TSC itself is never written: the guest's TSC is the host's plus an offset, and the offset is
 * the same number on both sides, so the TSC cannot step however long the update takes.
 */
#include <errno.h>

#include <molt/vm/vcpu_kinds.h>

static enum vcpu_kind_id kind_saved_at(unsigned int place)
{
	enum vcpu_kind_id id = 0;

	while (id < VCPU_KINDS && vcpu_kinds[id].save_at != place)
		id++;
	return id;
}

int vcpu_state_get(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, const struct msr_list *msrs,
		   struct error *err)
{
	enum vcpu_kind_id id;
	int r = 0;

	for (unsigned int at = 1; r == 0 && (id = kind_saved_at(at)) < VCPU_KINDS; at++)
		r = vcpu_kind_get(id, st, kvm, vcpu_fd, msrs, err);
	return r;
}

void vcpu_state_tell_paused(struct kvm *kvm, int vcpu_fd)
{
	/*
	 * Refused where the guest does not use kvmclock: then it has no watchdog that looks there.
	 */
	if (kvm->has_kvmclock_ctrl)
		kvm_call_num(kvm, vcpu_fd, KVM_KVMCLOCK_CTRL, 0);
}

static int set_all(const struct vcpu_state *st, struct kvm *kvm, int fd, bool rehearse,
		   struct error *err)
{
	int r = 0;

	if (st->xsave_len < kvm->xsave_size)
		return err_set(err, EINVAL, "XSAVE area of %u bytes, this host has %zu",
			       st->xsave_len, kvm->xsave_size);
	for (enum vcpu_kind_id id = 0; r == 0 && id < VCPU_KINDS; id++)
		if (rehearse && vcpu_kinds[id].rehearse)
			r = vcpu_kinds[id].rehearse(st, kvm, fd, err);
		else
			r = vcpu_kind_set(id, st, kvm, fd, err);
	if (r == 0)
		vcpu_state_tell_paused(kvm, fd);
	return r;
}

int vcpu_state_set(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	return set_all(st, kvm, vcpu_fd, false, err);
}

int vcpu_state_rehearse(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
			struct error *err)
{
	return set_all(st, kvm, vcpu_fd, true, err);
}

/* #syscalls vcpu: ioctl(KVM_GET_MP_STATE) */
bool vcpu_state_is(struct kvm *kvm, int vcpu_fd, uint32_t mp_state)
{
	struct kvm_mp_state mp;

	return kvm_call(kvm, vcpu_fd, KVM_GET_MP_STATE, &mp) == 0 && mp.mp_state == mp_state;
}
