/* SPDX-License-Identifier: MIT */
/*
 * A vCPU of this machine's KVM that is set in a rehearsal and again is like one that was set once:
 * what KVM says of the two is compared. What the fake KVM of the unit tests does beside, the real
 * one is seen to do. And one that has halted is read by few calls as well as by all.
 */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/vm/cpuid.h>
#include <molt/vm/lapic_timer.h>
#include <molt/vm/vcpu_state.h>

#define RAM_BYTES (2u << 20)
#define CR0_PE 1u
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_PAT 0x277u
#define MSR_LSTAR 0xc0000082u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_SYSTEM_TIME 0x4b564d01u
#define MSR_STEAL_TIME 0x4b564d03u
#define SPIV 0xf0
#define IRR 0x200
#define LVTT 0x320
#define TMICT 0x380
#define TMCCT 0x390
#define TDCR 0x3e0
#define VECTOR 0xefu
#define IRR_OF_VECTOR (IRR + 0x70)
#define BIT_OF_VECTOR (1u << 15)
#define ONE_SHOT 0u
#define PERIODIC (1u << 17)
#define DEADLINE (2u << 17)

/* A VM with one vCPU. */
struct box {
	struct kvm_vm vm;
	int fd;
	void *ram;
};

struct fixture {
	struct kvm kvm;
	struct error err;
	struct box again; /* rehearsed, and set again */
	struct box once;
	struct msr_lists *lists;
	struct vcpu_state *st, *known, *a, *b;
};

static void box_open(struct fixture *f, struct box *box)
{
	struct kvm_userspace_memory_region slot = { .memory_size = RAM_BYTES };

	box->ram = mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(box->ram != MAP_FAILED);
	slot.userspace_addr = (uintptr_t)box->ram;
	assert_int_equal(kvm_vm_create(&box->vm, &f->kvm, -1, &f->err), 0);
	assert_int_equal(kvm_vm_call(&box->vm, KVM_SET_USER_MEMORY_REGION, &slot), 0);
	assert_int_equal(kvm_call_num(&f->kvm, box->vm.fd, KVM_CREATE_IRQCHIP, 0), 0);
	box->fd = kvm_call_num(&f->kvm, box->vm.fd, KVM_CREATE_VCPU, 0);
	assert_true(box->fd >= 0);
}

static void box_close(struct box *box)
{
	fd_close(&box->fd);
	kvm_vm_destroy(&box->vm);
	munmap(box->ram, RAM_BYTES);
}

static struct vcpu_state *new_state(void)
{
	struct vcpu_state *st = calloc(1, sizeof(*st));

	assert_non_null(st);
	return st;
}

/* st: as a vCPU is at power-on, the list of MSRs with it. */
static void make_state(struct fixture *f)
{
	struct cpuid_config cpuid = { .cpus = 1, .model = CPU_MODEL_HOST };
	struct box box;
	int khz;

	box_open(f, &box);
	khz = kvm_call_num(&f->kvm, box.fd, KVM_GET_TSC_KHZ, 0);
	assert_true(khz > 0);
	cpuid.tsc_khz = (uint32_t)khz;
	assert_int_equal(cpuid_make(f->st, &f->kvm, &cpuid, &f->err), 0);
	assert_int_equal(vcpu_state_set_cpuid(f->st, &f->kvm, box.fd, &f->err), 0);
	assert_int_equal(msr_lists_init(f->lists, &f->kvm, box.fd, &f->err), 0);
	box_close(&box);
	box_open(f, &box);
	assert_int_equal(vcpu_state_set_cpuid(f->st, &f->kvm, box.fd, &f->err), 0);
	assert_int_equal(vcpu_state_get(f->st, &f->kvm, box.fd, &f->lists->saved, &f->err), 0);
	f->st->lapic_ns = 0; /* nothing ages: the two ways take place at different times */
	box_close(&box);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	*state = f;
	f->lists = calloc(1, sizeof(*f->lists));
	assert_non_null(f->lists);
	f->st = new_state();
	f->known = new_state();
	f->a = new_state();
	f->b = new_state();
	f->again.fd = f->once.fd = f->kvm.fd = -1;
	if (access("/dev/kvm", R_OK | W_OK) < 0)
		return 0;
	assert_int_equal(kvm_open(&f->kvm, -1, &f->err), 0);
	make_state(f);
	box_open(f, &f->again);
	box_open(f, &f->once);
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	if (f->kvm.fd >= 0) {
		box_close(&f->again);
		box_close(&f->once);
		kvm_close(&f->kvm);
	}
	free(f->lists);
	free(f->st);
	free(f->known);
	free(f->a);
	free(f->b);
	free(f);
	return 0;
}

static struct fixture *with_kvm(void **state)
{
	struct fixture *f = *state;

	if (f->kvm.fd < 0) {
		print_message("no /dev/kvm here\n");
		skip();
	}
	return f;
}

/* ---- a guest's changes ---- */

static void put(struct kvm_lapic_state *l, uint32_t reg, uint32_t value)
{
	memcpy(l->regs + reg, &value, sizeof(value));
}

static uint32_t reg_of(const struct kvm_lapic_state *l, uint32_t reg)
{
	uint32_t value;

	memcpy(&value, l->regs + reg, sizeof(value));
	return value;
}

/* What this KVM does not have it is not asked for. */
static void put_msr(struct vcpu_state *st, uint32_t index, uint64_t value)
{
	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (st->msr_index[i] == index)
			st->msr_value[i] = value;
}

static void set_timer(struct vcpu_state *st, uint32_t mode, uint32_t count)
{
	put(&st->lapic, SPIV, 0x1ff);
	put(&st->lapic, LVTT, mode | VECTOR);
	put(&st->lapic, TDCR, 0xb);
	put(&st->lapic, TMICT, mode == DEADLINE ? 0 : count);
	put(&st->lapic, TMCCT, mode == DEADLINE ? 0 : count);
}

static void nothing(struct vcpu_state *st)
{
	(void)st;
}

static void long_mode(struct vcpu_state *st)
{
	struct kvm_segment code = { .selector = 0x10,
				    .limit = ~0u,
				    .type = 0xb,
				    .present = 1,
				    .s = 1,
				    .l = 1,
				    .g = 1 };
	struct kvm_segment data = { .selector = 0x18,
				    .limit = ~0u,
				    .type = 3,
				    .present = 1,
				    .db = 1,
				    .s = 1,
				    .g = 1 };

	st->sregs.cr0 |= CR0_PE | CR0_PG;
	st->sregs.cr3 = 0x1000;
	st->sregs.cr4 |= CR4_PAE;
	st->sregs.efer |= EFER_LME | EFER_LMA;
	st->sregs.cs = code;
	st->sregs.ss = st->sregs.ds = st->sregs.es = data;
	st->regs.rflags = 0x202;
	st->regs.rip = 0x7000;
}

static void other_regs(struct vcpu_state *st)
{
	st->regs.rax = 0x1234567890;
	st->regs.rsp = 0x8000;
	st->regs.rip = 0x100;
}

static void other_msrs(struct vcpu_state *st)
{
	put_msr(st, MSR_LSTAR, 0xffffffff81000000);
	put_msr(st, MSR_KERNEL_GS_BASE, 0xffff888000000000);
	put_msr(st, MSR_PAT, 0x0407050600070106);
}

static void paravirt(struct vcpu_state *st)
{
	put_msr(st, MSR_SYSTEM_TIME, 0x10001);
	put_msr(st, MSR_STEAL_TIME, 0x20001);
}

static void other_fpu(struct vcpu_state *st)
{
	memset(st->xsave + 160, 0x5a, 64); /* XMM0 to XMM3; Intel SDM volume 1, "FXSAVE area" */
	st->xsave[512] |= 3;               /* XSTATE_BV */
}

static void one_shot(struct vcpu_state *st)
{
	set_timer(st, ONE_SHOT, 2000000000);
}

static void periodic(struct vcpu_state *st)
{
	set_timer(st, PERIODIC, 2000000000);
}

static void deadline(struct vcpu_state *st)
{
	set_timer(st, DEADLINE, 0);
	put_msr(st, MSR_TSC_DEADLINE, ~0ull >> 2);
}

static void interrupts(struct vcpu_state *st)
{
	put(&st->lapic, SPIV, 0x1ff);
	put(&st->lapic, IRR + 0x20, 0x10);
	st->events.nmi.masked = 1;
	st->events.interrupt.injected = 1;
	st->events.interrupt.nr = 0x41;
}

static void exception(struct vcpu_state *st)
{
	st->events.exception.pending = 1;
	st->events.exception.nr = 13;
	st->events.exception.has_error_code = 1;
	st->regs.rbx = 7;
}

static void halted(struct vcpu_state *st)
{
	st->mp_state.mp_state = KVM_MP_STATE_HALTED;
}

static void breakpoint(struct vcpu_state *st)
{
	st->debugregs.db[1] = 0x9000;
	st->debugregs.dr7 |= 4;
}

static void other_tsc(struct vcpu_state *st)
{
	st->tsc_offset += 1000000;
}

static void (*const changes[])(struct vcpu_state *st) = {
	nothing,  long_mode, other_regs, other_msrs, paravirt, other_fpu,  one_shot,
	periodic, deadline,  interrupts, exception,  halted,   breakpoint, other_tsc,
};

/* ---- comparing ---- */

static void must(struct fixture *f, int r)
{
	if (r < 0)
		fail_msg("%s", f->err.text);
}

static void read_back(struct fixture *f, struct vcpu_state *to, int fd)
{
	*to = *f->st;
	must(f, vcpu_state_get(to, &f->kvm, fd, &f->lists->saved, &f->err));
	/* Read at another time than the other. That it counts at all is compared. */
	put(&to->lapic, TMCCT, reg_of(&to->lapic, TMCCT) != 0);
	to->lapic_ns = 0;
}

static void assert_alike(const struct vcpu_state *a, const struct vcpu_state *b)
{
	for (uint32_t i = 0; i < a->nmsrs; i++)
		if (a->msr_value[i] != b->msr_value[i])
			fail_msg("MSR 0x%x is %#llx, not %#llx", a->msr_index[i],
				 (unsigned long long)a->msr_value[i],
				 (unsigned long long)b->msr_value[i]);
	assert_true(a->tsc_offset == b->tsc_offset);
	assert_memory_equal(&a->regs, &b->regs, sizeof(a->regs));
	assert_memory_equal(&a->sregs, &b->sregs, sizeof(a->sregs));
	assert_memory_equal(a->xsave, b->xsave, a->xsave_len);
	assert_memory_equal(&a->xcrs, &b->xcrs, sizeof(a->xcrs));
	assert_memory_equal(&a->lapic, &b->lapic, sizeof(a->lapic));
	assert_memory_equal(&a->mp_state, &b->mp_state, sizeof(a->mp_state));
	assert_memory_equal(&a->events, &b->events, sizeof(a->events));
	assert_memory_equal(&a->debugregs, &b->debugregs, sizeof(a->debugregs));
}

static void rehearse(struct fixture *f)
{
	must(f, vcpu_state_rehearse(f->st, &f->kvm, f->again.fd, &f->err));
	*f->known = *f->st;
}

static void set_both(struct fixture *f)
{
	must(f, vcpu_state_set_again(f->st, f->known, &f->kvm, f->again.fd, &f->err));
	must(f, vcpu_state_set(f->st, &f->kvm, f->once.fd, &f->err));
}

static void compare(struct fixture *f)
{
	set_both(f);
	read_back(f, f->a, f->again.fd);
	read_back(f, f->b, f->once.fd);
	assert_alike(f->a, f->b);
}

static bool is_zero(const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (p[i])
			return false;
	return true;
}

/* Of the first state nothing is left in the second, or all that the second does not change. */
static void change(struct fixture *f, size_t from, size_t to, bool keep)
{
	struct vcpu_state *start = new_state();

	*start = *f->st;
	box_close(&f->again);
	box_close(&f->once);
	box_open(f, &f->again);
	box_open(f, &f->once);
	changes[from](f->st);
	rehearse(f);
	if (!keep)
		*f->st = *start;
	changes[to](f->st);
	compare(f);
	*f->st = *start;
	free(start);
}

/* From each of the guest's states to each other one. */
static void test_each_change_arrives(void **state)
{
	struct fixture *f = with_kvm(state);

	for (size_t from = 0; from < ARRAY_SIZE(changes); from++)
		for (size_t to = 0; to < ARRAY_SIZE(changes); to++) {
			change(f, from, to, false);
			change(f, from, to, true);
		}
}

static void test_many_changes_at_once(void **state)
{
	struct fixture *f = with_kvm(state);

	deadline(f->st);
	paravirt(f->st);
	halted(f->st);
	rehearse(f);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		changes[i](f->st);
	periodic(f->st);
	compare(f);
}

static void test_rehearsal_writes_nothing_to_ram(void **state)
{
	struct fixture *f = with_kvm(state);

	for (size_t i = 0; i < ARRAY_SIZE(changes); i++)
		changes[i](f->st);
	rehearse(f);
	assert_true(is_zero(f->again.ram, RAM_BYTES));
}

/* ---- the timer ---- */

static void sleep_ms(long ms)
{
	struct timespec ts = { .tv_nsec = ms * 1000000 };

	nanosleep(&ts, NULL);
}

/* KVM_RUN with a signal pending executes nothing, but shows a timer that has expired. */
static uint32_t expired(struct fixture *f, int fd)
{
	union {
		struct kvm_signal_mask head;
		unsigned char bytes[sizeof(struct kvm_signal_mask) + 8];
	} none = { .head.len = 8 };
	struct kvm_lapic_state lapic;
	sigset_t usr1;

	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	sigprocmask(SIG_BLOCK, &usr1, NULL);
	raise(SIGUSR1);
	assert_int_equal(kvm_call(&f->kvm, fd, KVM_SET_SIGNAL_MASK, &none), 0);
	assert_true(kvm_call_num(&f->kvm, fd, KVM_RUN, 0) < 0);
	assert_int_equal(kvm_call(&f->kvm, fd, KVM_GET_LAPIC, &lapic), 0);
	return reg_of(&lapic, IRR_OF_VECTOR) & BIT_OF_VECTOR;
}

/* A timer of the rehearsal that the guest has stopped since; and one that it has started. */
static void test_timer_of_the_rehearsal_never_fires(void **state)
{
	struct fixture *f = with_kvm(state);

	set_timer(f->st, ONE_SHOT, 1000000);
	rehearse(f);
	sleep_ms(5);
	set_timer(f->st, ONE_SHOT, 0);
	set_both(f);
	assert_int_equal(expired(f, f->again.fd), 0);
}

static void test_timer_fires_that_is_set_again(void **state)
{
	static const uint32_t modes[] = { ONE_SHOT, PERIODIC, DEADLINE };
	struct fixture *f = with_kvm(state);

	for (size_t from = 0; from < ARRAY_SIZE(modes); from++) {
		box_close(&f->again);
		box_open(f, &f->again);
		set_timer(f->st, modes[from], 0);
		rehearse(f);
		set_timer(f->st, PERIODIC, 1000000);
		must(f, vcpu_state_set_again(f->st, f->known, &f->kvm, f->again.fd, &f->err));
		sleep_ms(5);
		assert_int_equal(expired(f, f->again.fd), BIT_OF_VECTOR);
	}
}

static void test_deadline_fires_that_is_set_again(void **state)
{
	struct fixture *f = with_kvm(state);

	set_timer(f->st, DEADLINE, 0);
	put_msr(f->st, MSR_TSC_DEADLINE, 1); /* has passed */
	rehearse(f);
	assert_int_equal(expired(f, f->again.fd), 0);
	must(f, vcpu_state_set_again(f->st, f->known, &f->kvm, f->again.fd, &f->err));
	assert_int_equal(expired(f, f->again.fd), BIT_OF_VECTOR);
}

/* ---- a vCPU that has halted ---- */

/* hlt; inc ax; jmp to the hlt. An NMI wakes it, and its handler is an iret. */
static const unsigned char program[] = { 0xf4, 0x40, 0xeb, 0xfc };
static const unsigned char handler[] = { 0xcf };
#define PROGRAM_AT 0x1000
#define HANDLER_AT 0x2000
#define NMI_VECTOR 2

static void start_program(struct fixture *f, struct box *box)
{
	const uint32_t vector = HANDLER_AT;

	memcpy((char *)box->ram + PROGRAM_AT, program, sizeof(program));
	memcpy((char *)box->ram + HANDLER_AT, handler, sizeof(handler));
	memcpy((char *)box->ram + NMI_VECTOR * sizeof(vector), &vector, sizeof(vector));
	f->st->sregs.cs.selector = 0;
	f->st->sregs.cs.base = 0;
	f->st->regs.rip = PROGRAM_AT;
	f->st->regs.rsp = 0x8000;
	must(f, vcpu_state_set(f->st, &f->kvm, box->fd, &f->err));
}

/* Runs it for some milliseconds, which is longer than it takes to halt. */
static void run(struct fixture *f, struct box *box)
{
	const struct itimerval soon = { .it_value.tv_usec = 20000 };

	assert_int_equal(setitimer(ITIMER_REAL, &soon, NULL), 0);
	assert_true(kvm_call_num(&f->kvm, box->fd, KVM_RUN, 0) < 0);
}

/* a: by the fewest calls. b: whole. */
static void read_both_ways(struct fixture *f, struct vcpu_reading *reading, struct box *box)
{
	const struct msr_list *msrs = &f->lists->saved;

	vcpu_reading_count(reading);
	must(f, vcpu_state_get_again(f->a, reading, &f->kvm, box->fd, msrs, &f->err));
	*f->b = *f->a;
	must(f, vcpu_state_get(f->b, &f->kvm, box->fd, msrs, &f->err));
	f->b->lapic_ns = f->a->lapic_ns;
	assert_memory_equal(f->a, f->b, sizeof(*f->a));
}

static void test_halted_vcpu_is_read_as_well_by_fewer_calls(void **state)
{
	struct fixture *f = with_kvm(state);
	struct box *box = &f->once;
	struct vcpu_reading reading;

	vcpu_reading_open(&reading, &f->kvm, box->fd, true);
	start_program(f, box);
	*f->a = *f->st;
	run(f, box);
	for (uint64_t woken = 0; woken < 3; woken++) {
		const uint64_t exits = reading.exits;

		read_both_ways(f, &reading, box);
		assert_int_equal(f->a->regs.rax, woken);
		assert_int_equal(f->a->mp_state.mp_state, KVM_MP_STATE_HALTED);
		assert_true(reading.fd < 0 || reading.exits > exits);
		run(f, box);
		read_both_ways(f, &reading, box);
		assert_int_equal(reading.waited, reading.fd >= 0);
		assert_int_equal(kvm_call_num(&f->kvm, box->fd, KVM_NMI, 0), 0);
		read_both_ways(f, &reading, box);
		run(f, box);
	}
	vcpu_reading_close(&reading);
}

static void on_signal(int sig)
{
	(void)sig;
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_each_change_arrives),
		CASE(test_many_changes_at_once),
		CASE(test_rehearsal_writes_nothing_to_ram),
		CASE(test_timer_of_the_rehearsal_never_fires),
		CASE(test_timer_fires_that_is_set_again),
		CASE(test_deadline_fires_that_is_set_again),
		CASE(test_halted_vcpu_is_read_as_well_by_fewer_calls),
	};

	signal(SIGUSR1, on_signal);
	signal(SIGALRM, on_signal);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
