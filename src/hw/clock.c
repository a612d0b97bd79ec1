/* SPDX-License-Identifier: MIT */
/*
 * kvmclock, the paravirtual clock most guests keep time by. Theory of operation.
 *
 * kvmclock is the host's raw monotonic clock plus an offset that belongs to the KVM VM. A new VM
 * has a new offset, so on load the clock is set such that it stands where it would have stood. KVM
 * can do that itself against CLOCK_REALTIME (KVM_CLOCK_REALTIME), but then a host whose time is
 * stepped during the update would step the guest's *monotonic* clock; CLOCK_MONOTONIC_RAW is never
 * stepped nor slewed and is what KVM counts by. The two clocks cannot be read in one instant, so
 * both sides take the tightest of a few brackets, and what a first KVM_SET_CLOCK missed is measured
 * and set right by a second. On a host whose CPUs are all busy a bracket may be milliseconds wide,
 * and the clock set as late: so there are as many more as it takes for a tight one. On a slow host
 * each setting is late by more than that; so what is made up for is the least that one was late by.
 *
 * What travels is the difference of the two clocks. A measurement that is off the one that came
 * with the last update by less than it can be wrong is not taken as news: else the errors of a
 * thousand updates would add up. A larger difference is real (KVM counts by a TSC frequency rounded
 * to kHz) and stays, for setting it right could step the guest's clock back.
 *
 * Where reading a clock is slow (a clock source that is a device's, or an emulated host's), no
 * bracket is tight: the tightest of many in a row is then what this host has, and the clock may be
 * off by as much, which is less than the pause, for that has several brackets in it.
 *
 * The wall clock MSR is restored only after the commit: KVM writes the time to guest RAM when it is
 * set. A guest read that long ago and may use the memory otherwise, so the bytes are put back.
 */
#include <asm/kvm_para.h>
#include <errno.h>
#include <string.h>
#include <time.h>

#include <molt/base/log.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#define WALL_CLOCK_BYTES 12u /* struct pvclock_wall_clock */
#define BRACKETS 4
#define TIGHT_NS 20000
#define ALL_WIDE 16 /* in a row, and none much narrower: this host has no tight ones */
#define TOO_WIDE_NS 1000000
#define GOOD_ENOUGH_NS 150
#define SETTINGS 3
#define MORE_SETTINGS 100 /* until it is not wrong by more than what is no news */
#define NOISE_NS 50000    /* well below any pause, so that the clock cannot step back by it */

struct clock_guest {
	uint64_t offset;     /* kvmclock less CLOCK_MONOTONIC_RAW, ns; 0: not yet measured */
	uint64_t wall_clock; /* the MSR: a gpa, 0 where the guest never set it */
};

struct clock {
	struct device dev;
	struct clock_guest guest;
	struct {
		bool restore_wall_clock;
	} host;
};

static const struct vmstate_field clock_fields[] = {
	VMSTATE_U64(struct clock_guest, offset), VMSTATE_U64(struct clock_guest, wall_clock),
	VMSTATE_END
};

static const struct vmstate clock_vmstate = {
	.name = "clock",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct clock_guest),
	.fields = clock_fields,
};

static uint64_t raw_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* kvmclock less the raw clock, as nearly as the tightest bracket gives it; and half of its width. */
static int measure(struct kvm_vm *vm, uint64_t *offset, uint64_t *wrong_by, struct error *err)
{
	uint64_t tightest = UINT64_MAX;

	for (int i = 0, wide = 0; i < BRACKETS || (tightest > TIGHT_NS && wide < ALL_WIDE); i++) {
		struct kvm_clock_data data = { 0 };
		uint64_t before = raw_now(), width;
		int r = kvm_vm_call(vm, KVM_GET_CLOCK, &data);

		width = raw_now() - before;
		if (r < 0)
			return err_sys(err, -r, "KVM_GET_CLOCK");
		wide = width < tightest / 4 * 3 ? 0 : wide + 1;
		if (width >= tightest)
			continue;
		tightest = width;
		*offset = data.clock - (before + tightest / 2);
	}
	*wrong_by = tightest / 2;
	return 0;
}

static int set_clock(struct kvm_vm *vm, uint64_t kvmclock, struct error *err)
{
	struct kvm_clock_data data = { .clock = kvmclock };
	int r = kvm_vm_call(vm, KVM_SET_CLOCK, &data);

	return r < 0 ? err_sys(err, -r, "KVM_SET_CLOCK") : 0;
}

static bool set_wall_clock_msr(struct device *dev, uint64_t value)
{
	struct {
		struct kvm_msrs head;
		struct kvm_msr_entry entry;
	} m = { .head.nmsrs = 1, .entry = { .index = MSR_KVM_WALL_CLOCK_NEW, .data = value } };

	return kvm_call(&dev->machine->kvm, dev->machine->vcpus[0].fd, KVM_SET_MSRS, &m) == 1;
}

static bool is_near(uint64_t a, uint64_t b, int64_t limit)
{
	int64_t difference = (int64_t)(a - b);

	return difference > -limit && difference < limit;
}

static int clock_pre_save(struct device *dev, struct error *err)
{
	struct clock_guest *g = device_guest(dev);
	uint64_t offset = 0, wrong_by = 0;
	int r;

	/* vCPUs are saved before devices, and a call on a vCPU takes a while. */
	g->wall_clock = dev->machine->vcpus[0].state->wall_clock;
	r = measure(&dev->machine->vm, &offset, &wrong_by, err);
	if (r == 0 && (!g->offset || !is_near(offset, g->offset, (int64_t)(NOISE_NS + wrong_by))))
		g->offset = offset;
	return r;
}

/* How far off the clock may be set, at the nth try: where none comes nearer, as far as is no news. */
static int64_t allowed(int n)
{
	return n < MORE_SETTINGS / 2 ? NOISE_NS / 2 : NOISE_NS;
}

static int clock_post_load(struct device *dev, struct error *err)
{
	struct clock *c = (struct clock *)dev;
	const struct clock_guest *g = &c->guest;
	struct kvm_vm *vm = &dev->machine->vm;
	uint64_t aim, got = 0, wrong_by = 0;
	int64_t late = 0, least = INT64_MAX;
	bool right = false;

	for (int i = 0; i < SETTINGS || (i < MORE_SETTINGS && !right); i++) {
		int r;

		aim = g->offset + (uint64_t)late;
		r = set_clock(vm, raw_now() + aim, err);
		if (r == 0)
			r = measure(vm, &got, &wrong_by, err);
		if (r < 0)
			return r;
		right = wrong_by <= TOO_WIDE_NS &&
			is_near(got, g->offset, allowed(i) + (int64_t)wrong_by);
		if (right && is_near(got, g->offset, GOOD_ENOUGH_NS))
			break;
		if (wrong_by > TOO_WIDE_NS)
			continue;
		late = (int64_t)(aim - got);
		least = late < least ? late : least;
		if (!right)
			late = least;
	}
	if (!right)
		return err_set(err, EAGAIN,
			       "KVM_SET_CLOCK: it is off by %lld ns, and no better after %d tries",
			       (long long)(got - g->offset), MORE_SETTINGS);
	c->host.restore_wall_clock = g->wall_clock != 0;
	return 0;
}

static void restore_wall_clock(struct clock *c)
{
	uint8_t kept[WALL_CLOCK_BYTES];
	uint64_t gpa = c->guest.wall_clock; /* as it is: it has no flags */
	struct machine *m = c->dev.machine;
	bool is_ram = memory_read(&m->memory, gpa, kept, sizeof(kept)) == 0;

	if (!set_wall_clock_msr(&c->dev, c->guest.wall_clock))
		log_warn("the guest's wall clock MSR could not be restored");
	if (is_ram)
		memory_write(&m->memory, gpa, kept, sizeof(kept));
}

static void clock_resume(struct device *dev)
{
	struct clock *c = (struct clock *)dev;

	if (c->host.restore_wall_clock)
		restore_wall_clock(c);
	c->host.restore_wall_clock = false;
}

/* A fresh VM has a clock of its own. */
static void clock_reset(struct device *dev)
{
	struct clock *c = (struct clock *)dev;

	c->guest = (struct clock_guest){ 0 };
	c->host.restore_wall_clock = false;
}

const struct device_class clock_class = {
	.name = "clock",
	.since = 1,
	.board = 1,
	.size = sizeof(struct clock),
	.guest_offset = offsetof(struct clock, guest),
	.guest_size = sizeof(struct clock_guest),
	.state = &clock_vmstate,
	.reset = clock_reset,
	.resume = clock_resume,
	.pre_save = clock_pre_save,
	.post_load = clock_post_load,
};
