/* SPDX-License-Identifier: MIT */
/*
 * The worked examples of docs/state-format.md, "Compatibility", between molts of several releases:
 * a machine of one class table is saved, and a molt with another one checks and loads it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/hw/classes.h>

#include "check_bench.h"

/* ---- the device in all its releases: members that a release lacks are in no table of it ---- */

struct lamp {
	uint8_t on;
	uint8_t colour;
	uint8_t dimmer;
	uint8_t blinking;
	uint32_t period_ms;
};

struct lamp_device {
	struct device dev;
	struct lamp guest;
};

#define LAMP_STATE(table, ...) \
	{ \
		.name = "lamp", .version = 1, .min_version = 1, .size = sizeof(struct lamp), \
		.fields = (table), __VA_ARGS__ \
	}
#define LAMP_CLASS(vms) \
	{ \
		.name = "lamp", .since = 1, .board = 1, .size = sizeof(struct lamp_device), \
		.guest_offset = offsetof(struct lamp_device, guest), \
		.guest_size = sizeof(struct lamp), .state = (vms) \
	}
#define TABLE(...) \
	{ \
		&irqchip_class, &clock_class, __VA_ARGS__, NULL \
	}

static const struct vmstate_field fields_1[] = { VMSTATE_U8(struct lamp, on), VMSTATE_END };
static const struct vmstate state_1 = LAMP_STATE(fields_1);
static const struct device_class lamp_1 = LAMP_CLASS(&state_1);
static const struct device_class *const table_1[] = TABLE(&lamp_1);
static const struct machine_model release_1 = { table_1, 1 };

/* "Adding a field" */
#define DIMMER \
	VMSTATE_SCALAR_(struct lamp, dimmer, uint8_t, FIELD_U8, \
			VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, 100)
static const struct vmstate_field fields_colour[] = {
	VMSTATE_U8(struct lamp, on), VMSTATE_U8_DEF(struct lamp, colour, 7), DIMMER, VMSTATE_END
};
static const struct vmstate state_colour = LAMP_STATE(fields_colour);
static const struct device_class lamp_colour = LAMP_CLASS(&state_colour);
static const struct device_class *const table_colour[] = TABLE(&lamp_colour);
static const struct machine_model with_colour = { table_colour, 1 };

static const struct vmstate_field fields_dimmer[] = { VMSTATE_U8(struct lamp, on), DIMMER,
						      VMSTATE_END };
static const struct vmstate state_dimmer = LAMP_STATE(fields_dimmer);
static const struct device_class lamp_dimmer = LAMP_CLASS(&state_dimmer);
static const struct device_class *const table_dimmer[] = TABLE(&lamp_dimmer);
static const struct machine_model with_dimmer = { table_dimmer, 1 };

/* "A field that is only sometimes needed" */
static bool lamp_blinks(const void *data)
{
	return ((const struct lamp *)data)->blinking;
}

static const struct vmstate_field fields_blink[] = {
	VMSTATE_U8_DEF(struct lamp, blinking, 0), VMSTATE_U32_DEF(struct lamp, period_ms, 500),
	VMSTATE_END
};
static const struct vmstate blink_vmstate = {
	.name = "blink",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct lamp),
	.fields = fields_blink,
	.needed = lamp_blinks,
};
static const struct vmstate *const blink_subsections[] = { &blink_vmstate, NULL };
static const struct vmstate state_blink = LAMP_STATE(fields_1, .subsections = blink_subsections);
static const struct device_class lamp_blink = LAMP_CLASS(&state_blink);
static const struct device_class *const table_blink[] = TABLE(&lamp_blink);
static const struct machine_model with_blink = { table_blink, 1 };

/* "Removing a field": release 3 still sends it and can do without, release 4 has none */
static const struct vmstate_field fields_3[] = {
	VMSTATE_SCALAR_(struct lamp, on, uint8_t, FIELD_U8, VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE,
			0),
	VMSTATE_END
};
static const struct vmstate state_3 = LAMP_STATE(fields_3);
static const struct device_class lamp_3 = LAMP_CLASS(&state_3);
static const struct device_class *const table_3[] = TABLE(&lamp_3);
static const struct machine_model release_3 = { table_3, 1 };

static const struct vmstate_field fields_4[] = { VMSTATE_END };
static const struct vmstate state_4 = LAMP_STATE(fields_4);
static const struct device_class lamp_4 = LAMP_CLASS(&state_4);
static const struct device_class *const table_4[] = TABLE(&lamp_4);
static const struct machine_model release_4 = { table_4, 1 };

/* "A new meaning" */
static int percent_post_load(void *data, uint32_t version, struct error *err)
{
	struct lamp *lamp = data;

	if (version == 1)
		lamp->on = lamp->on ? 100 : 0;
	return lamp->on > 100 ? err_set(err, EBADMSG, "%u percent", lamp->on) : 0;
}

static const struct vmstate state_percent = {
	.name = "lamp",
	.version = 2,
	.min_version = 1,
	.size = sizeof(struct lamp),
	.fields = fields_1,
	.post_load = percent_post_load,
};
static const struct device_class lamp_percent = LAMP_CLASS(&state_percent);
static const struct device_class *const table_percent[] = TABLE(&lamp_percent);
static const struct machine_model with_percent = { table_percent, 1 };

/* "A new device class" */
#define SCRATCH_PORT 0x510

struct scratch {
	struct device dev;
	struct {
		uint8_t value;
	} guest;
	int fd;
};

static uint64_t scratch_read(struct device *dev, uint64_t offset, unsigned int size)
{
	(void)offset;
	(void)size;
	return *(uint8_t *)device_guest(dev);
}

static void scratch_reset(struct device *dev)
{
	*(uint8_t *)device_guest(dev) = 0x5a;
}

static const struct bus_region scratch_regions[] = {
	{ .kind = BUS_PIO, .base = SCRATCH_PORT, .len = 1, .read = scratch_read },
};
static const struct vmstate_field scratch_fields[] = {
	{ .name = "value", .type = FIELD_U8, .max = 1, .bytes = 1 },
	VMSTATE_END
};
static const struct vmstate scratch_vmstate = {
	.name = "scratch",
	.version = 1,
	.min_version = 1,
	.size = 1,
	.fields = scratch_fields,
};
static const char *const scratch_fds[] = { "scratch-paper", NULL };
static const struct takeover_kind scratch_host = { .fds = scratch_fds };
static const struct device_class scratch_class = {
	.name = "scratch",
	.board = 1,
	.since = 2,
	.size = sizeof(struct scratch),
	.guest_offset = offsetof(struct scratch, guest),
	.guest_size = 1,
	.state = &scratch_vmstate,
	.regions = scratch_regions,
	.nregions = 1,
	.host = &scratch_host,
	.reset = scratch_reset,
};
static const struct device_class *const table_scratch[] = TABLE(&lamp_1, &scratch_class);
static const struct machine_model release_2 = { table_scratch, 2 };

/* ---- helpers ---- */

struct trip {
	struct bench from, to;
	struct bench_state st;
	struct error err;
	char reason[ERROR_TEXT_MAX]; /* the check's, or empty */
};

static void *guest_of(struct bench *b, const char *name)
{
	for (unsigned int i = 0; i < b->m.ndevices; i++)
		if (strcmp(b->m.devices[i]->cls->name, name) == 0)
			return device_guest(b->m.devices[i]);
	return NULL;
}

static struct lamp *lamp_of(struct bench *b)
{
	struct lamp *lamp = guest_of(b, "lamp");

	assert_non_null(lamp);
	return lamp;
}

/*
 * version 0: the newest of the model. Not on the stack: vCPU threads of a case that failed wait in
 * it for ever.
 */
static struct trip *start(const struct machine_model *model, uint32_t version)
{
	struct trip *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	bench_prepare(&t->from, 1);
	t->from.cfg.model = model;
	t->from.cfg.machine_version = version;
	if (bench_create(&t->from, &t->err) < 0)
		fail_msg("%s", t->err.text);
	return t;
}

static void check(struct trip *t, const struct machine_model *model)
{
	struct takeover_kinds kinds = { 0 };
	json_t *reasons;

	machine_takeover_kinds(model, &kinds);
	reasons = bench_check(model, &kinds, t->st.w.data, t->st.w.len, t->st.fds);
	if (json_array_size(reasons))
		strncat(t->reason, json_string_value(json_array_get(reasons, 0)),
			sizeof(t->reason) - 1);
	json_decref(reasons);
}

/* 0 where the check and the successor both take the machine, else what the successor says. */
static int update(struct trip *t, const struct machine_model *model)
{
	int r;

	bench_save(&t->from, &t->st, 1);
	check(t, model);
	r = bench_load_into(&t->to, model, &t->st, &t->err);
	if (r == 0)
		r = stream_check_claimed(&t->st.s, &t->err);
	if (!r != !t->reason[0])
		fail_msg("the check says '%s', the load '%s'", t->reason, t->err.text);
	return r;
}

static void end(struct trip *t)
{
	bench_state_fini(&t->st);
	bench_fini(&t->from);
	bench_fini(&t->to);
	free(t);
}

/* What the lamp is after an update from one release to another; the test fails if refused. */
static struct lamp sent(const struct machine_model *from, const struct machine_model *to,
			struct lamp lamp)
{
	struct trip *t;

	t = start(from, 0);
	*lamp_of(&t->from) = lamp;
	if (update(t, to) < 0)
		fail_msg("%s", t->err.text);
	lamp = *lamp_of(&t->to);
	end(t);
	return lamp;
}

/* The update is refused, before the pause as after it, with this sentence. */
static void refused(const struct machine_model *from, const struct machine_model *to,
		    struct lamp lamp, const char *reason, const char *error)
{
	struct trip *t;

	t = start(from, 0);
	*lamp_of(&t->from) = lamp;
	assert_int_equal(update(t, to), -EPROTO);
	assert_string_equal(t->reason, reason);
	assert_string_equal(t->err.text, error);
	end(t);
}

/* ---- the examples ---- */

static void a_field_is_added(void **state)
{
	const char *unknown = "section 'lamp' 0: unknown field 'colour'";
	const struct lamp lamp = { .on = 1, .colour = 3, .dimmer = 40 };
	struct lamp got;

	(void)state;
	got = sent(&release_1, &with_colour, lamp);
	assert_int_equal(got.on, 1);
	assert_int_equal(got.colour, 7);
	assert_int_equal(got.dimmer, 100);
	refused(&with_colour, &release_1, lamp, unknown, unknown);
	got = sent(&with_colour, &with_colour, lamp);
	assert_memory_equal(&got, &lamp, sizeof(lamp));
	/* The ignorable one alone does not stand in the way. */
	assert_int_equal(sent(&with_dimmer, &release_1, lamp).on, 1);
}

static void a_subsection_is_added(void **state)
{
	const struct lamp steady = { .on = 1, .period_ms = 500 };
	const struct lamp blinks = { .on = 1, .blinking = 1, .period_ms = 250 };
	struct lamp got;

	(void)state;
	got = sent(&release_1, &with_blink, blinks);
	assert_memory_equal(&got, &steady, sizeof(got));
	assert_int_equal(sent(&with_blink, &release_1, steady).on, 1);
	refused(&with_blink, &release_1, blinks, "no device for section 'lamp/blink' 0",
		"no device here for section 'lamp/blink' 0");
	got = sent(&with_blink, &with_blink, blinks);
	assert_memory_equal(&got, &blinks, sizeof(got));
}

/* The lamp begins to blink while the stand-in has the guest: all is well with the rehearsal. */
static int switched(const struct machine_model *from, const struct machine_model *to,
		    struct lamp lamp, struct lamp *got, char reason[ERROR_TEXT_MAX])
{
	struct stream_header header = { .machine_version = 1 };
	struct trip *t = start(from, 0);
	struct stream last = { 0 };
	struct stream_writer w;
	struct fdtable *fds = calloc(1, sizeof(*fds));
	int r;

	assert_non_null(fds);
	assert_int_equal(stream_writer_init(&w, 1 << 16, &t->err), 0);
	*lamp_of(&t->from) = (struct lamp){ .on = 1 };
	bench_save(&t->from, &t->st, 1);
	if (bench_rehearse_in(&t->to, to, &t->st, &t->err) < 0 ||
	    stream_check_claimed(&t->st.s, &t->err) < 0)
		fail_msg("%s", t->err.text);
	*lamp_of(&t->from) = lamp;
	stream_begin(&w, &header);
	if (machine_save_news(&t->from.m, &w, fds, &t->err) < 0 || stream_end(&w, &t->err) < 0 ||
	    stream_parse(&last, w.data, w.len, &t->err) < 0)
		fail_msg("%s", t->err.text);
	r = machine_load_again(&t->to.m, &t->st.s, &last, &t->err);
	*got = *lamp_of(&t->to);
	strcpy(reason, t->err.text);
	stream_fini(&last);
	stream_writer_fini(&w);
	free(fds);
	end(t);
	return r;
}

static void a_subsection_comes_with_the_switch(void **state)
{
	const struct lamp off = { 0 };
	const struct lamp blinks = { .on = 1, .blinking = 1, .period_ms = 250 };
	char reason[ERROR_TEXT_MAX];
	struct lamp got;

	(void)state;
	assert_int_equal(switched(&with_blink, &with_blink, blinks, &got, reason), 0);
	assert_memory_equal(&got, &blinks, sizeof(got));
	assert_int_equal(switched(&with_blink, &release_1, off, &got, reason), 0);
	assert_memory_equal(&got, &off, sizeof(got));
	assert_int_equal(switched(&with_blink, &release_1, blinks, &got, reason), -EPROTO);
	assert_string_equal(reason, "no device here for section 'lamp/blink' 0");
}

static void a_field_is_removed(void **state)
{
	const char *missing = "section 'lamp' 0: field 'on' is missing";
	const struct lamp lamp = { .on = 1 };

	(void)state;
	assert_int_equal(sent(&release_1, &release_3, lamp).on, 1);
	assert_int_equal(sent(&release_3, &release_1, lamp).on, 1);
	sent(&release_3, &release_4, lamp);
	assert_int_equal(sent(&release_4, &release_3, lamp).on, 0);
	/* Not neighbours: this is why it takes two steps. */
	refused(&release_4, &release_1, lamp, missing, missing);
}

static void a_meaning_changes(void **state)
{
	const char *words = "section 'lamp' 0: version 2, this molt loads 1 to 1";

	(void)state;
	assert_int_equal(sent(&release_1, &with_percent, (struct lamp){ .on = 1 }).on, 100);
	assert_int_equal(sent(&release_1, &with_percent, (struct lamp){ .on = 0 }).on, 0);
	assert_int_equal(sent(&with_percent, &with_percent, (struct lamp){ .on = 42 }).on, 42);
	refused(&with_percent, &release_1, (struct lamp){ .on = 42 }, words, words);
}

static uint8_t read_port(struct bench *b, uint64_t port)
{
	uint8_t value = 0;

	bus_access(&b->m.bus, BUS_PIO, port, &value, 1, false);
	return value;
}

static void old_machine_lacks_the_new_class(void **state)
{
	struct trip *t;

	(void)state;
	t = start(&release_1, 0);
	if (update(t, &release_2) < 0)
		fail_msg("%s", t->err.text);
	assert_int_equal(t->to.m.machine_version, 1);
	assert_null(guest_of(&t->to, "scratch"));
	assert_int_equal(read_port(&t->to, SCRATCH_PORT), 0xff);
	/* Nor after a reset, in the newer molt. */
	assert_int_equal(machine_reset(&t->to.m, "guest-reset", &t->err), 0);
	assert_int_equal(read_port(&t->to, SCRATCH_PORT), 0xff);
	end(t);
}

static void new_machine_has_it(void **state)
{
	struct trip *t;

	(void)state;
	t = start(&release_2, 0);
	assert_int_equal(t->from.m.machine_version, 2);
	assert_int_equal(read_port(&t->from, SCRATCH_PORT), 0x5a);
	*(uint8_t *)guest_of(&t->from, "scratch") = 0x77;
	if (update(t, &release_2) < 0)
		fail_msg("%s", t->err.text);
	assert_int_equal(t->to.m.machine_version, 2);
	assert_int_equal(read_port(&t->to, SCRATCH_PORT), 0x77);
	end(t);
}

static void new_machine_is_nothing_for_an_old_molt(void **state)
{
	const char *words = "machine version 2: this molt offers 1 to 1";

	(void)state;
	refused(&release_2, &release_1, (struct lamp){ .on = 1 }, words, words);
}

static void new_molt_makes_old_machines(void **state)
{
	struct trip *t;

	(void)state;
	t = start(&release_2, 1);
	assert_int_equal(t->from.m.machine_version, 1);
	assert_null(guest_of(&t->from, "scratch"));
	lamp_of(&t->from)->on = 1;
	if (update(t, &release_1) < 0)
		fail_msg("%s", t->err.text);
	assert_int_equal(lamp_of(&t->to)->on, 1);
	end(t);
}

static void versions_that_do_not_exist(void **state)
{
	struct bench b;
	struct error err;

	(void)state;
	for (uint32_t version = 3; version; version = version == 3 ? UINT32_MAX : 0) {
		err = ERROR_INIT;
		bench_prepare(&b, 1);
		b.cfg.model = &release_2;
		b.cfg.machine_version = version;
		assert_int_equal(bench_create(&b, &err), -EPROTO);
		assert_non_null(strstr(err.text, "this molt offers 1 to 2"));
		bench_fini(&b);
	}
}

/* What belongs to version 2 has no place in a machine of version 1, whoever sends it. */
static void section_of_another_version_is_refused(void **state)
{
	struct stream_header header = { .machine_version = 1 };
	struct trip *t;

	(void)state;
	t = start(&release_2, 0);
	bench_save(&t->from, &t->st, 1);
	stream_fini(&t->st.s);
	stream_begin(&t->st.w, &header);
	memset(t->st.fds, 0, sizeof(*t->st.fds));
	assert_int_equal(machine_save(&t->from.m, &t->st.w, t->st.fds, &t->err), 0);
	assert_int_equal(stream_end(&t->st.w, &t->err), 0);
	assert_int_equal(stream_parse(&t->st.s, t->st.w.data, t->st.w.len, &t->err), 0);
	check(t, &release_2);
	assert_string_equal(t->reason, "no device for section 'scratch' 0");
	assert_int_equal(bench_load_into(&t->to, &release_2, &t->st, &t->err), 0);
	assert_int_equal(stream_check_claimed(&t->st.s, &t->err), -EPROTO);
	end(t);
}

static void descriptors_follow_the_version(void **state)
{
	struct takeover_kinds kinds = { 0 };
	struct trip *t;

	(void)state;
	/*
	 * A machine of version 1 has no paper, and a molt that knows of it says so as one that does
	 * not.
	 */
	t = start(&release_2, 1);
	bench_save(&t->from, &t->st, 1);
	assert_int_equal(fdtable_add(t->st.fds, "scratch-paper", 0, t->from.kvm->kvm.fd, &t->err),
			 0);
	check(t, &release_2);
	assert_string_equal(t->reason, "no owner for descriptor 'scratch-paper' 0");
	t->reason[0] = '\0';
	check(t, &release_1);
	assert_string_equal(t->reason, "no owner for descriptor 'scratch-paper' 0");
	bench_state_fini(&t->st);
	bench_fini(&t->from);
	free(t);

	machine_takeover_kinds(&release_2, &kinds);
	takeover_kinds_limit(&kinds, 2);
	assert_true(takeover_kinds_has_fd(&kinds, "scratch-paper"));
	assert_non_null(takeover_kinds_section(&kinds, "scratch"));
	takeover_kinds_limit(&kinds, 1);
	assert_false(takeover_kinds_has_fd(&kinds, "scratch-paper"));
	assert_null(takeover_kinds_section(&kinds, "scratch"));
	assert_non_null(takeover_kinds_section(&kinds, "lamp"));
	assert_true(takeover_kinds_has_fd(&kinds, "kvm"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_field_is_added),
		cmocka_unit_test(a_subsection_is_added),
		cmocka_unit_test(a_subsection_comes_with_the_switch),
		cmocka_unit_test(a_field_is_removed),
		cmocka_unit_test(a_meaning_changes),
		cmocka_unit_test(old_machine_lacks_the_new_class),
		cmocka_unit_test(new_machine_has_it),
		cmocka_unit_test(new_machine_is_nothing_for_an_old_molt),
		cmocka_unit_test(new_molt_makes_old_machines),
		cmocka_unit_test(versions_that_do_not_exist),
		cmocka_unit_test(section_of_another_version_is_refused),
		cmocka_unit_test(descriptors_follow_the_version),
	};

	log_set_fd(-1); /* the errors that are provoked here are nobody's business */
	return cmocka_run_group_tests_name("compat", tests, NULL, NULL);
}
