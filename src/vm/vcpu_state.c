/* SPDX-License-Identifier: MIT */
/*
 * vCPU state, out of KVM and back. Theory of operation, that is: why this order.
 *
 * Reading: KVM_GET_MP_STATE first, because it lets a pending INIT or SIPI take effect and so may
 * change every other register.
 *
 * Writing:
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
 *
 * vCPU threads help with the reading (vcpu_job.c) when they are confined already:
 * #syscalls vcpu: ioctl(KVM_GET_MP_STATE) ioctl(KVM_GET_VCPU_EVENTS) ioctl(KVM_GET_REGS)
 * #syscalls vcpu: ioctl(KVM_GET_SREGS) ioctl(KVM_GET_SREGS2) ioctl(KVM_GET_XCRS) ioctl(KVM_GET_XSAVE)
 * #syscalls vcpu: ioctl(KVM_GET_XSAVE2) ioctl(KVM_GET_DEBUGREGS)
 * #syscalls vcpu: ioctl(KVM_GET_MSRS) ioctl(KVM_GET_TSC_KHZ) ioctl(KVM_GET_DEVICE_ATTR)
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/vcpu_state.h>

#define MSR_TSC 0x10u
#define MSR_KVM_WALL_CLOCK_OLD 0x11u
#define MSR_KVM_SYSTEM_TIME_OLD 0x12u
#define MSR_DEBUGCTL 0x1d9u
#define MSR_MTRR_PHYS_BASE0 0x200u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_MC0_CTL 0x400u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_KVM_WALL_CLOCK_2 0x4b564d00u
#define CR3_PWT (1u << 3) /* no part of an address in any paging mode */
#define FLUSH_TRIES 3
#define MTRR_VARIABLE_MSRS 16u
#define MTRR_ENABLE (1u << 11) /* Intel SDM volume 3, "IA32_MTRR_DEF_TYPE MSR" */
#define MTRR_WRITE_BACK 6u
#define MC_BANK_MSRS (32u * 4u)

#define SEG_(m) \
	VMSTATE_KU64(struct vcpu_state, m.base), VMSTATE_U32(struct vcpu_state, m.limit), \
	VMSTATE_U16(struct vcpu_state, m.selector), VMSTATE_U8(struct vcpu_state, m.type), \
	VMSTATE_U8(struct vcpu_state, m.present), VMSTATE_U8(struct vcpu_state, m.dpl), \
	VMSTATE_U8(struct vcpu_state, m.db), VMSTATE_U8(struct vcpu_state, m.s), \
	VMSTATE_U8(struct vcpu_state, m.l), VMSTATE_U8(struct vcpu_state, m.g), \
	VMSTATE_U8(struct vcpu_state, m.avl), VMSTATE_U8(struct vcpu_state, m.unusable), \
	VMSTATE_UNSAVED(struct vcpu_state, m.padding, "padding of the KVM ABI")
#define TABLE_(m) \
	VMSTATE_KU64(struct vcpu_state, m.base), VMSTATE_U16(struct vcpu_state, m.limit), \
	VMSTATE_UNSAVED(struct vcpu_state, m.padding, "padding of the KVM ABI")
#define K_(m) VMSTATE_KU64(struct vcpu_state, m)
#define U8_(m) VMSTATE_U8(struct vcpu_state, m)
#define U32_(m) VMSTATE_U32(struct vcpu_state, m)

static const struct vmstate_field vcpu_fields[] = {
	VMSTATE_U32_VAR(struct vcpu_state, cpuid, ncpuid),
	VMSTATE_UNSAVED(struct vcpu_state, reserved_cpuid, "padding"),
	VMSTATE_U64(struct vcpu_state, tsc_khz),
	VMSTATE_U64(struct vcpu_state, tsc_offset),
	VMSTATE_U32_VAR(struct vcpu_state, msr_index, nmsrs),
	VMSTATE_U64_VAR(struct vcpu_state, msr_value, nmsr_values),
	K_(regs.rax), K_(regs.rbx), K_(regs.rcx), K_(regs.rdx), K_(regs.rsi), K_(regs.rdi),
	K_(regs.rsp), K_(regs.rbp), K_(regs.r8), K_(regs.r9), K_(regs.r10), K_(regs.r11),
	K_(regs.r12), K_(regs.r13), K_(regs.r14), K_(regs.r15), K_(regs.rip), K_(regs.rflags),
	SEG_(sregs.cs), SEG_(sregs.ds), SEG_(sregs.es), SEG_(sregs.fs), SEG_(sregs.gs),
	SEG_(sregs.ss), SEG_(sregs.tr), SEG_(sregs.ldt), TABLE_(sregs.gdt), TABLE_(sregs.idt),
	K_(sregs.cr0), K_(sregs.cr2), K_(sregs.cr3), K_(sregs.cr4), K_(sregs.cr8), K_(sregs.efer),
	K_(sregs.apic_base), K_(sregs.flags), VMSTATE_KU64_ARRAY(struct vcpu_state, sregs.pdptrs),
	VMSTATE_U8_VAR(struct vcpu_state, xsave, xsave_len),
	VMSTATE_UNSAVED(struct vcpu_state, reserved_xsave, "padding"),
	U32_(xcrs.nr_xcrs), U32_(xcrs.flags), VMSTATE_RAW(struct vcpu_state, xcrs.xcrs),
	VMSTATE_UNSAVED(struct vcpu_state, xcrs.padding, "padding of the KVM ABI"),
	VMSTATE_U64(struct vcpu_state, lapic_ns), VMSTATE_RAW(struct vcpu_state, lapic.regs),
	U32_(mp_state.mp_state),
	VMSTATE_UNSAVED(struct vcpu_state, reserved_mp_state, "padding"),
	U8_(events.exception.injected), U8_(events.exception.nr),
	U8_(events.exception.has_error_code), U8_(events.exception.pending),
	U32_(events.exception.error_code),
	U8_(events.interrupt.injected), U8_(events.interrupt.nr), U8_(events.interrupt.soft),
	U8_(events.interrupt.shadow),
	U8_(events.nmi.injected), U8_(events.nmi.pending), U8_(events.nmi.masked),
	VMSTATE_UNSAVED(struct vcpu_state, events.nmi.pad, "padding of the KVM ABI"),
	U32_(events.sipi_vector), U32_(events.flags),
	U8_(events.smi.smm), U8_(events.smi.pending), U8_(events.smi.smm_inside_nmi),
	U8_(events.smi.latched_init), U8_(events.triple_fault.pending),
	VMSTATE_UNSAVED(struct vcpu_state, events.reserved, "reserved in the KVM ABI"),
	U8_(events.exception_has_payload), K_(events.exception_payload),
	VMSTATE_KU64_ARRAY(struct vcpu_state, debugregs.db), K_(debugregs.dr6), K_(debugregs.dr7),
	K_(debugregs.flags),
	VMSTATE_UNSAVED(struct vcpu_state, debugregs.reserved, "reserved in the KVM ABI"),
	VMSTATE_END
};

static int vcpu_post_load(void *data, uint32_t version, struct error *err)
{
	const struct vcpu_state *st = data;

	(void)version;
	if (st->nmsrs != st->nmsr_values)
		return err_set(err, EBADMSG, "%u MSR numbers but %u values", st->nmsrs,
			       st->nmsr_values);
	if (!st->ncpuid || st->ncpuid % (sizeof(struct kvm_cpuid_entry2) / sizeof(uint32_t)))
		return err_set(err, EBADMSG, "field 'cpuid': %u words are not whole entries",
			       st->ncpuid);
	if (st->xcrs.nr_xcrs > KVM_MAX_XCRS)
		return err_set(err, EBADMSG, "field 'xcrs.nr_xcrs': %u", st->xcrs.nr_xcrs);
	return 0;
}

const struct vmstate vcpu_vmstate = {
	.name = "vcpu", .version = 1, .min_version = 1, .size = sizeof(struct vcpu_state),
	.fields = vcpu_fields, .post_load = vcpu_post_load,
};

struct msr_buffer {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[VCPU_MSRS_MAX];
};

/* -ENOENT: KVM does not have it, or not with this value. */
static int one_msr(struct kvm *kvm, int fd, unsigned long request, uint32_t index, uint64_t *value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = index, .data = *value } };
	int r = kvm_call(kvm, fd, request, &m);

	*value = m.entry.data;
	return r < 0 ? r : r == 1 ? 0 : -ENOENT;
}

/*
 * MSRs that must not be written back: the TSC travels as an offset; writing the wall clock makes
 * KVM write to guest RAM, see hw/clock.c; the old kvmclock numbers are second names for the new.
 */
static bool msr_is_special(uint32_t index)
{
	return index == MSR_TSC || index == MSR_KVM_WALL_CLOCK_OLD ||
	       index == MSR_KVM_SYSTEM_TIME_OLD || index == MSR_KVM_WALL_CLOCK_2;
}

int vcpu_state_power_on(struct kvm *kvm, int vcpu_fd, struct error *err)
{
	uint64_t value = MTRR_ENABLE | MTRR_WRITE_BACK;

	if (one_msr(kvm, vcpu_fd, KVM_SET_MSRS, MSR_MTRR_DEF_TYPE, &value) < 0)
		return err_set(err, EINVAL, "KVM_SET_MSRS: IA32_MTRR_DEF_TYPE refused");
	return 0;
}

static void try_msr(struct msr_list *list, struct kvm *kvm, int fd, uint32_t index)
{
	uint64_t value = 0;

	if (msr_is_special(index) || list->count == VCPU_MSRS_MAX)
		return;
	for (uint32_t i = 0; i < list->count; i++)
		if (list->index[i] == index)
			return;
	if (one_msr(kvm, fd, KVM_GET_MSRS, index, &value) == 0 &&
	    one_msr(kvm, fd, KVM_SET_MSRS, index, &value) == 0)
		list->index[list->count++] = index;
}

static void try_msr_range(struct msr_list *list, struct kvm *kvm, int fd, uint32_t first,
			  uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		try_msr(list, kvm, fd, first + i);
}

int msr_list_init(struct msr_list *list, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	static const uint32_t fixed_mtrrs[] = {
		0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
	};
	struct {
		struct kvm_msr_list head;
		uint32_t indices[VCPU_MSRS_MAX];
	} host = { .head.nmsrs = VCPU_MSRS_MAX };
	int r = kvm_call(kvm, kvm->fd, KVM_GET_MSR_INDEX_LIST, &host);

	if (r < 0)
		return err_sys(err, -r, "KVM_GET_MSR_INDEX_LIST (%u MSRs)", host.head.nmsrs);
	list->count = 0;
	for (uint32_t i = 0; i < host.head.nmsrs; i++)
		try_msr(list, kvm, vcpu_fd, host.indices[i]);
	try_msr(list, kvm, vcpu_fd, MSR_DEBUGCTL);
	try_msr_range(list, kvm, vcpu_fd, MSR_MTRR_PHYS_BASE0, MTRR_VARIABLE_MSRS);
	for (size_t i = 0; i < ARRAY_SIZE(fixed_mtrrs); i++)
		try_msr(list, kvm, vcpu_fd, fixed_mtrrs[i]);
	try_msr(list, kvm, vcpu_fd, MSR_MTRR_DEF_TYPE);
	try_msr_range(list, kvm, vcpu_fd, MSR_MC0_CTL, MC_BANK_MSRS);
	return 0;
}

static int get_msrs(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
		    struct error *err)
{
	struct msr_buffer m;
	int r;

	memset(&m.head, 0, sizeof(m.head));
	m.head.nmsrs = msrs->count;
	for (uint32_t i = 0; i < msrs->count; i++)
		m.entries[i] = (struct kvm_msr_entry){ .index = msrs->index[i] };
	r = kvm_call(kvm, fd, KVM_GET_MSRS, &m);
	if (r < 0)
		return err_sys(err, -r, "KVM_GET_MSRS");
	if ((uint32_t)r != msrs->count)
		return err_set(err, EIO, "KVM_GET_MSRS: MSR 0x%x cannot be read", msrs->index[r]);
	st->nmsrs = st->nmsr_values = msrs->count;
	for (uint32_t i = 0; i < msrs->count; i++) {
		st->msr_index[i] = m.entries[i].index;
		st->msr_value[i] = m.entries[i].data;
	}
	return 0;
}

static int set_msrs(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	struct msr_buffer m;
	uint32_t n = 0;
	int r;

	for (uint32_t i = 0; i < st->nmsrs; i++) {
		/* A stream could name them; they are never written, see msr_is_special(). */
		if (st->msr_index[i] == MSR_TSC_DEADLINE || msr_is_special(st->msr_index[i]))
			continue;
		m.entries[n++] = (struct kvm_msr_entry){
			.index = st->msr_index[i], .data = st->msr_value[i],
		};
	}
	m.head = (struct kvm_msrs){ .nmsrs = n };
	r = kvm_call(kvm, fd, KVM_SET_MSRS, &m);
	if (r < 0)
		return err_sys(err, -r, "KVM_SET_MSRS");
	if ((uint32_t)r != n)
		return err_set(err, EINVAL, "KVM_SET_MSRS: this host refuses MSR 0x%x = 0x%llx",
			       m.entries[r].index, (unsigned long long)m.entries[r].data);
	return 0;
}

static int set_tsc_deadline(const struct vcpu_state *st, struct kvm *kvm, int fd,
			    struct error *err)
{
	for (uint32_t i = 0; i < st->nmsrs; i++) {
		uint64_t value = st->msr_value[i];

		if (st->msr_index[i] != MSR_TSC_DEADLINE || !value)
			continue;
		if (one_msr(kvm, fd, KVM_SET_MSRS, MSR_TSC_DEADLINE, &value) < 0)
			return err_set(err, EINVAL, "KVM_SET_MSRS: TSC deadline refused");
	}
	return 0;
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

static int get_sregs(struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err)
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

static int set_sregs(const struct kvm_sregs2 *sregs, struct kvm *kvm, int fd, struct error *err)
{
	struct kvm_sregs old = { 0 };

	if (kvm->has_sregs2)
		return CALL(KVM_SET_SREGS2, sregs);
	/* An injected interrupt travels in the events, not in the bitmap. */
	memcpy(&old, sregs, SREGS_HEAD);
	return CALL(KVM_SET_SREGS, &old);
}

static int get_xsave(struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	if (kvm->xsave_size > sizeof(st->xsave))
		return err_set(err, E2BIG, "XSAVE area of %zu bytes, molt keeps %zu",
			       kvm->xsave_size, sizeof(st->xsave));
	st->xsave_len = (uint32_t)kvm->xsave_size;
	if (kvm->has_xsave2)
		return CALL(KVM_GET_XSAVE2, st->xsave);
	return CALL(KVM_GET_XSAVE, st->xsave);
}

static int get_tsc(struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	int khz;

	if (!st->tsc_khz) { /* it never changes */
		khz = kvm_call_num(kvm, fd, KVM_GET_TSC_KHZ, 0);
		if (khz < 0)
			return err_sys(err, -khz, "KVM_GET_TSC_KHZ");
		st->tsc_khz = (uint64_t)khz;
	}
	if (!kvm->has_tsc_offset)
		return err_set(err, ENOTSUP,
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

int vcpu_state_get(struct vcpu_state *st, struct kvm *kvm, int vcpu_fd,
		   const struct msr_list *msrs, struct error *err)
{
	const int fd = vcpu_fd;
	int r = CALL(KVM_GET_MP_STATE, &st->mp_state);

	if (r == 0)
		r = CALL(KVM_GET_VCPU_EVENTS, &st->events);
	if (r == 0)
		r = get_tsc(st, kvm, fd, err);
	if (r == 0)
		r = get_sregs(&st->sregs, kvm, fd, err);
	if (r == 0)
		r = get_msrs(st, kvm, fd, msrs, err);
	if (r == 0)
		r = CALL(KVM_GET_REGS, &st->regs);
	if (r == 0 && kvm->has_xcrs)
		r = CALL(KVM_GET_XCRS, &st->xcrs);
	if (r == 0)
		r = get_xsave(st, kvm, fd, err);
	if (r == 0)
		r = lapic_timer_get(st, kvm, fd, err);
	if (r == 0)
		r = CALL(KVM_GET_DEBUGREGS, &st->debugregs);
	return r;
}

int vcpu_state_steal_time(struct kvm *kvm, int vcpu_fd, uint64_t *value, struct error *err)
{
	int r;

	*value = 0;
	r = one_msr(kvm, vcpu_fd, KVM_GET_MSRS, MSR_KVM_STEAL_TIME, value);
	if (r < 0 || !(*value & KVM_MSR_ENABLED))
		*value = 0;
	return r < 0 && r != -ENOENT ? err_sys(err, -r, "KVM_GET_MSRS: MSR_KVM_STEAL_TIME") : 0;
}

int vcpu_state_stop_steal_time(struct kvm *kvm, int vcpu_fd, struct error *err)
{
	uint64_t off = 0;

	if (one_msr(kvm, vcpu_fd, KVM_SET_MSRS, MSR_KVM_STEAL_TIME, &off) < 0)
		return err_set(err, EINVAL, "KVM_SET_MSRS: MSR_KVM_STEAL_TIME refused");
	return 0;
}

int vcpu_state_flush_tlb(struct kvm *kvm, int vcpu_fd, struct error *err)
{
	struct kvm_sregs2 sregs;
	int r = get_sregs(&sregs, kvm, vcpu_fd, err);

	if (r < 0)
		return r;
	sregs.cr3 ^= CR3_PWT;
	r = set_sregs(&sregs, kvm, vcpu_fd, err);
	if (r < 0)
		return r;
	sregs.cr3 ^= CR3_PWT;
	for (int try = 0; try < FLUSH_TRIES; try++) {
		r = set_sregs(&sregs, kvm, vcpu_fd, err);
		if (r == 0)
			break;
	}
	return r;
}

void vcpu_state_keep_steal_time(struct vcpu_state *st, uint64_t value)
{
	for (uint32_t i = 0; value && i < st->nmsrs; i++)
		if (st->msr_index[i] == MSR_KVM_STEAL_TIME && !st->msr_value[i])
			st->msr_value[i] = value;
}

void vcpu_state_tell_paused(struct kvm *kvm, int vcpu_fd)
{
	/* Refused where the guest does not use kvmclock: then it has no watchdog that looks there. */
	if (kvm->has_kvmclock_ctrl)
		kvm_call_num(kvm, vcpu_fd, KVM_KVMCLOCK_CTRL, 0);
}

int vcpu_state_set(const struct vcpu_state *st, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	const int fd = vcpu_fd;
	int r;

	if (st->xsave_len < kvm->xsave_size)
		return err_set(err, EINVAL, "XSAVE area of %u bytes, this host has %zu",
			       st->xsave_len, kvm->xsave_size);
	r = vcpu_state_set_cpuid(st, kvm, fd, err);
	if (r == 0)
		r = set_tsc(st, kvm, fd, err);
	if (r == 0)
		r = set_sregs(&st->sregs, kvm, fd, err);
	if (r == 0)
		r = set_msrs(st, kvm, fd, err);
	if (r == 0)
		r = CALL(KVM_SET_REGS, &st->regs);
	if (r == 0 && kvm->has_xcrs)
		r = CALL(KVM_SET_XCRS, &st->xcrs);
	if (r == 0)
		r = CALL(KVM_SET_XSAVE, st->xsave);
	if (r == 0)
		r = lapic_timer_set(st, kvm, fd, err);
	if (r == 0)
		r = set_tsc_deadline(st, kvm, fd, err);
	if (r == 0)
		r = CALL(KVM_SET_MP_STATE, &st->mp_state);
	if (r == 0)
		r = CALL(KVM_SET_VCPU_EVENTS, &st->events);
	if (r == 0)
		r = CALL(KVM_SET_DEBUGREGS, &st->debugregs);
	if (r == 0)
		vcpu_state_tell_paused(kvm, fd);
	return r;
}
