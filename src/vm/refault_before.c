/* SPDX-License-Identifier: MIT */
/*
 * Mapping guest RAM before the guest is taken over. Theory of operation.
 *
 * The successor is built, and the guest still runs elsewhere: nobody waits, so all that can be
 * mapped is mapped now. But that takes seconds where RAM is large, and there are those who wait for
 * the update's end. So it has a limit of time, and ends when there is hurry.
 *
 * A thread does it, for it is to stay off the vCPUs' CPUs and behind everybody else, and a thread
 * without privileges can lower its priority, but not raise it again. Nice 10 is a tenth of a vCPU's
 * weight: where the CPU has to be shared the guest hardly notices, and yet the piece that is under
 * way (0.1 to 0.4 ms of work) ends soon when there is hurry: within tens of milliseconds beside
 * somebody who computes. SCHED_IDLE, with a three-hundredth, could keep the switch waiting.
 *
 * KVM's second-level tables are filled as well where it can do that (KVM_PRE_FAULT_MEMORY,
 * api.rst): a run of pages right after it was mapped, so that KVM finds each page in this process's
 * page tables, and never one that is not there. It is a call on a vCPU, and those of the new VM
 * have nothing to do yet. The tables are those of the VM, by guest physical address: one vCPU fills
 * them for all. With nested paging it has no use for what the registers say, so it does not matter
 * whether they are loaded already. What KVM does not do, the guest does: none of this is an error.
 *
 * One thread, not several: the guest gains nothing when this ends sooner, and CPUs that no vCPU
 * uses are others' in most hosts.
 */
#include <errno.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <molt/base/fd.h>
#include <molt/base/thread.h>
#include <molt/vm/machine.h>

#include "hostpages.h"
#include "refault_walk.h"

#define NICE 10
#define STACK_BYTES (256u << 10)

struct before {
	struct refault *r;
	const struct refault_plan *plan;
	uint64_t start_ns;
	bool fill_kvm;
	int result;
};

static bool may_go_on(const struct before *b)
{
	const struct refault_plan *plan = b->plan;

	return refault_left(b->r) && now_ns() - b->start_ns < plan->limit_ns &&
	       !(plan->hurry && plan->hurry(plan->opaque));
}

/* What cannot be had makes it slower for somebody, and not wrong. */
static void step_back(const struct refault_plan *plan)
{
	int nice;

	prctl(PR_SET_NAME, "refault", 0, 0, 0);
	errno = 0;
	nice = getpriority(PRIO_PROCESS, 0);
	if (errno == 0 && nice < NICE)
		setpriority(PRIO_PROCESS, 0, NICE);
	if (plan->spare)
		sched_setaffinity(0, sizeof(*plan->spare), plan->spare);
}

/* False where it makes no sense to ask again. */
static bool fill_kvm(const struct vcpu *vcpu, uint64_t gpa, uint64_t len, uint64_t *filled)
{
	struct kvm_pre_fault_memory range = { .gpa = gpa, .size = len };
	uint64_t left = 0;
	int r = 0;

	/* It stops in between for reasons of its own. */
	while (r == 0 && range.size && range.size != left) {
		left = range.size;
		r = kvm_call(&vcpu->machine->kvm, vcpu->fd, KVM_PRE_FAULT_MEMORY, &range);
	}
	*filled += len - (range.size < len ? range.size : len);
	return r == 0 || r == -EAGAIN || r == -EINTR;
}

static void run_mapped(void *opaque, const struct memory_region *reg, uint64_t offset, uint64_t len)
{
	struct before *b = opaque;

	if (b->fill_kvm)
		b->fill_kvm = fill_kvm(b->plan->vcpu, reg->gpa + offset, len, &b->r->in_kvm);
}

static void *map_pieces(void *opaque)
{
	struct before *b = opaque;
	struct refault_progress *progress = b->plan->progress;

	step_back(b->plan);
	while (b->result == 0 && may_go_on(b)) {
		b->result = refault_walk(b->r, run_mapped, b);
		if (progress)
			atomic_store(&progress->mapped, b->r->mapped);
	}
	return NULL;
}

static int run_thread(struct before *b)
{
	pthread_t thread;
	int r = thread_create(&thread, STACK_BYTES, map_pieces, b);

	if (r == 0)
		pthread_join(thread, NULL);
	return -r;
}

static void tell_total(const struct memory *mem, struct refault_progress *progress)
{
	uint64_t total = 0;
	struct stat st;

	for (unsigned int i = 0; i < mem->count; i++)
		if (fstat(mem->regions[i].fd, &st) == 0)
			total += (uint64_t)st.st_blocks * 512;
	atomic_store(&progress->mapped, 0);
	atomic_store(&progress->total, total);
}

int refault_before(struct refault *r, const struct memory *mem, const struct refault_plan *plan,
		   struct error *err)
{
	struct before b = { .r = r, .plan = plan, .start_ns = now_ns() };
	int ret;

	*r = (struct refault){ .mem = mem };
	if (mem->page > HOSTPAGE_SMALL || !may_go_on(&b))
		return 0;
	b.fill_kvm = plan->vcpu && plan->vcpu->machine->kvm.has_pre_fault_memory;
	if (plan->progress)
		tell_total(mem, plan->progress);
	ret = run_thread(&b);
	r->before = r->mapped;
	if (ret < 0)
		return err_sys(err, -ret, "a thread that maps guest RAM");
	if (b.result < 0)
		r->region = mem->count;
	return b.result < 0 ? err_sys(err, -b.result, "mapping guest RAM") : 0;
}
