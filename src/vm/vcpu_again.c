/* SPDX-License-Identifier: MIT */
/*
 * Setting a vCPU's state for the second time: in the rehearsal all of it was set, while the guest
 * ran elsewhere; at the switch the guest waits. Theory of operation.
 *
 * A call on a vCPU costs about 6 us, whatever it is about, since KVM loads the vCPU and puts it
 * back; KVM_SET_CPUID2 costs 80. So a kind is set when it is not what it was in the rehearsal, and
 * where KVM has no longer what it was told then:
 *
 *	LAPIC		always. Its timer was not started, and what is left of a count is less by
 *			the time that passed. The VM's IOAPIC and PIT, which were rehearsed as well,
 *			may have sent it an interrupt that the guest has got elsewhere
 *	events		always. KVM_SET_REGS forgets a pending exception; an NMI or INIT may have
 *			come as that interrupt did. Before everything else as well, where they
 *			keep the MP state from being set (leaves_smm())
 *	MSRs		those that differ and those that were rehearsed in another form, by one
 *			call. It comes after the LAPIC here, for the TSC deadline is among them
 *	regs		with the sregs: in real mode KVM keeps the flags in another place
 *	MP state	with the sregs of a boot CPU that was reset, which KVM makes runnable
 *	XSAVE		with XCR0, XFD and XSS. It comes after them: KVM drops state of which XFD
 *			says that it is not in use
 *
 * What the kinds have to do with one another otherwise is in vcpu_state.c; the order is the same
 * but for those two. Whatever cannot be set in part, because the vCPU is of another shape, is set
 * as a whole: the rehearsal has left nothing behind that a fresh vCPU does not have.
 *
 * That the guest was paused is told in the rehearsal, and KVM tells the guest when the vCPU runs;
 * again only where the guest has begun to use kvmclock since, or moved it.
 */
#include <asm/kvm_para.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/vcpu_kinds.h>

#include "msrs.h"

#define MSR_IA32_XFD 0x1c4u
#define MSR_IA32_XSS 0xda0u
#define CR0_PE 1u
#define BIT(id) (1u << (id))

static const enum vcpu_kind_id order[] = {
	VCPU_TSC,  VCPU_SREGS, VCPU_REGS,     VCPU_LAPIC,  VCPU_MSRS,
	VCPU_XCRS, VCPU_XSAVE, VCPU_MP_STATE, VCPU_EVENTS, VCPU_DEBUGREGS,
};

static bool same_shape(const struct vcpu_state *st, const struct vcpu_state *known)
{
	return st->ncpuid == known->ncpuid && st->nmsrs == known->nmsrs &&
	       st->xsave_len == known->xsave_len &&
	       memcmp(st->cpuid, known->cpuid, st->ncpuid * sizeof(st->cpuid[0])) == 0 &&
	       memcmp(st->msr_index, known->msr_index, st->nmsrs * sizeof(st->msr_index[0])) == 0;
}

bool vcpu_state_tsc_differs(const struct vcpu_state *st, const struct vcpu_state *known)
{
	return st->tsc_khz != known->tsc_khz || st->tsc_offset != known->tsc_offset;
}

int vcpu_state_get_tsc(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	return vcpu_kind_get(VCPU_TSC, st, kvm, vcpu_fd, NULL, err);
}

int vcpu_state_set_tsc(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	return vcpu_kind_set(VCPU_TSC, st, kvm, vcpu_fd, err);
}

/* Padding counts as well: at worst something is set that need not be. */
static bool bytes_differ(const struct vcpu_state *st, const struct vcpu_state *known,
			 enum vcpu_kind_id id)
{
	const struct vcpu_kind *k = &vcpu_kinds[id];
	size_t size = id == VCPU_XSAVE ? st->xsave_len : k->size;

	return memcmp((const char *)st + k->offset, (const char *)known + k->offset, size) != 0;
}

static uint32_t kinds_to_set(const struct vcpu_state *st, const struct vcpu_state *known)
{
	uint32_t set = BIT(VCPU_LAPIC) | BIT(VCPU_EVENTS);

	if (st == known)
		return set;
	for (enum vcpu_kind_id id = 0; id < VCPU_KINDS; id++)
		if (bytes_differ(st, known, id))
			set |= BIT(id);
	if (vcpu_state_tsc_differs(st, known))
		set |= BIT(VCPU_TSC);
	if (set & BIT(VCPU_SREGS))
		set |= BIT(VCPU_REGS) | (st->sregs.cr0 & CR0_PE ? 0 : BIT(VCPU_MP_STATE));
	if (set & BIT(VCPU_XCRS) || msrs_differ(st, known, MSR_IA32_XFD) ||
	    msrs_differ(st, known, MSR_IA32_XSS))
		set |= BIT(VCPU_XSAVE);
	return set;
}

/* KVM refuses the new MP state while the vCPU is in SMM, or on its way there. */
static bool leaves_smm(const struct vcpu_state *st, const struct vcpu_state *known)
{
	return (known->events.smi.smm || known->events.smi.pending) &&
	       st->mp_state.mp_state == KVM_MP_STATE_INIT_RECEIVED;
}

int vcpu_state_set_again(const struct vcpu_state *st, const struct vcpu_state *known,
			 struct kvm *kvm, int vcpu_fd, struct error *err)
{
	uint32_t set;
	int r = 0;

	if (leaves_smm(st, known))
		r = vcpu_kind_set(VCPU_EVENTS, st, kvm, vcpu_fd, err);
	if (r < 0)
		return r;
	if (st != known && !same_shape(st, known))
		return vcpu_state_set(st, kvm, vcpu_fd, err);
	set = kinds_to_set(st, known);
	for (size_t i = 0; r == 0 && i < ARRAY_SIZE(order); i++)
		if (order[i] == VCPU_MSRS)
			r = msrs_load_again(st, known, kvm, vcpu_fd, err);
		else if (set & BIT(order[i]))
			r = vcpu_kind_set(order[i], st, kvm, vcpu_fd, err);
	if (r == 0 && msrs_differ(st, known, MSR_KVM_SYSTEM_TIME_NEW))
		vcpu_state_tell_paused(kvm, vcpu_fd);
	return r;
}
