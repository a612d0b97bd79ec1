/* SPDX-License-Identifier: MIT */
/* The buses: who answers at an address, and what happens where nobody does. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/vm/bus.h>
#include <molt/vm/device.h>

struct recorder {
	struct device dev;
	uint64_t offset;
	uint64_t value;
	unsigned int size;
	unsigned int reads;
	unsigned int writes;
	bool was_locked;
};

static struct recorder *to_recorder(struct device *dev)
{
	return container_of(dev, struct recorder, dev);
}

static void note(struct recorder *r, uint64_t offset, unsigned int size)
{
	r->offset = offset;
	r->size = size;
	r->was_locked = pthread_mutex_trylock(&r->dev.lock) != 0;
	if (!r->was_locked)
		pthread_mutex_unlock(&r->dev.lock);
}

static uint64_t on_read(struct device *dev, uint64_t offset, unsigned int size)
{
	struct recorder *r = to_recorder(dev);

	note(r, offset, size);
	r->reads++;
	return r->value;
}

static void on_write(struct device *dev, uint64_t offset, uint64_t value, unsigned int size)
{
	struct recorder *r = to_recorder(dev);

	note(r, offset, size);
	r->writes++;
	r->value = value;
}

static const struct device_class recorder_class = { .name = "recorder" };

static void recorder_init(struct recorder *r)
{
	memset(r, 0, sizeof(*r));
	r->dev.cls = &recorder_class;
	pthread_mutex_init(&r->dev.lock, NULL);
}

#define REGION(k, b, l) \
	{ \
		.kind = (k), .base = (b), .len = (l), .read = on_read, .write = on_write \
	}

static void test_access_reaches_its_device(void **state)
{
	static const struct bus_region region = REGION(BUS_PIO, 0x100, 8);
	struct error err = ERROR_INIT;
	struct bus bus = { 0 };
	struct recorder r;
	uint32_t data = 0x11223344;

	(void)state;
	recorder_init(&r);
	assert_int_equal(bus_add(&bus, &region, region.base, &r.dev, &err), 0);
	bus_access(&bus, BUS_PIO, 0x104, &data, 4, true);
	assert_int_equal(r.offset, 4);
	assert_int_equal(r.size, 4);
	assert_int_equal(r.value, 0x11223344);
	assert_true(r.was_locked);
	r.value = 0xaabbccddeeff0011;
	data = 0x55555555;
	bus_access(&bus, BUS_PIO, 0x107, &data, 1, false);
	assert_int_equal(data, 0x55555511); /* the higher bytes of the value are ignored */
	assert_int_equal(r.offset, 7);
}

static void test_nobody_answers(void **state)
{
	static const struct bus_region region = REGION(BUS_PIO, 0x100, 8);
	static const struct {
		enum bus_kind kind;
		uint64_t addr;
		unsigned int size;
	} holes[] = {
		{ BUS_PIO, 0xff, 1 },   { BUS_PIO, 0xff, 2 },        { BUS_PIO, 0x108, 1 },
		{ BUS_PIO, 0x107, 2 },  { BUS_PIO, 0x105, 4 },       { BUS_PIO, 0xffff, 4 },
		{ BUS_MMIO, 0x100, 8 }, { BUS_MMIO, UINT64_MAX, 8 }, { BUS_MMIO, 0, 1 },
	};
	struct error err = ERROR_INIT;
	struct bus bus = { 0 };
	struct recorder r;

	(void)state;
	recorder_init(&r);
	assert_int_equal(bus_add(&bus, &region, region.base, &r.dev, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(holes); i++) {
		uint64_t data = 0;

		bus_access(&bus, holes[i].kind, holes[i].addr, &data, holes[i].size, true);
		bus_access(&bus, holes[i].kind, holes[i].addr, &data, holes[i].size, false);
		assert_true(data ==
			    (holes[i].size == 8 ? UINT64_MAX : (1ull << (8 * holes[i].size)) - 1));
	}
	assert_int_equal(r.reads + r.writes, 0);
}

static void test_overlaps_are_refused(void **state)
{
	static const struct bus_region first = REGION(BUS_MMIO, 0x1000, 0x100);
	static const struct bus_region bad[] = {
		REGION(BUS_MMIO, 0x1000, 0x100), REGION(BUS_MMIO, 0x10ff, 1),
		REGION(BUS_MMIO, 0xfff, 2),      REGION(BUS_MMIO, 0, 0x10000),
		REGION(BUS_MMIO, 0x1050, 4),     REGION(BUS_MMIO, 0, UINT64_MAX),
	};
	static const struct bus_region good[] = {
		REGION(BUS_MMIO, 0x1100, 1),
		REGION(BUS_MMIO, 0xfff, 1),
		REGION(BUS_PIO, 0x1000, 0x100),
		REGION(BUS_MMIO, UINT64_MAX - 15, 16),
	};
	struct error err = ERROR_INIT;
	struct bus bus = { 0 };
	struct recorder r;

	(void)state;
	recorder_init(&r);
	assert_int_equal(bus_add(&bus, &first, first.base, &r.dev, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(bus_add(&bus, &bad[i], bad[i].base, &r.dev, &err), -EEXIST);
		assert_non_null(strstr(err.text, "recorder"));
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		assert_int_equal(bus_add(&bus, &good[i], good[i].base, &r.dev, &err), 0);
}

/* 0xcf8 with 0xcf9 over it: whoever lies over a region has its own bytes, and not those behind. */
static void test_beneath(void **state)
{
	static const struct bus_region lower = {
		.kind = BUS_PIO,
		.base = 0xcf8,
		.len = 8,
		.beneath = true,
		.read = on_read,
		.write = on_write
	};
	static const struct bus_region upper = REGION(BUS_PIO, 0xcf9, 1);
	static const struct bus_region other = REGION(BUS_PIO, 0x100, 8);
	struct recorder l, u, o;
	struct error err = ERROR_INIT;
	uint32_t data = 0;

	(void)state;
	for (unsigned int upper_first = 0; upper_first < 2; upper_first++) {
		struct bus bus = { 0 };

		recorder_init(&l);
		recorder_init(&u);
		recorder_init(&o);
		if (upper_first)
			assert_int_equal(bus_add(&bus, &upper, upper.base, &u.dev, &err), 0);
		assert_int_equal(bus_add(&bus, &lower, lower.base, &l.dev, &err), 0);
		if (!upper_first)
			assert_int_equal(bus_add(&bus, &upper, upper.base, &u.dev, &err), 0);
		assert_int_equal(bus_add(&bus, &other, other.base, &o.dev, &err), 0);
		bus_access(&bus, BUS_PIO, 0xcf9, &data, 1, true);
		assert_int_equal(u.writes, 1);
		bus_access(&bus, BUS_PIO, 0xcf8, &data, 4, true);
		bus_access(&bus, BUS_PIO, 0xcf9, &data, 2, true);
		bus_access(&bus, BUS_PIO, 0xcfc, &data, 4, true);
		assert_int_equal(l.offset, 4);
		bus_access(&bus, BUS_PIO, 0xcff, &data, 1, true);
		assert_int_equal(l.offset, 7);
		bus_access(&bus, BUS_PIO, 0xcff, &data, 2, true);
		bus_access(&bus, BUS_PIO, 0xd00, &data, 1, true);
		assert_int_equal(l.writes, 4);
		assert_int_equal(u.writes, 1);
		assert_int_equal(o.writes, 0);
	}
}

static void test_any_order_of_adding(void **state)
{
	struct bus_region regions[BUS_MAX_REGIONS + 1];
	struct recorder r[BUS_MAX_REGIONS];
	struct error err = ERROR_INIT;
	struct bus bus = { 0 };

	(void)state;
	for (unsigned int i = 0; i <= BUS_MAX_REGIONS; i++)
		regions[i] = (struct bus_region)REGION(BUS_PIO, i * 16, 8);
	/* 77 has no factor in common with 128: every region once, in a wild order. */
	for (unsigned int i = 0; i < BUS_MAX_REGIONS; i++) {
		unsigned int n = i * 77 % BUS_MAX_REGIONS;

		recorder_init(&r[n]);
		assert_int_equal(bus_add(&bus, &regions[n], regions[n].base, &r[n].dev, &err), 0);
	}
	for (unsigned int i = 0; i < BUS_MAX_REGIONS; i++) {
		uint8_t data = 0;

		bus_access(&bus, BUS_PIO, i * 16 + 7, &data, 1, false);
		assert_int_equal(r[i].reads, 1);
		bus_access(&bus, BUS_PIO, i * 16 + 8, &data, 1, false);
		assert_int_equal(data, 0xff);
		assert_int_equal(r[i].reads, 1);
	}
	assert_int_equal(bus_add(&bus, &regions[BUS_MAX_REGIONS], regions[BUS_MAX_REGIONS].base,
				 &r[0].dev, &err),
			 -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_access_reaches_its_device),
		cmocka_unit_test(test_nobody_answers),
		cmocka_unit_test(test_overlaps_are_refused),
		cmocka_unit_test(test_beneath),
		cmocka_unit_test(test_any_order_of_adding),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
