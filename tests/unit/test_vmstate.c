/* SPDX-License-Identifier: MIT */
/* vmstate: each type and rule of the field tables, and that errors name section and field. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/state/vmstate.h>

struct thing {
	bool flag;
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
	unsigned long long ku64;
	uint8_t a8[5];
	uint16_t a16[3];
	uint32_t a32[2];
	uint64_t a64[2];
	uint32_t used8;
	uint8_t v8[6];
	uint32_t used64;
	uint64_t v64[3];
	char name[8];
	struct {
		uint8_t x;
		uint32_t y;
	} raw;
	uint32_t cache;
	bool dflag;
	uint8_t d8;
	uint16_t d16;
	uint32_t d32;
	uint64_t d64;
};

static const struct vmstate_field fields[] = {
	VMSTATE_BOOL(struct thing, flag),
	VMSTATE_U8(struct thing, u8),
	VMSTATE_U16(struct thing, u16),
	VMSTATE_U32(struct thing, u32),
	VMSTATE_U64(struct thing, u64),
	VMSTATE_KU64(struct thing, ku64),
	VMSTATE_U8_ARRAY(struct thing, a8),
	VMSTATE_U16_ARRAY(struct thing, a16),
	VMSTATE_U32_ARRAY(struct thing, a32),
	VMSTATE_U64_ARRAY(struct thing, a64),
	VMSTATE_U8_VAR(struct thing, v8, used8),
	VMSTATE_U64_VAR(struct thing, v64, used64),
	VMSTATE_STRING(struct thing, name),
	VMSTATE_RAW(struct thing, raw),
	VMSTATE_UNSAVED(struct thing, cache, "a cache"),
	VMSTATE_BOOL_DEF(struct thing, dflag, 1),
	VMSTATE_U8_DEF(struct thing, d8, 0x11),
	VMSTATE_U16_DEF(struct thing, d16, 0x2222),
	VMSTATE_U32_DEF(struct thing, d32, 0x33333333),
	VMSTATE_U64_DEF(struct thing, d64, 0x4444444444444444),
	VMSTATE_END
};

static int refuse_13(void *data, uint32_t version, struct error *err)
{
	const struct thing *t = data;

	(void)version;
	return t->u8 == 13 ? err_set(err, EINVAL, "u8 is 13") : 0;
}

static const struct vmstate thing_vmstate = {
	.name = "thing",
	.version = 3,
	.min_version = 2,
	.size = sizeof(struct thing),
	.fields = fields,
	.post_load = refuse_13,
};

static struct thing sample(void)
{
	struct thing t;

	memset(&t, 0, sizeof(t));
	t.flag = true;
	t.u8 = 0x12;
	t.u16 = 0x3456;
	t.u32 = 0x789abcde;
	t.u64 = 0x1122334455667788;
	t.ku64 = 0x99aabbccddeeff00;
	memcpy(t.a8, "\1\2\3\4\5", 5);
	t.a16[2] = 0xbeef;
	t.a32[1] = 0xdeadbeef;
	t.a64[0] = ~0ull;
	t.used8 = 4;
	memcpy(t.v8, "abcd", 4);
	t.used64 = 3;
	t.v64[2] = 5;
	strcpy(t.name, "seven77");
	t.raw.x = 9;
	t.raw.y = 10;
	t.d8 = 1;
	t.d16 = 2;
	t.d32 = 3;
	t.d64 = 4;
	return t;
}

/* ---- a stream by hand ---- */

static struct stream_writer w;
static struct stream s;

static void begin(void)
{
	struct stream_header header = { .producer = "test" };
	struct error err = ERROR_INIT;

	assert_int_equal(stream_writer_init(&w, 1024, &err), 0);
	stream_begin(&w, &header);
}

static void end(void)
{
	struct error err = ERROR_INIT;

	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
}

static void done(void)
{
	stream_fini(&s);
	stream_writer_fini(&w);
}

static int load(struct thing *t, struct error *err)
{
	memset(t, 0, sizeof(*t));
	*err = ERROR_INIT;
	return vmstate_load(&s, &thing_vmstate, 0, t, err);
}

static void must_refuse(int code, const char *words)
{
	struct error err;
	struct thing t;

	assert_int_equal(load(&t, &err), -code);
	assert_int_equal(err.code, code);
	if (!strstr(err.text, "section 'thing' 0") || !strstr(err.text, words))
		fail_msg("'%s' does not name the section and say \"%s\"", err.text, words);
	done();
}

/*
 * The sample as the table would send it, but for the field called skip; change, with the same
 * name, is sent in its place.
 */
struct change {
	const char *name;
	enum field_type type;
	const void *data;
	uint32_t count;
};

static void send_field(const struct vmstate_field *f, const struct thing *t)
{
	uint32_t count = f->max;

	if (f->variable)
		memcpy(&count, (const char *)t + f->count_offset, sizeof(count));
	if (f->type == FIELD_STRING)
		count = (uint32_t)strlen((const char *)t + f->offset);
	stream_field(&w, f->name, f->type, 0, (const char *)t + f->offset, count);
}

static void send_fields(const struct change *change)
{
	const struct thing t = sample();

	for (const struct vmstate_field *f = fields; f->name; f++) {
		if (f->flags & VMSTATE_NOT_SAVED)
			continue;
		if (!change || strcmp(f->name, change->name) != 0)
			send_field(f, &t);
		else if (change->data)
			stream_field(&w, f->name, change->type, 0, change->data, change->count);
	}
}

static void send(const struct change *change)
{
	begin();
	stream_section_begin(&w, "thing", 0, 3, 0);
	send_fields(change);
	stream_section_end(&w);
	end();
}

/* ---- tests ---- */

static void test_round_trip(void **state)
{
	struct thing in = sample(), out;
	struct error err;

	(void)state;
	in.cache = 77;
	begin();
	vmstate_save(&w, &thing_vmstate, 0, &in);
	end();
	assert_int_equal(load(&out, &err), 0);
	assert_int_equal(out.cache, 0);
	in.cache = 0;
	assert_memory_equal(&in, &out, sizeof(in));
	assert_int_equal(stream_check_claimed(&s, &err), 0);
	done();
}

static void test_sent_by_hand_is_the_same(void **state)
{
	struct thing in = sample(), out;
	struct error err;

	(void)state;
	send(NULL);
	assert_int_equal(load(&out, &err), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	done();
}

static void test_order_of_fields_does_not_matter(void **state)
{
	struct thing in = sample(), out;
	struct error err;

	(void)state;
	begin();
	stream_section_begin(&w, "thing", 0, 3, 0);
	for (size_t i = ARRAY_SIZE(fields) - 1; i-- > 0;)
		if (!(fields[i].flags & VMSTATE_NOT_SAVED))
			send_field(&fields[i], &in);
	stream_section_end(&w);
	end();
	assert_int_equal(load(&out, &err), 0);
	assert_memory_equal(&in, &out, sizeof(in));
	done();
}

static void test_count_beyond_the_array_is_cut_when_saved(void **state)
{
	struct thing in = sample(), out;
	struct error err;

	(void)state;
	in.used8 = 1000;
	begin();
	vmstate_save(&w, &thing_vmstate, 0, &in);
	end();
	assert_int_equal(load(&out, &err), 0);
	assert_int_equal(out.used8, sizeof(in.v8));
	done();
}

static void test_string_without_end_is_cut_when_saved(void **state)
{
	struct thing in = sample(), out;
	struct error err;

	(void)state;
	memset(in.name, 'x', sizeof(in.name));
	begin();
	vmstate_save(&w, &thing_vmstate, 0, &in);
	end();
	assert_int_equal(load(&out, &err), 0);
	assert_string_equal(out.name, "xxxxxxx");
	done();
}

static void test_defaults(void **state)
{
	struct thing t;
	struct error err;

	(void)state;
	begin();
	stream_section_begin(&w, "thing", 0, 2, 0);
	for (const struct vmstate_field *f = fields; f->name; f++) {
		const struct thing in = sample();

		if (!(f->flags & (VMSTATE_NOT_SAVED | VMSTATE_HAS_DEFAULT)))
			send_field(f, &in);
	}
	stream_section_end(&w);
	end();
	assert_int_equal(load(&t, &err), 0);
	assert_true(t.dflag);
	assert_int_equal(t.d8, 0x11);
	assert_int_equal(t.d16, 0x2222);
	assert_int_equal(t.d32, 0x33333333);
	assert_true(t.d64 == 0x4444444444444444);
	done();
}

static void test_each_missing_field_is_named(void **state)
{
	(void)state;
	for (const struct vmstate_field *f = fields; f->name; f++) {
		const struct change gone = { .name = f->name };

		if (f->flags & (VMSTATE_NOT_SAVED | VMSTATE_HAS_DEFAULT))
			continue;
		send(&gone);
		must_refuse(EPROTO, f->name);
	}
}

static void test_each_wrong_type_is_named(void **state)
{
	static const uint64_t zeroes[8];

	(void)state;
	for (const struct vmstate_field *f = fields; f->name; f++) {
		const struct change other = {
			.name = f->name,
			.data = zeroes,
			.count = f->max,
			.type = f->type == FIELD_U32 ? FIELD_U16 : FIELD_U32,
		};

		if (f->flags & VMSTATE_NOT_SAVED)
			continue;
		send(&other);
		must_refuse(EBADMSG, f->name);
	}
}

static void test_each_wrong_count_is_named(void **state)
{
	static const uint64_t zeroes[16];

	(void)state;
	for (const struct vmstate_field *f = fields; f->name; f++) {
		struct change c = { .name = f->name, .type = f->type, .data = zeroes };

		if (f->flags & VMSTATE_NOT_SAVED)
			continue;
		c.count = f->max + 1;
		send(&c);
		must_refuse(EBADMSG, f->name);
		if (f->variable || f->type == FIELD_STRING)
			continue;
		c.count = f->max - 1;
		send(&c);
		must_refuse(EBADMSG, f->name);
	}
}

static void test_bool_that_is_neither(void **state)
{
	const struct change two = { "flag", FIELD_BOOL, "\2", 1 };

	(void)state;
	send(&two);
	must_refuse(EBADMSG, "'flag'");
}

static void test_string_rules(void **state)
{
	const struct change nul = { "name", FIELD_STRING, "a\0b", 3 };
	const struct change full = { "name", FIELD_STRING, "eightxyz", 8 };
	const struct change empty = { "name", FIELD_STRING, "", 0 };
	struct thing t;
	struct error err;

	(void)state;
	send(&nul);
	must_refuse(EBADMSG, "'name'");
	send(&full);
	must_refuse(EBADMSG, "'name'");
	send(&empty);
	assert_int_equal(load(&t, &err), 0);
	assert_string_equal(t.name, "");
	done();
}

static void test_empty_variable_array(void **state)
{
	const struct change empty = { "v8", FIELD_U8, "", 0 };
	struct thing t;
	struct error err;

	(void)state;
	send(&empty);
	assert_int_equal(load(&t, &err), 0);
	assert_int_equal(t.used8, 0);
	done();
}

static void send_with(const char *name, uint32_t flags)
{
	begin();
	stream_section_begin(&w, "thing", 0, 3, 0);
	send_fields(NULL);
	stream_field(&w, name, FIELD_U8, flags, "\1", 1);
	stream_section_end(&w);
	end();
}

static void test_unknown_field(void **state)
{
	struct error err;
	struct thing t;

	(void)state;
	send_with("novelty", 0);
	must_refuse(EPROTO, "unknown field 'novelty'");
	send_with("novelty", FIELD_IGNORABLE);
	assert_int_equal(load(&t, &err), 0);
	done();
}

/* What is not sent must not come either: it would overwrite a cache. */
static void test_unsaved_field_is_unknown(void **state)
{
	(void)state;
	send_with("cache", 0);
	must_refuse(EPROTO, "unknown field 'cache'");
}

static void test_doubled_field(void **state)
{
	(void)state;
	send_with("u8", 0);
	must_refuse(EBADMSG, "'u8' is there twice");
}

static void test_ignorable_is_told_to_the_reader(void **state)
{
	static const struct vmstate_field ignorable[] = {
		{ .name = "u8",
		  .offset = offsetof(struct thing, u8),
		  .type = FIELD_U8,
		  .max = 1,
		  .flags = VMSTATE_IGNORABLE,
		  .bytes = 1 },
		VMSTATE_END
	};
	static const struct vmstate vms = {
		.name = "thing",
		.version = 1,
		.min_version = 1,
		.size = sizeof(struct thing),
		.fields = ignorable,
	};
	const struct thing in = sample();
	struct stream_field f;
	size_t pos = 0;

	(void)state;
	begin();
	vmstate_save(&w, &vms, 0, &in);
	end();
	assert_int_equal(stream_next_field(&s.sections[0], &pos, &f), 1);
	assert_int_equal(f.flags, FIELD_IGNORABLE);
	done();
}

static void test_versions(void **state)
{
	(void)state;
	for (uint32_t version = 0; version < 6; version++) {
		struct error err;
		struct thing t;

		begin();
		stream_section_begin(&w, "thing", 0, version, 0);
		send_fields(NULL);
		stream_section_end(&w);
		end();
		if (version == 2 || version == 3) {
			assert_int_equal(load(&t, &err), 0);
			done();
		} else {
			must_refuse(EPROTO, "loads 2 to 3");
		}
	}
}

static void test_missing_section(void **state)
{
	(void)state;
	begin();
	stream_section_begin(&w, "thing", 1, 3, 0);
	send_fields(NULL);
	stream_section_end(&w);
	end();
	must_refuse(EPROTO, "is missing");
}

static void test_post_load_refuses(void **state)
{
	const struct change bad = { "u8", FIELD_U8, "\15", 1 };

	(void)state;
	send(&bad);
	must_refuse(EINVAL, "u8 is 13");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_sent_by_hand_is_the_same),
		cmocka_unit_test(test_order_of_fields_does_not_matter),
		cmocka_unit_test(test_count_beyond_the_array_is_cut_when_saved),
		cmocka_unit_test(test_string_without_end_is_cut_when_saved),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_each_missing_field_is_named),
		cmocka_unit_test(test_each_wrong_type_is_named),
		cmocka_unit_test(test_each_wrong_count_is_named),
		cmocka_unit_test(test_bool_that_is_neither),
		cmocka_unit_test(test_string_rules),
		cmocka_unit_test(test_empty_variable_array),
		cmocka_unit_test(test_unknown_field),
		cmocka_unit_test(test_unsaved_field_is_unknown),
		cmocka_unit_test(test_doubled_field),
		cmocka_unit_test(test_ignorable_is_told_to_the_reader),
		cmocka_unit_test(test_versions),
		cmocka_unit_test(test_missing_section),
		cmocka_unit_test(test_post_load_refuses),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
