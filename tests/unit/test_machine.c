/* SPDX-License-Identifier: MIT */
/* The machine: building, running, stopping and resetting it, over a fake KVM. */
#include "machine_bench.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#define COM1_SCRATCH 0x3ff
#define I8042_COMMAND 0x64
#define RESET_PORT 0xcf9
#define PM1_CNT 0x604
#define PVPANIC 0x505

/* ---- building ---- */

static void test_is_built_parked(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 3);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_PRELAUNCH);
	assert_int_equal(b.kvm->nvms, 1);
	assert_int_equal(b.kvm->nvcpus, 3);
	assert_int_equal(b.boots, 1);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(bench_vcpu(&b, i)->id, i);
		assert_int_equal(bench_vcpu(&b, i)->runs, 0);
		assert_true(bench_vcpu(&b, i)->cpuid_head.nent > 10);
	}
	assert_string_equal(b.events, "");
	bench_fini(&b);
}

static void test_memslots_come_before_the_irqchip(void **state)
{
	struct bench b;
	struct fake_vm *vm;

	(void)state;
	bench_init(&b, 1);
	vm = bench_vm(&b);
	assert_int_equal(vm->nslots, 1);
	assert_int_equal(vm->slots[0].guest_phys_addr, 0);
	assert_int_equal(vm->slots[0].memory_size, BENCH_RAM);
	assert_true(vm->has_irqchip);
	assert_false(vm->slots_after_irqchip);
	bench_fini(&b);
}

static void refused(struct bench *b, int code, const char *words)
{
	unsigned int before = bench_count_fds();
	struct error err = ERROR_INIT;

	assert_int_equal(bench_create(b, &err), -code);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, words))
		fail_msg("'%s' does not say '%s'", err.text, words);
	/* But for the fake's own eventfds. */
	assert_int_equal(bench_count_fds(), before + b->kvm->nvcpus);
	bench_fini(b);
}

/* Tried on a VM of its own, of which nothing is left; and again, for the host may be set otherwise.
 */
static void test_a_kvm_that_hands_over_slowly(void **state)
{
	static const bool slow[] = { false, true, true, false, true };
	struct error err = ERROR_INIT;
	unsigned int fds, vms;
	struct bench b;

	(void)state;
	bench_prepare(&b, 1);
	assert_int_equal(bench_create(&b, &err), 0);
	fds = bench_count_fds() - b.kvm->nvcpus; /* the fake keeps one for each */
	for (unsigned int i = 0; i < ARRAY_SIZE(slow); i++) {
		vms = b.kvm->nvms;
		b.kvm->thread_change_us = slow[i] ? 20000 : 0;
		assert_int_equal(machine_hands_over_slowly(&b.m), slow[i]);
		assert_int_equal(b.kvm->nvms, vms + 1);
		assert_int_equal(bench_count_fds() - b.kvm->nvcpus, fds);
		assert_int_equal(bench_vcpu(&b, 0)->runs, 0);
	}
	/* Where it cannot be asked it is as it was. */
	b.kvm->fail_request = KVM_CREATE_VM;
	b.kvm->fail_error = ENOMEM;
	assert_true(machine_hands_over_slowly(&b.m));
	bench_fini(&b);
}

/* Then it is as it is with most: nobody is worse off for not having known. */
static void test_a_kvm_that_cannot_be_asked_how_it_hands_over(void **state)
{
	static const unsigned long requests[] = { KVM_CREATE_VM, KVM_CREATE_VCPU };

	(void)state;
	for (unsigned int i = 0; i < ARRAY_SIZE(requests); i++) {
		unsigned int fds;
		struct bench b;

		bench_init(&b, 1);
		fds = bench_count_fds() - b.kvm->nvcpus;
		b.kvm->thread_change_us = 20000;
		b.kvm->fail_request = requests[i];
		b.kvm->fail_error = ENOMEM;
		assert_false(machine_hands_over_slowly(&b.m));
		assert_int_equal(bench_count_fds() - b.kvm->nvcpus, fds);
		bench_fini(&b);
	}
}

static void test_impossible_configurations(void **state)
{
	struct bench b;

	(void)state;
	bench_prepare(&b, 0);
	refused(&b, EINVAL, "0 vCPUs");
	bench_prepare(&b, 255);
	refused(&b, EINVAL, "255 vCPUs");
	bench_prepare(&b, 17);
	refused(&b, EINVAL, "allows 16");
	bench_prepare(&b, 1);
	b.cfg.ram_size = 12345;
	refused(&b, EINVAL, "12345");
	bench_prepare(&b, 1);
	b.cfg.name = "a name that is far too long for a machine, for it has more than 63 bytes";
	refused(&b, EINVAL, "a name that is");
}

static void test_poor_kvm_is_refused_by_name(void **state)
{
	struct bench b;

	(void)state;
	bench_prepare(&b, 1);
	b.kvm->caps[KVM_CAP_IMMEDIATE_EXIT] = 0;
	refused(&b, ENOTSUP, "KVM_CAP_IMMEDIATE_EXIT");
	bench_prepare(&b, 1);
	b.kvm->caps[KVM_CAP_DEBUGREGS] = 0; /* of a kind of vCPU state */
	refused(&b, ENOTSUP, "KVM_CAP_DEBUGREGS");
	bench_prepare(&b, 1);
	b.kvm->api_version = 11;
	refused(&b, ENOTSUP, "version 11");
}

static void test_failures_leave_nothing(void **state)
{
	static const struct {
		unsigned long request;
		unsigned int skip;
		const char *words;
	} steps[] = {
		{ KVM_CREATE_VM, 0, "KVM_CREATE_VM" },
		{ KVM_SET_USER_MEMORY_REGION, 0, "KVM_SET_USER_MEMORY_REGION" },
		{ KVM_CREATE_IRQCHIP, 0, "device 'irqchip'" },
		{ KVM_CREATE_VCPU, 0, "KVM_CREATE_VCPU 0" },
		{ KVM_CREATE_VCPU, 1, "KVM_CREATE_VCPU 1" },
		{ KVM_GET_SUPPORTED_CPUID, 1, "KVM_GET_SUPPORTED_CPUID" },
		{ KVM_SET_CPUID2, 1, "KVM_SET_CPUID2" },
		{ KVM_GET_MSR_INDEX_LIST, 0, "KVM_GET_MSR_INDEX_LIST" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(steps); i++) {
		struct bench b;

		bench_prepare(&b, 2);
		b.kvm->fail_request = steps[i].request;
		b.kvm->fail_skip = steps[i].skip;
		b.kvm->fail_error = ENOMEM;
		refused(&b, ENOMEM, steps[i].words);
	}
}

static void test_boot_failure_is_told(void **state)
{
	struct bench b;

	(void)state;
	bench_prepare(&b, 1);
	b.boot_error = ENOEXEC;
	refused(&b, ENOEXEC, "no kernel");
}

static void test_no_descriptor_is_leaked(void **state)
{
	unsigned int before = bench_count_fds();
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	bench_run(&b);
	assert_int_equal(machine_reset(&b.m, "guest-reset", &err), 0);
	bench_fini(&b);
	assert_int_equal(bench_count_fds(), before);
}

/* ---- running and stopping ---- */

static void test_resume_and_pause(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	bench_run(&b);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	assert_true(machine_wait_entered(&b.m) > 0);
	assert_int_equal(machine_resume(&b.m, &err), 0);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_PAUSED);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_string_equal(b.events, "RESUME STOP ");
	bench_fini(&b);
}

static const struct crew_ops *usual_ops;
static _Atomic bool hangs;

static void kick_in_vain(struct crew_member *cm)
{
	if (cm->id != 1 || !atomic_load(&hangs))
		usual_ops->kick(cm);
}

/* One that does not come out of KVM_RUN. */
static void test_a_vcpu_that_does_not_stop_keeps_the_guest_running(void **state)
{
	struct error err = ERROR_INIT;
	struct crew_ops ops;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	usual_ops = b.m.crew->ops;
	ops = *usual_ops;
	ops.kick = kick_in_vain;
	b.m.crew->ops = &ops;
	bench_run(&b);
	bench_play(&b, 1, fake_in(0x1234, 1));
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[1].fd); /* it has been entered, and again */
	atomic_store(&hangs, true);
	assert_int_equal(machine_pause(&b.m, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "vCPU 1 does not stop"));
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	bench_play(&b, 0, fake_in(0x1234, 1));
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[0].fd);
	atomic_store(&hangs, false);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_string_equal(b.events, "RESUME STOP ");
	bench_fini(&b);
}

/* After a pause and before the guest runs; at the first start there was no pause. */
static void test_the_guest_is_told_of_a_pause(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	bench_run(&b);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(bench_vcpu(&b, i)->kvmclock_ctrls, 0);
	assert_int_equal(machine_resume(&b.m, &err), 0);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(bench_vcpu(&b, i)->kvmclock_ctrls, 1);
	assert_int_equal(machine_resume(&b.m, &err), 0);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(bench_vcpu(&b, i)->kvmclock_ctrls, 1);
	bench_fini(&b);
}

static void test_parking_tells_when_the_last_stopped(void **state)
{
	uint64_t before, after, stopped;
	struct bench b;

	(void)state;
	bench_init(&b, 3);
	for (int i = 0; i < 200; i++) {
		machine_unpark_vcpus(&b.m);
		if (i % 2)
			machine_wait_entered(&b.m);
		before = now_ns();
		stopped = machine_park_vcpus(&b.m);
		after = now_ns();
		assert_true(stopped <= after);
		/* A vCPU that never left the park keeps the time of before. */
		assert_true(i % 2 == 0 || stopped >= before || b.m.crew->members[0].parked);
		for (uint32_t n = 0; n < 3; n++)
			assert_true(b.m.crew->members[n].parked);
	}
	bench_fini(&b);
}

static void test_spare_cpus_are_those_without_a_vcpu(void **state)
{
	struct bench b;
	cpu_set_t all, spare;
	int here = sched_getcpu();

	(void)state;
	assert_true(here >= 0);
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	bench_init(&b, 2);
	assert_true(machine_spare_cpus(&b.m, &spare)); /* none was entered */
	assert_true(CPU_EQUAL(&spare, &all));
	atomic_store(&b.m.crew->members[1].host_cpu, here);
	assert_int_equal(machine_spare_cpus(&b.m, &spare), CPU_COUNT(&all) > 1);
	CPU_CLR((size_t)here, &all);
	assert_true(CPU_EQUAL(&spare, &all));
	bench_fini(&b);
}

static void test_entering_tells_the_cpu(void **state)
{
	struct bench b;
	cpu_set_t all;
	int cpu;

	(void)state;
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	bench_init(&b, 1);
	assert_int_equal(atomic_load(&b.m.crew->members[0].host_cpu), -1);
	bench_run(&b);
	assert_true(machine_wait_entered(&b.m) > 0);
	cpu = atomic_load(&b.m.crew->members[0].host_cpu);
	assert_true(cpu >= 0 && CPU_ISSET((size_t)cpu, &all));
	bench_fini(&b);
}

static void test_accesses_reach_devices(void **state)
{
	struct error err = ERROR_INIT;
	struct fake_vcpu *v;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	v = bench_vcpu(&b, 0);
	bench_play(&b, 0, fake_out(COM1_SCRATCH, 1, 0x5a));
	bench_play(&b, 0, fake_in(COM1_SCRATCH, 1));
	bench_play(&b, 0, fake_in(0x1234, 4));
	bench_play(&b, 0,
		   (struct fake_exit){ .reason = KVM_EXIT_MMIO, .addr = 0xd0000000, .size = 8 });
	bench_run(&b);
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[0].fd);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_int_equal(v->ndone, 4);
	assert_int_equal(v->done[1].data[0], 0x5a);
	assert_memory_equal(v->done[2].data, "\xff\xff\xff\xff\0", 5);
	assert_memory_equal(v->done[3].data, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	bench_fini(&b);
}

/*
 * Main parks the vCPU while its instruction is half done: the fake holds the lock of the device, as
 * if another thread used it, until the kick is on its way.
 */
static void test_half_done_io_is_completed_before_the_park(void **state)
{
	struct device *serial = NULL;
	struct fake_vcpu *v;
	struct bench b;

	(void)state;
	for (int round = 0; round < 20; round++) {
		struct bench_state st;

		bench_init(&b, 1);
		v = bench_vcpu(&b, 0);
		for (unsigned int i = 0; i < b.m.ndevices; i++)
			if (strcmp(b.m.devices[i]->cls->name, "serial") == 0)
				serial = b.m.devices[i];
		assert_non_null(serial);
		bench_play(&b, 0, fake_out(COM1_SCRATCH, 1, 0x77));
		bench_play(&b, 0, fake_in(COM1_SCRATCH, 1));
		pthread_mutex_lock(&serial->lock);
		machine_unpark_vcpus(&b.m);
		machine_wait_entered(&b.m);
		atomic_store(&b.m.crew->members[0].goal, CREW_PARK);
		pthread_mutex_unlock(&serial->lock);
		machine_park_vcpus(&b.m);
		assert_false(v->in_flight);
		bench_save(&b, &st, 1);
		assert_int_equal(v->torn_reads, 0);
		bench_state_fini(&st);
		bench_fini(&b);
	}
}

static void test_string_io_is_served_while_parking(void **state)
{
	struct fake_exit more = fake_out(COM1_SCRATCH, 1, 2), last = fake_out(COM1_SCRATCH, 1, 3);
	struct bench_state st;
	struct fake_vcpu *v;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	v = bench_vcpu(&b, 0);
	more.goes_on = last.goes_on = true;
	/* The first exit makes the machine stop: all that follows it comes while parking. */
	bench_play(&b, 0, fake_out(I8042_COMMAND, 1, 0xfe));
	bench_play(&b, 0, more);
	bench_play(&b, 0, last);
	bench_play(&b, 0, fake_out(COM1_SCRATCH, 1, 99));
	machine_unpark_vcpus(&b.m);
	while (!atomic_load(&b.m.requests))
		usleep(100);
	machine_park_vcpus(&b.m);
	assert_int_equal(v->ndone, 3);
	assert_false(v->in_flight);
	assert_int_equal(v->at, 3);
	bench_save(&b, &st, 1);
	assert_int_equal(v->torn_reads, 0);
	bench_state_fini(&st);
	bench_fini(&b);
}

static void test_interrupted_runs_go_on(void **state)
{
	struct fake_vcpu *v;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	v = bench_vcpu(&b, 0);
	bench_play(&b, 0, (struct fake_exit){ .error = EINTR });
	bench_play(&b, 0, (struct fake_exit){ .error = EAGAIN });
	bench_play(&b, 0, (struct fake_exit){ .reason = KVM_EXIT_INTR });
	bench_play(&b, 0, fake_out(COM1_SCRATCH, 1, 1));
	bench_run(&b);
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[0].fd);
	machine_park_vcpus(&b.m);
	assert_int_equal(v->ndone, 1);
	assert_int_equal(atomic_load(&b.m.requests), 0);
	bench_fini(&b);
}

/* ---- what the guest asks for ---- */

static void test_guest_powers_off(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	bench_play(&b, 1, fake_out(PM1_CNT, 2, 5 << 10 | 1 << 13));
	bench_run(&b);
	assert_int_equal(bench_run_to_the_end(&b), MACHINE_EXIT_OK);
	assert_string_equal(b.events, "RESUME SHUTDOWN:guest-shutdown ");
	assert_int_equal(b.m.guest.run_state, RUN_STATE_SHUTDOWN);
	assert_int_equal(machine_resume(&b.m, &err), -EBUSY);
	assert_non_null(strstr(err.text, "shutdown"));
	bench_fini(&b);
}

static void test_guest_resets(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	bench_play(&b, 0, fake_out(RESET_PORT, 1, 6));
	bench_run(&b);
	bench_wait_event(&b, "RESET");
	assert_string_equal(b.events, "RESUME RESET:guest-reset ");
	assert_int_equal(b.kvm->nvms, 2);
	assert_int_equal(b.boots, 2);
	/* And runs on. */
	bench_play(&b, 0, fake_out(COM1_SCRATCH, 1, 1));
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[0].fd);
	bench_fini(&b);
}

/* By a freezer, say: it does not end for that. */
static void test_molt_is_stopped_while_the_guest_resets(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	b.kvm->fail_request = KVM_CREATE_VM;
	b.kvm->fail_error = EINTR;
	b.kvm->fail_times = 3;
	bench_play(&b, 0, fake_out(RESET_PORT, 1, 6));
	bench_run(&b);
	bench_wait_event(&b, "RESET");
	assert_string_equal(b.events, "RESUME RESET:guest-reset ");
	assert_int_equal(b.kvm->nvms, 2);
	bench_fini(&b);
}

static void test_reset_with_no_reboot_ends(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_prepare(&b, 1);
	b.cfg.no_reboot = true;
	assert_int_equal(bench_create(&b, &err), 0);
	bench_play(&b, 0, fake_out(I8042_COMMAND, 1, 0xfe));
	bench_run(&b);
	assert_int_equal(bench_run_to_the_end(&b), MACHINE_EXIT_OK);
	assert_string_equal(b.events, "RESUME SHUTDOWN:guest-reset ");
	assert_int_equal(b.kvm->nvms, 1);
	bench_fini(&b);
}

static void fatal_exit(struct fake_exit e, int code)
{
	struct error err = ERROR_INIT;
	struct bench b;

	bench_init(&b, 2);
	bench_play(&b, 1, e);
	bench_run(&b);
	assert_int_equal(bench_run_to_the_end(&b), code);
	assert_string_equal(b.events, "RESUME PANICKED:poweroff SHUTDOWN:guest-panic ");
	assert_int_equal(b.m.guest.run_state, RUN_STATE_INTERNAL_ERROR);
	assert_int_equal(b.m.exit_code, code);
	assert_int_equal(machine_resume(&b.m, &err), -EBUSY);
	bench_fini(&b);
}

static void test_triple_fault(void **state)
{
	(void)state;
	fatal_exit((struct fake_exit){ .reason = KVM_EXIT_SHUTDOWN }, MACHINE_EXIT_TRIPLE_FAULT);
}

static void test_internal_error(void **state)
{
	(void)state;
	fatal_exit((struct fake_exit){ .reason = KVM_EXIT_INTERNAL_ERROR, .count = 16 },
		   MACHINE_EXIT_VCPU_ERROR);
	fatal_exit((struct fake_exit){ .reason = KVM_EXIT_INTERNAL_ERROR, .count = 255 },
		   MACHINE_EXIT_VCPU_ERROR);
}

static void test_failed_entry(void **state)
{
	(void)state;
	fatal_exit((struct fake_exit){ .reason = KVM_EXIT_FAIL_ENTRY }, MACHINE_EXIT_VCPU_ERROR);
}

static void test_unknown_exit(void **state)
{
	(void)state;
	fatal_exit((struct fake_exit){ .reason = 200 }, MACHINE_EXIT_VCPU_ERROR);
}

static void test_run_failure(void **state)
{
	(void)state;
	fatal_exit((struct fake_exit){ .error = EFAULT }, MACHINE_EXIT_VCPU_ERROR);
}

static void test_guest_panic_notice_lets_it_run(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	bench_play(&b, 0, fake_out(PVPANIC, 1, 1));
	bench_run(&b);
	bench_wait_event(&b, "PANICKED");
	assert_string_equal(b.events, "RESUME PANICKED:run ");
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	bench_play(&b, 0, fake_out(COM1_SCRATCH, 1, 1));
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[0].fd);
	bench_fini(&b);
}

static void test_power_button(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	assert_int_equal(machine_power_button(&b.m, &err), 0);
	assert_string_equal(b.events, "POWERDOWN ");
	bench_fini(&b);
}

static void test_state_names(void **state)
{
	(void)state;
	assert_string_equal(run_state_name(RUN_STATE_PRELAUNCH), "prelaunch");
	assert_string_equal(run_state_name(RUN_STATE_INTERNAL_ERROR), "internal-error");
	assert_string_equal(run_state_name(RUN_STATE_COUNT), "unknown");
}

/* ---- reset ---- */

static void test_reset_is_power_on(void **state)
{
	const uint64_t dirt = 0x1122334455667788;
	struct error err = ERROR_INIT;
	struct fake_vm *vm;
	uint64_t read = 1;
	uint32_t word = 0;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	bench_randomise(&b, 7);
	bus_access(&b.m.bus, BUS_PIO, COM1_SCRATCH, &(uint8_t){ 0x33 }, 1, true);
	assert_int_equal(memory_write(&b.m.memory, 0x1000, &dirt, sizeof(dirt)), 0);
	assert_int_equal(memory_write(&b.m.memory, BENCH_RAM - 8, &dirt, sizeof(dirt)), 0);
	bench_run(&b);
	assert_int_equal(machine_reset(&b.m, "host-qmp-system-reset", &err), 0);

	assert_int_equal(memory_read(&b.m.memory, 0x1000, &read, sizeof(read)), 0);
	assert_int_equal(read, 0);
	assert_int_equal(memory_read(&b.m.memory, BENCH_RAM - 8, &read, sizeof(read)), 0);
	assert_int_equal(read, 0);
	assert_int_equal(memory_read(&b.m.memory, BENCH_BOOT_GPA, &word, sizeof(word)), 0);
	assert_int_equal(word, BENCH_BOOT_WORD);
	bus_access(&b.m.bus, BUS_PIO, COM1_SCRATCH, &word, 1, false);
	assert_int_equal(word & 0xff, 0);
	vm = bench_vm(&b);
	assert_int_equal(b.kvm->nvms, 2);
	assert_ptr_equal(vm, b.kvm->vms[1]);
	assert_false(vm->slots_after_irqchip);
	assert_int_equal(bench_vcpu(&b, 0)->regs.rip, 0xfff0);
	assert_true(bench_vcpu(&b, 1)->cpuid_head.nent > 10);
	assert_string_equal(b.events, "RESUME RESET:host-qmp-system-reset ");
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	machine_wait_entered(&b.m);
	bench_fini(&b);
}

static uint64_t perf_capabilities(struct bench *b, uint32_t id)
{
	struct fake_vcpu *v = bench_vcpu(b, id);

	return v->msr_value[fake_vcpu_msr(v, FAKE_MSR_PERF_CAPABILITIES)];
}

/* Its MSRs would not travel. */
static void test_the_last_branch_record_is_hidden_at_power_on(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	assert_int_equal(perf_capabilities(&b, 0), FAKE_PERF_CAPABILITIES & ~0x3fu);
	assert_int_equal(perf_capabilities(&b, 1), FAKE_PERF_CAPABILITIES & ~0x3fu);
	assert_int_equal(machine_reset(&b.m, "host-qmp-system-reset", &err), 0);
	assert_int_equal(perf_capabilities(&b, 0), FAKE_PERF_CAPABILITIES & ~0x3fu);
	bench_fini(&b);
}

static void test_reset_while_paused_stays_paused(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	bench_run(&b);
	machine_wait_entered(&b.m);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_int_equal(machine_reset(&b.m, "host-qmp-system-reset", &err), 0);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_PAUSED);
	usleep(20000);
	assert_int_equal(bench_vcpu(&b, 0)->runs, 0);
	bench_fini(&b);
}

/* Main may come to the client before it comes to the guest. */
static void reset_by_host_after(struct fake_exit e, uint32_t req)
{
	uint64_t end = now_ns() + 5000000000ull;
	struct error err = ERROR_INIT;
	struct bench b;

	bench_prepare(&b, 2);
	b.cfg.no_reboot = true;
	assert_int_equal(bench_create(&b, &err), 0);
	bench_play(&b, 1, e);
	bench_run(&b);
	while (!(atomic_load(&b.m.requests) & req) && now_ns() < end)
		usleep(100);
	assert_int_equal(machine_reset(&b.m, "host-qmp-system-reset", &err), 0);
	for (int i = 0; i < 20; i++)
		assert_int_equal(loop_turn(b.loop, 1), 0);
	assert_string_equal(b.events, "RESUME RESET:host-qmp-system-reset ");
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	assert_int_equal(b.kvm->nvms, 2);
	machine_wait_entered(&b.m);
	bench_fini(&b);
}

static void test_what_the_guest_before_a_reset_wanted_is_forgotten(void **state)
{
	(void)state;
	reset_by_host_after(fake_out(RESET_PORT, 1, 6), MACHINE_REQ_RESET);
	reset_by_host_after((struct fake_exit){ .reason = KVM_EXIT_SHUTDOWN },
			    MACHINE_REQ_TRIPLE_FAULT);
	reset_by_host_after((struct fake_exit){ .reason = 200 }, MACHINE_REQ_VCPU_ERROR);
}

static void test_failed_reset_ends_the_machine(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	b.kvm->fail_request = KVM_CREATE_VM;
	b.kvm->fail_error = ENOMEM;
	bench_play(&b, 0, fake_out(RESET_PORT, 1, 6));
	bench_run(&b);
	assert_int_equal(bench_run_to_the_end(&b), MACHINE_EXIT_FAILURE);
	bench_fini(&b);
}

/* ---- quiescing ---- */

static void test_quiesce_and_back(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	assert_int_equal(machine_quiesce(&b.m, &err), 0);
	machine_unquiesce(&b.m);
	machine_unquiesce(&b.m); /* each undo may come twice */
	assert_int_equal(machine_quiesce(&b.m, &err), 0);
	bench_fini(&b);
}

static unsigned int resumed;

static void counts_resuming(struct device *dev)
{
	(void)dev;
	resumed++;
}

static int does_not_drain(struct device *dev, struct error *err)
{
	(void)dev;
	return err_set(err, EIO, "it does not drain");
}

/* In a stand-in they only serve, and resuming would have one take up connections. */
static void test_one_that_does_not_drain_leaves_the_others_to_the_caller(void **state)
{
	struct device_class first, last;
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	first = *b.m.devices[0]->cls;
	last = *b.m.devices[b.m.ndevices - 1]->cls;
	first.resume = counts_resuming;
	last.quiesce = does_not_drain;
	b.m.devices[0]->cls = &first;
	b.m.devices[b.m.ndevices - 1]->cls = &last;
	resumed = 0;
	assert_int_equal(machine_quiesce(&b.m, &err), -EIO);
	assert_non_null(strstr(err.text, "it does not drain"));
	assert_int_equal(resumed, 0);
	machine_unquiesce(&b.m);
	assert_int_equal(resumed, 1);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_is_built_parked),
		cmocka_unit_test(test_memslots_come_before_the_irqchip),
		cmocka_unit_test(test_a_kvm_that_hands_over_slowly),
		cmocka_unit_test(test_a_kvm_that_cannot_be_asked_how_it_hands_over),
		cmocka_unit_test(test_impossible_configurations),
		cmocka_unit_test(test_poor_kvm_is_refused_by_name),
		cmocka_unit_test(test_failures_leave_nothing),
		cmocka_unit_test(test_boot_failure_is_told),
		cmocka_unit_test(test_no_descriptor_is_leaked),
		cmocka_unit_test(test_resume_and_pause),
		cmocka_unit_test(test_a_vcpu_that_does_not_stop_keeps_the_guest_running),
		cmocka_unit_test(test_the_guest_is_told_of_a_pause),
		cmocka_unit_test(test_parking_tells_when_the_last_stopped),
		cmocka_unit_test(test_spare_cpus_are_those_without_a_vcpu),
		cmocka_unit_test(test_entering_tells_the_cpu),
		cmocka_unit_test(test_accesses_reach_devices),
		cmocka_unit_test(test_half_done_io_is_completed_before_the_park),
		cmocka_unit_test(test_string_io_is_served_while_parking),
		cmocka_unit_test(test_interrupted_runs_go_on),
		cmocka_unit_test(test_guest_powers_off),
		cmocka_unit_test(test_guest_resets),
		cmocka_unit_test(test_molt_is_stopped_while_the_guest_resets),
		cmocka_unit_test(test_reset_with_no_reboot_ends),
		cmocka_unit_test(test_triple_fault),
		cmocka_unit_test(test_internal_error),
		cmocka_unit_test(test_failed_entry),
		cmocka_unit_test(test_unknown_exit),
		cmocka_unit_test(test_run_failure),
		cmocka_unit_test(test_guest_panic_notice_lets_it_run),
		cmocka_unit_test(test_power_button),
		cmocka_unit_test(test_state_names),
		cmocka_unit_test(test_reset_is_power_on),
		cmocka_unit_test(test_the_last_branch_record_is_hidden_at_power_on),
		cmocka_unit_test(test_reset_while_paused_stays_paused),
		cmocka_unit_test(test_what_the_guest_before_a_reset_wanted_is_forgotten),
		cmocka_unit_test(test_failed_reset_ends_the_machine),
		cmocka_unit_test(test_quiesce_and_back),
		cmocka_unit_test(test_one_that_does_not_drain_leaves_the_others_to_the_caller),
	};

	log_set_fd(-1); /* the errors that are provoked here are nobody's business */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
