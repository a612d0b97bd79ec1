/* SPDX-License-Identifier: MIT */
/*
 * A state that is loaded over another one. Theory of operation.
 *
 * A successor has rehearsed: the machine is complete, with the state that the guest had some
 * milliseconds ago, and no vCPU of it has run. Now comes the final state, while the guest waits. The
 * sections are the same, most of them with the same bytes in them, and what is the same is there
 * already. So only what differs is loaded; a device may be told of its state twice (post_load).
 *
 * A vCPU or a device without a section is as it was in the rehearsal: most are.
 *
 * The local APICs are an exception: what devices did since with their interrupt lines may have left
 * something there. So is an IOAPIC that has handed something out to them (hw/irqchip.c).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/vm/machine.h>

#include "machine_state.h"
#include "vcpu_run.h"

/* The device's own section, and those below that. */
static bool is_of(const struct stream_section *sec, const struct device *dev)
{
	const char *name = dev->cls->state->name;
	size_t len = strlen(name);

	return sec->instance == dev->instance && strncmp(sec->name, name, len) == 0 &&
	       (sec->name[len] == '\0' || sec->name[len] == '/');
}

static bool is_same(struct stream *first, const struct stream_section *sec)
{
	const struct stream_section *was = stream_find(first, sec->name, sec->instance);

	return was && was->payload_len == sec->payload_len &&
	       memcmp(was->payload, sec->payload, sec->payload_len) == 0;
}

/* One below that has gone is a change: it was written only while it was needed. */
static bool has_lost_one(const struct device *dev, const struct stream *first, struct stream *last)
{
	/* Most have no news, and the guest waits. */
	if (!stream_find(last, dev->cls->state->name, dev->instance))
		return false;
	for (size_t i = 0; i < first->nsections; i++)
		if (is_of(&first->sections[i], dev) && stream_is_gone(last, &first->sections[i]))
			return true;
	return false;
}

static bool is_unchanged(const struct device *dev, struct stream *first, struct stream *last)
{
	for (size_t i = 0; i < last->nsections; i++)
		if (is_of(&last->sections[i], dev) && !is_same(first, &last->sections[i]))
			return false;
	return !has_lost_one(dev, first, last);
}

static int load_device(struct device *dev, struct stream *first, struct stream *last,
		       struct error *err)
{
	const struct device_class *cls = dev->cls;
	int r = cls->load_host_again ? cls->load_host_again(dev, last, err) : 0;

	if (r < 0 || !cls->state)
		return r;
	if (!is_unchanged(dev, first, last))
		r = vmstate_load(last, cls->state, dev->instance, device_guest(dev), err);
	else if (!cls->kvm_has_changed || !cls->kvm_has_changed(dev))
		return 0;
	if (r == 0 && cls->post_load) {
		r = cls->post_load(dev, err);
		if (r < 0)
			err_prefix(err, "section '%s' %u", cls->name, dev->instance);
	}
	return r;
}

/*
 * What is not loaded was in the rehearsal, and its owner has it from there. But a newer molt may
 * have begun to send something since then, which nobody here knows.
 */
static int check_owners(struct stream *first, struct stream *last, struct error *err)
{
	for (size_t i = 0; i < last->nsections; i++) {
		struct stream_section *sec = &last->sections[i];

		if (!sec->claimed && stream_find(first, sec->name, sec->instance))
			sec->claimed = true;
	}
	return stream_check_claimed(last, err);
}

/* A job. */
static int load_vcpu(void *opaque, uint32_t id, struct error *err)
{
	struct machine *m = opaque;
	struct vcpu *v = &m->vcpus[id];
	bool is_news = v->state != &m->rehearsed[id];
	int r = is_news ? vmstate_load(m->incoming, &vcpu_vmstate, id, v->state, err) : 0;

	if (r < 0)
		return r;
	r = vcpu_state_set_again(v->state, &m->rehearsed[id], &m->kvm, v->fd, err);
	if (r < 0)
		err_prefix(err, "section 'vcpu' %u", id);
	else
		lapic_timer_loaded(&v->timer, v->state);
	return r;
}

static int load_vcpus(struct machine *m, struct error *err)
{
	struct vcpu_state *was = m->vcpu_states;
	bool tsc = false;
	int r = 0;

	m->vcpu_states = m->rehearsed;
	m->rehearsed = was;
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		m->vcpus[i].state = stream_find(m->incoming, vcpu_vmstate.name, i)
					    ? &m->vcpu_states[i]
					    : &m->rehearsed[i];
	machine_note_who_waits(m, m->crew); /* the others' state is still zeroes: they do not */
	crew_leave_main_alone(m->crew, false);
	r = crew_job(m->crew, m->guest.cpus, load_vcpu, m, err);
	for (uint32_t i = 0; i < m->guest.cpus && r == 0; i++)
		tsc = tsc || vcpu_state_tsc_differs(m->vcpus[i].state, &m->rehearsed[i]);
	for (uint32_t i = 0; i < m->guest.cpus && r == 0 && tsc; i++)
		r = vcpu_state_set_tsc(m->vcpus[i].state, &m->kvm, m->vcpus[i].fd, err);
	machine_note_who_waits(m, m->crew);
	return r;
}

/* What the machine is made of must be what it was: it is there. */
static int load_config(struct machine *m, struct stream *last, struct error *err)
{
	const struct machine_guest was = m->guest;
	const uint32_t version = m->machine_version;
	int r = machine_load_config(m, last, err);

	if (r == 0 && (m->guest.cpus != was.cpus || m->guest.ram_size != was.ram_size ||
		       m->machine_version != version))
		r = err_set(err, EINVAL,
			    "machine version %u with %u vCPUs and %llu bytes of RAM, and before %u "
			    "with %u and %llu",
			    m->machine_version, m->guest.cpus,
			    (unsigned long long)m->guest.ram_size, version, was.cpus,
			    (unsigned long long)was.ram_size);
	if (r < 0) {
		m->guest = was;
		m->machine_version = version;
	}
	return r;
}

int machine_load_again(struct machine *m, struct stream *first, struct stream *last,
		       struct error *err)
{
	int r = load_config(m, last, err);

	m->incoming = last;
	if (r == 0)
		r = load_vcpus(m, err);
	m->incoming = NULL;
	for (unsigned int i = 0; i < m->ndevices && r == 0; i++)
		r = load_device(m->devices[i], first, last, err);
	if (r == 0)
		r = check_owners(first, last, err);
	if (r == 0 && atomic_load(&m->requests))
		loop_wake_signal(&m->request_wake);
	return r;
}

/* Who has no news has its state there. */
static void keep_rehearsed(struct machine *m)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		struct vcpu *v = &m->vcpus[i];

		if (v->state != &m->rehearsed[i])
			continue;
		m->vcpu_states[i] = *v->state;
		v->state = &m->vcpu_states[i];
	}
}

void machine_forget_rehearsal(struct machine *m)
{
	if (m->rehearsed && m->vcpus && m->vcpu_states)
		keep_rehearsed(m);
	free(m->rehearsed);
	m->rehearsed = NULL;
	m->rehearses = false;
}
