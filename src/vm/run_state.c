/* SPDX-License-Identifier: MIT */
/*
 * Whether the machine runs, and what makes it stop: commands from the host, requests from the
 * guest.
 */
#include <errno.h>

#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "machine_state.h"
#include "requests.h"

const char *run_state_name(enum run_state state)
{
	static const char *const names[RUN_STATE_COUNT] = {
		[RUN_STATE_PRELAUNCH] = "prelaunch",
		[RUN_STATE_RUNNING] = "running",
		[RUN_STATE_PAUSED] = "paused",
		[RUN_STATE_SHUTDOWN] = "shutdown",
		[RUN_STATE_INTERNAL_ERROR] = "internal-error",
	};

	return state < RUN_STATE_COUNT ? names[state] : "unknown";
}

static void emit(struct machine *m, enum machine_event ev, const char *detail)
{
	m->ops.event(m, m->ops.opaque, ev, detail);
}

int machine_resume(struct machine *m, struct error *err)
{
	if (m->guest.run_state == RUN_STATE_RUNNING)
		return 0;
	if (m->guest.run_state != RUN_STATE_PRELAUNCH && m->guest.run_state != RUN_STATE_PAUSED)
		return err_set(err, EBUSY, "the machine is in state '%s' and cannot run on",
			       run_state_name((enum run_state)m->guest.run_state));
	if (m->guest.run_state == RUN_STATE_PAUSED)
		machine_tell_paused(m);
	m->guest.run_state = RUN_STATE_RUNNING;
	machine_unpark_vcpus(m);
	emit(m, MACHINE_EVENT_RESUME, NULL);
	return 0;
}

int machine_pause(struct machine *m, struct error *err)
{
	uint64_t stopped_ns;
	int r;

	if (m->guest.run_state != RUN_STATE_RUNNING)
		return 0;
	r = machine_park_in_time(m, NULL, &stopped_ns, err);
	if (r < 0)
		return r;
	m->guest.run_state = RUN_STATE_PAUSED;
	emit(m, MACHINE_EVENT_STOP, NULL);
	return 0;
}

void machine_exit(struct machine *m, int code, const char *reason)
{
	machine_park_vcpus(m);
	if (m->guest.run_state != RUN_STATE_INTERNAL_ERROR)
		m->guest.run_state = RUN_STATE_SHUTDOWN;
	m->exit_code = code;
	emit(m, MACHINE_EVENT_SHUTDOWN, reason);
	loop_stop(m->loop, code);
}

static void guest_reset(struct machine *m)
{
	struct error err = ERROR_INIT;

	if (m->guest.no_reboot) {
		log_info("the guest asked for a reset, which --no-reboot makes an exit");
		machine_exit(m, MACHINE_EXIT_OK, "guest-reset");
		return;
	}
	log_info("the guest resets the machine");
	if (machine_reset(m, "guest-reset", &err) < 0) {
		log_error("%s", err.text);
		machine_exit(m, MACHINE_EXIT_FAILURE, "guest-reset");
	}
}

static void guest_failed(struct machine *m, int code, const char *what)
{
	log_error("%s; molt ends with exit code %d", what, code);
	m->guest.run_state = RUN_STATE_INTERNAL_ERROR;
	emit(m, MACHINE_EVENT_GUEST_PANICKED, "poweroff");
	machine_exit(m, code, "guest-panic");
}

static void service_devices(struct machine *m)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->service)
			m->devices[i]->cls->service(m->devices[i]);
}

/*
 * What there is to do, with every vCPU parked if it takes that. A vCPU that sees the bits gone
 * while its goal is to run would run on: so they are cleared after parking only, and only those
 * that were seen. One that is set behind our back has its own wake-up.
 */
static uint32_t take_requests(struct machine *m)
{
	uint32_t reqs = atomic_load(&m->requests);

	if (reqs & MACHINE_STOPPING_REQUESTS) {
		machine_park_vcpus(m);
		reqs = atomic_load(&m->requests);
	}
	atomic_fetch_and(&m->requests, ~reqs);
	return reqs;
}

void machine_handle_requests(void *opaque)
{
	struct machine *m = opaque;
	uint32_t reqs = take_requests(m);

	if (reqs & MACHINE_REQ_PANICKED) {
		log_warn("the guest reports a panic");
		emit(m, MACHINE_EVENT_GUEST_PANICKED, "run");
	}
	if (reqs & MACHINE_REQ_VCPU_ERROR) {
		guest_failed(m, MACHINE_EXIT_VCPU_ERROR, "KVM cannot run the guest any further");
	} else if (reqs & MACHINE_REQ_TRIPLE_FAULT) {
		guest_failed(m, MACHINE_EXIT_TRIPLE_FAULT, "the guest ended in a triple fault");
	} else if (reqs & MACHINE_REQ_SHUTDOWN) {
		log_info("the guest powered off");
		machine_exit(m, MACHINE_EXIT_OK, "guest-shutdown");
	} else if (reqs & MACHINE_REQ_RESET) {
		guest_reset(m);
	} else if (reqs & MACHINE_REQ_SERVICE) {
		service_devices(m);
		if (m->guest.run_state == RUN_STATE_RUNNING)
			machine_unpark_vcpus(m);
	}
}

int machine_power_button(struct machine *m, struct error *err)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];

		if (!dev->cls->power_button)
			continue;
		pthread_mutex_lock(&dev->lock);
		dev->cls->power_button(dev);
		pthread_mutex_unlock(&dev->lock);
		m->ops.event(m, m->ops.opaque, MACHINE_EVENT_POWERDOWN, NULL);
		return 0;
	}
	return err_set(err, ENODEV, "this machine has no power button");
}

int machine_quiesce(struct machine *m, struct error *err)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];
		int r = dev->cls->quiesce ? dev->cls->quiesce(dev, err) : 0;

		if (r < 0) {
			err_prefix(err, "device '%s'", dev->id);
			return r;
		}
	}
	return 0;
}

bool machine_has_back_ends(const struct machine *m)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->back_end)
			return true;
	return false;
}

void machine_fast_paths(struct machine *m, bool on)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->fast_path)
			m->devices[i]->cls->fast_path(m->devices[i], on);
}

void machine_updated(struct machine *m, enum device_update how)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->updated)
			m->devices[i]->cls->updated(m->devices[i], how);
}

void machine_unquiesce(struct machine *m)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->resume)
			m->devices[i]->cls->resume(m->devices[i]);
}

void machine_job_control(struct machine *m, bool stopping)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->job_control)
			m->devices[i]->cls->job_control(m->devices[i], stopping);
}
