/* SPDX-License-Identifier: MIT */
/* The machine's trip through a stream and an fd table into a second machine, over fake KVMs. */
#include "machine_bench.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "../../src/vm/machine_state.h"

#define PM1_CNT 0x604

#define CLOCK_NOISE_NS 5000000 /* a measurement can be preempted; a pause is what it must not be */

/* Time goes on between two saves: one stamp, and one difference that is measured anew. */
static bool may_differ(const struct stream_section *sec, const struct stream_field *x,
		       const struct stream_field *y)
{
	uint64_t a, b;

	if (strcmp(sec->name, "vcpu") == 0 && strcmp(x->name, "lapic_ns") == 0)
		return true;
	if (strcmp(sec->name, "clock") != 0 || strcmp(x->name, "offset") != 0)
		return false;
	memcpy(&a, x->data, sizeof(a));
	memcpy(&b, y->data, sizeof(b));
	return a - b + CLOCK_NOISE_NS < 2 * CLOCK_NOISE_NS;
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
		if (!may_differ(a, &x, &y) &&
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

/* Its thread's nice value; CPUs go the same way (tests/guest/test_placement.py). */
static int nice_of(struct bench *b, uint32_t vcpu)
{
	return getpriority(PRIO_PROCESS, (id_t)b->m.crew->members[vcpu].tid);
}

static void test_threads_are_run_as_they_were(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;
	int usual = getpriority(PRIO_PROCESS, 0);

	(void)state;
	if (usual > 16) {
		print_message("# at nice value %d there is none to tell from it\n", usual);
		skip();
	}
	bench_init(&a, 2);
	setpriority(PRIO_PROCESS, (id_t)a.m.crew->members[1].tid, usual + 3);
	machine_note_places(&a.m);
	bench_save(&a, &st, 1);
	assert_null(stream_find(&st.s, "vcpu-thread", 0));
	assert_non_null(stream_find(&st.s, "vcpu-thread", 1));
	if (bench_load(&b, &st, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(nice_of(&b, 0), usual);
	assert_int_equal(nice_of(&b, 1), usual + 3);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

/* Whatever a state says of them, the guest runs. */
static void test_places_that_there_are_not(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;
	struct vcpu_place *p;

	(void)state;
	bench_init(&a, 1);
	p = &a.m.vcpus[0].place;
	*p = (struct vcpu_place){ .policy = 77, .priority = 1000, .nice = 5, .differs = true };
	p->cpus[VCPU_PLACE_WORDS - 1] = 1ull << 63;
	p->nwords = VCPU_PLACE_WORDS;
	bench_save(&a, &st, 1);
	if (bench_load(&b, &st, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(nice_of(&b, 0), 5);
	bench_run(&b);
	machine_wait_entered(&b.m);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
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

static unsigned int clock_readings(const struct bench *b)
{
	unsigned int n = 0;

	for (int at = -1;
	     (at = fake_kvm_find_call(b->kvm, -1, KVM_GET_CLOCK, (unsigned int)(at + 1))) >= 0;)
		n++;
	return n;
}

struct clock_host {
	unsigned int waits; /* as fake_vm's */
	uint64_t set_ns;
	uint64_t get_ns;
	unsigned int most; /* so often may the clock be read within the pause */
};

/* By how much an update moves it where the host is so. */
static int64_t kvmclock_moves(const struct clock_host *host)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;
	int64_t off;

	bench_init(&a, 1);
	bench_vm(&a)->clock_waits = host->waits;
	fake_clock_get_ns = host->get_ns;
	bench_save(&a, &st, 1);
	assert_in_range(clock_readings(&a), 1, host->most);
	fake_clock_set_ns = host->set_ns;
	if (bench_load(&b, &st, &err) < 0)
		fail_msg("%s", err.text);
	fake_clock_set_ns = fake_clock_get_ns = 0;
	off = bench_vm(&b)->clock_offset - bench_vm(&a)->clock_offset;
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
	return off;
}

/* Whoever saves waits for a CPU, in each of the first readings: the clock must not step by that. */
static void test_kvmclock_on_a_busy_host(void **state)
{
	int64_t off = kvmclock_moves(&(struct clock_host){ .waits = 6, .most = 60 });

	(void)state;
	assert_true(off > -2000000 && off < 2000000);
}

static void test_kvmclock_on_a_slow_host(void **state)
{
	int64_t off = kvmclock_moves(&(struct clock_host){ .set_ns = 300000, .most = 60 });

	(void)state;
	assert_true(off > -200000 && off < 200000);
}

/* No reading is ever quick: the pause is not spent on looking for one, and updates work. */
static void test_kvmclock_where_reading_it_is_slow(void **state)
{
	int64_t off = kvmclock_moves(&(struct clock_host){ .get_ns = 100000, .most = 60 });

	(void)state;
	assert_true(off > -200000 && off < 200000);
}

static uint64_t *wall_clock(struct bench *b)
{
	struct fake_vcpu *v = bench_vcpu(b, 0);

	return &v->msr_value[fake_vcpu_msr(v, 0x4b564d00)];
}

static void test_wall_clock_arrives_after_the_commit(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct bench a, b;

	(void)state;
	bench_init(&a, 2);
	*wall_clock(&a) = 0x7001;
	bench_save(&a, &st, 1);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	assert_true(*wall_clock(&b) == 0);
	machine_unquiesce(&b.m);
	assert_true(*wall_clock(&b) == 0x7001);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

/* KVM writes the time there once more, where the guest may have something else. */
static void test_setting_the_wall_clock_leaves_ram_alone(void **state)
{
	struct error err = ERROR_INIT;
	uint8_t ram[32], after[32];
	struct bench_state st;
	struct bench a, b;

	(void)state;
	bench_init(&a, 1);
	*wall_clock(&a) = 0x7001;
	for (unsigned int i = 0; i < sizeof(ram); i++)
		ram[i] = (uint8_t)(i + 1);
	assert_int_equal(memory_write(&a.m.memory, 0x7000, ram, sizeof(ram)), 0);
	bench_save(&a, &st, 1);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	machine_unquiesce(&b.m);
	assert_true(*wall_clock(&b) == 0x7001);
	assert_int_equal(memory_read(&b.m.memory, 0x7000, after, sizeof(after)), 0);
	assert_memory_equal(ram, after, sizeof(ram));
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

/* A guest of an older molt: it has seen it, and has it until it is reset. */
static void test_a_last_branch_record_that_was_offered_stays(void **state)
{
	struct error err = ERROR_INIT;
	struct bench_state st;
	struct fake_vcpu *v;
	struct bench a, b;

	(void)state;
	bench_init(&a, 1);
	v = bench_vcpu(&a, 0);
	v->msr_value[fake_vcpu_msr(v, FAKE_MSR_PERF_CAPABILITIES)] = FAKE_PERF_CAPABILITIES;
	bench_save(&a, &st, 1);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	v = bench_vcpu(&b, 0);
	assert_int_equal(v->msr_value[fake_vcpu_msr(v, FAKE_MSR_PERF_CAPABILITIES)],
			 FAKE_PERF_CAPABILITIES);
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
	bench_run(&a);
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
	bench_play(&a, 0, fake_out(PM1_CNT, 2, 5 << 10 | 1 << 13));
	bench_run(&a);
	while (!atomic_load(&a.m.requests))
		usleep(100);
	machine_park_vcpus(&a.m);
	bench_save(&a, &st, 1);
	assert_int_equal(bench_load(&b, &st, &err), 0);
	machine_unpark_vcpus(&b.m);
	assert_int_equal(bench_run_to_the_end(&b), MACHINE_EXIT_OK);
	assert_int_equal(bench_vcpu(&b, 0)->runs, 0);
	bench_state_fini(&st);
	bench_fini(&a);
	bench_fini(&b);
}

static void test_section_without_owner(void **state)
{
	struct stream_header header = { .machine_version = machine_model.newest };
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
	st.s.header.machine_version = machine_model.newest + 1;
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
	cpu_set_t all, one;
	int cpu = sched_getcpu();

	(void)state;
	assert_true(cpu >= 0);
	bench_init(&a, 2);
	bench_save(&a, &st, 1);
	bench_duplicate_fds(st.fds);
	bench_prepare(&b, 1);
	b.cfg.stream = &st.s;
	b.cfg.fds = st.fds;
	b.kvm->fail_request = KVM_SET_SREGS2;
	b.kvm->fail_error = EINVAL;
	b.kvm->fail_skip = 1;
	/* On one CPU nobody helps, and vCPUs are loaded in order. */
	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	CPU_ZERO(&one);
	CPU_SET((size_t)cpu, &one);
	assert_int_equal(sched_setaffinity(0, sizeof(one), &one), 0);
	assert_int_equal(bench_create(&b, &err), -EINVAL);
	assert_int_equal(sched_setaffinity(0, sizeof(all), &all), 0);
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
	b.m.crew->host_cpus = 1; /* no helpers: vCPUs are saved in order */
	b.kvm->fail_request = KVM_GET_LAPIC;
	b.kvm->fail_error = EIO;
	b.kvm->fail_skip = 1;
	assert_int_equal(machine_save(&b.m, &w, fds, &err), -EIO);
	assert_non_null(strstr(err.text, "vCPU 1"));
	memset(fds, 0, sizeof(*fds));
	stream_begin(&w, &header);
	b.kvm->fail_request = KVM_GET_IRQCHIP;
	b.kvm->fail_skip = 0;
	assert_int_equal(machine_save(&b.m, &w, fds, &err), -EIO);
	assert_non_null(strstr(err.text, "device 'irqchip'"));
	memset(fds, 0, sizeof(*fds));
	stream_begin(&w, &header);
	b.kvm->fail_request = KVM_GET_LAPIC;
	assert_int_equal(machine_save(&b.m, &w, fds, &err), -EIO);
	/* It is over with that: the guest runs on, and may reset itself. */
	b.kvm->fail_request = 0;
	assert_int_equal(machine_reset(&b.m, "guest-reset", &err), 0);
	stream_writer_fini(&w);
	free(fds);
	bench_fini(&b);
}

/* ---- what the stream's writer did not know ---- */

/* The description that a check sends; nothing of it is looked at here. */
static void describe(struct bench *b)
{
	struct stream_header header = { .machine_version = 1 };
	struct stream_writer w;
	struct error err = ERROR_INIT;
	struct fdtable *fds = calloc(1, sizeof(*fds));

	assert_non_null(fds);
	assert_int_equal(stream_writer_init(&w, 1 << 16, &err), 0);
	stream_begin(&w, &header);
	if (machine_describe(&b->m, &w, fds, &err) < 0)
		fail_msg("%s", err.text);
	stream_writer_fini(&w);
	free(fds);
}

static void forget_msr(struct msr_list *list, uint32_t index)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < list->count; i++)
		if (list->index[i] != index)
			list->index[n++] = list->index[i];
	assert_int_equal(n, list->count - 1);
	list->count = n;
}

static bool brings_msr(struct bench *b, uint32_t index, uint64_t value)
{
	const struct vcpu_state *st = b->m.vcpus[1].state;

	for (uint32_t i = 0; i < st->nmsrs; i++)
		if (st->msr_index[i] == index)
			return st->msr_value[i] == value;
	return false;
}

/*
 * The PAT, of which the writer never heard, nor of what cannot be read: as from an older release.
 */
static void test_msr_that_the_writer_forgot(void **state)
{
	struct bench b = { 0 }, c = { 0 }, d = { 0 };
	struct bench_state st, st2;
	struct error err = ERROR_INIT;
	unsigned int vms;

	(void)state;
	bench_init(&b, 2);
	forget_msr(&b.m.guest.msrs.saved, 0x277);
	b.m.guest.msrs.refused.count = 0;
	bench_save(&b, &st, 1);
	assert_int_equal(bench_load(&c, &st, &err), 0);
	assert_int_equal(c.kvm->nvms, 1);
	bench_vcpu(&c, 1)->msr_value[fake_vcpu_msr(bench_vcpu(&c, 1), 0x277)] = 0x70406;
	describe(&c);
	assert_int_equal(c.kvm->nvms, 2);
	bench_save(&c, &st2, 2);
	assert_true(brings_msr(&c, 0x277, 0x70406));
	assert_int_equal(bench_load(&d, &st2, &err), 0);
	assert_true(brings_msr(&d, 0x277, 0x70406));
	/* Now it is all known, what is refused too: nothing is tried again. */
	vms = d.kvm->nvms;
	describe(&d);
	assert_int_equal(d.kvm->nvms, vms);
	bench_state_fini(&st);
	bench_state_fini(&st2);
	bench_fini(&b);
	bench_fini(&c);
	bench_fini(&d);
}

static void test_trying_msrs_leaves_nothing_behind(void **state)
{
	static const unsigned long requests[] = {
		KVM_GET_MSR_INDEX_LIST, KVM_CREATE_VM,  KVM_CREATE_IRQCHIP,
		KVM_CREATE_VCPU,        KVM_SET_CPUID2,
	};
	struct bench b = { 0 };

	(void)state;
	bench_init(&b, 2);
	for (size_t i = 0; i < ARRAY_SIZE(requests); i++) {
		unsigned int fds;

		forget_msr(&b.m.guest.msrs.saved, 0x277);
		fds = bench_count_fds() - b.kvm->nvcpus; /* the fake keeps one for each */
		b.kvm->fail_request = requests[i];
		b.kvm->fail_error = ENOMEM;
		describe(&b);
		b.kvm->fail_request = 0;
		describe(&b); /* again, and now it can */
		assert_int_equal(bench_count_fds() - b.kvm->nvcpus, fds);
	}
	bench_fini(&b);
}

/* A guest that an older release started, with what none is offered any more, keeps it. */
static void test_cpuid_is_the_streams(void **state)
{
	struct bench b = { 0 }, c = { 0 };
	struct kvm_cpuid_entry2 *e;
	struct bench_state st;
	struct error err = ERROR_INIT;

	(void)state;
	bench_init(&b, 2);
	e = (struct kvm_cpuid_entry2 *)(void *)b.m.vcpus[1].state->cpuid;
	for (uint32_t i = 0; i < b.m.vcpus[1].state->ncpuid / 10; i++)
		if (e[i].function == 7)
			e[i].ecx |= 1u << 7; /* shadow stacks */
	bench_save(&b, &st, 1);
	assert_int_equal(bench_load(&c, &st, &err), 0);
	assert_int_equal(bench_vcpu(&c, 1)->cpuid_head.nent * 10, b.m.vcpus[1].state->ncpuid);
	assert_memory_equal(bench_vcpu(&c, 1)->cpuid, e, b.m.vcpus[1].state->ncpuid * 4);
	assert_string_equal(c.m.guest.cpu_model, CPU_MODEL_HOST);
	/* Over a reset, too. */
	assert_int_equal(machine_reset(&c.m, "guest-reset", &err), 0);
	assert_memory_equal(bench_vcpu(&c, 1)->cpuid, e, b.m.vcpus[1].state->ncpuid * 4);
	bench_state_fini(&st);
	bench_fini(&b);
	bench_fini(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_saved_loaded_saved_is_the_same),
		cmocka_unit_test(test_threads_are_run_as_they_were),
		cmocka_unit_test(test_places_that_there_are_not),
		cmocka_unit_test(test_kvmclock_goes_on),
		cmocka_unit_test(test_kvmclock_on_a_busy_host),
		cmocka_unit_test(test_kvmclock_where_reading_it_is_slow),
		cmocka_unit_test(test_kvmclock_on_a_slow_host),
		cmocka_unit_test(test_wall_clock_arrives_after_the_commit),
		cmocka_unit_test(test_setting_the_wall_clock_leaves_ram_alone),
		cmocka_unit_test(test_a_last_branch_record_that_was_offered_stays),
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
		cmocka_unit_test(test_msr_that_the_writer_forgot),
		cmocka_unit_test(test_trying_msrs_leaves_nothing_behind),
		cmocka_unit_test(test_cpuid_is_the_streams),
	};

	log_set_fd(-1); /* the errors that are provoked here are nobody's business */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
