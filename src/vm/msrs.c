/* SPDX-License-Identifier: MIT */
/* MSRs: reading and writing those that are a vCPU's state. Which ones that are: msr_lists.c. */
#include <asm/kvm_para.h>
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>

#include "msrs.h"

#define MSR_TSC 0x10u
#define MSR_PERF_CAPABILITIES 0x345u
#define MSR_HV_HYPERCALL 0x40000001u
#define MSR_HV_VP_ASSIST_PAGE 0x40000073u
#define MSR_PAGE_ENABLE 1ull   /* of MSRs with the address of a page that the guest gives to KVM */
#define MTRR_ENABLE (1u << 11) /* Intel SDM volume 3, "IA32_MTRR_DEF_TYPE MSR" */
#define MTRR_WRITE_BACK 6u
#define PERF_LBR_FORMAT 0x3full /* "IA32_PERF_CAPABILITIES" */

/* KVM refuses 256 in one call, and of machine checks alone there are 128. */
#define MSRS_PER_CALL 128u

struct msr_buffer {
	uint32_t count;
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

bool msr_is_special(uint32_t index)
{
	return index == MSR_TSC || index == MSR_KVM_WALL_CLOCK || index == MSR_KVM_SYSTEM_TIME ||
	       index == MSR_KVM_WALL_CLOCK_NEW;
}

/*
 * KVM offers the host's last branch record, but lists none of the MSRs that it is in: they would
 * not travel. It refuses the rest of the value where CPUID has none of that; but then it has no bit
 * for this MSR either, and the guest cannot read it.
 */
static void hide_branch_record(struct kvm *kvm, int vcpu_fd)
{
	uint64_t value = 0;

	if (msr_call(kvm, vcpu_fd, KVM_GET_MSRS, MSR_PERF_CAPABILITIES, &value) < 0 ||
	    !(value & PERF_LBR_FORMAT))
		return;
	value &= ~PERF_LBR_FORMAT;
	msr_call(kvm, vcpu_fd, KVM_SET_MSRS, MSR_PERF_CAPABILITIES, &value);
}

int vcpu_state_power_on(struct kvm *kvm, int vcpu_fd, struct error *err)
{
	uint64_t value = MTRR_ENABLE | MTRR_WRITE_BACK;

	if (msr_call(kvm, vcpu_fd, KVM_SET_MSRS, MSR_MTRR_DEF_TYPE, &value) < 0)
		return err_set(err, EINVAL, "KVM_SET_MSRS: IA32_MTRR_DEF_TYPE refused");
	hide_branch_record(kvm, vcpu_fd);
	return 0;
}

static void add_entry(struct msr_buffer *m, uint32_t index, uint64_t value)
{
	m->entries[m->count++] = (struct kvm_msr_entry){ .index = index, .data = value };
}

/* The number of them that KVM took: it stops at the first that it does not have, or refuses. */
static int call_in_pieces(struct msr_buffer *m, struct kvm *kvm, int fd, unsigned long request)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entries[MSRS_PER_CALL];
	} piece = { .head.nmsrs = MSRS_PER_CALL };
	uint32_t done = 0;
	int r;

	do {
		struct kvm_msr_entry *from = m->entries + done;

		if (m->count - done < MSRS_PER_CALL)
			piece.head.nmsrs = m->count - done;
		memcpy(piece.entries, from, piece.head.nmsrs * sizeof(*from));
		r = kvm_call(kvm, fd, request, &piece);
		if (r < 0)
			return r;
		memcpy(from, piece.entries, (uint32_t)r * sizeof(*from));
		done += (uint32_t)r;
	} while ((uint32_t)r == piece.head.nmsrs && done < m->count);
	return (int)done;
}

int msrs_save(struct vcpu_state *st, struct kvm *kvm, int fd, const struct msr_list *msrs,
	      struct error *err)
{
	struct msr_buffer m;
	int r;

	m.count = 0;
	for (uint32_t i = 0; i < msrs->count; i++)
		add_entry(&m, msrs->index[i], 0);
	/* The last, for KVM stops at one that it does not have: a host without kvmclock. */
	add_entry(&m, MSR_KVM_WALL_CLOCK_NEW, 0);
	r = call_in_pieces(&m, kvm, fd, KVM_GET_MSRS);
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

	m.count = 0;
	if (tsc_deadline)
		add_entry(&m, MSR_TSC_DEADLINE, 0);
	if (wall_clock)
		add_entry(&m, MSR_KVM_WALL_CLOCK_NEW, 0);
	if (m.count)
		r = call_in_pieces(&m, kvm, fd, KVM_GET_MSRS);
	if (r < 0)
		return err_sys(err, -r, "KVM_GET_MSRS");
	for (uint32_t i = 0; i < st->nmsrs && tsc_deadline && r > 0; i++)
		if (st->msr_index[i] == MSR_TSC_DEADLINE)
			st->msr_value[i] = m.entries[0].data;
	if (wall_clock)
		st->wall_clock = (uint32_t)r == m.count ? m.entries[r - 1].data : 0;
	return 0;
}

/*
 * KVM notes these before it looks whether their page is in RAM, refuses the guest's value if it is
 * not, and tells it all the same: asynchronous page faults, and in older kernels EOIs. It cannot
 * use such a page. So the value stays, but for the bit that enables it.
 */
static bool is_told_though_refused(const struct kvm_msr_entry *e)
{
	return (e->index == MSR_KVM_ASYNC_PF_EN || e->index == MSR_KVM_PV_EOI_EN) &&
	       e->data & MSR_PAGE_ENABLE;
}

static void go_on_without_page(struct msr_buffer *m, uint32_t at)
{
	m->entries[at].data &= ~MSR_PAGE_ENABLE;
	m->count -= at;
	memmove(m->entries, m->entries + at, m->count * sizeof(m->entries[0]));
}

static int set_entries(struct msr_buffer *m, struct kvm *kvm, int fd, struct error *err)
{
	int r = call_in_pieces(m, kvm, fd, KVM_SET_MSRS);

	while (r >= 0 && (uint32_t)r < m->count && is_told_though_refused(&m->entries[r])) {
		go_on_without_page(m, (uint32_t)r);
		r = call_in_pieces(m, kvm, fd, KVM_SET_MSRS);
	}
	if (r < 0)
		return err_sys(err, -r, "KVM_SET_MSRS");
	if ((uint32_t)r != m->count)
		return err_set(err, EINVAL, "KVM_SET_MSRS: this host refuses MSR 0x%x = 0x%llx",
			       m->entries[r].index, (unsigned long long)m->entries[r].data);
	return 0;
}

/* A stream could name special ones; they are never written. */
static bool is_set_with_the_rest(uint32_t index)
{
	return index != MSR_TSC_DEADLINE && !msr_is_special(index);
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

static uint64_t as_it_is(uint32_t index, uint64_t value)
{
	(void)index;
	return value;
}

static bool is_to_be_set_again(const struct vcpu_state *st, const struct vcpu_state *known,
			       uint32_t i)
{
	return st->msr_value[i] != rehearsed(known->msr_index[i], known->msr_value[i]);
}

/*
 * All of them, or those that a rehearsal of 'known' did not set to this. PERF_CAPABILITIES before
 * all: from Linux 6.8 on KVM resets the performance counters where it becomes another, and lists it
 * behind them.
 */
static void add_state(struct msr_buffer *m, const struct vcpu_state *st,
		      const struct vcpu_state *known,
		      uint64_t (*what)(uint32_t index, uint64_t value))
{
	m->count = 0;
	for (int first = 1; first >= 0; first--)
		for (uint32_t i = 0; i < st->nmsrs; i++)
			if (is_set_with_the_rest(st->msr_index[i]) &&
			    first == (st->msr_index[i] == MSR_PERF_CAPABILITIES) &&
			    (!known || is_to_be_set_again(st, known, i)))
				add_entry(m, st->msr_index[i],
					  what(st->msr_index[i], st->msr_value[i]));
}

int msrs_load(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	struct msr_buffer m;

	add_state(&m, st, NULL, as_it_is);
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

int msrs_rehearse(const struct vcpu_state *st, struct kvm *kvm, int fd, struct error *err)
{
	struct msr_buffer m;

	add_state(&m, st, NULL, rehearsed);
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

int msrs_load_again(const struct vcpu_state *st, const struct vcpu_state *known, struct kvm *kvm,
		    int fd, struct error *err)
{
	struct msr_buffer m;

	add_state(&m, st, known, as_it_is);
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (st->msr_index[i] == MSR_TSC_DEADLINE && is_to_be_set_again(st, known, i))
			add_entry(&m, st->msr_index[i], st->msr_value[i]);
	return m.count ? set_entries(&m, kvm, fd, err) : 0;
}

uint64_t msr_value_of(const struct vcpu_state *st, uint32_t index)
{
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (st->msr_index[i] == index)
			return st->msr_value[i];
	return 0;
}

bool msrs_differ(const struct vcpu_state *st, const struct vcpu_state *known, uint32_t index)
{
	return msr_value_of(st, index) != msr_value_of(known, index);
}
