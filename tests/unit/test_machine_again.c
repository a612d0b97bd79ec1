/* SPDX-License-Identifier: MIT */
/* A state that is loaded over a rehearsed one, of which only what is news is saved again. */
#include "machine_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "../../src/vm/vcpu_run.h"

#define CPUS 3
#define BUSY 0   /* executes */
#define WAITS 1  /* does not, and nobody does anything to it */
#define CALLED 2 /* does not, but gets an interrupt */
#define APIC_IRR 0x200
#define SCI 9

struct fixture {
	struct bench a, b;        /* who has the guest, and who is to have it */
	struct bench_state first; /* of the rehearsal */
	struct stream_writer w;
	struct stream last;
	struct fdtable *fds;
	struct error err;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->fds = calloc(1, sizeof(*f->fds));
	assert_non_null(f->fds);
	assert_int_equal(stream_writer_init(&f->w, 1 << 16, &f->err), 0);
	bench_init(&f->a, CPUS);
	bench_randomise(&f->a, 7);
	for (uint32_t i = 0; i < CPUS; i++)
		bench_vcpu(&f->a, i)->mp_state.mp_state = i == BUSY ? KVM_MP_STATE_RUNNABLE
								    : KVM_MP_STATE_HALTED;
	bench_save(&f->a, &f->first, 1);
	if (bench_rehearse(&f->b, &f->first, &f->err) < 0)
		fail_msg("%s", f->err.text);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	stream_fini(&f->last);
	stream_writer_fini(&f->w);
	bench_state_fini(&f->first);
	bench_fini(&f->a);
	bench_fini(&f->b);
	free(f->fds);
	free(f);
	return 0;
}

static void save_news(struct fixture *f)
{
	struct stream_header header = { .machine_version = f->a.m.machine_version };

	stream_fini(&f->last);
	memset(f->fds, 0, sizeof(*f->fds));
	stream_begin(&f->w, &header);
	if (machine_save_news(&f->a.m, &f->w, f->fds, &f->err) < 0 ||
	    stream_end(&f->w, &f->err) < 0 ||
	    stream_parse(&f->last, f->w.data, f->w.len, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static bool is_told_of(struct fixture *f, uint32_t vcpu)
{
	return stream_find(&f->last, "vcpu", vcpu) != NULL;
}

static void go_on(struct fixture *f)
{
	bench_vcpu(&f->a, BUSY)->regs.rax++;
	bench_vcpu(&f->a, BUSY)->xsave[700]++;
	fake_vcpu_count_exit(bench_vcpu(&f->a, BUSY));
	bench_vcpu(&f->a, CALLED)->lapic.regs[APIC_IRR + 4] ^= 8;
}

static void assert_same_guest(struct fixture *f)
{
	for (uint32_t i = 0; i < CPUS; i++) {
		struct fake_vcpu *x = bench_vcpu(&f->a, i), *y = bench_vcpu(&f->b, i);

		assert_memory_equal(&x->regs, &y->regs, sizeof(x->regs));
		assert_memory_equal(&x->sregs, &y->sregs, sizeof(x->sregs));
		assert_memory_equal(x->xsave, y->xsave, sizeof(x->xsave));
		assert_memory_equal(x->lapic.regs + APIC_IRR, y->lapic.regs + APIC_IRR, 0x80);
		assert_memory_equal(&x->events, &y->events, sizeof(x->events));
		assert_int_equal(x->mp_state.mp_state, y->mp_state.mp_state);
		assert_int_equal(x->tsc_offset, y->tsc_offset);
	}
}

static void load_again(struct fixture *f)
{
	if (machine_load_again(&f->b.m, &f->first.s, &f->last, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static void test_who_waits_is_no_news(void **state)
{
	struct fixture *f = *state;

	go_on(f);
	save_news(f);
	assert_true(is_told_of(f, BUSY));
	assert_false(is_told_of(f, WAITS));
	assert_true(is_told_of(f, CALLED));
	assert_non_null(stream_find(&f->last, "machine", 0));
	load_again(f);
	assert_same_guest(f);
	machine_forget_rehearsal(&f->b.m);
	assert_same_guest(f);
}

static struct device *find(struct machine *m, const char *name)
{
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (strcmp(m->devices[i]->cls->name, name) == 0)
			return m->devices[i];
	fail_msg("no device '%s'", name);
	return NULL;
}

static void test_a_device_that_has_changed_is_news(void **state)
{
	struct fixture *f = *state;
	struct device *power = find(&f->a.m, "power");
	uint8_t *guest = (uint8_t *)device_guest(power) + 3; /* PM1 enable, PWRBTN_EN */

	save_news(f);
	assert_null(stream_find(&f->last, "power", 0));
	assert_null(stream_find(&f->last, "i8042", 0));
	*guest ^= 1;
	save_news(f);
	assert_non_null(stream_find(&f->last, "power", 0));
	assert_null(stream_find(&f->last, "i8042", 0));
	load_again(f);
	assert_memory_equal(device_guest(power), device_guest(find(&f->b.m, "power")),
			    power->cls->guest_size);
	*guest ^= 1;
	save_news(f);
	assert_null(stream_find(&f->last, "power", 0));
}

static struct kvm_ioapic_state *ioapic(struct bench *b)
{
	return &bench_vm(b)->chips[KVM_IRQCHIP_IOAPIC].chip.ioapic;
}

/* An SCI that is up, before and after. */
static void rehearse_with_sci(struct fixture *f, bool taken)
{
	struct kvm_ioapic_state *is = ioapic(&f->a);

	is->irr = 1u << SCI;
	is->redirtbl[SCI].bits = 0;
	is->redirtbl[SCI].fields.vector = 0x39;
	is->redirtbl[SCI].fields.trig_mode = 1;
	is->redirtbl[SCI].fields.remote_irr = taken;
	machine_unquiesce(&f->a.m);
	bench_fini(&f->b);
	bench_state_fini(&f->first);
	bench_save(&f->a, &f->first, 2);
	if (bench_rehearse(&f->b, &f->first, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

/* The local APIC that got it there was set since: nobody would acknowledge it any more. */
static void test_interrupt_that_the_rehearsal_handed_out(void **state)
{
	struct fixture *f = *state;

	rehearse_with_sci(f, false);
	ioapic(&f->b)->redirtbl[SCI].fields.remote_irr = 1; /* as KVM does when it is set */
	save_news(f);
	assert_null(stream_find(&f->last, "irqchip", 0));
	load_again(f);
	assert_int_equal(ioapic(&f->b)->irr, 1u << SCI);
	assert_memory_equal(ioapic(&f->a)->redirtbl, ioapic(&f->b)->redirtbl,
			    sizeof(ioapic(&f->a)->redirtbl));
}

/* The local APICs have the last state by then: what was up in the first would be one more
 * interrupt. */
static void test_interrupt_that_is_over_is_not_handed_out_again(void **state)
{
	struct fixture *f = *state;
	unsigned int before, calls = 0;
	int at;

	rehearse_with_sci(f, false);
	ioapic(&f->a)->irr = 0;
	before = f->b.kvm->ncalls;
	save_news(f);
	assert_non_null(stream_find(&f->last, "irqchip", 0));
	load_again(f);
	while ((at = fake_kvm_find_call(f->b.kvm, -1, KVM_SET_IRQCHIP, before)) >= 0) {
		before = (unsigned int)at + 1;
		calls++;
	}
	assert_int_equal(calls, 3); /* both PICs and the IOAPIC, each once */
	assert_int_equal(ioapic(&f->b)->irr, 0);
}

/* It takes a call while the guest waits. */
static void test_interrupt_that_was_taken_before(void **state)
{
	struct fixture *f = *state;
	unsigned int before;

	rehearse_with_sci(f, true);
	before = f->b.kvm->ncalls;
	save_news(f);
	load_again(f);
	assert_int_equal(fake_kvm_find_call(f->b.kvm, -1, KVM_SET_IRQCHIP, before), -1);
}

/* Here the address port, which has a subsection while it is not 0. */
static void test_a_subsection_that_is_gone_is_news(void **state)
{
	struct fixture *f = *state;
	struct device *host = find(&f->a.m, "pci-host"), *there = find(&f->b.m, "pci-host");
	uint32_t *address = device_guest(host);

	address += host->cls->guest_size / sizeof(*address) - 1;
	*address = 0x80000000;
	machine_unquiesce(&f->a.m);
	bench_state_fini(&f->first);
	bench_save(&f->a, &f->first, 2);
	assert_non_null(stream_find(&f->first.s, "pci-host/ports", 0));
	save_news(f);
	assert_null(stream_find(&f->last, "pci-host", 0));
	assert_int_equal(vmstate_load(&f->first.s, there->cls->state, 0, device_guest(there),
				      &f->err),
			 0);
	*address = 0;
	save_news(f);
	assert_non_null(stream_find(&f->last, "pci-host", 0));
	assert_null(stream_find(&f->last, "pci-host/ports", 0));
	load_again(f);
	assert_memory_equal(device_guest(host), device_guest(there), host->cls->guest_size);
}

static unsigned int runs_of(struct fixture *f, uint32_t vcpu)
{
	const struct fake_vcpu *v = bench_vcpu(&f->b, vcpu);
	unsigned int runs;

	pthread_mutex_lock(&f->b.kvm->lock);
	runs = v->runs;
	pthread_mutex_unlock(&f->b.kvm->lock);
	return runs;
}

/* What KVM would do when they are first run is done in the rehearsal, of those that are to run
 * soon. */
static void test_who_executes_is_warmed_up(void **state)
{
	const uint64_t end = now_ns() + 10000000000ull;
	struct fixture *f = *state;

	machine_prepare_vcpus(&f->b.m, f->b.m.crew, NULL);
	while (!runs_of(f, BUSY) && now_ns() < end)
		usleep(100);
	for (uint32_t i = 0; i < CPUS; i++) {
		int fd = f->b.m.vcpus[i].fd;
		int tables = fake_kvm_find_call(f->b.kvm, fd, KVM_PRE_FAULT_MEMORY, 0);

		assert_int_equal(tables >= 0, i == BUSY);
		assert_int_equal(runs_of(f, i), i == BUSY);
		assert_int_equal(bench_vcpu(&f->b, i)->ndone, 0);
		assert_int_equal(bench_vcpu(&f->b, i)->ram_writes, 0);
	}
}

/* One that is older, or has no memory: then it is done when the guest is let go. */
static void test_a_kvm_that_cannot_warm_up(void **state)
{
	static const unsigned long requests[] = { KVM_PRE_FAULT_MEMORY, KVM_RUN };
	struct fixture *f = *state;

	for (unsigned int i = 0; i < 2; i++) {
		f->b.kvm->fail_request = requests[i];
		f->b.kvm->fail_error = i ? ENOMEM : ENOTTY;
		vcpu_warm_up(&f->b.m.vcpus[BUSY]);
	}
	f->b.kvm->fail_request = 0;
	go_on(f);
	save_news(f);
	load_again(f);
	assert_same_guest(f);
}

/* What the next update of the successor saves is all of it. */
static void test_successor_has_all_states(void **state)
{
	struct fixture *f = *state;
	struct bench_state second;

	go_on(f);
	save_news(f);
	load_again(f);
	machine_forget_rehearsal(&f->b.m);
	machine_unquiesce(&f->b.m);
	bench_save(&f->b, &second, 2);
	for (uint32_t i = 0; i < CPUS; i++)
		assert_non_null(stream_find(&second.s, "vcpu", i));
	assert_int_equal(f->b.m.vcpus[WAITS].state->ncpuid, f->a.m.vcpus[WAITS].state->ncpuid);
	bench_state_fini(&second);
}

/* A switch that did not come to pass: the next one is told whatever is not as it was rehearsed. */
static void test_news_stay_news(void **state)
{
	struct fixture *f = *state;

	go_on(f);
	save_news(f);
	bench_vcpu(&f->a, CALLED)->lapic.regs[APIC_IRR + 4] ^= 8;
	save_news(f);
	assert_true(is_told_of(f, BUSY));
	assert_false(is_told_of(f, WAITS));
	assert_true(is_told_of(f, CALLED));
	load_again(f);
	assert_same_guest(f);
}

static void assert_refused(struct fixture *f)
{
	const struct machine_guest was = f->b.m.guest;

	assert_int_equal(machine_load_again(&f->b.m, &f->first.s, &f->last, &f->err), -EINVAL);
	assert_int_equal(f->b.m.guest.cpus, was.cpus);
	assert_int_equal(f->b.m.guest.ram_size, was.ram_size);
}

/* There are tables of as many vCPUs as there were. */
static void test_a_machine_that_has_become_another(void **state)
{
	struct fixture *f = *state;

	f->a.m.guest.cpus--;
	save_news(f);
	f->a.m.guest.cpus++;
	assert_refused(f);
	f->a.m.guest.ram_size *= 2;
	save_news(f);
	f->a.m.guest.ram_size /= 2;
	assert_refused(f);
}

static void test_host_tsc_that_jumps_is_news_of_all(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 0; i < CPUS; i++)
		bench_vcpu(&f->a, i)->tsc_offset += 1000;
	save_news(f);
	for (uint32_t i = 0; i < CPUS; i++)
		assert_true(is_told_of(f, i));
	load_again(f);
	assert_same_guest(f);
}

/* From a given call on they all do. */
static void fail_to_save(struct fixture *f, unsigned long request, unsigned int skip)
{
	struct stream_header header = { .machine_version = f->a.m.machine_version };

	f->a.kvm->fail_request = request;
	f->a.kvm->fail_skip = skip;
	f->a.kvm->fail_error = EIO;
	memset(f->fds, 0, sizeof(*f->fds));
	stream_begin(&f->w, &header);
	assert_int_equal(machine_save_news(&f->a.m, &f->w, f->fds, &f->err), -EIO);
	f->a.kvm->fail_request = 0;
}

/* The guest runs on then, and the next successor knows what was rehearsed, and no more. */
static void test_what_a_failed_reading_has_read_is_news(void **state)
{
	struct fixture *f = *state;

	bench_vcpu(&f->a, CALLED)->events.nmi.pending ^= 1;
	fail_to_save(f, KVM_GET_LAPIC, 0);
	save_news(f);
	assert_true(is_told_of(f, CALLED));
	load_again(f);
	assert_same_guest(f);
}

static void test_host_tsc_that_jumps_and_cannot_be_read(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 0; i < CPUS; i++)
		bench_vcpu(&f->a, i)->tsc_offset += 1000;
	/* Of the first vCPU it can, and of all of those that execute. */
	fail_to_save(f, KVM_GET_DEVICE_ATTR, 1);
	save_news(f);
	load_again(f);
	assert_same_guest(f);
}

static unsigned int readings(struct fixture *f)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < f->a.kvm->ncalls; i++)
		n += f->a.kvm->calls[i].request == KVM_GET_MP_STATE;
	f->a.kvm->ncalls = 0;
	return n;
}

static void read_vcpus(struct fixture *f)
{
	if (machine_read_vcpus(&f->a.m, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

/* While it runs, each on its own; what was read is good for one machine_save(). */
static void test_vcpus_are_read_before(void **state)
{
	struct fixture *f = *state;
	struct bench_state st;

	bench_run(&f->a);
	machine_wait_entered(&f->a.m);
	bench_vcpu(&f->a, BUSY)->regs.rax = 0x1234;
	fake_vcpu_count_exit(bench_vcpu(&f->a, BUSY));
	f->a.kvm->ncalls = 0;
	read_vcpus(f);
	assert_int_equal(readings(f), CPUS);
	machine_park_vcpus(&f->a.m);
	f->a.kvm->ncalls = 0;
	bench_save(&f->a, &st, 2);
	assert_int_equal(readings(f), 0);
	assert_true(f->a.m.vcpus[BUSY].state->regs.rax == 0x1234);
	bench_state_fini(&st);
	bench_save(&f->a, &st, 3);
	assert_int_equal(readings(f), CPUS);
	bench_state_fini(&st);
	machine_unpark_vcpus(&f->a.m);
	read_vcpus(f);
	machine_forget_reading(&f->a.m);
	machine_park_vcpus(&f->a.m);
	f->a.kvm->ncalls = 0;
	bench_save(&f->a, &st, 4);
	assert_int_equal(readings(f), CPUS);
	bench_state_fini(&st);
}

static void run_while_the_tsc_jumps(struct fixture *f)
{
	bench_run(&f->a);
	machine_wait_entered(&f->a.m);
	for (uint32_t i = 0; i < CPUS; i++)
		bench_vcpu(&f->a, i)->tsc_offset += 1000;
}

static void read_the_new_tsc(struct fixture *f)
{
	read_vcpus(f);
	for (uint32_t i = 0; i < CPUS; i++)
		assert_int_equal(f->a.m.vcpus[i].state->tsc_offset,
				 bench_vcpu(&f->a, i)->tsc_offset);
	machine_park_vcpus(&f->a.m);
}

/* After an update that failed, of vCPUs that have waited ever since. */
static void test_host_tsc_that_jumps_between_readings(void **state)
{
	struct fixture *f = *state;

	run_while_the_tsc_jumps(f);
	read_the_new_tsc(f);
}

/* The same, where the reading ends with the second vCPU. */
static void test_host_tsc_that_jumps_before_a_failed_reading(void **state)
{
	struct fixture *f = *state;

	run_while_the_tsc_jumps(f);
	f->a.kvm->fail_request = KVM_GET_VCPU_EVENTS;
	f->a.kvm->fail_error = EIO;
	f->a.kvm->fail_skip = 1;
	assert_int_equal(machine_read_vcpus(&f->a.m, &f->err), -EIO);
	assert_non_null(strstr(f->err.text, "vCPU 1"));
	f->a.kvm->fail_request = 0;
	read_the_new_tsc(f);
}

static void test_vcpu_that_cannot_be_read(void **state)
{
	struct fixture *f = *state;

	bench_run(&f->a);
	machine_wait_entered(&f->a.m);
	f->a.kvm->fail_request = KVM_GET_LAPIC;
	f->a.kvm->fail_error = EIO;
	assert_int_equal(machine_read_vcpus(&f->a.m, &f->err), -EIO);
	assert_non_null(strstr(f->err.text, "vCPU 0: KVM_GET_LAPIC"));
	assert_false(f->a.m.vcpus_are_read);
	f->a.kvm->fail_request = 0;
	read_vcpus(f);
	machine_park_vcpus(&f->a.m);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_who_waits_is_no_news),
		CASE(test_a_device_that_has_changed_is_news),
		CASE(test_interrupt_that_the_rehearsal_handed_out),
		CASE(test_interrupt_that_is_over_is_not_handed_out_again),
		CASE(test_interrupt_that_was_taken_before),
		CASE(test_a_subsection_that_is_gone_is_news),
		CASE(test_who_executes_is_warmed_up),
		CASE(test_a_kvm_that_cannot_warm_up),
		CASE(test_successor_has_all_states),
		CASE(test_news_stay_news),
		CASE(test_a_machine_that_has_become_another),
		CASE(test_host_tsc_that_jumps_is_news_of_all),
		CASE(test_what_a_failed_reading_has_read_is_news),
		CASE(test_host_tsc_that_jumps_and_cannot_be_read),
		CASE(test_vcpus_are_read_before),
		CASE(test_host_tsc_that_jumps_between_readings),
		CASE(test_host_tsc_that_jumps_before_a_failed_reading),
		CASE(test_vcpu_that_cannot_be_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
