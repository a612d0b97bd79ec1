/* SPDX-License-Identifier: MIT */
/*
 * Reading a vCPU's state for the second time: for the rehearsal all of it was read, at the switch
 * the guest waits. Theory of operation.
 *
 * Most vCPUs of a large guest are halted most of the time. What such a vCPU itself would have to
 * change, by executing something, is as it was; and KVM counts how often it has left a vCPU
 * (struct kvm_stats_header in the KVM API document), which costs 0.2 us to read, not 6. So of a
 * vCPU that was halted then, is halted now and has not been entered in between only that is read
 * which others change:
 *
 *	MP state		an INIT that has come takes effect by that, or an interrupt: then it
 *				does not wait any more, and all is read. So also when it has woken
 *	events, LAPIC		interrupts, NMIs, and the timer goes on
 *	TSC offset		KVM corrects it where the host's TSC has jumped, of all vCPUs alike:
 *				so that of the first is read, and if it has moved those of the
 *				others
 *	TSC deadline		is 0 once it is over
 *	wall clock		is the VM's: any vCPU may have set it
 *
 * The same goes for a vCPU that has never run and waits for its first INIT.
 *
 * Where none of that is news the successor, which has rehearsed with the last reading, is not told
 * of the vCPU again (is_told): to write, parse and compare its 13 KiB takes as long as to read it.
 *
 * Main looks at the counts, before others help with the reading: vCPU threads can read no file.
 */
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/vcpu_kinds.h>

#include "msrs.h"

#define DESCS_BYTES 16384u /* of some 70 bytes each; Linux 6.18 has 47 */

/* Where one of them is, or 0: which this KVM has not, or keeps in a form that is new to us. */
static uint64_t find(int fd, const char *name)
{
	_Alignas(struct kvm_stats_desc) uint8_t descs[DESCS_BYTES];
	const struct kvm_stats_desc *d;
	struct kvm_stats_header h;
	ssize_t got;
	size_t size;

	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.name_size > DESCS_BYTES)
		return 0;
	size = sizeof(*d) + h.name_size;
	got = pread(fd, descs, sizeof(descs), h.desc_offset);
	for (size_t i = 0; i < h.num_desc && (ssize_t)((i + 1) * size) <= got; i++) {
		d = (const void *)(descs + i * size);
		if (strncmp(d->name, name, h.name_size) == 0)
			return d->size == 1 ? (uint64_t)h.data_offset + d->offset : 0;
	}
	return 0;
}

void vcpu_reading_open(struct vcpu_reading *reading, struct kvm *kvm, int vcpu_fd, bool first)
{
	int fd = kvm_call_num(kvm, vcpu_fd, KVM_GET_STATS_FD, 0);

	*reading = (struct vcpu_reading){ .fd = fd < 0 ? -1 : fd, .first = first };
	if (fd < 0)
		return;
	fd_set_cloexec(fd, true);
	reading->exits_at = find(fd, "exits");
	reading->blocking_at = find(fd, "blocking");
	if (!reading->exits_at)
		fd_close(&reading->fd);
}

void vcpu_reading_close(struct vcpu_reading *reading)
{
	fd_close(&reading->fd);
	reading->waited = false;
}

void vcpu_reading_forget(struct vcpu_reading *reading)
{
	reading->waited = reading->is_told = false;
}

static bool read_count(const struct vcpu_reading *reading, uint64_t at, uint64_t *count)
{
	return reading->fd >= 0 && at &&
	       pread(reading->fd, count, sizeof(*count), (off_t)at) == sizeof(*count);
}

void vcpu_reading_count(struct vcpu_reading *reading)
{
	reading->counted = read_count(reading, reading->exits_at, &reading->now);
}

bool vcpu_reading_blocks(const struct vcpu_reading *reading)
{
	uint64_t blocks = 0;

	return read_count(reading, reading->blocking_at, &blocks) && blocks;
}

bool vcpu_state_waits(const struct vcpu_state *st)
{
	return st->mp_state.mp_state == KVM_MP_STATE_HALTED ||
	       st->mp_state.mp_state == KVM_MP_STATE_UNINITIALIZED;
}

/*
 * The deadline before the LAPIC, as in the whole reading. One that passes in between is then in
 * both, which is one interrupt; the other way round it is in neither, for KVM sets the bit in the
 * IRR and the deadline to 0. The timer's mode is that of the last reading: only the vCPU sets it.
 */
static int get_what_others_change(struct vcpu_state *st, const struct vcpu_reading *reading,
				  struct kvm *kvm, int fd, struct error *err)
{
	int r = vcpu_kind_get(VCPU_EVENTS, st, kvm, fd, NULL, err);

	if (r == 0 && reading->first)
		r = vcpu_state_get_tsc(st, kvm, fd, err);
	if (r == 0)
		r = msrs_save_again(st, kvm, fd, lapic_timer_has_deadline(&st->lapic),
				    reading->first, err);
	if (r == 0)
		r = vcpu_kind_get(VCPU_LAPIC, st, kvm, fd, NULL, err);
	return r;
}

void vcpu_part_of(struct vcpu_part *part, const struct vcpu_state *st)
{
	memset(part, 0, sizeof(*part));
	part->events = st->events;
	part->lapic = st->lapic;
	part->tsc_khz = st->tsc_khz;
	part->tsc_offset = st->tsc_offset;
	part->wall_clock = st->wall_clock;
	part->deadline = msr_value_of(st, MSR_TSC_DEADLINE);
}

void vcpu_reading_compare(struct vcpu_reading *reading, const struct vcpu_part *was,
			  const struct vcpu_state *st)
{
	struct vcpu_part is;

	vcpu_part_of(&is, st);
	if (memcmp(was, &is, sizeof(is)) != 0)
		reading->is_told = false;
}

void vcpu_reading_note_told(struct vcpu_reading *reading)
{
	reading->is_told = true;
}

/* Whether it waits as it did; it has not been entered. */
static int get_mp_state(struct vcpu_state *st, struct kvm *kvm, int fd, bool *still,
			struct error *err)
{
	uint32_t before = st->mp_state.mp_state;
	int r = vcpu_kind_get(VCPU_MP_STATE, st, kvm, fd, NULL, err);

	*still = r == 0 && st->mp_state.mp_state == before;
	return r;
}

int vcpu_state_get_again(struct vcpu_state *st, struct vcpu_reading *reading, struct kvm *kvm,
			 int vcpu_fd, const struct msr_list *msrs, struct error *err)
{
	bool counted = reading->counted, still = false;
	int r = 0;

	reading->counted = false;
	if (reading->waited && counted && reading->now == reading->exits &&
	    msrs->count == reading->nmsrs)
		r = get_mp_state(st, kvm, vcpu_fd, &still, err);
	if (r == 0 && still)
		return get_what_others_change(st, reading, kvm, vcpu_fd, err);
	reading->is_told = false;
	if (r == 0)
		r = vcpu_state_get(st, kvm, vcpu_fd, msrs, err);
	reading->waited = r == 0 && counted && vcpu_state_waits(st);
	reading->exits = reading->now;
	reading->nmsrs = msrs->count;
	return r;
}
