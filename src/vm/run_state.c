/* SPDX-License-Identifier: MIT */
/*
 * Whether the machine runs, and what makes it stop: commands from the host, requests from the
 * guest.
 */
#include <errno.h>

#include <molt/base/log.h>
#include <molt/vm/machine.h>
#include <molt/vm/vcpu_state.h>

#include "machine_state.h"
#include "vcpu_run.h"

/* Requests after which no vCPU may execute another instruction until main has acted. */
#define STOPPING_REQUESTS \
	((uint32_t)(MACHINE_REQ_SHUTDOWN | MACHINE_REQ_RESET | MACHINE_REQ_TRIPLE_FAULT | \
		    MACHINE_REQ_VCPU_ERROR | MACHINE_REQ_SERVICE))

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

bool machine_is_stopping(struct machine *m)
{
	return atomic_load(&m->requests) & STOPPING_REQUESTS;
}

uint64_t machine_park_vcpus(struct machine *m)
{
	return crew_park(m->crew);
}

void machine_unpark_vcpus(struct machine *m)
{
	crew_unpark(m->crew);
}

void machine_keep_awake(struct machine *m, bool on)
{
	crew_keep_awake(m->crew, on);
}

uint64_t machine_entered(struct machine *m)
{
	return crew_entered(m->crew);
}

uint64_t machine_wait_entered(struct machine *m)
{
	return crew_wait_entered(m->crew);
}

bool machine_spare_cpus(struct machine *m, cpu_set_t *spare)
{
	return crew_spare_cpus(m->crew, spare);
}

static void emit(struct machine *m, enum machine_event ev, const char *detail)
{
	m->ops.event(m, m->ops.opaque, ev, detail);
}

void machine_tell_paused(struct machine *m)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		vcpu_state_tell_paused(&m->kvm, m->vcpus[i].fd);
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
	(void)err;
	if (m->guest.run_state != RUN_STATE_RUNNING)
		return 0;
	machine_park_vcpus(m);
	m->guest.run_state = RUN_STATE_PAUSED;
	emit(m, MACHINE_EVENT_STOP, NULL);
	return 0;
}

void machine_request(struct machine *m, enum machine_request req)
{
	atomic_fetch_or(&m->requests, (uint32_t)req);
	loop_wake_signal(&m->request_wake);
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
 * What there is to do, with every vCPU parked if it takes that. A vCPU that sees the bits gone while its
 * goal is to run would run on: so they are cleared after parking only, and only those that were seen.
 * One that is set behind our back has its own wake-up.
 */
static uint32_t take_requests(struct machine *m)
{
	uint32_t reqs = atomic_load(&m->requests);

	if (reqs & STOPPING_REQUESTS) {
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

int machine_quiesce(struct machine *m, struct error *err)
{
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];
		int r = dev->cls->quiesce ? dev->cls->quiesce(dev, err) : 0;

		if (r < 0) {
			err_prefix(err, "device '%s'", dev->id);
			while (i--)
				if (m->devices[i]->cls->resume)
					m->devices[i]->cls->resume(m->devices[i]);
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

void machine_updated(struct machine *m)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->updated)
			m->devices[i]->cls->updated(m->devices[i]);
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
