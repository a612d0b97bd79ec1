/* SPDX-License-Identifier: MIT */
/*
 * Where and how the host runs a vCPU's thread. Theory of operation.
 *
 * Who pins the threads of vCPUs (taskset), or changes how they are scheduled (renice, chrt), does
 * it from outside, thread by thread, and main's is another one. An update makes new threads, which
 * would be run like main, to which they belong: pinned to its CPU, if it is to one. So before a
 * stand-in is made it is noted of each vCPU's thread in what it differs from main. The stand-in's
 * threads take that over, and by the state the successor's do; each by itself, before the guest is
 * stopped. A thread that is run like main is not noted: what follows it is run like main then.
 * Threads inherit all this from who starts them: where one is noted, main starts them all, and no
 * vCPU's thread another.
 *
 * A priority may be given up by anybody, but taken only by whom RLIMIT_NICE and RLIMIT_RTPRIO let.
 * What cannot be had is said in the log, and the guest runs all the same.
 */
#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>

#include <molt/base/log.h>
#include <molt/base/thread.h>
#include <molt/vm/machine.h>

#include "machine_state.h"
#include "vcpu_run.h"

static const struct vmstate_field place_fields[] = {
	VMSTATE_U64_VAR(struct vcpu_place, cpus, nwords),
	VMSTATE_U32(struct vcpu_place, policy),
	VMSTATE_U32(struct vcpu_place, priority),
	VMSTATE_U32(struct vcpu_place, nice),
	VMSTATE_UNSAVED(struct vcpu_place, differs, "only sent where it does"),
	VMSTATE_UNSAVED(struct vcpu_place, reserved, "padding"),
	VMSTATE_END
};

const struct vmstate vcpu_place_vmstate = {
	.name = "vcpu-thread",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct vcpu_place),
	.fields = place_fields,
	.ignorable = true,
};

_Static_assert(sizeof(cpu_set_t) == sizeof(((struct vcpu_place *)NULL)->cpus),
	       "bit N of it: CPU N");

static void put_cpus(struct vcpu_place *p, const cpu_set_t *set)
{
	memcpy(p->cpus, set, sizeof(p->cpus));
	for (p->nwords = VCPU_PLACE_WORDS; p->nwords && !p->cpus[p->nwords - 1];)
		p->nwords--;
}

static void get_cpus(const struct vcpu_place *p, cpu_set_t *set)
{
	CPU_ZERO(set);
	memcpy(set, p->cpus, p->nwords * sizeof(p->cpus[0]));
}

/* tid 0: the caller's. */
static bool read_place(struct vcpu_place *p, pid_t tid)
{
	struct sched_param param;
	int policy, nice;
	cpu_set_t set;

	memset(p, 0, sizeof(*p));
	policy = sched_getscheduler(tid);
	errno = 0;
	nice = getpriority(PRIO_PROCESS, (id_t)tid);
	if (errno || policy < 0 || sched_getparam(tid, &param) < 0 ||
	    sched_getaffinity(tid, sizeof(set), &set) < 0)
		return false;
	put_cpus(p, &set);
	p->policy = (uint32_t)policy;
	p->priority = (uint32_t)param.sched_priority;
	p->nice = (uint32_t)nice;
	return true;
}

void machine_note_places(struct machine *m)
{
	struct vcpu_place mains;
	bool known = read_place(&mains, 0);

	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		struct vcpu_place *p = &m->vcpus[i].place;

		p->differs = known && read_place(p, m->crew->members[i].tid) &&
			     memcmp(p, &mains, sizeof(mains)) != 0;
	}
}

bool machine_has_places(const struct machine *m)
{
	for (uint32_t i = 0; i < m->guest.cpus; i++)
		if (m->vcpus[i].place.differs)
			return true;
	return false;
}

void machine_save_place(const struct machine *m, struct stream_writer *w, uint32_t id)
{
	if (m->vcpus[id].place.differs)
		vmstate_save(w, &vcpu_place_vmstate, id, &m->vcpus[id].place);
}

int machine_load_places(struct machine *m, struct stream *s, struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < m->guest.cpus && r == 0; i++) {
		struct vcpu_place *p = &m->vcpus[i].place;

		p->differs = stream_find(s, vcpu_place_vmstate.name, i) != NULL;
		if (p->differs)
			r = vmstate_load(s, &vcpu_place_vmstate, i, p, err);
	}
	return r;
}

static void take_cpus(const struct vcpu *v)
{
	cpu_set_t set;

	get_cpus(&v->place, &set);
	if (!thread_set_cpus(&set))
		log_warn("vCPU %u: its new thread is not pinned to the CPUs of the old one: %s",
			 v->id, error_text(errno));
}

static void take_priority(const struct vcpu *v, const struct vcpu_place *is)
{
	const struct vcpu_place *p = &v->place;
	const struct sched_param param = { .sched_priority = (int)p->priority };

	if ((p->policy != is->policy || p->priority != is->priority) &&
	    sched_setscheduler(0, (int)p->policy, &param) < 0)
		log_warn("vCPU %u: its new thread has not the old one's scheduling policy %u, "
			 "priority %u: %s; RLIMIT_RTPRIO (systemd: LimitRTPRIO=) allows one",
			 v->id, p->policy, p->priority, error_text(errno));
	if (p->nice != is->nice && setpriority(PRIO_PROCESS, 0, (int)p->nice) < 0)
		log_warn("vCPU %u: its new thread has not the old one's nice value %d: %s; RLIMIT_NICE "
			 "(systemd: LimitNICE=) allows it",
			 v->id, (int)p->nice, error_text(errno));
}

void vcpu_take_place(struct vcpu *v)
{
	struct vcpu_place is;

	if (!v->place.differs)
		return;
	take_cpus(v);
	if (read_place(&is, 0))
		take_priority(v, &is);
}
