/* SPDX-License-Identifier: MIT */
/* The section "vcpu" of the state stream. */
#include <errno.h>

#include <molt/vm/vcpu_state.h>

/* clang-format off */
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
	VMSTATE_UNSAVED(struct vcpu_state, wall_clock, "section clock"),
	VMSTATE_END
};
/* clang-format on */

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
	.name = "vcpu",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct vcpu_state),
	.fields = vcpu_fields,
	.post_load = vcpu_post_load,
};
