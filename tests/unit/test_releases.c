/* SPDX-License-Identifier: MIT */
/*
 * The state streams of every release (tests/state/) load here: the check before an update finds no
 * reason against them, and a machine is made of each over a fake KVM that takes what any CPU has.
 * One case a stream.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "../fuzz/fuzz.h" /* all kinds of all rooms */
#include "check_bench.h"

#define STREAMS_MAX 1024
#define SUFFIX ".state.gz"

struct golden {
	char version[64];
	char name[128];
	char path[512];
};

static struct golden golden[STREAMS_MAX];
static struct CMUnitTest tests[STREAMS_MAX];
static size_t count;

/* ---- what a stream's machine has open ---- */

static void add(struct fdtable *fds, const char *name, uint32_t id, int fd)
{
	struct error err = ERROR_INIT;

	assert_true(fd >= 0);
	if (fdtable_add(fds, name, id, fd, &err) < 0)
		fail_msg("%s", err.text);
}

static int any_file(void)
{
	return open("/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
}

/* A recorded guest's serial port is in a file; its kernel is one, or built in. */
static void add_descriptors(struct fdtable *fds, const struct fake_kvm *kvm, const struct stream *s,
			    const struct machine_guest *guest)
{
	struct error err = ERROR_INIT;
	struct memory ram;

	add(fds, "kvm", 0, fcntl(kvm->kvm.fd, F_DUPFD_CLOEXEC, 3));
	if (memory_create(&ram, guest->ram_size, NULL, NULL, &err) < 0)
		fail_msg("%s", err.text);
	for (unsigned int i = 0; i < ram.count; i++)
		add(fds, "ram", i, fcntl(ram.regions[i].fd, F_DUPFD_CLOEXEC, 3));
	memory_destroy(&ram);
	add(fds, "serial-chardev-file", 0, any_file());
	for (size_t i = 0; i < s->nsections; i++) {
		struct stream_field f;
		size_t pos = 0;

		if (strcmp(s->sections[i].name, "boot") != 0)
			continue;
		while (stream_next_field(&s->sections[i], &pos, &f) > 0)
			if (strcmp(f.name, "kernel_name") == 0 && f.count)
				add(fds, "boot-kernel", 0, any_file());
	}
}

static void close_descriptors(const struct fdtable *fds)
{
	for (uint32_t i = 0; i < fds->count; i++)
		if (!fds->entries[i].taken)
			close(fds->entries[i].fd);
}

/* ---- one stream ---- */

static void *unpack(const struct golden *g, size_t *len)
{
	size_t room = 1 << 20;
	char command[640], *data = malloc(room);
	FILE *pipe;

	assert_non_null(data);
	snprintf(command, sizeof(command), "gzip -dc '%s'", g->path);
	pipe = popen(command, "re");
	assert_non_null(pipe);
	*len = fread(data, 1, room, pipe);
	assert_int_equal(pclose(pipe), 0);
	assert_true(*len < room);
	return data;
}

static void check_says_yes(const void *data, size_t len, const struct fdtable *fds)
{
	struct takeover_kinds kinds;
	json_t *reasons, *reason;
	size_t i;

	fuzz_takeover_kinds(&kinds);
	reasons = bench_check(&machine_model, &kinds, data, len, fds);
	json_array_foreach (reasons, i, reason)
		print_message("# %s\n", json_string_value(reason));
	assert_int_equal(json_array_size(reasons), 0);
	json_decref(reasons);
}

/* What came with the stream is what KVM was given. */
static void check_vcpu(struct stream *s, const struct fake_vcpu *v)
{
	const struct stream_section *sec = stream_find(s, "vcpu", v->id);
	struct stream_field f;
	size_t pos = 0, seen = 0;

	assert_non_null(sec);
	while (stream_next_field(sec, &pos, &f) > 0) {
		if (strcmp(f.name, "regs.rip") == 0)
			assert_memory_equal(f.data, &v->regs.rip, 8);
		else if (strcmp(f.name, "sregs.cr3") == 0)
			assert_memory_equal(f.data, &v->sregs.cr3, 8);
		else if (strcmp(f.name, "tsc_offset") == 0)
			assert_memory_equal(f.data, &v->tsc_offset, 8);
		else
			continue;
		seen++;
	}
	assert_int_equal(seen, 3);
}

/* Sections of rooms beside the machine: the check has tried their fields. */
static void check_claimed(const struct stream *s)
{
	struct takeover_kinds machine = { 0 };

	machine_takeover_kinds(&machine_model, &machine);
	for (size_t i = 0; i < s->nsections; i++)
		if (!s->sections[i].claimed &&
		    takeover_kinds_section(&machine, s->sections[i].name))
			fail_msg("section '%s' %u was not loaded", s->sections[i].name,
				 s->sections[i].instance);
}

static void loads(void **state)
{
	const struct golden *g = *state;
	struct fdtable *fds = calloc(1, sizeof(*fds));
	/* Not on the stack: vCPU threads of a case that failed wait in it for ever. */
	struct bench *b = calloc(1, sizeof(*b));
	struct error err = ERROR_INIT;
	struct machine_guest guest;
	struct stream s;
	size_t len;
	void *data = unpack(g, &len);

	assert_true(fds && b);
	if (stream_parse(&s, data, len, &err) < 0 ||
	    machine_peek_config(&guest, &machine_model, &s, &err) < 0)
		fail_msg("%s", err.text);
	assert_string_equal(s.header.producer, g->version);
	bench_prepare(b, 1);
	b->kvm->any_msr = true;
	b->kvm->caps[KVM_CAP_XSAVE2] = sizeof(struct kvm_xsave);
	add_descriptors(fds, b->kvm, &s, &guest);
	check_says_yes(data, len, fds);
	b->cfg.stream = &s;
	b->cfg.fds = fds;
	if (bench_create(b, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(b->m.machine_version, s.header.machine_version);
	assert_memory_equal(b->m.uuid, s.header.uuid, sizeof(b->m.uuid));
	check_claimed(&s);
	for (uint32_t i = 0; i < b->m.guest.cpus; i++)
		check_vcpu(&s, bench_vcpu(b, i));
	close_descriptors(fds);
	bench_fini(b);
	stream_fini(&s);
	free(fds);
	free(b);
	free(data);
}

/* ---- finding them ---- */

static void no_release(void **state)
{
	(void)state;
	print_message("# no release is recorded in tests/state/releases yet\n");
	skip();
}

static void add_test(const char *name, CMUnitTestFunction function, void *state)
{
	assert(count < STREAMS_MAX);
	tests[count++] = (struct CMUnitTest){ .name = name,
					      .test_func = function,
					      .initial_state = state };
}

static void add_streams(const char *dir, const char *version)
{
	char path[256];
	DIR *d;

	snprintf(path, sizeof(path), "%s/%s", dir, version);
	d = opendir(path);
	for (struct dirent *e = d ? readdir(d) : NULL; e; e = readdir(d)) {
		struct golden *g = &golden[count];
		size_t len = strlen(e->d_name), tail = strlen(SUFFIX);

		if (len <= tail || strcmp(e->d_name + len - tail, SUFFIX) != 0)
			continue;
		snprintf(g->version, sizeof(g->version), "%s", version);
		snprintf(g->name, sizeof(g->name), "%.40s/%.*s", version, (int)(len - tail) & 63,
			 e->d_name);
		snprintf(g->path, sizeof(g->path), "%s/%.200s", path, e->d_name);
		add_test(g->name, loads, g);
	}
	if (d)
		closedir(d);
}

static int find_streams(const char *dir)
{
	char path[256], line[256], version[64];
	FILE *list;

	snprintf(path, sizeof(path), "%s/releases", dir);
	list = fopen(path, "re");
	if (!list)
		return -errno;
	while (fgets(line, sizeof(line), list)) {
		size_t before = count;

		if (line[0] == '#' || sscanf(line, "%63s", version) != 1)
			continue;
		add_streams(dir, version);
		if (count == before) {
			fprintf(stderr, "%s/%s has no streams\n", dir, version);
			fclose(list);
			return -ENOENT;
		}
	}
	fclose(list);
	return 0;
}

int main(void)
{
	const char *dir = getenv("MOLT_STATES");
	int r = find_streams(dir ? dir : "tests/state");

	if (r < 0) {
		fprintf(stderr, "test_releases: %s: %s\n", dir ? dir : "tests/state", strerror(-r));
		return EXIT_FAILURE;
	}
	if (!count)
		add_test("streams_of_releases", no_release, NULL);
	log_set_fd(-1);
	return _cmocka_run_group_tests("releases", tests, count, NULL, NULL);
}
