/* SPDX-License-Identifier: MIT */
/* MSRs: which ones are a vCPU's state, reading and writing them. */
#include <asm/kvm_para.h>
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>

#include "msrs.h"

#define MSR_TSC 0x10u
#define MSR_KVM_WALL_CLOCK_OLD 0x11u
#define MSR_KVM_SYSTEM_TIME_OLD 0x12u
#define MSR_DEBUGCTL 0x1d9u
#define MSR_MTRR_PHYS_BASE0 0x200u
#define MSR_MTRR_DEF_TYPE 0x2ffu
#define MSR_MC0_CTL 0x400u
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_KVM_WALL_CLOCK_2 0x4b564d00u
#define MSR_HV_HYPERCALL 0x40000001u
#define MSR_HV_VP_ASSIST_PAGE 0x40000073u
#define MSR_PAGE_ENABLE 1ull /* of MSRs with the address of a page that the guest gives to KVM */
#define MTRR_VARIABLE_MSRS 16u
#define MTRR_ENABLE (1u << 11) /* Intel SDM volume 3, "IA32_MTRR_DEF_TYPE MSR" */
#define MTRR_WRITE_BACK 6u
#define MC_BANK_MSRS (32u * 4u)

struct msr_buffer {
	struct kvm_msrs head;
	struct kvm_msr_entry entries[VCPU_MSRS_MAX + 1];
};

int msr_call(struct kvm *kvm, int fd, unsigned long request, uint32_t index, uint64_t *value)
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

	if (msr_call(kvm, vcpu_fd, KVM_SET_MSRS, MSR_MTRR_DEF_TYPE, &value) < 0)
		return err_set(err, EINVAL, "KVM_SET_MSRS: IA32_MTRR_DEF_TYPE refused");
	return 0;
}

static bool has_msr(const struct msr_list *list, uint32_t index)
{
	for (uint32_t i = 0; i < list->count; i++)
		if (list->index[i] == index)
			return true;
	return false;
}

static void add_msr(struct msr_list *list, uint32_t index)
{
	if (!msr_is_special(index) && list->count < VCPU_MSRS_MAX && !has_msr(list, index))
		list->index[list->count++] = index;
}

static void add_msr_range(struct msr_list *list, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		add_msr(list, first + i);
}

/* All that a vCPU of this host may have; whether it can be read and set is another thing. */
static int list_hosts_msrs(struct msr_list *list, struct kvm *kvm, struct error *err)
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
		add_msr(list, host.indices[i]);
	add_msr(list, MSR_DEBUGCTL);
	add_msr_range(list, MSR_MTRR_PHYS_BASE0, MTRR_VARIABLE_MSRS);
	for (size_t i = 0; i < ARRAY_SIZE(fixed_mtrrs); i++)
		add_msr(list, fixed_mtrrs[i]);
	add_msr(list, MSR_MTRR_DEF_TYPE);
	add_msr_range(list, MSR_MC0_CTL, MC_BANK_MSRS);
	return 0;
}

static bool is_usable(struct kvm *kvm, int fd, uint32_t index)
{
	uint64_t value = 0;

	return msr_call(kvm, fd, KVM_GET_MSRS, index, &value) == 0 &&
	       msr_call(kvm, fd, KVM_SET_MSRS, index, &value) == 0;
}

static void sort_out(const struct msr_list *from, struct msr_lists *lists, struct kvm *kvm, int fd)
{
	for (uint32_t i = 0; i < from->count; i++)
		add_msr(is_usable(kvm, fd, from->index[i]) ? &lists->saved : &lists->refused,
			from->index[i]);
}

int msr_lists_init(struct msr_lists *lists, struct kvm *kvm, int vcpu_fd, struct error *err)
{
	struct msr_list host;
	int r = list_hosts_msrs(&host, kvm, err);

	if (r < 0)
		return r;
	lists->saved.count = lists->refused.count = 0;
	sort_out(&host, lists, kvm, vcpu_fd);
	return 0;
}

/* On a vCPU that nobody runs: one that runs would have to stop, and may have state there. */
static int sort_out_apart(const struct msr_list *from, struct msr_lists *lists, struct kvm *kvm,
			  const struct vcpu_state *like, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct kvm_vm vm;
	int r = kvm_vm_create(&vm, kvm, -1, err);

	if (r < 0)
		return r;
	r = kvm_call_num(kvm, vm.fd, KVM_CREATE_IRQCHIP, 0);
	if (r == 0)
		r = fd = kvm_call_num(kvm, vm.fd, KVM_CREATE_VCPU, 0);
	if (r < 0)
		err_sys(err, -r, "a vCPU to try MSRs on");
	else
		r = vcpu_state_set_cpuid(like, kvm, fd, err);
	if (r == 0)
		sort_out(from, lists, kvm, fd);
	kvm_vm_destroy(&vm);
	return r;
}

int msr_lists_complete(struct msr_lists *lists, struct kvm *kvm, const struct vcpu_state *like,
		       struct error *err)
{
	struct msr_list host, missing = { 0 };
	int r = list_hosts_msrs(&host, kvm, err);

	for (uint32_t i = 0; r == 0 && i < host.count; i++)
		if (!has_msr(&lists->saved, host.index[i]) &&
		    !has_msr(&lists->refused, host.index[i]))
			add_msr(&missing, host.index[i]);
	return r < 0 || !missing.count ? r : sort_out_apart(&missing, lists, kvm, like, err);
}

static void add_entry(struct msr_buffer *m, uint32_t index, uint64_t value)
{
	m->entries[m->head.nmsrs++] = (struct kvm_msr_entry){ .index = index, .data = value };
}

int msrs_save(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
	      struct error *err)
{
	struct msr_buffer m;
	int r;

	memset(&m.head, 0, sizeof(m.head));
	for (uint32_t i = 0; i < msrs->count; i++)
		add_entry(&m, msrs->index[i], 0);
	/* The last, for KVM stops at one that it does not have: a host without kvmclock. */
	add_entry(&m, MSR_KVM_WALL_CLOCK_2, 0);
	r = kvm_call(kvm, fd, KVM_GET_MSRS, &m);
	if (r < 0)
		return err_sys(err, -r, "KVM_GET_MSRS");
	if ((uint32_t)r < msrs->count)
		return err_set(err, EIO, "KVM_GET_MSRS: MSR 0x%x cannot be read", msrs->index[r]);
	st->nmsrs = st->nmsr_values = msrs->count;
	st->wall_clock = (uint32_t)r > msrs->count ? m.entries[msrs->count].data : 0;
	for (uint32_t i = 0; i < msrs->count; i++) {
		st->msr_index[i] = m.entries[i].index;
		st->msr_value[i] = m.entries[i].data;
	}
	return 0;
}

/* The wall clock is the last here, too. */
int msrs_save_again(struct vcpu_state *st, struct kvm *kvm, int fd, bool tsc_deadline,
		    bool wall_clock, struct error *err)
{
	struct msr_buffer m;
	int r = 0;

	memset(&m.head, 0, sizeof(m.head));
	if (tsc_deadline)
		add_entry(&m, MSR_TSC_DEADLINE, 0);
	if (wall_clock)
		add_entry(&m, MSR_KVM_WALL_CLOCK_2, 0);
	if (m.head.nmsrs)
		r = kvm_call(kvm, fd, KVM_GET_MSRS, &m);
	if (r < 0)
		return err_sys(err, -r, "KVM_GET_MSRS");
	for (uint32_t i = 0; i < st->nmsrs && tsc_deadline && r > 0; i++)
		if (st->msr_index[i] == MSR_TSC_DEADLINE)
			st->msr_value[i] = m.entries[0].data;
	if (wall_clock)
		st->wall_clock = (uint32_t)r == m.head.nmsrs ? m.entries[r - 1].data : 0;
	return 0;
}

static int set_entries(struct msr_buffer *m, struct kvm *kvm, int fd, struct error *err)
{
	int r = kvm_call(kvm, fd, KVM_SET_MSRS, m);

	if (r < 0)
		return err_sys(err, -r, "KVM_SET_MSRS");
	if ((uint32_t)r != m->head.nmsrs)
		return err_set(err, EINVAL, "KVM_SET_MSRS: this host refuses MSR 0x%x = 0x%llx",
			       m->entries[r].index, (unsigned long long)m->entries[r].data);
	return 0;
}

/* A stream could name special ones; they are never written. */
static bool is_set_with_the_rest(uint32_t index)
{
	return index != MSR_TSC_DEADLINE && !msr_is_special(index);
}

int msrs_load(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	struct msr_buffer m;

	memset(&m.head, 0, sizeof(m.head));
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (is_set_with_the_rest(st->msr_index[i]))
			add_entry(&m, st->msr_index[i], st->msr_value[i]);
	return set_entries(&m, kvm, fd, err);
}

int msrs_load_tsc_deadline(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	for (uint32_t i = 0; i < st->nmsrs; i++) {
		uint64_t value = st->msr_value[i];

		if (st->msr_index[i] != MSR_TSC_DEADLINE || !value)
			continue;
		if (msr_call(kvm, fd, KVM_SET_MSRS, MSR_TSC_DEADLINE, &value) < 0)
			return err_set(err, EINVAL, "KVM_SET_MSRS: TSC deadline refused");
	}
	return 0;
}

/*
 * What KVM may be told while the guest runs elsewhere. By these it would act: a page that is
 * enabled is written to when it is set (Hyper-V's) or whenever KVM lets go of the vCPU (steal time,
 * before Linux 5.19), an acknowledgement has the next page announced, a timer fires.
 */
static uint64_t rehearsed(uint32_t index, uint64_t value)
{
	switch (index) {
	case MSR_KVM_STEAL_TIME:
	case MSR_HV_HYPERCALL:
	case MSR_HV_VP_ASSIST_PAGE:
		return value & ~MSR_PAGE_ENABLE;
	case MSR_KVM_ASYNC_PF_ACK:
	case MSR_TSC_DEADLINE:
		return 0;
	default:
		return value;
	}
}

int msrs_rehearse(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	struct msr_buffer m;

	memset(&m.head, 0, sizeof(m.head));
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (is_set_with_the_rest(st->msr_index[i]))
			add_entry(&m, st->msr_index[i],
				  rehearsed(st->msr_index[i], st->msr_value[i]));
	return set_entries(&m, kvm, fd, err);
}

int msrs_rehearse_tsc_deadline(const struct vcpu_state *st, struct kvm *kvm, int fd,
			       struct error *err)
{
	(void)st;
	(void)kvm;
	(void)fd;
	(void)err;
	return 0;
}

static bool is_to_be_set_again(const struct vcpu_state *st, const struct vcpu_state *known,
			       uint32_t i)
{
	return st->msr_value[i] != rehearsed(known->msr_index[i], known->msr_value[i]);
}

int msrs_load_again(const struct vcpu_state *st, const struct vcpu_state *known, struct kvm *kvm,
		    int fd, struct error *err)
{
	struct msr_buffer m;

	memset(&m.head, 0, sizeof(m.head));
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (is_set_with_the_rest(st->msr_index[i]) && is_to_be_set_again(st, known, i))
			add_entry(&m, st->msr_index[i], st->msr_value[i]);
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (st->msr_index[i] == MSR_TSC_DEADLINE && is_to_be_set_again(st, known, i))
			add_entry(&m, st->msr_index[i], st->msr_value[i]);
	return m.head.nmsrs ? set_entries(&m, kvm, fd, err) : 0;
}

bool msrs_differ(const struct vcpu_state *st, const struct vcpu_state *known, uint32_t index)
{
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (st->msr_index[i] == index && st->msr_value[i] != known->msr_value[i])
			return true;
	return false;
}
