/* SPDX-License-Identifier: MIT */
/* The machine: building, running, stopping, resetting, saving and loading it, over a fake KVM. */
#include "machine_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#define COM1_SCRATCH 0x3ff
#define I8042_COMMAND 0x64
#define RESET_PORT 0xcf9
#define PM1_CNT 0x604
#define PVPANIC 0x505

static struct fake_exit out(uint16_t port, uint8_t size, uint32_t value)
{
	struct fake_exit e = {
		.reason = KVM_EXIT_IO, .addr = port, .size = size, .count = 1, .write = true,
	};

	memcpy(e.data, &value, sizeof(value));
	return e;
}

static struct fake_exit in(uint16_t port, uint8_t size)
{
	return (struct fake_exit){ .reason = KVM_EXIT_IO, .addr = port, .size = size, .count = 1 };
}

static void run(struct bench *b)
{
	struct error err = ERROR_INIT;

	assert_int_equal(machine_resume(&b->m, &err), 0);
}

static void play(struct bench *b, uint32_t id, struct fake_exit e)
{
	fake_vcpu_play(b->kvm, b->m.vcpus[id].fd, &e);
}

/* Runs the loop until machine_exit() ends it. */
static int run_to_the_end(struct bench *b)
{
	bench_wait_event(b, "SHUTDOWN");
	return loop_run(b->loop);
}

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
		{ KVM_CREATE_PIT2, 0, "device 'pit'" },
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
	run(&b);
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
	run(&b);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	assert_true(machine_wait_entered(&b.m) > 0);
	assert_int_equal(machine_resume(&b.m, &err), 0);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_PAUSED);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_string_equal(b.events, "RESUME STOP ");
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
		assert_true(i % 2 == 0 || stopped >= before || b.m.vcpus[0].parked);
		for (uint32_t n = 0; n < 3; n++)
			assert_true(b.m.vcpus[n].parked);
	}
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
	play(&b, 0, out(COM1_SCRATCH, 1, 0x5a));
	play(&b, 0, in(COM1_SCRATCH, 1));
	play(&b, 0, in(0x1234, 4));
	play(&b, 0, (struct fake_exit){ .reason = KVM_EXIT_MMIO, .addr = 0xd0000000, .size = 8 });
	run(&b);
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
		play(&b, 0, out(COM1_SCRATCH, 1, 0x77));
		play(&b, 0, in(COM1_SCRATCH, 1));
		pthread_mutex_lock(&serial->lock);
		machine_unpark_vcpus(&b.m);
		machine_wait_entered(&b.m);
		atomic_store(&b.m.vcpus[0].goal, VCPU_PARK);
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
	struct fake_exit more = out(COM1_SCRATCH, 1, 2), last = out(COM1_SCRATCH, 1, 3);
	struct bench_state st;
	struct fake_vcpu *v;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	v = bench_vcpu(&b, 0);
	more.goes_on = last.goes_on = true;
	/* The first exit makes the machine stop: all that follows it comes while parking. */
	play(&b, 0, out(I8042_COMMAND, 1, 0xfe));
	play(&b, 0, more);
	play(&b, 0, last);
	play(&b, 0, out(COM1_SCRATCH, 1, 99));
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
	play(&b, 0, (struct fake_exit){ .error = EINTR });
	play(&b, 0, (struct fake_exit){ .error = EAGAIN });
	play(&b, 0, (struct fake_exit){ .reason = KVM_EXIT_INTR });
	play(&b, 0, out(COM1_SCRATCH, 1, 1));
	run(&b);
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
	play(&b, 1, out(PM1_CNT, 2, 5 << 10 | 1 << 13));
	run(&b);
	assert_int_equal(run_to_the_end(&b), MACHINE_EXIT_OK);
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
	play(&b, 0, out(RESET_PORT, 1, 6));
	run(&b);
	bench_wait_event(&b, "RESET");
	assert_string_equal(b.events, "RESUME RESET:guest-reset ");
	assert_int_equal(b.kvm->nvms, 2);
	assert_int_equal(b.boots, 2);
	/* And runs on. */
	play(&b, 0, out(COM1_SCRATCH, 1, 1));
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[0].fd);
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
	play(&b, 0, out(I8042_COMMAND, 1, 0xfe));
	run(&b);
	assert_int_equal(run_to_the_end(&b), MACHINE_EXIT_OK);
	assert_string_equal(b.events, "RESUME SHUTDOWN:guest-reset ");
	assert_int_equal(b.kvm->nvms, 1);
	bench_fini(&b);
}

static void fatal_exit(struct fake_exit e, int code)
{
	struct error err = ERROR_INIT;
	struct bench b;

	bench_init(&b, 2);
	play(&b, 1, e);
	run(&b);
	assert_int_equal(run_to_the_end(&b), code);
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
	play(&b, 0, out(PVPANIC, 1, 1));
	run(&b);
	bench_wait_event(&b, "PANICKED");
	assert_string_equal(b.events, "RESUME PANICKED:run ");
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	play(&b, 0, out(COM1_SCRATCH, 1, 1));
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
	run(&b);
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

static void test_reset_while_paused_stays_paused(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	run(&b);
	machine_wait_entered(&b.m);
	assert_int_equal(machine_pause(&b.m, &err), 0);
	assert_int_equal(machine_reset(&b.m, "host-qmp-system-reset", &err), 0);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_PAUSED);
	usleep(20000);
	assert_int_equal(bench_vcpu(&b, 0)->runs, 0);
	bench_fini(&b);
}

static void test_failed_reset_ends_the_machine(void **state)
{
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	b.kvm->fail_request = KVM_CREATE_VM;
	b.kvm->fail_error = ENOMEM;
	play(&b, 0, out(RESET_PORT, 1, 6));
	run(&b);
	assert_int_equal(run_to_the_end(&b), MACHINE_EXIT_FAILURE);
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

/* ---- saving and loading ---- */

/* What differs between two saves of one state: time goes on. */
static bool is_a_time(const char *section, const char *field)
{
	return (strcmp(section, "vcpu") == 0 && strcmp(field, "lapic_ns") == 0) ||
	       (strcmp(section, "clock") == 0 &&
		(strcmp(field, "kvmclock") == 0 || strcmp(field, "raw_ns") == 0));
}

static void compare_sections(const struct stream_section *a, const struct stream_section *b)
{
	struct stream_field x, y;
	size_t i = 0, j = 0;

	assert_string_equal(a->name, b->name);
	assert_int_equal(a->instance, b->instance);
	assert_int_equal(a->version, b->version);
	assert_int_equal(a->payload_len, b->payload_len);
	while (stream_next_field(a, &i, &x) == 1) {
		assert_int_equal(stream_next_field(b, &j, &y), 1);
		assert_string_equal(x.name, y.name);
		assert_int_equal(x.count, y.count);
		if (!is_a_time(a->name, x.name) &&
		    memcmp(x.data, y.data, x.count * field_type_size(x.type)) != 0)
			fail_msg("section '%s' %u, field '%s' differs", a->name, a->instance,
				 x.name);
	}
}

static void compare_streams(const struct stream *a, const struct stream *b)
{
	assert_int_equal(a->nsections, b->nsections);
	assert_memory_equal(a->header.uuid, b->header.uuid, sizeof(a->header.uuid));
	assert_int_equal(a->header.machine_version, b->header.machine_version);
	for (size_t i = 0; i < a->nsections; i++)
		compare_sections(&a->sections[i], &b->sections[i]);
}

static void compare_fds(const struct fdtable *a, const struct fdtable *b)
{
	assert_int_equal(a->count, b->count);
	for (uint32_t i = 0; i < a->count; i++) {
		assert_string_equal(a->entries[i].name, b->entries[i].name);
		assert_int_equal(a->entries[i].id, b->entries[i].id);
		assert_int_equal(a->entries[i].kind, b->entries[i].kind);
	}
}

static void test_saved_loaded_saved_is_the_same(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state first, second;
	struct bench a, b;

	(void)state;
	for (uint32_t seed = 1; seed <= 10; seed++) {
		bench_init(&a, 2);
		bench_randomise(&a, seed);
		bench_save(&a, &first, 1);
		if (bench_load(&b, &first, &err) < 0)
			fail_msg("%s", err.text);
		assert_int_equal(stream_check_claimed(&first.s, &err), 0);
		assert_int_equal(fdtable_check_taken(first.fds, &err), 0);
		machine_unquiesce(&b.m); /* only the commit may restore what is in guest RAM, too */
		bench_save(&b, &second, 2);
		compare_streams(&first.s, &second.s);
		compare_fds(first.fds, second.fds);
		bench_state_fini(&first);
		bench_state_fini(&second);
		bench_fini(&a);
		bench_fini(&b);
	}
}

static void test_kvmclock_goes_on(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;
	int64_t off;

	(void)state;
	bench_init(&a, 1);
	bench_vm(&a)->clock_offset = -1234567890123;
	bench_save(&a, &st, 1);
	usleep(30000);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	off = bench_vm(&b)->clock_offset - bench_vm(&a)->clock_offset;
	/* Off by as much as the brackets are wide: microseconds, far from the pause's 30 ms. */
	assert_true(off > -2000000 && off < 2000000);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

static void test_ram_is_the_same_memory(void **state)
{
	const uint32_t sent = 0xfeedface;
	struct error err = ERROR_INIT;
	struct bench_state st;
	uint32_t got = 0;
	struct bench a, b;

	(void)state;
	bench_init(&a, 1);
	bench_save(&a, &st, 1);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	assert_int_equal(b.m.memory.size, BENCH_RAM);
	assert_string_equal(b.m.guest.name, "bench");
	assert_int_equal(b.m.guest.cpus, 1);
	assert_int_equal(memory_write(&a.m.memory, 0x5000, &sent, sizeof(sent)), 0);
	assert_int_equal(memory_read(&b.m.memory, 0x5000, &got, sizeof(got)), 0);
	assert_int_equal(got, sent);
	/* Nobody boots again. */
	assert_int_equal(b.boots, 0);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

static void test_loaded_machine_runs_and_resets(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;

	(void)state;
	bench_init(&a, 2);
	run(&a);
	machine_park_vcpus(&a.m);
	bench_save(&a, &st, 1);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	machine_unquiesce(&b.m);
	assert_int_equal(bench_vcpu(&b, 0)->kvmclock_ctrls, 1);
	assert_int_equal(bench_vcpu(&b, 1)->kvmclock_ctrls, 1);
	machine_unpark_vcpus(&b.m);
	machine_wait_entered(&b.m);
	assert_int_equal(machine_reset(&b.m, "guest-reset", &err), 0);
	assert_int_equal(b.boots, 1);
	assert_int_equal(bench_vcpu(&b, 1)->cpuid_head.nent, bench_vcpu(&a, 1)->cpuid_head.nent);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

static void test_pending_request_survives(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;

	(void)state;
	bench_init(&a, 1);
	play(&a, 0, out(PM1_CNT, 2, 5 << 10 | 1 << 13));
	run(&a);
	while (!atomic_load(&a.m.requests))
		usleep(100);
	machine_park_vcpus(&a.m);
	bench_save(&a, &st, 1);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	machine_unpark_vcpus(&b.m);
	assert_int_equal(run_to_the_end(&b), MACHINE_EXIT_OK);
	assert_int_equal(bench_vcpu(&b, 0)->runs, 0);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

static void test_section_without_owner(void **state)
{
	struct stream_header header = { .machine_version = MACHINE_VERSION };
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;

	(void)state;
	bench_init(&a, 1);
	bench_save(&a, &st, 1);
	stream_fini(&st.s);
	stream_begin(&st.w, &header);
	memset(st.fds, 0, sizeof(*st.fds));
	assert_int_equal(machine_save(&a.m, &st.w, st.fds, &err), 0);
	stream_section_begin(&st.w, "flux-capacitor", 3, 1, 0);
	stream_section_end(&st.w);
	assert_int_equal(stream_end(&st.w, &err), 0);
	assert_int_equal(stream_parse(&st.s, st.w.data, st.w.len, &err), 0);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	assert_int_equal(stream_check_claimed(&st.s, &err), -EPROTO);
	assert_non_null(strstr(err.text, "'flux-capacitor' 3"));
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

/* A stream with one section less is refused, and the error names the section. */
static void test_each_missing_section_is_named(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;
	size_t n;

	(void)state;
	bench_init(&a, 2);
	bench_save(&a, &st, 1);
	n = st.s.nsections;
	bench_state_fini(&st);
	assert_true(n >= 8);
	for (size_t i = 0; i < n; i++) {
		char name[STREAM_NAME_MAX + 1], words[80];

		bench_save(&a, &st, 1);
		strcpy(name, st.s.sections[i].name);
		snprintf(words, sizeof(words), "'%s' %u is missing", name,
			 st.s.sections[i].instance);
		strcpy(st.s.sections[i].name, "-");
		err = ERROR_INIT;
		assert_int_equal(bench_load(&b, &st, &err), -EPROTO);
		if (!strstr(err.text, words))
			fail_msg("'%s' does not say \"%s\"", err.text, words);
		bench_state_fini(&st);
		bench_fini(&b);
	}
	bench_fini(&a);
}

static void test_each_missing_descriptor_is_named(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;
	uint32_t n;

	(void)state;
	bench_init(&a, 1);
	bench_save(&a, &st, 1);
	n = st.fds->count;
	bench_state_fini(&st);
	assert_true(n >= 2);
	for (uint32_t i = 0; i < n; i++) {
		unsigned int before = bench_count_fds();
		char name[STREAM_NAME_MAX + 1];

		bench_save(&a, &st, 1);
		strcpy(name, st.fds->entries[i].name);
		strcpy(st.fds->entries[i].name, "-");
		err = ERROR_INIT;
		assert_int_equal(bench_load(&b, &st, &err), -ENOENT);
		if (!strstr(err.text, name))
			fail_msg("'%s' does not name '%s'", err.text, name);
		bench_state_fini(&st);
		bench_fini(&b);
		assert_int_equal(bench_count_fds(), before);
	}
	bench_fini(&a);
}

static void test_foreign_machine_version(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;

	(void)state;
	bench_init(&a, 1);
	bench_save(&a, &st, 1);
	st.s.header.machine_version = MACHINE_VERSION + 1;
	assert_int_equal(bench_load(&b, &st, &err), -EPROTO);
	assert_non_null(strstr(err.text, "machine version"));
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

/* RAM of another size than the stream says, or that somebody could shrink, is not taken. */
static void test_wrong_ram_is_refused(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;
	int fd;

	(void)state;
	bench_init(&a, 1);
	for (int sized = 0; sized < 2; sized++) {
		bench_save(&a, &st, 1);
		fd = memfd_create("wrong", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		assert_true(fd >= 0);
		assert_int_equal(ftruncate(fd, sized ? BENCH_RAM : 4096), 0);
		for (uint32_t i = 0; i < st.fds->count; i++)
			if (strcmp(st.fds->entries[i].name, "ram") == 0)
				st.fds->entries[i].fd = fd;
		err = ERROR_INIT;
		assert_int_equal(bench_load(&b, &st, &err), -EINVAL);
		if (!strstr(err.text, sized ? "sealed" : "4096"))
			fail_msg("%s", err.text);
		close(fd);
		bench_state_fini(&st);
		bench_fini(&b);
	}
	bench_fini(&a);
}

static void test_vcpu_that_kvm_refuses(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;

	(void)state;
	bench_init(&a, 2);
	bench_save(&a, &st, 1);
	bench_duplicate_fds(st.fds);
	bench_prepare(&b, 1);
	b.cfg.stream = &st.s;
	b.cfg.fds = st.fds;
	b.kvm->fail_request = KVM_SET_SREGS2;
	b.kvm->fail_error = EINVAL;
	b.kvm->fail_skip = 1;
	assert_int_equal(bench_create(&b, &err), -EINVAL);
	assert_non_null(strstr(err.text, "section 'vcpu' 1"));
	assert_non_null(strstr(err.text, "KVM_SET_SREGS2"));
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

static void test_save_failure_is_told(void **state)
{
	struct fdtable *fds = calloc(1, sizeof(*fds));
	struct stream_header header = { .format = STREAM_FORMAT };
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct bench b;

	(void)state;
	assert_non_null(fds);
	bench_init(&b, 2);
	assert_int_equal(stream_writer_init(&w, 65536, &err), 0);
	stream_begin(&w, &header);
	b.kvm->fail_request = KVM_GET_LAPIC;
	b.kvm->fail_error = EIO;
	b.kvm->fail_skip = 1;
	assert_int_equal(machine_save(&b.m, &w, fds, &err), -EIO);
	assert_non_null(strstr(err.text, "vCPU 1"));
	memset(fds, 0, sizeof(*fds));
	stream_begin(&w, &header);
	b.kvm->fail_request = KVM_GET_PIT2;
	b.kvm->fail_skip = 0;
	assert_int_equal(machine_save(&b.m, &w, fds, &err), -EIO);
	assert_non_null(strstr(err.text, "device 'pit'"));
	stream_writer_fini(&w);
	free(fds);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_is_built_parked),
		cmocka_unit_test(test_memslots_come_before_the_irqchip),
		cmocka_unit_test(test_impossible_configurations),
		cmocka_unit_test(test_poor_kvm_is_refused_by_name),
		cmocka_unit_test(test_failures_leave_nothing),
		cmocka_unit_test(test_boot_failure_is_told),
		cmocka_unit_test(test_no_descriptor_is_leaked),
		cmocka_unit_test(test_resume_and_pause),
		cmocka_unit_test(test_parking_tells_when_the_last_stopped),
		cmocka_unit_test(test_accesses_reach_devices),
		cmocka_unit_test(test_half_done_io_is_completed_before_the_park),
		cmocka_unit_test(test_string_io_is_served_while_parking),
		cmocka_unit_test(test_interrupted_runs_go_on),
		cmocka_unit_test(test_guest_powers_off),
		cmocka_unit_test(test_guest_resets),
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
		cmocka_unit_test(test_reset_while_paused_stays_paused),
		cmocka_unit_test(test_failed_reset_ends_the_machine),
		cmocka_unit_test(test_quiesce_and_back),
		cmocka_unit_test(test_saved_loaded_saved_is_the_same),
		cmocka_unit_test(test_kvmclock_goes_on),
		cmocka_unit_test(test_ram_is_the_same_memory),
		cmocka_unit_test(test_loaded_machine_runs_and_resets),
		cmocka_unit_test(test_pending_request_survives),
		cmocka_unit_test(test_section_without_owner),
		cmocka_unit_test(test_each_missing_section_is_named),
		cmocka_unit_test(test_each_missing_descriptor_is_named),
		cmocka_unit_test(test_foreign_machine_version),
		cmocka_unit_test(test_wrong_ram_is_refused),
		cmocka_unit_test(test_vcpu_that_kvm_refuses),
		cmocka_unit_test(test_save_failure_is_told),
	};

	log_set_level(LOG_LEVEL_ERROR);
	log_set_fd(-1); /* the errors that are provoked here are nobody's business */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
