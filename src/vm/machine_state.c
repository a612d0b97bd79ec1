/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "device_list.h"
#include "machine_state.h"
#include "vcpu_run.h"

static const struct vmstate_field machine_fields[] = {
	VMSTATE_STRING(struct machine_guest, name), VMSTATE_U64(struct machine_guest, ram_size),
	VMSTATE_U32(struct machine_guest, cpus), VMSTATE_U32(struct machine_guest, run_state),
	VMSTATE_U32(struct machine_guest, requests), VMSTATE_BOOL(struct machine_guest, no_reboot),
	VMSTATE_UNSAVED(struct machine_guest, reserved, "padding"),
	/* For molt state to show. Who does not find it reads it in the guest's CPUID. */
	VMSTATE_ARRAY_(struct machine_guest, cpu_model, char, FIELD_STRING,
		       VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, false, 0),
	VMSTATE_UNSAVED(struct machine_guest, msrs.saved, "field msr_index of each vCPU"),
	/* Else a successor would try them all again. */
	VMSTATE_ARRAY_(struct machine_guest, msrs.refused.index, uint32_t, FIELD_U32,
		       VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, true,
		       offsetof(struct machine_guest, msrs.refused.count)),
	VMSTATE_END
};

static const struct vmstate machine_vmstate = {
	.name = "machine",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct machine_guest),
	.fields = machine_fields,
};

int machine_check_config(const struct machine *m, struct error *err)
{
	if (m->guest.cpus < 1 || m->guest.cpus > MACHINE_MAX_VCPUS)
		return err_set(err, EINVAL, "%u vCPUs: a machine has 1 to %d", m->guest.cpus,
			       MACHINE_MAX_VCPUS);
	if (m->guest.run_state >= RUN_STATE_COUNT)
		return err_set(err, EBADMSG, "run state %u does not exist", m->guest.run_state);
	if (m->machine_version < 1 || m->machine_version > m->model->newest)
		return err_set(err, EPROTO, "machine version %u: this molt offers 1 to %u",
			       m->machine_version, m->model->newest);
	return 0;
}

int machine_load_config(struct machine *m, struct stream *s, struct error *err)
{
	int r = vmstate_load(s, &machine_vmstate, 0, &m->guest, err);

	m->machine_version = s->header.machine_version;
	memcpy(m->uuid, s->header.uuid, sizeof(m->uuid));
	atomic_store(&m->requests, m->guest.requests);
	return r < 0 ? r : machine_check_config(m, err);
}

int machine_load_vcpu(void *opaque, uint32_t id, struct error *err)
{
	struct machine *m = opaque;
	struct vcpu *v = &m->vcpus[id];
	int r = vmstate_load(m->incoming, &vcpu_vmstate, v->id, v->state, err);

	if (r < 0)
		return r;
	if (m->rehearses)
		r = vcpu_state_rehearse(v->state, &m->kvm, v->fd, err);
	else
		r = vcpu_state_set(v->state, &m->kvm, v->fd, err);
	if (r < 0)
		err_prefix(err, "section 'vcpu' %u", v->id);
	else
		lapic_timer_loaded(&v->timer, v->state);
	return r;
}

static int load_devices(struct machine *m, struct stream *s, const struct fdtable *fds,
			struct error *err)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];
		const struct device_class *cls = dev->cls;
		uint32_t before = fds ? fds->ntaken : 0;
		int r = 0;

		if (cls->state)
			r = vmstate_load(s, cls->state, dev->instance, device_guest(dev), err);
		if (r == 0 && cls->post_load) {
			r = cls->post_load(dev, err);
			if (r < 0)
				err_prefix(err, "section '%s' %u", cls->name, dev->instance);
		}
		dev->fds_taken += fds ? fds->ntaken - before : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

int machine_load(struct machine *m, struct stream *s, const struct fdtable *fds, struct error *err)
{
	const struct vcpu_state *first = m->vcpus[0].state;
	struct msr_list *saved = &m->guest.msrs.saved;

	/* The next update saves what this one brought, and what the check finds. */
	saved->count = first->nmsrs;
	memcpy(saved->index, first->msr_index, saved->count * sizeof(saved->index[0]));
	snprintf(m->guest.cpu_model, sizeof(m->guest.cpu_model), "%s", cpu_model_of(first));
	return load_devices(m, s, fds, err);
}

/* As many MSRs and bytes as there will be. */
static int describe_vcpu(struct machine *m, struct vcpu_state *st, struct error *err)
{
	const struct msr_list *saved = &m->guest.msrs.saved;

	if (m->kvm.xsave_size > sizeof(st->xsave))
		return err_set(err, E2BIG, "XSAVE area of %zu bytes, molt keeps %zu",
			       m->kvm.xsave_size, sizeof(st->xsave));
	st->nmsrs = st->nmsr_values = saved->count;
	memcpy(st->msr_index, saved->index, saved->count * sizeof(saved->index[0]));
	st->xsave_len = (uint32_t)m->kvm.xsave_size;
	return 0;
}

static int get_vcpu(void *opaque, uint32_t id, struct error *err)
{
	struct machine *m = opaque;
	struct vcpu *v = &m->vcpus[id];
	struct vcpu_part was;
	int r;

	vcpu_part_of(&was, v->state);
	r = vcpu_state_get_again(v->state, &v->reading, &m->kvm, v->fd, &m->guest.msrs.saved, err);
	if (r < 0) {
		err_prefix(err, "vCPU %u", v->id);
		return r;
	}
	vcpu_state_keep_steal_time(v->state, v->steal_time);
	lapic_timer_save(&v->timer, v->state);
	vcpu_reading_compare(&v->reading, &was, v->state);
	return 0;
}

/* The host's TSC has jumped, or the first vCPU has set its own. */
static int get_other_tscs(struct machine *m, struct error *err)
{
	int r = 0;

	for (uint32_t i = 1; i < m->guest.cpus && r == 0; i++) {
		m->vcpus[i].reading.is_told = false;
		r = vcpu_state_get_tsc(m->vcpus[i].state, &m->kvm, m->vcpus[i].fd, err);
	}
	return r;
}

/*
 * A reading that fails stops anywhere: what it has read by then would be no news to the next one,
 * though nobody was told, nor the first vCPU's TSC, though the others' was not asked for.
 */
static int forget_half(struct machine *m, int r)
{
	for (uint32_t i = 0; i < m->guest.cpus && r < 0; i++)
		vcpu_reading_forget(&m->vcpus[i].reading);
	return r;
}

static int get_vcpus(struct machine *m, struct error *err)
{
	uint64_t offset = m->vcpus[0].state->tsc_offset;
	int r;

	/* Members that help cannot read files. */
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		vcpu_reading_count(&m->vcpus[i].reading);
	r = crew_job_read(m->crew, m->guest.cpus, get_vcpu, m, err);
	if (r == 0 && m->vcpus[0].state->tsc_offset != offset)
		r = get_other_tscs(m, err);
	return forget_half(m, r);
}

int machine_read_vcpus(struct machine *m, struct error *err)
{
	uint64_t offset = m->vcpus[0].state->tsc_offset;
	int r = 0;

	for (uint32_t i = 0; i < m->guest.cpus && r == 0; i++) {
		/* What it still executes after that makes the count another one. */
		vcpu_reading_count(&m->vcpus[i].reading);
		if (m->vcpus[0].state->tsc_offset != offset) /* as in get_other_tscs() */
			m->vcpus[i].reading.waited = false;
		r = crew_visit(m->crew, i, get_vcpu, m, MACHINE_STOP_NS, err);
		crew_note_waited(m->crew, i, vcpu_state_waits(m->vcpus[i].state));
	}
	m->vcpus_are_read = r == 0;
	return forget_half(m, r);
}

void machine_forget_reading(struct machine *m)
{
	m->vcpus_are_read = false;
}

enum what { DESCRIPTION, ALL, NEWS };

static int save_vcpu(struct machine *m, struct stream_writer *w, uint32_t id, enum what what,
		     struct error *err)
{
	struct vcpu *v = &m->vcpus[id];
	int r = what == DESCRIPTION ? describe_vcpu(m, v->state, err) : 0;

	if (r < 0 || (what == NEWS && v->reading.is_told))
		return r;
	vmstate_save(w, &vcpu_vmstate, id, v->state);
	if (what != NEWS)
		machine_save_place(m, w, id);
	if (what == ALL)
		vcpu_reading_note_told(&v->reading);
	return 0;
}

static int save_vcpus(struct machine *m, struct stream_writer *w, enum what what, struct error *err)
{
	bool read = what == NEWS || (what == ALL && !m->vcpus_are_read);
	int r = read ? get_vcpus(m, err) : 0;

	if (what != DESCRIPTION)
		m->vcpus_are_read = false;
	for (uint32_t i = 0; i < m->guest.cpus && r == 0; i++)
		r = save_vcpu(m, w, i, what, err);
	return r;
}

/* As the successor has it from the hand-off; most devices are. */
static bool is_no_news(struct device *dev, enum what what)
{
	return what == NEWS && dev->is_told &&
	       memcmp(device_told(dev), device_guest(dev), dev->cls->guest_size) == 0;
}

static void note_told(struct device *dev)
{
	memcpy(device_told(dev), device_guest(dev), dev->cls->guest_size);
	dev->is_told = true;
}

static int save_device(struct device *dev, struct stream_writer *w, struct fdtable *fds,
		       enum what what, struct error *err)
{
	const struct device_class *cls = dev->cls;
	int r = cls->pre_save && what != DESCRIPTION ? cls->pre_save(dev, err) : 0;

	if (r == 0 && what == ALL)
		note_told(dev);
	if (r == 0 && cls->state && !is_no_news(dev, what)) {
		/* While it is only described vCPUs run and may be at it. */
		pthread_mutex_lock(&dev->lock);
		vmstate_save(w, cls->state, dev->instance, device_guest(dev));
		pthread_mutex_unlock(&dev->lock);
	}
	if (r == 0 && cls->save_host)
		r = cls->save_host(dev, w, fds, err);
	if (r < 0)
		err_prefix(err, "device '%s'", dev->id);
	return r;
}

static int save(struct machine *m, struct stream_writer *w, struct fdtable *fds, enum what what,
		struct error *err)
{
	int r;

	m->guest.requests = atomic_load(&m->requests);
	vmstate_save(w, &machine_vmstate, 0, &m->guest);
	devices_save_list(m, w);
	fds->vm_fd = (uint32_t)m->vm.fd;
	r = fdtable_add(fds, "kvm", 0, m->kvm.fd, err);
	if (r == 0)
		r = memory_save_fds(&m->memory, fds, err);
	if (r == 0)
		r = save_vcpus(m, w, what, err);
	for (unsigned int i = 0; i < m->ndevices && r == 0; i++)
		r = save_device(m->devices[i], w, fds, what, err);
	return r;
}

int machine_save(struct machine *m, struct stream_writer *w, struct fdtable *fds, struct error *err)
{
	return save(m, w, fds, ALL, err);
}

int machine_save_news(struct machine *m, struct stream_writer *w, struct fdtable *fds,
		      struct error *err)
{
	return save(m, w, fds, NEWS, err);
}

int machine_describe(struct machine *m, struct stream_writer *w, struct fdtable *fds,
		     struct error *err)
{
	struct error untried = ERROR_INIT;

	/* Without them an update is as good as the one that brought this guest here. */
	if (msr_lists_complete(&m->guest.msrs, &m->kvm, m->vcpus[0].state, &untried) < 0)
		log_warn("MSRs that are new to this guest: %s", untried.text);
	return save(m, w, fds, DESCRIPTION, err);
}

void machine_takeover_kinds(const struct machine_model *model, struct takeover_kinds *kinds)
{
	static const char *const machine_fds[] = { "kvm", "ram", NULL };

	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &machine_vmstate,
							   .required = true,
							   .fds = machine_fds });
	takeover_kinds_add(kinds,
			   &(struct takeover_kind){ .vms = &vcpu_vmstate, .required = true });
	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &vcpu_place_vmstate });
	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &devices_vmstate,
							   .since = DEVICES_SINCE });
	for (size_t i = 0; model->classes[i]; i++) {
		const struct device_class *cls = model->classes[i];

		if (cls->state)
			takeover_kinds_add(kinds,
					   &(struct takeover_kind){ .vms = cls->state,
								    .required = cls->board > 0,
								    .since = cls->since });
		if (cls->host) {
			struct takeover_kind host = *cls->host;

			host.since = cls->since;
			host.required = host.required && cls->board > 0;
			takeover_kinds_add(kinds, &host);
		}
	}
}

/* From a release that does not send it. */
static int peek_cpu_model(struct machine_guest *guest, struct stream *s, struct error *err)
{
	_cleanup_free_ struct vcpu_state *st = calloc(1, sizeof(*st));
	int r;

	if (!st)
		return err_set(err, ENOMEM, "no memory for a vCPU's state");
	r = vmstate_load(s, &vcpu_vmstate, 0, st, err);
	if (r == 0)
		snprintf(guest->cpu_model, sizeof(guest->cpu_model), "%s", cpu_model_of(st));
	return r;
}

int machine_peek_config(struct machine_guest *guest, const struct machine_model *model,
			struct stream *s, struct error *err)
{
	struct machine m = { .machine_version = s->header.machine_version, .model = model };
	int r = vmstate_load(s, &machine_vmstate, 0, guest, err);

	if (r == 0 && !guest->cpu_model[0])
		r = peek_cpu_model(guest, s, err);
	m.guest = *guest;
	return r < 0 ? r : machine_check_config(&m, err);
}
