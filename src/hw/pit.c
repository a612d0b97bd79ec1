/* SPDX-License-Identifier: MIT */
/*
 * The in-kernel 8254 timer. KVM_SET_PIT2 starts channel 0 afresh from its count, so a one-shot that
 * was half done is given what was left of it; a periodic one begins a new period and keeps its rate.
 * Channels 1 and 2 keep their start times, which are CLOCK_MONOTONIC and so stay true.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>
#include <molt/vm/machine.h>

#define PIT_HZ 1193182ull

struct pit_guest {
	struct kvm_pit_channel_state channels[3];
	uint32_t flags;
	uint8_t reserved[4];
};

struct pit {
	struct device dev;
	struct pit_guest guest;
};

#define CHANNEL_(n) \
	VMSTATE_U32(struct pit_guest, channels[n].count), \
	VMSTATE_U16(struct pit_guest, channels[n].latched_count), \
	VMSTATE_U8(struct pit_guest, channels[n].count_latched), \
	VMSTATE_U8(struct pit_guest, channels[n].status_latched), \
	VMSTATE_U8(struct pit_guest, channels[n].status), \
	VMSTATE_U8(struct pit_guest, channels[n].read_state), \
	VMSTATE_U8(struct pit_guest, channels[n].write_state), \
	VMSTATE_U8(struct pit_guest, channels[n].write_latch), \
	VMSTATE_U8(struct pit_guest, channels[n].rw_mode), \
	VMSTATE_U8(struct pit_guest, channels[n].mode), \
	VMSTATE_U8(struct pit_guest, channels[n].bcd), \
	VMSTATE_U8(struct pit_guest, channels[n].gate), \
	VMSTATE_SCALAR_(struct pit_guest, channels[n].count_load_time, signed long long, \
			FIELD_U64, 0, 0)

static const struct vmstate_field pit_fields[] = {
	CHANNEL_(0),
	CHANNEL_(1),
	CHANNEL_(2),
	VMSTATE_U32(struct pit_guest, flags),
	VMSTATE_UNSAVED(struct pit_guest, reserved, "padding"),
	VMSTATE_END
};

static const struct vmstate pit_vmstate = {
	.name = "pit", .version = 1, .min_version = 1, .size = sizeof(struct pit_guest),
	.fields = pit_fields,
};

static int pit_attach(struct device *dev, struct error *err)
{
	/* Port 0x61, where Linux calibrates by channel 2, comes with it. */
	const struct kvm_pit_config config = { .flags = KVM_PIT_SPEAKER_DUMMY };
	int r = kvm_vm_call(&dev->machine->vm, KVM_CREATE_PIT2, &config);

	return r < 0 ? err_sys(err, -r, "KVM_CREATE_PIT2") : 0;
}

static int pit_pre_save(struct device *dev, struct error *err)
{
	struct pit_guest *g = device_guest(dev);
	struct kvm_pit_state2 state = { 0 };
	int r = kvm_vm_call(&dev->machine->vm, KVM_GET_PIT2, &state);

	memcpy(g->channels, state.channels, sizeof(g->channels));
	g->flags = state.flags;
	return r < 0 ? err_sys(err, -r, "KVM_GET_PIT2") : 0;
}

/* What is left of a one-shot count (modes 0, 1, 4, 5); the count as it is where that is over. */
static uint32_t remaining(const struct kvm_pit_channel_state *c, uint64_t now)
{
	uint64_t elapsed, ticks;

	if (c->mode == 2 || c->mode == 3 || c->count_load_time < 0 ||
	    now < (uint64_t)c->count_load_time)
		return c->count;
	elapsed = now - (uint64_t)c->count_load_time;
	if (elapsed > 1000000000ull) /* a whole count takes 55 ms */
		return c->count;
	ticks = elapsed * PIT_HZ / 1000000000ull;
	return ticks < c->count ? c->count - (uint32_t)ticks : c->count;
}

static int pit_post_load(struct device *dev, struct error *err)
{
	const struct pit_guest *g = device_guest(dev);
	struct kvm_pit_state2 state = { .flags = g->flags };
	int r;

	memcpy(state.channels, g->channels, sizeof(state.channels));
	state.channels[0].count = remaining(&g->channels[0], now_ns());
	r = kvm_vm_call(&dev->machine->vm, KVM_SET_PIT2, &state);
	return r < 0 ? err_sys(err, -r, "KVM_SET_PIT2") : 0;
}

const struct device_class pit_class = {
	.name = "pit",
	.since = 1,
	.size = sizeof(struct pit),
	.guest_offset = offsetof(struct pit, guest),
	.guest_size = sizeof(struct pit_guest),
	.state = &pit_vmstate,
	.attach = pit_attach,
	.pre_save = pit_pre_save,
	.post_load = pit_post_load,
};
