/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "../../src/vm/vcpu_run.h"
#include "fake_kvm.h"

#define RUN_BYTES 12288u
#define RUN_IO_OFFSET 4096u
#define RECHECK_NS 20000000

/* ---- objects ---- */

static struct fake_vm *vm_of(struct fake_kvm *f, int fd)
{
	for (unsigned int i = f->nvms; i-- > 0;)
		if (f->vms[i]->fd == fd)
			return f->vms[i];
	return NULL;
}

static struct fake_vcpu *vcpu_of(struct fake_kvm *f, int fd)
{
	for (unsigned int i = f->nvcpus; i-- > 0;)
		if (f->vcpus[i]->fd == fd)
			return f->vcpus[i];
	return NULL;
}

/* A number that was closed and given out again stands for the new thing only. */
static void forget_fd(struct fake_kvm *f, int fd)
{
	struct fake_vm *vm = vm_of(f, fd);
	struct fake_vcpu *v = vcpu_of(f, fd);

	if (vm)
		vm->fd = -1;
	if (v)
		v->fd = -1;
}

struct fake_vm *fake_kvm_vm(struct fake_kvm *f, int fd)
{
	struct fake_vm *vm;

	pthread_mutex_lock(&f->lock);
	vm = vm_of(f, fd);
	pthread_mutex_unlock(&f->lock);
	assert_non_null(vm);
	return vm;
}

struct fake_vcpu *fake_kvm_vcpu(struct fake_kvm *f, int fd)
{
	struct fake_vcpu *v;

	pthread_mutex_lock(&f->lock);
	v = vcpu_of(f, fd);
	pthread_mutex_unlock(&f->lock);
	assert_non_null(v);
	return v;
}

static int new_fd(struct fake_kvm *f, size_t size)
{
	int fd = memfd_create("fake-kvm", MFD_CLOEXEC);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return -errno;
	forget_fd(f, fd);
	return fd;
}

static int create_vm(struct fake_kvm *f)
{
	struct fake_vm *vm;

	if (f->nvms == FAKE_VMS)
		return -ENOMEM;
	vm = calloc(1, sizeof(*vm));
	vm->fd = new_fd(f, 4096);
	f->vms[f->nvms++] = vm;
	return vm->fd;
}

static const uint32_t msr_indices[] = {
	0x10,
	0x11,
	0x12,
	0x3a,
	0x174,
	0x175,
	0x176,
	FAKE_MSR_PERF_EVENT,
	0x277,
	FAKE_MSR_PERF_CAPABILITIES,
	FAKE_MSR_UNREADABLE,
	FAKE_MSR_READ_ONLY,
	FAKE_MSR_TSC_DEADLINE,
	FAKE_MSR_WALL_CLOCK,
	0x4b564d01,
	FAKE_MSR_ASYNC_PF_EN,
	FAKE_MSR_STEAL_TIME,
	0xc0000081,
	0xc0000082,
	0xc0000083,
	0xc0000102,
	0xc0000103,
};
/* What KVM has, but does not list. */
static const uint32_t unlisted_msrs[] = { 0x1d9, 0x200, 0x201, 0x250, 0x2ff, 0x400, 0x401 };

static void power_on(struct fake_vcpu *v)
{
	for (size_t i = 0; i < ARRAY_SIZE(msr_indices); i++)
		if (msr_indices[i] != FAKE_MSR_UNREADABLE)
			v->msr_index[v->nmsrs++] = msr_indices[i];
	for (size_t i = 0; i < ARRAY_SIZE(unlisted_msrs); i++)
		v->msr_index[v->nmsrs++] = unlisted_msrs[i];
	v->msr_value[fake_vcpu_msr(v, FAKE_MSR_PERF_CAPABILITIES)] = FAKE_PERF_CAPABILITIES;
	v->tsc_khz = FAKE_TSC_KHZ;
	v->regs.rip = 0xfff0;
	v->regs.rflags = 2;
	v->sregs.cs.selector = 0xf000;
	v->mp_state.mp_state = v->id ? KVM_MP_STATE_UNINITIALIZED : KVM_MP_STATE_RUNNABLE;
}

static int create_vcpu(struct fake_kvm *f, uint32_t id)
{
	struct fake_vcpu *v;
	void *run;

	if (f->nvcpus == FAKE_VCPUS)
		return -ENOMEM;
	v = calloc(1, sizeof(*v));
	v->id = id;
	v->any_msr = f->any_msr;
	v->fd = new_fd(f, RUN_BYTES);
	v->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	run = mmap(NULL, RUN_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	v->run = run == MAP_FAILED ? NULL : run;
	power_on(v);
	f->vcpus[f->nvcpus++] = v;
	return v->fd;
}

/* ---- the system ---- */

static int supported_cpuid(struct fake_kvm *f, struct kvm_cpuid2 *c)
{
	static const struct kvm_cpuid_entry2 leaves[] = {
		{ .function = 0,
		  .eax = 0x1f,
		  .ebx = 0x756e6547,
		  .ecx = 0x6c65746e,
		  .edx = 0x49656e69 },
		{ .function = 1,
		  .eax = 0x906a3,
		  .ebx = 0x55ff0800,
		  .ecx = 0x7fffffff,
		  .edx = 0xffffffff },
		{ .function = 4,
		  .index = 0,
		  .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		  .eax = 0xfc004121 },
		{ .function = 4,
		  .index = 3,
		  .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
		  .eax = 0xfc1fc163 },
		{ .function = 4, .index = 4, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX },
		{ .function = 7, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .ebx = 0x1234 },
		{ .function = 0xb, .flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX, .eax = 7, .edx = 99 },
		{ .function = 0x40000000, .eax = 0x40000001 },
		{ .function = 0x40000001, .eax = 0x01007efb },
		{ .function = 0x80000001, .ecx = 0x00000127 },
		{ .function = 0x80000008, .eax = 0x3030, .ecx = 0x700f },
		{ .function = 0x8000000a, .eax = 1, .ebx = 8 },
		{ .function = 0x8000001d, .eax = 0xfc1fc163 },
		{ .function = 0x8000001e, .eax = 77, .ebx = 0x177, .ecx = 0x303, .edx = 5 },
	};

	const struct kvm_cpuid_entry2 *from = f->cpuid ? f->cpuid : leaves;
	uint32_t n = f->cpuid ? f->ncpuid : ARRAY_SIZE(leaves);

	if (c->nent < n)
		return -E2BIG;
	c->nent = n;
	memcpy(c->entries, from, n * sizeof(*from));
	return 0;
}

static int msr_index_list(struct kvm_msr_list *list)
{
	if (list->nmsrs < ARRAY_SIZE(msr_indices))
		return -E2BIG;
	list->nmsrs = ARRAY_SIZE(msr_indices);
	memcpy(list->indices, msr_indices, sizeof(msr_indices));
	return 0;
}

static int system_ioctl(struct fake_kvm *f, unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_GET_API_VERSION:
		return f->api_version;
	case KVM_CHECK_EXTENSION:
		return arg < FAKE_CAPS ? f->caps[arg] : 0;
	case KVM_GET_VCPU_MMAP_SIZE:
		return RUN_BYTES;
	case KVM_CREATE_VM:
		return create_vm(f);
	case KVM_GET_SUPPORTED_CPUID:
		return supported_cpuid(f, (struct kvm_cpuid2 *)arg);
	case KVM_GET_MSR_INDEX_LIST:
		return msr_index_list((struct kvm_msr_list *)arg);
	default:
		return -ENOTTY;
	}
}

/* ---- a VM ---- */

static uint64_t raw_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_RAW, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static int add_slot(struct fake_vm *vm, const struct kvm_userspace_memory_region *slot)
{
	if (vm->nslots == FAKE_SLOTS)
		return -EINVAL;
	vm->slots[vm->nslots++] = *slot;
	vm->slots_after_irqchip |= vm->has_irqchip;
	return 0;
}

static int irq_line(struct fake_vm *vm, struct kvm_irq_level *il)
{
	if (!vm->has_irqchip || il->irq >= ARRAY_SIZE(vm->level))
		return -ENXIO;
	vm->edges[il->irq] += il->level && !vm->level[il->irq];
	vm->level[il->irq] = il->level;
	il->status = 1; /* in the place of the number */
	return 0;
}

static int irqchip(struct fake_vm *vm, struct kvm_irqchip *chip, bool set)
{
	if (!vm->has_irqchip)
		return -ENXIO;
	if (chip->chip_id >= ARRAY_SIZE(vm->chips))
		return -EINVAL;
	if (set)
		vm->chips[chip->chip_id] = *chip;
	else
		memcpy(&chip->chip, &vm->chips[chip->chip_id].chip, sizeof(chip->chip));
	return 0;
}

static int once(bool *flag)
{
	if (*flag)
		return -EEXIST;
	*flag = true;
	return 0;
}

uint64_t fake_clock_set_ns;
uint64_t fake_clock_get_ns;

static int kvmclock(struct fake_vm *vm, struct kvm_clock_data *data, bool set)
{
	uint64_t until = raw_now() + (set ? fake_clock_set_ns : fake_clock_get_ns);

	while (raw_now() < until)
		;
	if (set)
		vm->clock_offset = (int64_t)(data->clock - raw_now());
	else
		*data = (struct kvm_clock_data){ .clock = raw_now() + (uint64_t)vm->clock_offset };
	if (vm->clock_waits) {
		vm->clock_waits--;
		usleep(10000);
	}
	return 0;
}

static int vm_ioctl(struct fake_kvm *f, struct fake_vm *vm, unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_SET_IDENTITY_MAP_ADDR:
	case KVM_SET_TSS_ADDR:
	case KVM_ENABLE_CAP:
		return 0;
	case KVM_SET_USER_MEMORY_REGION:
		return add_slot(vm, (const struct kvm_userspace_memory_region *)arg);
	case KVM_CREATE_IRQCHIP:
		return once(&vm->has_irqchip);
	case KVM_GET_IRQCHIP:
	case KVM_SET_IRQCHIP:
		return irqchip(vm, (struct kvm_irqchip *)arg, request == KVM_SET_IRQCHIP);
	case KVM_GET_CLOCK:
	case KVM_SET_CLOCK:
		return kvmclock(vm, (struct kvm_clock_data *)arg, request == KVM_SET_CLOCK);
	case KVM_IRQ_LINE:
	case KVM_IRQ_LINE_STATUS:
		return irq_line(vm, (struct kvm_irq_level *)arg);
	case KVM_CREATE_VCPU:
		return create_vcpu(f, (uint32_t)arg);
	default:
		return -ENOTTY;
	}
}

/* ---- a vCPU's state ---- */

#define SREGS_HEAD offsetof(struct kvm_sregs2, flags)

/* State that is one struct: what is set is what is got. */
static const struct blob {
	unsigned long get;
	unsigned long set;
	size_t offset;
	size_t size;
} blobs[] = {
	{ KVM_GET_REGS, KVM_SET_REGS, offsetof(struct fake_vcpu, regs), sizeof(struct kvm_regs) },
	{ KVM_GET_SREGS2, KVM_SET_SREGS2, offsetof(struct fake_vcpu, sregs),
	  sizeof(struct kvm_sregs2) },
	{ KVM_GET_SREGS, KVM_SET_SREGS, offsetof(struct fake_vcpu, sregs), SREGS_HEAD },
	{ KVM_GET_XCRS, KVM_SET_XCRS, offsetof(struct fake_vcpu, xcrs), sizeof(struct kvm_xcrs) },
	{ KVM_GET_XSAVE, 0, offsetof(struct fake_vcpu, xsave), sizeof(struct kvm_xsave) },
	{ KVM_GET_XSAVE2, KVM_SET_XSAVE, offsetof(struct fake_vcpu, xsave), FAKE_XSAVE_BYTES },
	{ KVM_GET_LAPIC, KVM_SET_LAPIC, offsetof(struct fake_vcpu, lapic),
	  sizeof(struct kvm_lapic_state) },
	{ KVM_GET_MP_STATE, KVM_SET_MP_STATE, offsetof(struct fake_vcpu, mp_state),
	  sizeof(struct kvm_mp_state) },
	{ KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS, offsetof(struct fake_vcpu, events),
	  sizeof(struct kvm_vcpu_events) },
	{ KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, offsetof(struct fake_vcpu, debugregs),
	  sizeof(struct kvm_debugregs) },
};

static int blob_ioctl(struct fake_vcpu *v, unsigned long request, void *arg)
{
	for (size_t i = 0; i < ARRAY_SIZE(blobs); i++) {
		const struct blob *b = &blobs[i];

		if (request == b->get) {
			v->torn_reads += v->in_flight;
			memcpy(arg, (char *)v + b->offset, b->size);
			return 0;
		}
		if (request == b->set) {
			memcpy((char *)v + b->offset, arg, b->size);
			return 0;
		}
	}
	return -ENOTTY;
}

/* kvm_pmu_refresh(), as Linux 6.8 has it */
static void reset_counters(struct fake_vcpu *v)
{
	for (uint32_t i = 0; i < v->nmsrs; i++)
		if (v->msr_index[i] == FAKE_MSR_PERF_EVENT)
			v->msr_value[i] = 0;
}

static bool is_page_outside(const struct fake_vcpu *v, const struct kvm_msr_entry *e)
{
	return e->index == FAKE_MSR_ASYNC_PF_EN && e->data & 1 && v->ram_end &&
	       e->data >= v->ram_end;
}

static int msrs_ioctl(struct fake_vcpu *v, struct kvm_msrs *m, bool set)
{
	if (m->nmsrs >= 256) /* MAX_IO_MSRS */
		return -E2BIG;
	for (uint32_t n = 0; n < m->nmsrs; n++) {
		struct kvm_msr_entry *e = &m->entries[n];
		uint32_t i = 0;

		while (i < v->nmsrs && v->msr_index[i] != e->index)
			i++;
		if (i == v->nmsrs && set && v->any_msr && i < FAKE_MSRS)
			v->msr_index[v->nmsrs++] = e->index;
		if (i == v->nmsrs || (set && e->index == FAKE_MSR_READ_ONLY && !v->any_msr))
			return (int)n;
		if (set && is_page_outside(v, e)) {
			v->msr_value[i] = e->data;
			return (int)n;
		}
		v->msr_writes[i] += set;
		v->armed += set && e->index == FAKE_MSR_TSC_DEADLINE && e->data;
		if (set && e->index == FAKE_MSR_PERF_CAPABILITIES && e->data != v->msr_value[i])
			reset_counters(v);
		if (set)
			v->msr_value[i] = e->data;
		else
			e->data = v->msr_value[i];
	}
	return (int)m->nmsrs;
}

static int set_cpuid(struct fake_vcpu *v, const struct kvm_cpuid2 *c)
{
	if (c->nent > ARRAY_SIZE(v->cpuid))
		return -E2BIG;
	v->cpuid_head = *c;
	memcpy(v->cpuid, c->entries, c->nent * sizeof(c->entries[0]));
	return 0;
}

static int tsc_attr(struct fake_vcpu *v, const struct kvm_device_attr *attr, bool set)
{
	uint64_t *user = (uint64_t *)(uintptr_t)attr->addr;

	if (attr->group != KVM_VCPU_TSC_CTRL || attr->attr != KVM_VCPU_TSC_OFFSET)
		return -ENXIO;
	if (set)
		v->tsc_offset = *user;
	else
		*user = v->tsc_offset;
	return 0;
}

/* Intel SDM volume 3, "APIC Timer": bits 17-18 of the LVT timer register. */
static void set_timer_mode(struct fake_vcpu *v)
{
	uint32_t lvtt, initial;
	bool deadline;

	memcpy(&lvtt, v->lapic.regs + 0x320, sizeof(lvtt));
	memcpy(&initial, v->lapic.regs + 0x380, sizeof(initial));
	deadline = (lvtt >> 17 & 3) == 2;
	if (deadline != v->deadline_mode)
		initial = 0;
	memcpy(v->lapic.regs + 0x380, &initial, sizeof(initial));
	v->deadline_mode = deadline;
	v->armed += !deadline && initial;
}

static void have_side_effects(struct fake_vcpu *v, unsigned long request)
{
	if (request == KVM_SET_REGS)
		v->events.exception.pending = 0;
	if ((request == KVM_SET_SREGS || request == KVM_SET_SREGS2) && v->id == 0 &&
	    !(v->sregs.cr0 & 1) && v->sregs.cs.selector == 0xf000 && v->regs.rip == 0xfff0)
		v->mp_state.mp_state = KVM_MP_STATE_RUNNABLE;
	if (request == KVM_SET_LAPIC)
		set_timer_mode(v);
}

static bool goes_into_smm(const struct kvm_vcpu_events *events)
{
	return events->flags & KVM_VCPUEVENT_VALID_SMM && (events->smi.smm || events->smi.pending);
}

/* A 64-bit code segment, but no long mode; to wait for SIPI in SMM, or with an SMI pending. */
static bool is_refused(const struct fake_vcpu *v, unsigned long request, const void *arg)
{
	const struct kvm_sregs2 *sregs = arg;

	switch (request) {
	case KVM_SET_SREGS:
	case KVM_SET_SREGS2:
		return sregs->cs.l && !(sregs->efer & FAKE_EFER_LMA);
	case KVM_SET_MP_STATE:
		return ((const struct kvm_mp_state *)arg)->mp_state == KVM_MP_STATE_INIT_RECEIVED &&
		       goes_into_smm(&v->events);
	case KVM_SET_VCPU_EVENTS:
		return v->mp_state.mp_state == KVM_MP_STATE_INIT_RECEIVED && goes_into_smm(arg);
	default:
		return false;
	}
}

static int change_vcpu(struct fake_vcpu *v, unsigned long request, void *arg)
{
	int r = is_refused(v, request, arg) ? -EINVAL : blob_ioctl(v, request, arg);

	have_side_effects(v, request);
	return r;
}

/* As KVM before Linux 5.19 does whenever it lets go of a vCPU. */
static void let_go(struct fake_vcpu *v)
{
	for (uint32_t i = 0; i < v->nmsrs; i++)
		v->ram_writes += v->msr_index[i] == FAKE_MSR_STEAL_TIME && v->msr_value[i] & 1;
}

/* Of which VM it is a vCPU nobody says: the newest has the memslots. */
static uint8_t *in_a_slot(const struct fake_kvm *f, uint64_t gpa, uint64_t size)
{
	const struct fake_vm *vm = f->nvms ? f->vms[f->nvms - 1] : NULL;

	for (unsigned int i = 0; vm && i < vm->nslots; i++) {
		uint64_t start = vm->slots[i].guest_phys_addr;

		if (gpa >= start && gpa + size <= start + vm->slots[i].memory_size)
			return (uint8_t *)vm->slots[i].userspace_addr + (gpa - start);
	}
	return NULL;
}

/* The time, which is at the value itself, be it odd. */
static void write_wall_clock(const struct fake_kvm *f, const struct kvm_msrs *m)
{
	for (uint32_t i = 0; i < m->nmsrs; i++) {
		uint64_t gpa = m->entries[i].data;
		uint8_t *at = m->entries[i].index == FAKE_MSR_WALL_CLOCK && gpa
				      ? in_a_slot(f, gpa, FAKE_WALL_CLOCK_BYTES)
				      : NULL;

		if (at)
			memset(at, 0xee, FAKE_WALL_CLOCK_BYTES);
	}
}

static int pre_fault(struct fake_kvm *f, struct fake_vcpu *v, struct kvm_pre_fault_memory *range)
{
	uint64_t size = range->size < FAKE_FILL_MOST ? range->size : FAKE_FILL_MOST;

	if (!f->caps[KVM_CAP_PRE_FAULT_MEMORY] || v->nfilled == FAKE_RANGES)
		return -EOPNOTSUPP;
	if (range->flags || !size || (range->gpa | size) % 4096)
		return -EINVAL;
	if (!in_a_slot(f, range->gpa, size))
		return -ENOENT;
	v->filled[v->nfilled++] = (struct fake_range){ range->gpa, size };
	range->gpa += size;
	range->size -= size;
	return 0;
}

static int vcpu_ioctl(struct fake_kvm *f, struct fake_vcpu *v, unsigned long request, uintptr_t arg)
{
	switch (request) {
	case KVM_SET_CPUID2:
		return set_cpuid(v, (const struct kvm_cpuid2 *)arg);
	case KVM_SET_MSRS:
		write_wall_clock(f, (const struct kvm_msrs *)arg);
		/* fall through */
	case KVM_GET_MSRS:
		return msrs_ioctl(v, (struct kvm_msrs *)arg, request == KVM_SET_MSRS);
	case KVM_GET_TSC_KHZ:
		return (int)v->tsc_khz;
	case KVM_SET_TSC_KHZ:
		v->tsc_khz = arg;
		return 0;
	case KVM_GET_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		return tsc_attr(v, (const struct kvm_device_attr *)arg,
				request == KVM_SET_DEVICE_ATTR);
	case KVM_SET_SIGNAL_MASK:
		v->settling = arg;
		return 0;
	case KVM_PRE_FAULT_MEMORY:
		return pre_fault(f, v, (struct kvm_pre_fault_memory *)arg);
	case KVM_KVMCLOCK_CTRL:
		v->kvmclock_ctrls++;
		return 0;
	default:
		return change_vcpu(v, request, (void *)arg);
	}
}

static int call_vcpu(struct fake_kvm *f, struct fake_vcpu *v, unsigned long request, uintptr_t arg)
{
	int r = vcpu_ioctl(f, v, request, arg);

	let_go(v);
	return r;
}

/* ---- its statistics ---- */

#define STATS_NAME_BYTES 48

struct fake_stats_desc {
	uint32_t flags;
	int16_t exponent;
	uint16_t size;
	uint32_t offset;
	uint32_t bucket_size;
	char name[STATS_NAME_BYTES];
};

struct fake_stats {
	struct kvm_stats_header head;
	struct fake_stats_desc desc[3];
	uint64_t data[3];
};

static void free_stats(struct fake_vcpu *v)
{
	if (v->stats)
		munmap(v->stats, sizeof(*v->stats));
}

static int get_stats(struct fake_kvm *f, struct fake_vcpu *v)
{
	const struct fake_stats stats = {
		.head = { .name_size = STATS_NAME_BYTES,
			  .num_desc = 3,
			  .desc_offset = offsetof(struct fake_stats, desc),
			  .data_offset = offsetof(struct fake_stats, data) },
		.desc = { { .size = 1, .name = "halt_exits" },
			  { .size = 1, .offset = sizeof(uint64_t), .name = "exits" },
			  { .size = 1, .offset = 2 * sizeof(uint64_t), .name = "blocking" } },
	};
	void *shared;
	int fd;

	if (f->no_stats)
		return -ENOTTY;
	fd = new_fd(f, sizeof(stats));
	shared = mmap(NULL, sizeof(stats), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(shared != MAP_FAILED);
	memcpy(shared, &stats, sizeof(stats));
	free_stats(v);
	v->stats = shared;
	return fd;
}

void fake_vcpu_count_exit(struct fake_vcpu *v)
{
	if (v->stats)
		v->stats->data[1]++;
}

void fake_vcpu_set_blocking(struct fake_vcpu *v, bool blocks)
{
	if (v->stats)
		v->stats->data[2] = blocks;
}

/* ---- KVM_RUN ---- */

static bool immediate_exit(const struct fake_vcpu *v)
{
	return *(volatile const uint8_t *)&v->run->immediate_exit;
}

static void fill_run(struct fake_vcpu *v, const struct fake_exit *e)
{
	struct kvm_run *run = v->run;

	run->exit_reason = e->reason;
	if (e->reason == KVM_EXIT_IO) {
		run->io.direction = e->write ? KVM_EXIT_IO_OUT : KVM_EXIT_IO_IN;
		run->io.port = (uint16_t)e->addr;
		run->io.size = e->size;
		run->io.count = e->count;
		run->io.data_offset = RUN_IO_OFFSET;
		memcpy((char *)run + RUN_IO_OFFSET, e->data, sizeof(e->data));
	} else if (e->reason == KVM_EXIT_MMIO) {
		run->mmio.phys_addr = e->addr;
		run->mmio.len = e->size;
		run->mmio.is_write = e->write;
		memcpy(run->mmio.data, e->data, sizeof(run->mmio.data));
	} else if (e->reason == KVM_EXIT_INTERNAL_ERROR) {
		run->internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
		run->internal.ndata = e->count;
		memset(run->internal.data, 0x5a, sizeof(run->internal.data));
	}
	v->in_flight = e->reason == KVM_EXIT_IO || e->reason == KVM_EXIT_MMIO;
}

static int play(struct fake_vcpu *v)
{
	const struct fake_exit *e = &v->script[v->at++];

	if (e->error)
		return -e->error;
	fake_vcpu_count_exit(v);
	fill_run(v, e);
	return 0;
}

/* Takes the VMM's answer to the last exit; whether the same instruction exits once more. */
static bool complete(struct fake_vcpu *v)
{
	struct fake_exit *done = &v->done[v->ndone++];

	*done = v->script[v->at - 1];
	if (done->reason == KVM_EXIT_IO)
		memcpy(done->data, (char *)v->run + RUN_IO_OFFSET, sizeof(done->data));
	else
		memcpy(done->data, v->run->mmio.data, sizeof(v->run->mmio.data));
	v->in_flight = false;
	return v->at < v->nscript && v->script[v->at].goes_on;
}

/* Sleeps until a kick or more of the script. The lock is held before and after. */
static void halt(struct fake_kvm *f, struct fake_vcpu *v)
{
	struct timespec recheck = { .tv_nsec = RECHECK_NS };
	struct pollfd pfd = { .fd = v->wake, .events = POLLIN };
	sigset_t kick, old;
	uint64_t count;

	pthread_mutex_unlock(&f->lock);
	/* Blocked around the look at immediate_exit, or a kick in between would be slept over. */
	sigemptyset(&kick);
	sigaddset(&kick, CREW_KICK_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &kick, &old);
	if (!immediate_exit(v) && ppoll(&pfd, 1, &recheck, &old) > 0)
		(void)!read(v->wake, &count, sizeof(count));
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_mutex_lock(&f->lock);
}

/* With a signal pending KVM_RUN executes nothing, but has a look at the timer. */
static void take_expired(struct fake_vcpu *v)
{
	char *irr = v->lapic.regs + 0x200 + v->expired / 32 * 0x10;
	uint32_t bits;

	v->settled++;
	if (v->mp_state.mp_state == KVM_MP_STATE_HALTED)
		v->preemption_timer = false;
	if (!v->expired || v->preemption_timer)
		return;
	if (v->unnoticed) {
		v->unnoticed--;
		return;
	}
	memcpy(&bits, irr, sizeof(bits));
	bits |= 1u << v->expired % 32;
	memcpy(irr, &bits, sizeof(bits));
	v->expired = 0;
}

static int run_vcpu(struct fake_kvm *f, struct fake_vcpu *v)
{
	if (v->runs++ && !pthread_equal(v->runner, pthread_self()) && f->thread_change_us)
		usleep(f->thread_change_us);
	v->runner = pthread_self();
	if (v->in_flight && complete(v))
		return play(v);
	for (;;) {
		if (immediate_exit(v) || v->settling) {
			if (!immediate_exit(v))
				take_expired(v);
			v->run->exit_reason = KVM_EXIT_INTR;
			return -EINTR;
		}
		if (v->at < v->nscript)
			return play(v);
		halt(f, v);
	}
}

/* ---- the door ---- */

static void record(struct fake_kvm *f, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_call *c = &f->calls[f->ncalls];

	if (f->ncalls == FAKE_CALLS)
		return;
	f->ncalls++;
	*c = (struct fake_call){ .fd = fd, .request = request };
	if (request == KVM_SET_MSRS || request == KVM_GET_MSRS) {
		const struct kvm_msrs *m = (const struct kvm_msrs *)arg;

		c->nmsrs = m->nmsrs;
		c->msr = m->nmsrs ? m->entries[0].index : 0;
	}
}

static bool must_fail(struct fake_kvm *f, unsigned long request)
{
	if (!f->fail_error || request != f->fail_request)
		return false;
	if (f->fail_skip) {
		f->fail_skip--;
		return false;
	}
	if (f->fail_times && --f->fail_times == 0)
		f->fail_request = 0;
	return true;
}

static int dispatch(struct fake_kvm *f, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_vm *vm = vm_of(f, fd);
	struct fake_vcpu *v = vcpu_of(f, fd);

	if (request == KVM_RUN)
		return v ? run_vcpu(f, v) : -ENOTTY;
	if (v && request == KVM_GET_STATS_FD)
		return get_stats(f, v);
	if (v)
		return call_vcpu(f, v, request, arg);
	if (vm)
		return vm_ioctl(f, vm, request, arg);
	return system_ioctl(f, request, arg);
}

static int fake_ioctl(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	struct fake_kvm *f = kvm->opaque;
	int r;

	pthread_mutex_lock(&f->lock);
	if (request != KVM_RUN)
		record(f, fd, request, arg);
	r = must_fail(f, request) ? -f->fail_error : dispatch(f, fd, request, arg);
	pthread_mutex_unlock(&f->lock);
	return r;
}

static void all_capabilities(struct fake_kvm *f)
{
	static const int flags[] = {
		KVM_CAP_IRQCHIP,
		KVM_CAP_IRQ_INJECT_STATUS,
		KVM_CAP_IMMEDIATE_EXIT,
		KVM_CAP_XSAVE,
		KVM_CAP_VCPU_EVENTS,
		KVM_CAP_DEBUGREGS,
		KVM_CAP_MP_STATE,
		KVM_CAP_GET_TSC_KHZ,
		KVM_CAP_SREGS2,
		KVM_CAP_XCRS,
		KVM_CAP_VCPU_ATTRIBUTES,
		KVM_CAP_TSC_CONTROL,
		KVM_CAP_TSC_DEADLINE_TIMER,
		KVM_CAP_EXCEPTION_PAYLOAD,
		KVM_CAP_X86_TRIPLE_FAULT_EVENT,
		KVM_CAP_KVMCLOCK_CTRL,
		KVM_CAP_SET_IDENTITY_MAP_ADDR,
		KVM_CAP_SET_TSS_ADDR,
		KVM_CAP_PRE_FAULT_MEMORY,
	};

	for (size_t i = 0; i < ARRAY_SIZE(flags); i++)
		f->caps[flags[i]] = 1;
	f->caps[KVM_CAP_ADJUST_CLOCK] = KVM_CLOCK_TSC_STABLE | KVM_CLOCK_REALTIME;
	f->caps[KVM_CAP_XSAVE2] = FAKE_XSAVE_BYTES;
	f->caps[KVM_CAP_MAX_VCPUS] = 16;
}

struct fake_kvm *fake_kvm_new(void)
{
	struct fake_kvm *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	pthread_mutex_init(&f->lock, NULL);
	f->api_version = KVM_API_VERSION;
	all_capabilities(f);
	/* A character device, as /dev/kvm is one in the fd table. */
	f->kvm.fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	assert_true(f->kvm.fd >= 0);
	f->kvm.ioctl = fake_ioctl;
	f->kvm.opaque = f;
	return f;
}

void fake_kvm_free(struct fake_kvm *f)
{
	for (unsigned int i = 0; i < f->nvms; i++)
		free(f->vms[i]);
	for (unsigned int i = 0; i < f->nvcpus; i++) {
		munmap(f->vcpus[i]->run, RUN_BYTES);
		close(f->vcpus[i]->wake);
		free_stats(f->vcpus[i]);
		free(f->vcpus[i]);
	}
	fd_close(&f->kvm.fd);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
