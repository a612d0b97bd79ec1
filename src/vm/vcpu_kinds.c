/* SPDX-License-Identifier: MIT */
/* The kinds of a vCPU's state: how each is read and set. Their order is vcpu_state.c's. */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/vcpu_kinds.h>

#include "msrs.h"

int vcpu_state_set_cpuid(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
			 struct error *err)
{
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[VCPU_CPUID_MAX];
	} c;
	int r;

	memset(&c.head, 0, sizeof(c.head));
	c.head.nent = st->ncpuid / (uint32_t)(sizeof(c.entries[0]) / sizeof(uint32_t));
	memcpy(c.entries, st->cpuid, c.head.nent * sizeof(c.entries[0]));
	r = kvm_call(kvm, vcpu_fd, KVM_SET_CPUID2, &c);
	return r < 0 ? err_sys(err, -r, "KVM_SET_CPUID2") : 0;
}

static int tsc_offset_attr(struct kvm *kvm, int fd, unsigned long request, uint64_t *offset,
			   struct error *err)
{
	struct kvm_device_attr attr = {
		.group = KVM_VCPU_TSC_CTRL,
		.attr = KVM_VCPU_TSC_OFFSET,
		.addr = (uintptr_t)offset,
	};
	int r = kvm_call(kvm, fd, request, &attr);

	return r < 0 ? err_sys(err, -r, "KVM_VCPU_TSC_OFFSET") : 0;
}

static int call(struct kvm *kvm, int fd, unsigned long request, const char *name, const void *arg,
		struct error *err)
{
	int r = kvm_call(kvm, fd, request, arg);

	return r < 0 ? err_sys(err, -r, "%s", name) : 0;
}

#define CALL(request, arg) call(kvm, fd, (request), #request, (arg), err)

/* struct kvm_sregs and kvm_sregs2 begin alike; the bitmap of the one is the flags of the other. */
_Static_assert(offsetof(struct kvm_sregs, apic_base) == offsetof(struct kvm_sregs2, apic_base),
	       "common head of the sregs");
#define SREGS_HEAD (offsetof(struct kvm_sregs, apic_base) + sizeof(uint64_t))
#define EFER_LMA (1u << 10)

static int read_sregs(struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err)
{
	struct kvm_sregs old;
	int r;

	if (kvm->has_sregs2)
		return CALL(KVM_GET_SREGS2, sregs);
	r = CALL(KVM_GET_SREGS, &old);
	memset(sregs, 0, sizeof(*sregs));
	if (r == 0)
		memcpy(sregs, &old, SREGS_HEAD);
	return r;
}

/*
 * Outside long mode CS.L is a bit for software (Intel SDM volume 3, "Segment Descriptors"), which a
 * guest may have in a descriptor that it jumped by. KVM tells it then, and refuses it.
 */
int sregs_get(struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err)
{
	int r = read_sregs(sregs, kvm, fd, err);

	if (r == 0 && !(sregs->efer & EFER_LMA))
		sregs->cs.l = 0;
	return r;
}

int sregs_set(const struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err)
{
	struct kvm_sregs old = { 0 };

	if (kvm->has_sregs2)
		return CALL(KVM_SET_SREGS2, sregs);
	/* An injected interrupt travels in the events, not in the bitmap. */
	memcpy(&old, sregs, SREGS_HEAD);
	return CALL(KVM_SET_SREGS, &old);
}

static int get_sregs(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
		     struct error *err)
{
	(void)msrs;
	return sregs_get(&st->sregs, kvm, fd, err);
}

static int set_sregs(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	return sregs_set(&st->sregs, kvm, fd, err);
}

/*
 * A CPU that waits for SIPI takes no SMI. KVM keeps it for later and tells it, but has no way to
 * set that: it lets no vCPU wait for SIPI that is to go into SMM. Guests have no use for an SMI,
 * for there is no firmware that would serve one. So it is as if it had come to nothing.
 */
static int get_events(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
		      struct error *err)
{
	int r = CALL(KVM_GET_VCPU_EVENTS, &st->events);

	(void)msrs;
	if (r == 0 && st->mp_state.mp_state == KVM_MP_STATE_INIT_RECEIVED)
		st->events.smi.pending = 0;
	return r;
}

static int get_xsave(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
		     struct error *err)
{
	(void)msrs;
	if (kvm->xsave_size > sizeof(st->xsave))
		return err_set(err, E2BIG, "XSAVE area of %zu bytes, molt keeps %zu",
			       kvm->xsave_size, sizeof(st->xsave));
	st->xsave_len = (uint32_t)kvm->xsave_size;
	if (kvm->has_xsave2)
		return CALL(KVM_GET_XSAVE2, st->xsave);
	return CALL(KVM_GET_XSAVE, st->xsave);
}

static int get_tsc(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
		   struct error *err)
{
	int khz;

	(void)msrs;
	if (!st->tsc_khz) { /* it never changes */
		khz = kvm_call_num(kvm, fd, KVM_GET_TSC_KHZ, 0);
		if (khz < 0)
			return err_sys(err, -khz, "KVM_GET_TSC_KHZ");
		st->tsc_khz = (uint64_t)khz;
	}
	if (!kvm->has_tsc_offset)
		return err_set(
			err, ENOTSUP,
			"this host's KVM lacks KVM_VCPU_TSC_OFFSET: the guest's TSC would step");
	return tsc_offset_attr(kvm, fd, KVM_GET_DEVICE_ATTR, &st->tsc_offset, err);
}

static int set_tsc(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	uint64_t offset = st->tsc_offset;
	int khz = kvm_call_num(kvm, fd, KVM_GET_TSC_KHZ, 0);

	if (khz < 0 || (uint64_t)khz != st->tsc_khz) {
		int r = kvm_call_num(kvm, fd, KVM_SET_TSC_KHZ, (uintptr_t)st->tsc_khz);

		if (r < 0)
			return err_sys(err, -r, "KVM_SET_TSC_KHZ: %llu kHz (this host has %d)",
				       (unsigned long long)st->tsc_khz, khz);
	}
	return tsc_offset_attr(kvm, fd, KVM_SET_DEVICE_ATTR, &offset, err);
}

static int get_lapic(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
		     struct error *err)
{
	(void)msrs;
	return lapic_timer_get(st, kvm, fd, err);
}

/* clang-format off */
#define CALL_(request) { #request, request }
/* clang-format on */
#define CAP_(cap_) .cap = #cap_, .cap_nr = cap_
#define ST_(member) \
	.offset = offsetof(struct vcpu_state, member), \
	.size = sizeof(((struct vcpu_state *)NULL)->member)

/*
 * vCPU threads help with the reading (crew_job.c) when they are confined already, so they may make
 * the calls of this table with these names:
 * #syscalls vcpu: ioctls(KVM_GET_)
 */
const struct vcpu_kind vcpu_kinds[VCPU_KINDS] = {
	[VCPU_CPUID] = {
		.name = "CPUID",
		.set = { CALL_(KVM_SET_CPUID2) }, .load = vcpu_state_set_cpuid,
	},
	[VCPU_TSC] = {
		.name = "TSC frequency and offset",
		CAP_(KVM_CAP_VCPU_ATTRIBUTES), .has = offsetof(struct kvm, has_tsc_offset),
		.save_at = 3,
		.get = { CALL_(KVM_GET_TSC_KHZ), CALL_(KVM_GET_DEVICE_ATTR) }, .save = get_tsc,
		.set = { CALL_(KVM_SET_TSC_KHZ), CALL_(KVM_SET_DEVICE_ATTR) }, .load = set_tsc,
	},
	[VCPU_SREGS] = {
		.name = "segments, control registers, EFER, APIC base",
		.save_at = 4, ST_(sregs),
		.get = { CALL_(KVM_GET_SREGS2), CALL_(KVM_GET_SREGS) }, .save = get_sregs,
		.set = { CALL_(KVM_SET_SREGS2), CALL_(KVM_SET_SREGS) }, .load = set_sregs,
	},
	[VCPU_MSRS] = {
		.name = "MSRs",
		.save_at = 5,
		.get = { CALL_(KVM_GET_MSRS) }, .save = msrs_save,
		.set = { CALL_(KVM_SET_MSRS) }, .load = msrs_load, .rehearse = msrs_rehearse,
	},
	[VCPU_REGS] = {
		.name = "general registers",
		.save_at = 6, ST_(regs),
		.get = { CALL_(KVM_GET_REGS) }, .set = { CALL_(KVM_SET_REGS) },
	},
	[VCPU_XCRS] = {
		.name = "XCR0",
		CAP_(KVM_CAP_XCRS), .has = offsetof(struct kvm, has_xcrs), .optional = true,
		.save_at = 7, ST_(xcrs),
		.get = { CALL_(KVM_GET_XCRS) }, .set = { CALL_(KVM_SET_XCRS) },
	},
	[VCPU_XSAVE] = {
		.name = "x87, SSE and all else of the XSAVE area",
		CAP_(KVM_CAP_XSAVE),
		.save_at = 8, ST_(xsave),
		.get = { CALL_(KVM_GET_XSAVE2), CALL_(KVM_GET_XSAVE) }, .save = get_xsave,
		.set = { CALL_(KVM_SET_XSAVE) },
	},
	[VCPU_LAPIC] = {
		.name = "local APIC with its timer",
		CAP_(KVM_CAP_IRQCHIP),
		.save_at = 9,
		.get = { CALL_(KVM_GET_LAPIC) }, .save = get_lapic,
		.set = { CALL_(KVM_SET_LAPIC) }, .load = lapic_timer_set,
		.rehearse = lapic_timer_rehearse,
	},
	[VCPU_TSC_DEADLINE] = {
		.name = "TSC deadline (read with the MSRs)",
		.set = { CALL_(KVM_SET_MSRS) }, .load = msrs_load_tsc_deadline,
		.rehearse = msrs_rehearse_tsc_deadline,
	},
	[VCPU_MP_STATE] = {
		.name = "running, halted or waiting for INIT or SIPI",
		CAP_(KVM_CAP_MP_STATE),
		.save_at = 1, ST_(mp_state),
		.get = { CALL_(KVM_GET_MP_STATE) }, .set = { CALL_(KVM_SET_MP_STATE) },
	},
	[VCPU_EVENTS] = {
		.name = "exceptions, interrupts and NMIs on their way",
		CAP_(KVM_CAP_VCPU_EVENTS),
		.save_at = 2, ST_(events),
		.get = { CALL_(KVM_GET_VCPU_EVENTS) }, .save = get_events,
		.set = { CALL_(KVM_SET_VCPU_EVENTS) },
	},
	[VCPU_DEBUGREGS] = {
		.name = "debug registers",
		CAP_(KVM_CAP_DEBUGREGS),
		.save_at = 10, ST_(debugregs),
		.get = { CALL_(KVM_GET_DEBUGREGS) }, .set = { CALL_(KVM_SET_DEBUGREGS) },
	},
};

int vcpu_kinds_probe(struct kvm *kvm, struct error *err)
{
	int r = 0;

	for (const struct vcpu_kind *k = vcpu_kinds; k < vcpu_kinds + VCPU_KINDS && r == 0; k++)
		if (k->cap && !k->has)
			r = kvm_insist_on(kvm, k->cap_nr, k->cap, err);
	return r;
}

bool vcpu_kind_is_left_out(const struct kvm *kvm, enum vcpu_kind_id id)
{
	const struct vcpu_kind *kind = &vcpu_kinds[id];

	return kind->optional && !*(const bool *)((const char *)kvm + kind->has);
}

int vcpu_kind_get(enum vcpu_kind_id id, struct vcpu_state *st, struct kvm *kvm, int fd,
		  const struct msr_list *msrs, struct error *err)
{
	const struct vcpu_kind *kind = &vcpu_kinds[id];

	if (vcpu_kind_is_left_out(kvm, id))
		return 0;
	if (kind->save)
		return kind->save(st, kvm, fd, msrs, err);
	return call(kvm, fd, kind->get[0].nr, kind->get[0].name, (char *)st + kind->offset, err);
}

int vcpu_kind_set(enum vcpu_kind_id id, const struct vcpu_state *st, struct kvm *kvm, int fd,
		  struct error *err)
{
	const struct vcpu_kind *kind = &vcpu_kinds[id];

	if (vcpu_kind_is_left_out(kvm, id))
		return 0;
	if (kind->load)
		return kind->load(st, kvm, fd, err);
	return call(kvm, fd, kind->set[0].nr, kind->set[0].name, (const char *)st + kind->offset,
		    err);
}
