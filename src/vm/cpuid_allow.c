/* SPDX-License-Identifier: MIT */
/*
 * The bits of CPUID that a guest may see. Theory of operation.
 *
 * KVM offers what the host and its kernel can do, and each new kernel can do more. molt can carry
 * the state that it knows of (vcpu_kinds), so a bit is offered only where somebody has looked at
 * what state comes with it: that is this list, leaf by leaf, register by register. A bit that
 * brings state names its row; where this host's KVM lacks that row the bit is not offered. What
 * is left out has its reason beside it; a leaf that is not here is empty.
 *
 * It is what Linux 6.1 to 6.18 offer (arch/x86/kvm/cpuid.c, vmx.c and svm.c), less what is named.
 * Leaves and bits that describe the one vCPU are made in cpuid.c. Bits: Intel SDM volume 2A,
 * "CPUID"; AMD APM volume 3, appendix E; Linux, Documentation/virt/kvm/x86/cpuid.rst.
 */
#include <string.h>

#include <asm/kvm_para.h>

#include <molt/base/fd.h>
#include <molt/vm/cpuid_allow.h>

/* clang-format off */
#define BITS(...) (const struct cpuid_bits[]){ __VA_ARGS__, { .name = NULL } }
#define FIELD(first, count, name, kind) { name, first, count, VCPU_##kind }
#define B(bit, name, kind) FIELD(bit, 1, name, kind)
#define ALL(name, kind) FIELD(0, 32, name, kind)
#define VCPU_NONE CPUID_NO_STATE

/* Subleaves of 0xd: AVX, MPX, AVX-512, PKRU, AMX, as in the row of its EAX. */
#define XSAVE_AREAS (1u << 2 | 3u << 3 | 7u << 5 | 1u << 9 | 3u << 17)

const struct cpuid_rule cpuid_rules[] = {
	/* 0x0: highest leaf (see fix_entry()) and vendor */
	{ 0x0, 0, CPUID_REGS, BITS(ALL("max_leaf_and_vendor", NONE)) },

	/* 0x1 EAX: family, model, stepping; EBX: the size that CLFLUSH flushes, the rest is made */
	{ 0x1, 0, CPUID_EAX, BITS(ALL("signature", NONE)) },
	{ 0x1, 0, CPUID_EBX, BITS(FIELD(8, 8, "clflush_size", NONE)) },

	/*
	 * 0x1 ECX. Left out: 3 MONITOR, 7 EIST, 8 TM2: of the host's power management. 5 VMX: a
	 * nested guest's state has no row. 6 SMX, 4 DS-CPL, 10 CNXT-ID, 11 SDBG, 14 xTPR, 16, 18
	 * DCA: no KVM has them. 27 OSXSAVE: KVM's, from CR4. 24 TSC deadline, 31 hypervisor: made,
	 * see fix_leaf1(). With 15 PDCM comes an MSR that tells of no last branch record, for that
	 * has no row: vcpu_state_power_on().
	 */
	{ 0x1, 0, CPUID_ECX, BITS(
		B(0, "pni", XSAVE), B(1, "pclmulqdq", XSAVE), B(2, "dtes64", MSRS),
		B(9, "ssse3", XSAVE), B(12, "fma", XSAVE), B(13, "cx16", NONE),
		B(15, "pdcm", MSRS), B(17, "pcid", SREGS), B(19, "sse4_1", XSAVE),
		B(20, "sse4_2", XSAVE), B(21, "x2apic", LAPIC), B(22, "movbe", NONE),
		B(23, "popcnt", NONE), B(25, "aes", XSAVE), B(26, "xsave", XCRS),
		B(28, "avx", XSAVE), B(29, "f16c", XSAVE), B(30, "rdrand", NONE)) },

	/* 0x1 EDX. Left out: 18 PSN, 22 ACPI, 29 TM, 30, 31 PBE: of the host. 28 HTT: made */
	{ 0x1, 0, CPUID_EDX, BITS(
		B(0, "fpu", XSAVE), B(1, "vme", SREGS), B(2, "de", DEBUGREGS),
		B(3, "pse", SREGS), B(4, "tsc", TSC), B(5, "msr", MSRS), B(6, "pae", SREGS),
		B(7, "mce", MSRS), B(8, "cx8", NONE), B(9, "apic", LAPIC), B(11, "sep", MSRS),
		B(12, "mtrr", MSRS), B(13, "pge", SREGS), B(14, "mca", MSRS),
		B(15, "cmov", NONE), B(16, "pat", MSRS), B(17, "pse36", SREGS),
		B(19, "clflush", NONE), B(21, "dts", MSRS), B(23, "mmx", XSAVE),
		B(24, "fxsr", XSAVE), B(25, "sse", XSAVE), B(26, "sse2", XSAVE),
		B(27, "ss", NONE)) },

	/*
	 * 0x2, 0x4: caches and TLBs. 0x3, 0x5, 0x8, 0x9, 0xc, 0xe: serial number, MONITOR,
	 * reserved
	 */
	{ 0x2, 0, CPUID_REGS, BITS(ALL("caches", NONE)) },
	{ 0x4, CPUID_ANY_INDEX, CPUID_REGS, BITS(ALL("caches", NONE)) },

	/* 0x6. Left out: all but this of thermal and power management is the host's */
	{ 0x6, 0, CPUID_EAX, BITS(B(2, "arat", LAPIC)) },

	/* 0x7 */
	{ 0x7, 0, CPUID_EAX, BITS(ALL("max_subleaf", NONE)) },

	/*
	 * 0x7 EBX. Left out: 2 SGX: an enclave's pages have no row, and molt gives none. 12 PQM,
	 * 15 PQE: host's. 25 Intel PT: its MSRs cannot be set in the order of KVM's list while it
	 * traces.
	 */
	{ 0x7, 0, CPUID_EBX, BITS(
		B(0, "fsgsbase", SREGS), B(1, "tsc_adjust", MSRS), B(3, "bmi1", NONE),
		B(4, "hle", NONE), B(5, "avx2", XSAVE), B(6, "fdp_excptn_only", NONE),
		B(7, "smep", SREGS), B(8, "bmi2", NONE), B(9, "erms", NONE),
		B(10, "invpcid", NONE), B(11, "rtm", MSRS), B(13, "zero_fcs_fds", NONE),
		B(14, "mpx", XSAVE), B(16, "avx512f", XSAVE), B(17, "avx512dq", XSAVE),
		B(18, "rdseed", NONE), B(19, "adx", NONE), B(20, "smap", SREGS),
		B(21, "avx512ifma", XSAVE), B(23, "clflushopt", NONE), B(24, "clwb", NONE),
		B(26, "avx512pf", XSAVE), B(27, "avx512er", XSAVE), B(28, "avx512cd", XSAVE),
		B(29, "sha_ni", XSAVE), B(30, "avx512bw", XSAVE), B(31, "avx512vl", XSAVE)) },

	/*
	 * 0x7 ECX. Left out: 7 SHSTK: its pointer, KVM_REG_GUEST_SSP, has no row: the first RET
	 * after an update would fault. 30 SGX_LC: see SGX. 4 OSPKE: KVM's, from CR4. 13 TME, 23
	 * Key Locker (keys that nobody can read), 29 ENQCMD (IA32_PASID), 31 PKS (IA32_PKRS): no
	 * KVM has them.
	 */
	{ 0x7, 0, CPUID_ECX, BITS(
		B(1, "avx512vbmi", XSAVE), B(2, "umip", SREGS), B(3, "pku", XSAVE),
		B(5, "waitpkg", MSRS), B(6, "avx512_vbmi2", XSAVE), B(8, "gfni", XSAVE),
		B(9, "vaes", XSAVE), B(10, "vpclmulqdq", XSAVE), B(11, "avx512_vnni", XSAVE),
		B(12, "avx512_bitalg", XSAVE), B(14, "avx512_vpopcntdq", XSAVE),
		B(16, "la57", SREGS), B(22, "rdpid", MSRS), B(24, "bus_lock_detect", MSRS),
		B(25, "cldemote", NONE), B(27, "movdiri", NONE), B(28, "movdir64b", NONE)) },

	/*
	 * 0x7 EDX. Left out: 20 IBT: goes with SHSTK (IA32_S_CET and its component of XSAVE are
	 * both's). 19 Arch LBR: the branch records have no row. 5 UINTR: its MSRs are in no list.
	 * 15 hybrid: the host's. 18 PCONFIG, 30 core capabilities: no KVM has them.
	 */
	{ 0x7, 0, CPUID_EDX, BITS(
		B(2, "avx512_4vnniw", XSAVE), B(3, "avx512_4fmaps", XSAVE), B(4, "fsrm", NONE),
		B(8, "avx512_vp2intersect", XSAVE), B(10, "md_clear", NONE),
		B(14, "serialize", NONE), B(16, "tsxldtrk", NONE), B(22, "amx_bf16", XSAVE),
		B(23, "avx512_fp16", XSAVE), B(24, "amx_tile", XSAVE), B(25, "amx_int8", XSAVE),
		B(26, "spec_ctrl", MSRS), B(27, "intel_stibp", MSRS), B(28, "flush_l1d", MSRS),
		B(29, "arch_capabilities", MSRS), B(31, "spec_ctrl_ssbd", MSRS)) },

	/*
	 * 0x7.1 EAX. Left out: 17 FRED: its MSRs and the state of an event are newer than this
	 * list. 6 LASS, 3 RAO-INT, 27 MSRLIST, 31 MOVRS: no KVM had them when this was written. 8,
	 * 22, 30: the host's.
	 */
	{ 0x7, 1, CPUID_EAX, BITS(
		B(0, "sha512", XSAVE), B(1, "sm3", XSAVE), B(2, "sm4", XSAVE),
		B(4, "avx_vnni", XSAVE), B(5, "avx512_bf16", XSAVE), B(7, "cmpccxadd", NONE),
		B(10, "fzrm", NONE), B(11, "fsrs", NONE), B(12, "fsrc", NONE),
		B(18, "lkgs", MSRS), B(19, "wrmsrns", NONE), B(21, "amx_fp16", XSAVE),
		B(23, "avx_ifma", XSAVE), B(26, "lam", SREGS)) },

	/*
	 * 0x7.1 ECX, EDX. Left out: EDX 15 USER_MSR, 17 UIRET: MSRs that are in no list. 18
	 * CET_SSS: see SHSTK. 21 APX: registers that no KVM has carried yet.
	 */
	{ 0x7, 1, CPUID_ECX, BITS(B(5, "msr_imm", NONE)) },
	{ 0x7, 1, CPUID_EDX, BITS(
		B(4, "avx_vnni_int8", XSAVE), B(5, "avx_ne_convert", XSAVE),
		B(8, "amx_complex", XSAVE), B(10, "avx_vnni_int16", XSAVE),
		B(14, "prefetchiti", NONE), B(19, "avx10", XSAVE)) },

	/* 0x7.2 EDX. All are controls in IA32_SPEC_CTRL */
	{ 0x7, 2, CPUID_EDX, BITS(
		B(0, "intel_psfd", MSRS), B(1, "ipred_ctrl", MSRS), B(2, "rrsba_ctrl", MSRS),
		B(3, "ddpd_u", MSRS), B(4, "bhi_ctrl", MSRS), B(5, "mcdt_no", NONE)) },

	/* 0xa: performance counters; their MSRs are in KVM's list. 0xb, 0x1f: made */
	{ 0xa, 0, CPUID_EAX, BITS(ALL("arch_perfmon", MSRS)) },
	{ 0xa, 0, CPUID_EBX, BITS(ALL("arch_perfmon", MSRS)) },
	{ 0xa, 0, CPUID_EDX, BITS(FIELD(0, 16, "arch_perfmon", MSRS)) },

	/*
	 * 0xd: components of the XSAVE area and of XCR0; sizes are made, see fix_xsave(). Left
	 * out: 8 PT, 10 PASID, 11, 12 CET, 13 HDC, 14 UINTR, 15 LBR, 16 HWP (those of IA32_XSS),
	 * 19 APX, 62 LWP: see the bits that need them. AMX: a process must ask for it; molt does
	 * not, so KVM offers no area for it.
	 */
	{ 0xd, 0, CPUID_EAX, BITS(
		B(0, "x87", XSAVE), B(1, "sse_area", XSAVE), B(2, "avx_area", XSAVE),
		FIELD(3, 2, "mpx_area", XSAVE), FIELD(5, 3, "avx512_area", XSAVE),
		B(9, "pku_area", XSAVE), FIELD(17, 2, "amx_area", XSAVE)) },
	{ 0xd, 0, CPUID_EBX, BITS(ALL("xsave_size", NONE)) },
	{ 0xd, 0, CPUID_ECX, BITS(ALL("xsave_size", NONE)) },
	{ 0xd, 1, CPUID_EAX, BITS(
		B(0, "xsaveopt", XSAVE), B(1, "xsavec", XSAVE), B(2, "xgetbv1", XCRS),
		B(3, "xsaves", MSRS), B(4, "xfd", MSRS)) },
	{ 0xd, 1, CPUID_EBX, BITS(ALL("xsave_size", NONE)) },
	{ 0xd, CPUID_XSAVE_AREAS, CPUID_EAX, BITS(ALL("xsave_area", XSAVE)) },
	{ 0xd, CPUID_XSAVE_AREAS, CPUID_EBX, BITS(ALL("xsave_area", XSAVE)) },
	{ 0xd, CPUID_XSAVE_AREAS, CPUID_ECX, BITS(FIELD(1, 2, "xsave_area", XSAVE)) },

	/*
	 * 0xf, 0x10: QoS, 0x12: SGX, 0x14: PT, 0x15 to 0x1c: host's clocks, LBR: empty. 0x1d,
	 * 0x1e: the shape of AMX tiles. 0x24: AVX10
	 */
	{ 0x1d, CPUID_ANY_INDEX, CPUID_EAX, BITS(ALL("amx_tile", XSAVE)) },
	{ 0x1d, CPUID_ANY_INDEX, CPUID_EBX, BITS(ALL("amx_tile", XSAVE)) },
	{ 0x1d, CPUID_ANY_INDEX, CPUID_ECX, BITS(ALL("amx_tile", XSAVE)) },
	{ 0x1e, CPUID_ANY_INDEX, CPUID_REGS, BITS(ALL("amx_tile", XSAVE)) },
	{ 0x24, 0, CPUID_EBX, BITS(
		FIELD(0, 8, "avx10_version", XSAVE), FIELD(16, 3, "avx10_sizes", XSAVE)) },

	/*
	 * 0x40000000: KVM. 0x40000001 EAX. Left out: 7 PV_UNHALT: a kick just before the HLT is
	 * told by no ioctl. 2 MMU_OP: gone. 15 MSI_EXT_DEST_ID, 16 HC_MAP_GPA_RANGE, 17
	 * MIGRATION_CONTROL: molt has no part in them. EDX: hints about host CPUs. Leaves of
	 * Hyper-V and Xen: molt offers neither.
	 */
	{ KVM_CPUID_SIGNATURE, 0, CPUID_REGS, BITS(ALL("kvm", NONE)) },
	{ KVM_CPUID_FEATURES, 0, CPUID_EAX, BITS(
		B(0, "kvm_clocksource", MSRS), B(1, "kvm_nop_io_delay", NONE),
		B(3, "kvm_clocksource2", MSRS), B(4, "kvm_async_pf", MSRS),
		B(5, "kvm_steal_time", MSRS), B(6, "kvm_pv_eoi", MSRS),
		B(9, "kvm_pv_tlb_flush", MSRS), B(10, "kvm_async_pf_vmexit", MSRS),
		B(11, "kvm_pv_send_ipi", NONE), B(12, "kvm_poll_control", MSRS),
		B(13, "kvm_pv_sched_yield", NONE), B(14, "kvm_async_pf_int", MSRS),
		B(24, "kvm_clocksource_stable", MSRS)) },

	/*
	 * 0x80000000: highest leaf and AMD's vendor. 0x80000001 EAX, EBX: AMD's signature and
	 * brand
	 */
	{ 0x80000000, 0, CPUID_REGS, BITS(ALL("max_leaf_and_vendor", NONE)) },
	{ 0x80000001, 0, CPUID_EAX, BITS(ALL("signature", NONE)) },
	{ 0x80000001, 0, CPUID_EBX, BITS(ALL("signature", NONE)) },

	/*
	 * 0x80000001 ECX. Left out: 2 SVM, 12 SKINIT: a nested guest's state has no row. 3 APIC
	 * extension, 10 IBS, 13 WDT, 15 LWP, 24 to 28 counters of the uncore and more, 29 MWAITX:
	 * state or MSRs without a row. The MSRs of 9 OSVW are the host's, in each KVM VM; what a
	 * guest writes there, which has no reason to, an update would lose.
	 */
	{ 0x80000001, 0, CPUID_ECX, BITS(
		B(0, "lahf_lm", NONE), B(1, "cmp_legacy", NONE), B(4, "cr8_legacy", LAPIC),
		B(5, "abm", NONE), B(6, "sse4a", XSAVE), B(7, "misalignsse", NONE),
		B(8, "3dnowprefetch", NONE), B(9, "osvw", NONE), B(11, "xop", XSAVE),
		B(16, "fma4", XSAVE), B(21, "tbm", NONE), B(22, "topoext", NONE),
		B(23, "perfctr_core", MSRS)) },

	/* 0x80000001 EDX */
	{ 0x80000001, 0, CPUID_EDX, BITS(
		B(0, "fpu", XSAVE), B(1, "vme", SREGS), B(2, "de", DEBUGREGS),
		B(3, "pse", SREGS), B(4, "tsc", TSC), B(5, "msr", MSRS), B(6, "pae", SREGS),
		B(7, "mce", MSRS), B(8, "cx8", NONE), B(9, "apic", LAPIC),
		B(11, "syscall", MSRS), B(12, "mtrr", MSRS), B(13, "pge", SREGS),
		B(14, "mca", MSRS), B(15, "cmov", NONE), B(16, "pat", MSRS),
		B(17, "pse36", SREGS), B(20, "nx", SREGS), B(22, "mmxext", XSAVE),
		B(23, "mmx", XSAVE), B(24, "fxsr", XSAVE), B(25, "fxsr_opt", XSAVE),
		B(26, "pdpe1gb", NONE), B(27, "rdtscp", MSRS), B(29, "lm", SREGS),
		B(30, "3dnowext", XSAVE), B(31, "3dnow", XSAVE)) },

	/* 0x80000002 to 4: the name. 5, 6, 0x19, 0x1a, 0x1d: caches, TLBs, widths. 0x1e: made */
	{ 0x80000002, 0, CPUID_REGS, BITS(ALL("brand", NONE)) },
	{ 0x80000003, 0, CPUID_REGS, BITS(ALL("brand", NONE)) },
	{ 0x80000004, 0, CPUID_REGS, BITS(ALL("brand", NONE)) },
	{ 0x80000005, 0, CPUID_REGS, BITS(ALL("caches", NONE)) },
	{ 0x80000006, 0, CPUID_REGS, BITS(ALL("caches", NONE)) },

	/* 0x80000007 EDX. Left out: all else of power management and RAS is the host's */
	{ 0x80000007, 0, CPUID_EDX, BITS(B(8, "constant_tsc", TSC)) },

	/*
	 * 0x80000008 EAX: widths of addresses; ECX is made. EBX. Left out: 1 IRPERF, 3 INVLPGB, 4
	 * RDPRU, 6 MBE, 8 MCOMMIT, 13, 18, 20, 23, 27 CPPC: no KVM has them, or they are the
	 * host's.
	 */
	{ 0x80000008, 0, CPUID_EAX, BITS(ALL("address_widths", NONE)) },
	{ 0x80000008, 0, CPUID_EBX, BITS(
		B(0, "clzero", NONE), B(2, "xsaveerptr", XSAVE), B(9, "wbnoinvd", NONE),
		B(12, "amd_ibpb", MSRS), B(14, "amd_ibrs", MSRS), B(15, "amd_stibp", MSRS),
		B(17, "amd_stibp_always_on", NONE), B(19, "amd_ibrs_same_mode", NONE),
		B(24, "amd_ssbd", MSRS), B(25, "virt_ssbd", MSRS), B(26, "amd_ssb_no", NONE),
		B(28, "amd_psfd", MSRS), B(29, "btc_no", NONE), B(30, "amd_ibpb_ret", NONE)) },
	{ 0x80000008, 0, CPUID_ECX, BITS(ALL("core_count", NONE)) },

	/* 0x8000000a: SVM, 0x8000001b: IBS, 0x8000001c: LWP: empty, see above */
	{ 0x80000019, 0, CPUID_EAX, BITS(ALL("caches", NONE)) },
	{ 0x80000019, 0, CPUID_EBX, BITS(ALL("caches", NONE)) },
	{ 0x8000001a, 0, CPUID_EAX, BITS(FIELD(0, 3, "fp_widths", NONE)) },
	{ 0x8000001d, CPUID_ANY_INDEX, CPUID_REGS, BITS(ALL("caches", NONE)) },
	{ 0x8000001e, 0, CPUID_REGS, BITS(ALL("topology", NONE)) },

	/*
	 * 0x8000001f: SEV: empty, for molt starts no encrypted guest. 0x80000020: QoS: empty.
	 * 0x80000021 EAX. Left out: 3 SmmPgCfgLock, 7 UAI, 13 PrefetchCtl, 17 user CPUID faulting,
	 * 18 EPSF: MSRs that are in no list.
	 */
	{ 0x80000021, 0, CPUID_EAX, BITS(
		B(0, "no_nested_data_bp", NONE), B(1, "wrmsr_xx_base_ns", NONE),
		B(2, "lfence_rdtsc", NONE), B(5, "verw_clear", NONE),
		B(6, "null_sel_clr_base", NONE), B(8, "autoibrs", SREGS),
		B(9, "no_smm_ctl_msr", NONE), B(20, "prefetchi", NONE), B(27, "sbpb", MSRS),
		B(28, "ibpb_brtype", NONE), B(29, "srso_no", NONE),
		B(30, "srso_user_kernel_no", NONE)) },
	{ 0x80000021, 0, CPUID_ECX, BITS(B(1, "tsa_sq_no", NONE), B(2, "tsa_l1_no", NONE)) },

	/* 0x80000022: performance counters. 0x80000023 and on: empty */
	{ 0x80000022, 0, CPUID_EAX, BITS(B(0, "perfmon_v2", MSRS)) },
	{ 0x80000022, 0, CPUID_EBX, BITS(FIELD(0, 4, "perfmon_v2", MSRS)) },

	/* 0xc0000000, 0xc0000001: PadLock of Zhaoxin and VIA, which works in RAM */
	{ 0xc0000000, 0, CPUID_EAX, BITS(ALL("max_leaf", NONE)) },
	{ 0xc0000001, 0, CPUID_EDX, BITS(
		B(2, "rng", NONE), B(3, "rng_en", NONE), B(6, "ace", NONE),
		B(7, "ace_en", NONE), B(8, "ace2", NONE), B(9, "ace2_en", NONE),
		B(10, "phe", NONE), B(11, "phe_en", NONE), B(12, "pmm", NONE),
		B(13, "pmm_en", NONE)) },
};
/* clang-format on */

const size_t cpuid_rules_count = ARRAY_SIZE(cpuid_rules);

static bool covers(const struct cpuid_rule *rule, uint32_t function, uint32_t index)
{
	if (rule->function != function)
		return false;
	if (rule->index == CPUID_XSAVE_AREAS)
		return index < 32 && (XSAVE_AREAS >> index & 1);
	return rule->index == CPUID_ANY_INDEX || rule->index == index;
}

static uint32_t mask_of(const struct cpuid_bits *bits)
{
	return (bits->count == 32 ? ~0u : (1u << bits->count) - 1) << bits->first;
}

uint32_t cpuid_allowed(const struct kvm *kvm, uint32_t function, uint32_t index, enum cpuid_reg reg)
{
	uint32_t mask = 0;

	for (const struct cpuid_rule *rule = cpuid_rules; rule < cpuid_rules + cpuid_rules_count;
	     rule++) {
		if (!covers(rule, function, index) || (rule->reg != reg && rule->reg != CPUID_REGS))
			continue;
		for (const struct cpuid_bits *b = rule->bits; b->name; b++)
			if (b->needs == CPUID_NO_STATE || !vcpu_kind_is_left_out(kvm, b->needs))
				mask |= mask_of(b);
	}
	return mask;
}

struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid_entry2 *e, uint32_t n, uint32_t function,
				    uint32_t index)
{
	for (uint32_t i = 0; i < n; i++)
		if (e[i].function == function && e[i].index == index)
			return (struct kvm_cpuid_entry2 *)&e[i];
	return NULL;
}

uint32_t *cpuid_reg(struct kvm_cpuid_entry2 *e, enum cpuid_reg reg)
{
	uint32_t *const regs[] = { &e->eax, &e->ebx, &e->ecx, &e->edx };

	return regs[reg];
}

bool cpuid_filter(const struct kvm *kvm, struct kvm_cpuid_entry2 *e)
{
	uint32_t any = 0;

	for (enum cpuid_reg reg = CPUID_EAX; reg < CPUID_REGS; reg++) {
		uint32_t allowed = cpuid_allowed(kvm, e->function, e->index, reg);

		*cpuid_reg(e, reg) &= allowed;
		any |= allowed;
	}
	return any != 0;
}

const struct cpuid_rule *cpuid_find_bit(const char *name, uint32_t *mask)
{
	for (const struct cpuid_rule *rule = cpuid_rules; rule < cpuid_rules + cpuid_rules_count;
	     rule++)
		for (const struct cpuid_bits *b = rule->bits; b->name; b++)
			if (strcmp(b->name, name) == 0) {
				*mask = mask_of(b);
				return rule;
			}
	return NULL;
}
