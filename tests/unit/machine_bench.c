/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/hw/classes.h>

#include "machine_bench.h"

#define EVENT_WAIT_NS 20000000000ull

static int load_boot(struct machine *m, void *opaque, struct error *err)
{
	const uint32_t word = BENCH_BOOT_WORD;
	struct bench *b = opaque;

	b->boots++;
	if (b->boot_error)
		return err_set(err, b->boot_error, "the bench has no kernel");
	assert_int_equal(memory_write(&m->memory, BENCH_BOOT_GPA, &word, sizeof(word)), 0);
	return 0;
}

static void take_event(struct machine *m, void *opaque, enum machine_event ev, const char *detail)
{
	static const char *const names[] = {
		[MACHINE_EVENT_STOP] = "STOP",
		[MACHINE_EVENT_RESUME] = "RESUME",
		[MACHINE_EVENT_RESET] = "RESET",
		[MACHINE_EVENT_SHUTDOWN] = "SHUTDOWN",
		[MACHINE_EVENT_POWERDOWN] = "POWERDOWN",
		[MACHINE_EVENT_GUEST_PANICKED] = "PANICKED",
	};
	struct bench *b = opaque;
	size_t len = strlen(b->events);

	(void)m;
	snprintf(b->events + len, sizeof(b->events) - len, "%s%s%s ", names[ev], detail ? ":" : "",
		 detail ? detail : "");
}

void bench_prepare(struct bench *b, uint32_t cpus)
{
	/* The test's own terminal is none of the guest's. */
	static const struct device_request devices[] = { { .cls = &serial_class, .args = "null" } };
	struct error err = ERROR_INIT;

	memset(b, 0, sizeof(*b));
	b->kvm = fake_kvm_new();
	assert_int_equal(loop_create(&b->loop, &err), 0);
	b->cfg = (struct machine_config){
		.name = "bench",
		.ram_size = BENCH_RAM,
		.cpus = cpus,
		.loop = b->loop,
		.ops = { .load_boot = load_boot, .event = take_event, .opaque = b },
		.model = &machine_model,
		.kvm = &b->kvm->kvm,
		.devices = devices,
		.ndevices = ARRAY_SIZE(devices),
	};
}

int bench_create(struct bench *b, struct error *err)
{
	int r = machine_create(&b->m, &b->cfg, err);

	b->made = r == 0;
	return r;
}

void bench_init(struct bench *b, uint32_t cpus)
{
	struct error err = ERROR_INIT;

	bench_prepare(b, cpus);
	if (bench_create(b, &err) < 0)
		fail_msg("%s", err.text);
}

void bench_fini(struct bench *b)
{
	if (b->made)
		machine_destroy(&b->m);
	loop_destroy(b->loop);
	fake_kvm_free(b->kvm);
}

struct fake_vcpu *bench_vcpu(struct bench *b, uint32_t id)
{
	return fake_kvm_vcpu(b->kvm, b->m.vcpus[id].fd);
}

struct fake_vm *bench_vm(struct bench *b)
{
	return fake_kvm_vm(b->kvm, b->m.vm.fd);
}

void bench_run(struct bench *b)
{
	struct error err = ERROR_INIT;

	assert_int_equal(machine_resume(&b->m, &err), 0);
}

void bench_play(struct bench *b, uint32_t id, struct fake_exit e)
{
	fake_vcpu_play(b->kvm, b->m.vcpus[id].fd, &e);
}

int bench_run_to_the_end(struct bench *b)
{
	bench_wait_event(b, "SHUTDOWN");
	return loop_run(b->loop);
}

void bench_wait_event(struct bench *b, const char *text)
{
	uint64_t end = now_ns() + EVENT_WAIT_NS;

	while (!strstr(b->events, text) && now_ns() < end)
		assert_int_equal(loop_turn(b->loop, 10), 0);
	if (!strstr(b->events, text))
		fail_msg("no event '%s', only '%s'", text, b->events);
}

void bench_randomise(struct bench *b, uint32_t seed)
{
	struct fake_vm *vm = bench_vm(b);
	uint32_t state = seed;

	for (uint32_t i = 0; i < b->m.guest.cpus; i++)
		fake_vcpu_randomise(bench_vcpu(b, i), seed + i);
	for (unsigned int i = 0; i < ARRAY_SIZE(vm->chips); i++)
		fake_random_bytes(&state, &vm->chips[i].chip, sizeof(vm->chips[i].chip));
	vm->chips[2].chip.ioapic.pad = 0;
	vm->clock_offset = 12345678900;
}

void bench_save(struct bench *b, struct bench_state *st, uint8_t n)
{
	struct stream_header header = { .machine_version = b->m.machine_version };
	struct error err = ERROR_INIT;

	memset(st, 0, sizeof(*st));
	memset(header.nonce, n, sizeof(header.nonce));
	memcpy(header.uuid, b->m.uuid, sizeof(header.uuid));
	strcpy(header.producer, "bench");
	st->fds = calloc(1, sizeof(*st->fds));
	assert_non_null(st->fds);
	assert_int_equal(stream_writer_init(&st->w, 1 << 16, &err), 0);
	stream_begin(&st->w, &header);
	if (machine_save(&b->m, &st->w, st->fds, &err) < 0 || stream_end(&st->w, &err) < 0 ||
	    stream_parse(&st->s, st->w.data, st->w.len, &err) < 0)
		fail_msg("%s", err.text);
}

void bench_duplicate_fds(struct fdtable *fds)
{
	for (uint32_t i = 0; i < fds->count; i++) {
		fds->entries[i].fd = fcntl(fds->entries[i].fd, F_DUPFD_CLOEXEC, 3);
		assert_true(fds->entries[i].fd >= 0);
	}
}

static int load(struct bench *b, const struct machine_model *model, struct bench_state *st,
		bool rehearsal, struct error *err)
{
	int r;

	bench_duplicate_fds(st->fds);
	bench_prepare(b, 99); /* what a successor's command line says is overruled */
	b->cfg.name = "other";
	if (model)
		b->cfg.model = model;
	b->cfg.ram_size = 64 << 20;
	b->cfg.rehearsal = rehearsal;
	b->cfg.stream = &st->s;
	b->cfg.fds = st->fds;
	r = bench_create(b, err);
	for (uint32_t i = 0; i < st->fds->count; i++)
		if (!st->fds->entries[i].taken)
			close(st->fds->entries[i].fd);
	return r;
}

int bench_load_into(struct bench *b, const struct machine_model *model, struct bench_state *st,
		    struct error *err)
{
	return load(b, model, st, false, err);
}

int bench_rehearse_in(struct bench *b, const struct machine_model *model, struct bench_state *st,
		      struct error *err)
{
	return load(b, model, st, true, err);
}

int bench_load(struct bench *b, struct bench_state *st, struct error *err)
{
	return load(b, NULL, st, false, err);
}

int bench_rehearse(struct bench *b, struct bench_state *st, struct error *err)
{
	return load(b, NULL, st, true, err);
}

void bench_state_fini(struct bench_state *st)
{
	stream_fini(&st->s);
	stream_writer_fini(&st->w);
	free(st->fds);
}

unsigned int bench_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}
