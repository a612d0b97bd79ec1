/* SPDX-License-Identifier: MIT */
/*
 * Rules that hold for every class of the class table, and for the vCPU: no byte of what migrates is
 * forgotten, whatever was saved is loaded, and no bytes from a stream can crash a device.
 */
#include "machine_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/hw/classes.h>
#include <molt/virtio/classes.h>
#include <molt/vm/vcpu_state.h>

#define FIELDS_MAX 256 /* what vmstate.c keeps book of in one table */

/* Calls fn for a class's description and each subsection. */
static void for_each_table(const struct vmstate *vms,
			   void (*fn)(const struct vmstate *vms, const char *name, void *opaque),
			   void *opaque)
{
	char name[2 * STREAM_NAME_MAX + 2];

	fn(vms, vms->name, opaque);
	for (const struct vmstate *const *sub = vms->subsections; sub && *sub; sub++) {
		snprintf(name, sizeof(name), "%s/%s", vms->name, (*sub)->name);
		fn(*sub, name, opaque);
	}
}

/* ---- coverage ---- */

struct coverage {
	const char *what;
	size_t size;
	uint8_t *marks;
};

static void mark(struct coverage *c, const char *field, size_t offset, size_t bytes)
{
	if (offset + bytes > c->size || offset + bytes < offset)
		fail_msg("%s, field '%s': outside of the struct", c->what, field);
	memset(c->marks + offset, 1, bytes);
}

static void mark_table(const struct vmstate *vms, const char *name, void *opaque)
{
	struct coverage *c = opaque;

	c->what = name;
	assert_int_equal(vms->size, c->size);
	for (const struct vmstate_field *f = vms->fields; f->name; f++) {
		if ((f->flags & VMSTATE_NOT_SAVED) && (!f->reason || strlen(f->reason) < 5))
			fail_msg("%s, field '%s': not saved, and no reason given", name, f->name);
		if (!(f->flags & VMSTATE_NOT_SAVED) &&
		    f->bytes != f->max * field_type_size(f->type))
			fail_msg("%s, field '%s': %zu bytes, but %u elements", name, f->name,
				 f->bytes, f->max);
		mark(c, f->name, f->offset, f->bytes);
		if (f->variable)
			mark(c, f->name, f->count_offset, sizeof(uint32_t));
	}
}

/* Padding that no field names counts as forgotten: it could be a member tomorrow. */
static void must_cover(const char *what, const struct vmstate *vms, size_t size)
{
	struct coverage c = { .size = size, .marks = calloc(1, size) };

	assert_non_null(c.marks);
	for_each_table(vms, mark_table, &c);
	for (size_t i = 0; i < size; i++)
		if (!c.marks[i])
			fail_msg("%s: byte %zu of %zu is neither saved nor excluded with a reason",
				 what, i, size);
	free(c.marks);
}

static void test_every_byte_is_saved_or_excluded(void **state)
{
	(void)state;
	for (size_t i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];

		if (!cls->state) {
			assert_int_equal(cls->guest_size, 0);
			continue;
		}
		must_cover(cls->name, cls->state, cls->guest_size);
	}
}

static void test_every_byte_of_a_vcpu(void **state)
{
	(void)state;
	must_cover("vcpu", &vcpu_vmstate, sizeof(struct vcpu_state));
}

/* ---- tables ---- */

static void check_table(const struct vmstate *vms, const char *name, void *opaque)
{
	size_t n = 0;

	(void)opaque;
	if (!name[0] || strlen(name) > STREAM_NAME_MAX)
		fail_msg("section name '%s' has more than %d bytes", name, STREAM_NAME_MAX);
	if (vms->min_version > vms->version || vms->version < 1)
		fail_msg("%s: versions %u to %u", name, vms->min_version, vms->version);
	for (const struct vmstate_field *f = vms->fields; f->name; f++, n++) {
		if (strlen(f->name) > STREAM_NAME_MAX)
			fail_msg("%s: field name '%s' is too long", name, f->name);
		for (const struct vmstate_field *g = vms->fields; g != f; g++)
			if (strcmp(f->name, g->name) == 0)
				fail_msg("%s: two fields are called '%s'", name, f->name);
	}
	if (n > FIELDS_MAX)
		fail_msg("%s: %zu fields", name, n);
}

static void test_tables_are_sound(void **state)
{
	(void)state;
	for (size_t i = 0; device_classes[i]; i++)
		if (device_classes[i]->state)
			for_each_table(device_classes[i]->state, check_table, NULL);
	for_each_table(&vcpu_vmstate, check_table, NULL);
}

static void test_classes_are_sound(void **state)
{
	(void)state;
	assert_ptr_equal(machine_model.classes, device_classes);
	for (size_t i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];

		assert_true(i < MACHINE_MAX_DEVICES);
		assert_true(cls->name && cls->name[0]);
		assert_true(cls->since >= 1 && cls->since <= machine_model.newest);
		assert_true(cls->size >= sizeof(struct device));
		if (cls->state) {
			assert_string_equal(cls->name, cls->state->name);
			assert_true(cls->guest_offset >= sizeof(struct device));
			assert_true(cls->guest_offset + cls->guest_size <= cls->size);
		}
		for (size_t n = 0; n < i; n++)
			assert_string_not_equal(cls->name, device_classes[n]->name);
	}
}

/* Of a whole stream too, backends included. */
static void test_section_names_are_unique(void **state)
{
	struct bench_state st;
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	bench_save(&b, &st, 1);
	for (size_t i = 0; i < st.s.nsections; i++) {
		assert_true(strlen(st.s.sections[i].name) <= STREAM_NAME_MAX);
		for (size_t n = 0; n < i; n++)
			assert_string_not_equal(st.s.sections[i].name, st.s.sections[n].name);
	}
	bench_state_fini(&st);
	bench_fini(&b);
}

/* ---- regions ---- */

static bool overlap(const struct bus_region *a, const struct bus_region *b)
{
	return a->kind == b->kind && a->base < b->base + b->len && b->base < a->base + a->len;
}

/* Where the class's instance has it. */
static struct bus_region region_of(const struct bus_region *r, uint32_t instance)
{
	struct bus_region there = *r;

	if (instance)
		there.base = r->more_bases[instance - 1];
	return there;
}

static void check_region(const struct device_class *cls, const struct bus_region *r)
{
	if (!r->len || r->base + r->len < r->base || !r->read || !r->write)
		fail_msg("%s: region at 0x%llx", cls->name, (unsigned long long)r->base);
	if (r->kind == BUS_PIO && r->base + r->len > 0x10000)
		fail_msg("%s: no port 0x%llx", cls->name, (unsigned long long)r->base);
	/* RAM would hide it. */
	if (r->kind == BUS_MMIO && r->base < MEMORY_LOW_MAX)
		fail_msg("%s: 0x%llx is RAM", cls->name, (unsigned long long)r->base);
}

static uint32_t most_of(size_t class)
{
	uint32_t most = device_classes[class]->most;

	return most ? most : 1;
}

static void test_regions_do_not_overlap(void **state)
{
	/* KVM's own: PIC, ELCR. */
	static const struct bus_region kernel[] = {
		{ .kind = BUS_PIO, .base = 0x20, .len = 2 },
		{ .kind = BUS_PIO, .base = 0xa0, .len = 2 },
		{ .kind = BUS_PIO, .base = 0x4d0, .len = 2 },
		{ .kind = BUS_MMIO, .base = 0xfec00000, .len = 0x100 },
		{ .kind = BUS_MMIO, .base = 0xfee00000, .len = 0x100000 },
	};
	struct bus_region all[BUS_MAX_REGIONS];
	size_t n = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(kernel); i++)
		all[n++] = kernel[i];
	for (size_t i = 0; device_classes[i]; i++)
		for (unsigned int k = 0; k < device_classes[i]->nregions * most_of(i); k++) {
			const struct device_class *cls = device_classes[i];
			struct bus_region r = region_of(&cls->regions[k / most_of(i)],
							k % most_of(i));

			check_region(cls, &r);
			for (size_t j = 0; j < n; j++)
				if (overlap(&r, &all[j]))
					fail_msg("%s: 0x%llx is taken", cls->name,
						 (unsigned long long)r.base);
			assert_true(n < ARRAY_SIZE(all));
			all[n++] = r;
		}
}

/* ---- whatever was saved is loaded ---- */

struct filling {
	uint8_t *data;
	uint32_t *seed;
};

static void make_valid(const struct vmstate *vms, const char *name, void *opaque)
{
	struct filling *fill = opaque;

	(void)name;
	for (const struct vmstate_field *f = vms->fields; f->name; f++) {
		uint32_t count = fake_random(fill->seed) % (f->max + 1);

		if (f->type == FIELD_BOOL && !(f->flags & VMSTATE_NOT_SAVED))
			for (uint32_t i = 0; i < f->max; i++)
				fill->data[f->offset + i] &= 1;
		if (f->variable)
			memcpy(fill->data + f->count_offset, &count, sizeof(count));
	}
}

/* Random bytes; bools are bools and counts fit, for no running device has others. */
static void randomise(const struct vmstate *vms, void *data, size_t size, uint32_t *seed)
{
	struct filling fill = { .data = data, .seed = seed };

	fake_random_bytes(seed, data, size);
	for_each_table(vms, make_valid, &fill);
}

static void save(struct stream_writer *w, const struct vmstate *vms, const void *data)
{
	const struct stream_header header = { .producer = "test" };
	struct error err = ERROR_INIT;

	assert_int_equal(stream_writer_init(w, 4096, &err), 0);
	stream_begin(w, &header);
	vmstate_save(w, vms, 0, data);
	if (stream_end(w, &err) < 0)
		fail_msg("%s: %s", vms->name, err.text);
}

static void load(const struct stream_writer *w, const struct vmstate *vms, void *data)
{
	struct error err = ERROR_INIT;
	struct stream s;

	if (stream_parse(&s, w->data, w->len, &err) < 0 ||
	    vmstate_load(&s, vms, 0, data, &err) < 0 || stream_check_claimed(&s, &err) < 0)
		fail_msg("%s: %s", vms->name, err.text);
	stream_fini(&s);
}

static void round_trip(const struct vmstate *vms, const void *data, size_t size)
{
	void *fresh = calloc(1, size);
	struct stream_writer first, second;

	assert_non_null(fresh);
	save(&first, vms, data);
	load(&first, vms, fresh);
	save(&second, vms, fresh);
	assert_int_equal(first.len, second.len);
	assert_memory_equal(first.data, second.data, first.len);
	stream_writer_fini(&first);
	stream_writer_fini(&second);
	free(fresh);
}

static void test_random_state_round_trips(void **state)
{
	uint32_t seed = 1;

	(void)state;
	for (size_t i = 0; device_classes[i]; i++) {
		const struct device_class *cls = device_classes[i];
		void *data = calloc(1, cls->guest_size + 1);

		assert_non_null(data);
		for (int round = 0; round < 200 && cls->state; round++) {
			randomise(cls->state, data, cls->guest_size, &seed);
			round_trip(cls->state, data, cls->guest_size);
		}
		free(data);
	}
}

static void test_random_vcpu_round_trips(void **state)
{
	struct vcpu_state *st = calloc(1, sizeof(*st));
	uint32_t seed = 2;

	(void)state;
	assert_non_null(st);
	for (int round = 0; round < 50; round++) {
		randomise(&vcpu_vmstate, st, sizeof(*st), &seed);
		/* What its post_load insists on. */
		st->ncpuid = 10 * (1 + fake_random(&seed) % VCPU_CPUID_MAX);
		st->nmsrs = st->nmsr_values = fake_random(&seed) % (VCPU_MSRS_MAX + 1);
		st->xcrs.nr_xcrs %= KVM_MAX_XCRS + 1;
		round_trip(&vcpu_vmstate, st, sizeof(*st));
	}
	free(st);
}

static void refuse_vcpu(struct vcpu_state *st, const char *words)
{
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct stream s;

	save(&w, &vcpu_vmstate, st);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
	assert_int_equal(vmstate_load(&s, &vcpu_vmstate, 0, st, &err), -EBADMSG);
	if (!strstr(err.text, words))
		fail_msg("'%s' does not say '%s'", err.text, words);
	stream_fini(&s);
	stream_writer_fini(&w);
}

static void test_impossible_vcpus(void **state)
{
	struct vcpu_state *st = calloc(1, sizeof(*st));

	(void)state;
	assert_non_null(st);
	refuse_vcpu(st, "cpuid");
	st->ncpuid = 11;
	refuse_vcpu(st, "cpuid");
	st->ncpuid = 10;
	st->nmsrs = 3;
	refuse_vcpu(st, "3 MSR numbers but 0 values");
	st->nmsrs = 0;
	st->xcrs.nr_xcrs = KVM_MAX_XCRS + 1;
	refuse_vcpu(st, "nr_xcrs");
	free(st);
}

/* ---- no bytes crash a device ---- */

/* Registers, and some of what lies behind them. */
static void exercise_region(struct device *dev, const struct bus_region *r, uint32_t *seed)
{
	for (uint64_t at = 0; at < r->len && at < 64; at++) {
		uint64_t elsewhere = fake_random(seed) % r->len & ~3ull;

		pthread_mutex_lock(&dev->lock);
		r->read(dev, at, 1);
		r->write(dev, at, fake_random(seed) & 0xff, 1);
		r->read(dev, at, 1);
		if (elsewhere + 4 <= r->len) {
			r->write(dev, elsewhere, fake_random(seed), 4);
			r->read(dev, elsewhere, 4);
		}
		pthread_mutex_unlock(&dev->lock);
	}
}

/* All that a guest and the host can do with a device, on state it has accepted. */
static void exercise(struct device *dev, uint32_t *seed)
{
	const struct device_class *cls = dev->cls;
	struct error err = ERROR_INIT;

	for (unsigned int kind = 0; kind < 2; kind++)
		for (unsigned int n = 0; n < dev->machine->bus.count[kind]; n++)
			if (dev->machine->bus.slots[kind][n].dev == dev)
				exercise_region(dev, dev->machine->bus.slots[kind][n].region, seed);
	if (cls->service)
		cls->service(dev);
	if (cls->resume)
		cls->resume(dev);
	if (cls->quiesce)
		assert_int_equal(cls->quiesce(dev, &err), 0);
	if (cls->pre_save)
		cls->pre_save(dev, &err);
}

static int try_post_load(struct device *dev, uint32_t *seed)
{
	struct error err = ERROR_INIT;
	int r = dev->cls->post_load(dev, &err);

	if (r < 0) {
		if (err.code != -r || !err.text[0])
			fail_msg("%s: %d without a sentence", dev->cls->name, r);
	} else {
		exercise(dev, seed);
	}
	return r;
}

/* A few bytes wrong in good state get further than nothing but noise. */
static void spoil(const struct vmstate *vms, uint8_t *data, size_t size, uint32_t *seed)
{
	struct filling fill = { .data = data, .seed = seed };
	uint32_t n = fake_random(seed) % 4;

	for (uint32_t i = 0; i < n; i++)
		data[fake_random(seed) % size] = (uint8_t)fake_random(seed);
	for_each_table(vms, make_valid, &fill);
}

static void attack(struct device *dev, bool noise, uint32_t *seed)
{
	const struct device_class *cls = dev->cls;
	uint8_t *good = malloc(cls->guest_size);
	unsigned int accepted = 0;

	assert_non_null(good);
	if (cls->reset)
		cls->reset(dev);
	memcpy(good, device_guest(dev), cls->guest_size);
	for (int round = 0; round < 2000; round++) {
		memcpy(device_guest(dev), good, cls->guest_size);
		if (noise)
			randomise(cls->state, device_guest(dev), cls->guest_size, seed);
		else
			spoil(cls->state, device_guest(dev), cls->guest_size, seed);
		accepted += try_post_load(dev, seed) == 0;
	}
	/* An attack that is never let in proves nothing about what comes behind the door. */
	if (!noise && !accepted)
		fail_msg("%s accepts nothing", cls->name);
	memcpy(device_guest(dev), good, cls->guest_size);
	if (cls->reset)
		cls->reset(dev);
	free(good);
}

/* A machine with one device at least of each class. */
static void bench_with_all(struct bench *b)
{
	static const struct device_request devices[] = {
		{ .cls = &serial_class, .args = "null" },
		{ .cls = &virtio_rng_class, .args = "host" },
	};
	struct error err = ERROR_INIT;

	bench_prepare(b, 1);
	b->cfg.devices = devices;
	b->cfg.ndevices = ARRAY_SIZE(devices);
	if (bench_create(b, &err) < 0)
		fail_msg("%s", err.text);
}

static struct device *device_of(struct bench *b, const struct device_class *cls)
{
	for (unsigned int i = 0; i < b->m.ndevices; i++)
		if (b->m.devices[i]->cls == cls)
			return b->m.devices[i];
	fail_msg("no device of class '%s'", cls->name);
	return NULL;
}

static void attack_all(bool noise)
{
	uint32_t seed = 4242;
	struct bench b;

	for (size_t i = 0; device_classes[i]; i++) {
		/* Those with a back-end in another process have tests of their own, with one. */
		if (!device_classes[i]->state || !device_classes[i]->post_load ||
		    device_classes[i]->back_end)
			continue;
		bench_with_all(&b);
		bench_randomise(&b, 5);
		attack(device_of(&b, device_classes[i]), noise, &seed);
		bench_fini(&b);
	}
}

static void test_hostile_state_crashes_nothing(void **state)
{
	(void)state;
	attack_all(false);
}

static void test_random_state_crashes_nothing(void **state)
{
	(void)state;
	attack_all(true);
}

/* The fields of a whole stream swapped for random ones of the right type and count. */
static void test_random_streams_crash_nothing(void **state)
{
	uint32_t seed = 777;
	struct bench a, b;

	(void)state;
	bench_init(&a, 1);
	for (int round = 0; round < 60; round++) {
		struct error err = ERROR_INIT;
		struct bench_state st;
		const struct stream_section *sec;
		struct stream_field f;
		size_t pos = 0;

		bench_save(&a, &st, 1);
		sec = &st.s.sections[fake_random(&seed) % st.s.nsections];
		while (stream_next_field(sec, &pos, &f) == 1) {
			uint8_t *data = st.w.data + (f.data - st.w.data);

			if (strcmp(sec->name, "machine") == 0 && strcmp(f.name, "cpus") == 0)
				continue; /* a fork bomb is not what is tested here */
			if (f.type == FIELD_BOOL || fake_random(&seed) % 4)
				continue;
			fake_random_bytes(&seed, data, f.count * field_type_size(f.type));
		}
		if (bench_load(&b, &st, &err) < 0)
			assert_true(err.text[0] != '\0');
		bench_state_fini(&st);
		bench_fini(&b);
	}
	bench_fini(&a);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_byte_is_saved_or_excluded),
		cmocka_unit_test(test_every_byte_of_a_vcpu),
		cmocka_unit_test(test_tables_are_sound),
		cmocka_unit_test(test_classes_are_sound),
		cmocka_unit_test(test_section_names_are_unique),
		cmocka_unit_test(test_regions_do_not_overlap),
		cmocka_unit_test(test_random_state_round_trips),
		cmocka_unit_test(test_random_vcpu_round_trips),
		cmocka_unit_test(test_impossible_vcpus),
		cmocka_unit_test(test_hostile_state_crashes_nothing),
		cmocka_unit_test(test_random_state_crashes_nothing),
		cmocka_unit_test(test_random_streams_crash_nothing),
	};

	log_set_fd(-1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
