/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU's thread does. Theory of operation.
 *
 * It is a member of a crew (crew.h), which parks it and lets it go. The kick sets
 * run->immediate_exit, with which KVM_RUN returns at once. What KVM_RUN comes back with is served
 * (vcpu_exit.c); and when the vCPU has executed its last instruction its timer is settled
 * (vcpu_settle.c).
 */
#include <errno.h>
#include <signal.h>
#include <sys/mman.h>

#include <molt/base/fd.h>
#include <molt/vm/machine.h>

#include "vcpu_run.h"

static struct vcpu *vcpu_of(struct crew_member *cm)
{
	struct machine *m = cm->crew->opaque;

	return &m->vcpus[cm->id];
}

static void run_until_parked(struct crew_member *cm)
{
	struct vcpu *v = vcpu_of(cm);
	bool half_done = false;

	v->member = cm;
	if (v->leaves_thread) {
		v->leaves_thread = false;
		vcpu_leave_steal_time(v);
	}
	for (;;) {
		v->run->immediate_exit = 0;
		atomic_signal_fence(memory_order_seq_cst);
		if (!crew_may_run(cm))
			break;
		half_done = vcpu_run_once(v);
	}
	vcpu_complete(v, half_done);
}

static void settle(struct crew_member *cm)
{
	vcpu_settle(vcpu_of(cm));
}

static void begun(struct crew_member *cm)
{
	vcpu_take_place(vcpu_of(cm));
}

static void prepare(struct crew_member *cm)
{
	struct vcpu *v = vcpu_of(cm);

	if (v->machine->rehearses && !vcpu_state_waits(v->state))
		vcpu_warm_up(v);
}

static void kick(struct crew_member *cm)
{
	vcpu_of(cm)->run->immediate_exit = 1;
}

static void started(struct crew_member *cm)
{
	pthread_kill(cm->thread, VCPU_SETTLE_SIGNAL);
}

static bool held(struct crew *crew)
{
	return machine_is_stopping(crew->opaque);
}

static bool waits(struct crew_member *cm)
{
	return vcpu_reading_blocks(&vcpu_of(cm)->reading);
}

const struct crew_ops vcpu_crew_ops = {
	.name = "vcpu",
	.title = "vCPU",
	.begun = begun,
	.run = run_until_parked,
	.kick = kick,
	.prepare = prepare,
	.settle = settle,
	.started = started,
	.held = held,
	.waits = waits,
};

int vcpu_open(struct vcpu *v, struct error *err)
{
	struct machine *m = v->machine;
	int r = kvm_call_num(&m->kvm, m->vm.fd, KVM_CREATE_VCPU, v->id);
	void *run;

	if (r < 0)
		return err_sys(err, -r, "KVM_CREATE_VCPU %u", v->id);
	v->fd = r;
	v->steal_time = 0;
	v->timer = (struct lapic_timer){ 0 };
	fd_set_cloexec(v->fd, true);
	v->run_size = m->kvm.run_size;
	run = mmap(NULL, v->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	if (run == MAP_FAILED) {
		fd_close(&v->fd);
		return err_sys(err, errno, "mapping kvm_run of vCPU %u", v->id);
	}
	v->run = run;
	vcpu_reading_open(&v->reading, &m->kvm, v->fd, v->id == 0);
	return 0;
}

void vcpu_close(struct vcpu *v)
{
	if (v->run) {
		munmap(v->run, v->run_size);
		vcpu_reading_close(&v->reading);
	}
	v->run = NULL;
	fd_close(&v->fd);
}
