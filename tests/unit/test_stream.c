/* SPDX-License-Identifier: MIT */
/* The stream's framing: whatever happens to a stream's bytes, its reader notices and says where. */
#include "machine_bench.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>

#include "../../src/state/wire.h"

/* ---- a whole machine's stream, and what can happen to it ---- */

struct whole {
	uint8_t *data;
	size_t len;
};

static int setup(void **state)
{
	struct whole *w = calloc(1, sizeof(*w));
	struct bench_state st;
	struct bench b;

	assert_non_null(w);
	bench_init(&b, 2);
	bench_randomise(&b, 3);
	bench_save(&b, &st, 9);
	w->len = st.w.len;
	w->data = malloc(w->len);
	assert_non_null(w->data);
	memcpy(w->data, st.w.data, w->len);
	bench_state_fini(&st);
	bench_fini(&b);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct whole *w = *state;

	free(w->data);
	free(w);
	return 0;
}

static bool says_where(const char *text)
{
	return strstr(text, "header") || strstr(text, "section") || strstr(text, "end marker");
}

/* A copy of exactly len bytes, so that a sanitizer sees each byte read past the end. */
static void must_say(const uint8_t *data, size_t len, const char *what, size_t at,
		     const char *words)
{
	uint8_t *copy = malloc(len ? len : 1);
	struct error err = ERROR_INIT;
	struct stream s;
	int r;

	assert_non_null(copy);
	memcpy(copy, data, len);
	r = stream_parse(&s, copy, len, &err);
	if (r >= 0)
		fail_msg("%s %zu was not noticed", what, at);
	if (r != -err.code || !says_where(err.text) || !strstr(err.text, words))
		fail_msg("%s %zu: %d, '%s'", what, at, r, err.text);
	assert_null(s.sections);
	assert_int_equal(s.nsections, 0);
	free(copy);
}

static void must_fail(const uint8_t *data, size_t len, const char *what, size_t at)
{
	must_say(data, len, what, at, "");
}

static void test_whole_stream_is_good(void **state)
{
	const struct whole *w = *state;
	struct error err = ERROR_INIT;
	struct stream s;

	assert_int_equal(stream_parse(&s, w->data, w->len, &err), 0);
	assert_non_null(stream_find(&s, "vcpu", 1));
	assert_null(stream_find(&s, "vcpu", 2));
	assert_int_equal(s.header.format, STREAM_FORMAT);
	assert_string_equal(s.header.producer, "bench");
	assert_int_equal(s.header.nonce[15], 9);
	stream_fini(&s);
}

static void test_each_flipped_bit_is_noticed(void **state)
{
	const struct whole *w = *state;
	uint8_t *data = malloc(w->len);

	assert_non_null(data);
	memcpy(data, w->data, w->len);
	for (size_t at = 0; at < w->len; at++) {
		/* Every bit of the header; elsewhere one of each byte, not always the same. */
		for (unsigned int bit = 0; bit < 8; bit++) {
			if (at >= sizeof(struct wire_header) && bit != at % 8)
				continue;
			data[at] ^= (uint8_t)(1u << bit);
			must_fail(data, w->len, "a flipped bit at", at);
			data[at] ^= (uint8_t)(1u << bit);
		}
	}
	free(data);
}

static void test_each_cut_is_noticed(void **state)
{
	const struct whole *w = *state;

	for (size_t len = 0; len < w->len; len++)
		must_say(w->data, len, "a cut at", len, "cut short");
}

static void test_stray_bytes_are_noticed(void **state)
{
	const struct whole *w = *state;
	uint8_t *data = calloc(1, w->len + 16);

	assert_non_null(data);
	memcpy(data, w->data, w->len);
	for (size_t more = 1; more <= 16; more++)
		must_fail(data, w->len + more, "stray bytes:", more);
	free(data);
}

static void test_two_streams_in_a_row(void **state)
{
	const struct whole *w = *state;
	uint8_t *data = malloc(2 * w->len);

	assert_non_null(data);
	memcpy(data, w->data, w->len);
	memcpy(data + w->len, w->data, w->len);
	must_fail(data, 2 * w->len, "a second stream at", w->len);
	free(data);
}

/* ---- hand-made streams ---- */

static void begin(struct stream_writer *w)
{
	struct stream_header header = { .machine_version = 1, .producer = "test" };
	struct error err = ERROR_INIT;

	assert_int_equal(stream_writer_init(w, 64, &err), 0);
	stream_begin(w, &header);
}

static void add(struct stream_writer *w, const char *section, uint32_t instance)
{
	const uint32_t value = 1;

	stream_section_begin(w, section, instance, 1, 0);
	stream_field(w, "value", FIELD_U32, 0, &value, 1);
	stream_section_end(w);
}

/* CRCs made right again after a change, so that only the sense is wrong. */
static void repair(struct stream_writer *w)
{
	size_t at = sizeof(struct wire_header);
	struct wire_header h;
	struct wire_end e;
	uint32_t crcs;

	memcpy(&h, w->data, sizeof(h));
	h.crc = crc32c(0, &h, offsetof(struct wire_header, crc));
	memcpy(w->data, &h, sizeof(h));
	crcs = crc32c(0, &h.crc, sizeof(h.crc));
	for (;;) {
		struct wire_section s;
		uint32_t crc;

		memcpy(&s, w->data + at, sizeof(s.tag));
		if (s.tag != WIRE_SECTION)
			break;
		memcpy(&s, w->data + at, sizeof(s));
		if (s.payload_len > w->len - at - sizeof(s) - sizeof(crc))
			return; /* a length that leads nowhere */
		crc = crc32c(0, w->data + at, sizeof(s) + s.payload_len);
		at += sizeof(s) + s.payload_len;
		memcpy(w->data + at, &crc, sizeof(crc));
		crcs = crc32c(crcs, &crc, sizeof(crc));
		at += sizeof(crc);
	}
	memcpy(&e, w->data + at, sizeof(e));
	e.crc_of_crcs = crcs;
	e.crc = crc32c(0, &e, offsetof(struct wire_end, crc));
	memcpy(w->data + at, &e, sizeof(e));
}

static int parse_changed(size_t at, const void *bytes, size_t len, struct error *err)
{
	struct stream_writer w;
	struct stream s;
	int r;

	begin(&w);
	add(&w, "thing", 0);
	assert_int_equal(stream_end(&w, err), 0);
	memcpy(w.data + at, bytes, len);
	repair(&w);
	r = stream_parse(&s, w.data, w.len, err);
	if (r == 0)
		stream_fini(&s);
	stream_writer_fini(&w);
	return r;
}

#define SECTION_AT sizeof(struct wire_header)
#define FIELD_AT (SECTION_AT + sizeof(struct wire_section))

static void test_repair_is_right(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	/* Otherwise all tests below would only test CRCs. */
	assert_int_equal(parse_changed(8, "\1", 1, &err), 0);
}

static void test_nonsense_lengths(void **state)
{
	static const uint32_t lengths[] = {
		0, 1, 7, 8, 12, 18, 0x7fffffff, 0x80000000, 0xfffffff0, 0xfffffffc, 0xffffffff,
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(lengths); i++) {
		struct error err = ERROR_INIT;
		int r = parse_changed(SECTION_AT + offsetof(struct wire_section, payload_len),
				      &lengths[i], sizeof(lengths[i]), &err);

		assert_int_equal(r, -EBADMSG);
		assert_true(says_where(err.text));
	}
}

static void test_nonsense_counts(void **state)
{
	static const uint32_t counts[] = {
		2, 0x20000000, 0x40000000, 0x40000001, 0x80000000, 0xffffffff,
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
		struct error err = ERROR_INIT;
		int r = parse_changed(FIELD_AT + offsetof(struct wire_field, count), &counts[i],
				      sizeof(counts[i]), &err);

		assert_int_equal(r, -EBADMSG);
		assert_non_null(strstr(err.text, "section 'thing' 0"));
	}
}

static void test_malformed_fields(void **state)
{
	static const struct {
		size_t offset;
		uint8_t byte;
	} changes[] = {
		{ offsetof(struct wire_field, type), 0 },
		{ offsetof(struct wire_field, type), 7 },
		{ offsetof(struct wire_field, type), 255 },
		{ offsetof(struct wire_field, name_len), 0 },
		{ offsetof(struct wire_field, name_len), 48 },
		{ offsetof(struct wire_field, name_len), 255 },
		{ offsetof(struct wire_field, reserved), 1 },
		{ sizeof(struct wire_field), 0 }, /* a NUL in the name */
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		struct error err = ERROR_INIT;

		assert_int_equal(parse_changed(FIELD_AT + changes[i].offset, &changes[i].byte, 1,
					       &err),
				 -EBADMSG);
		assert_non_null(strstr(err.text, "malformed field"));
	}
}

/* The first of three, the second, the third: which one was the last good one is said. */
static void test_malformed_field_after_which(void **state)
{
	static const char *const after[] = { "'the section's start'", "'one'", "'two'" };
	const uint8_t reserved = 1;

	(void)state;
	for (size_t n = 0; n < ARRAY_SIZE(after); n++) {
		size_t at = FIELD_AT + n * (sizeof(struct wire_field) + 3 + 1);
		struct error err = ERROR_INIT;
		struct stream_writer w;
		struct stream s;

		begin(&w);
		stream_section_begin(&w, "thing", 0, 1, 0);
		stream_field(&w, "one", FIELD_U8, 0, &reserved, 1);
		stream_field(&w, "two", FIELD_U8, 0, &reserved, 1);
		stream_field(&w, "six", FIELD_U8, 0, &reserved, 1);
		stream_section_end(&w);
		assert_int_equal(stream_end(&w, &err), 0);
		w.data[at + offsetof(struct wire_field, reserved)] = reserved;
		repair(&w);
		assert_int_equal(stream_parse(&s, w.data, w.len, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "malformed field"));
		assert_non_null(strstr(err.text, after[n]));
		stream_writer_fini(&w);
	}
}

static void test_section_names(void **state)
{
	char name[STREAM_NAME_MAX + 1];
	struct error err = ERROR_INIT;

	(void)state;
	memset(name, 'n', sizeof(name)); /* no NUL at its end */
	assert_int_equal(parse_changed(SECTION_AT + offsetof(struct wire_section, name), name,
				       sizeof(name), &err),
			 -EBADMSG);
	assert_non_null(strstr(err.text, "malformed name"));
	assert_int_equal(parse_changed(SECTION_AT + offsetof(struct wire_section, name), "", 1,
				       &err),
			 -EBADMSG);
	assert_non_null(strstr(err.text, "malformed name"));
}

static void test_foreign_format(void **state)
{
	struct error err = ERROR_INIT;

	(void)state;
	assert_int_equal(parse_changed(8, "\2", 1, &err), -EPROTO);
	assert_non_null(strstr(err.text, "format 2"));
	assert_int_equal(parse_changed(0, "QEVM", 4, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "magic"));
}

static void test_doubled_section(void **state)
{
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct stream s;

	(void)state;
	begin(&w);
	add(&w, "thing", 4);
	add(&w, "thing", 5);
	add(&w, "thing", 4);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "'thing' 4 is there twice"));
	stream_writer_fini(&w);
}

/* One section less, all CRCs of what is left being right. */
static void test_missing_section_is_noticed(void **state)
{
	struct error err = ERROR_INIT;
	struct stream_writer w;
	size_t first, second;
	struct stream s;

	(void)state;
	begin(&w);
	add(&w, "one", 0);
	first = w.len;
	add(&w, "two", 0);
	second = w.len;
	assert_int_equal(stream_end(&w, &err), 0);
	memmove(w.data + first, w.data + second, w.len - second);
	w.len -= second - first;
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), -EBADMSG);
	repair(&w);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), -EBADMSG);
	assert_non_null(strstr(err.text, "2 sections written, 1 read"));
	stream_writer_fini(&w);
}

static void test_random_bytes(void **state)
{
	uint32_t seed = 4711;
	uint8_t buf[512];

	(void)state;
	for (int round = 0; round < 20000; round++) {
		size_t len = fake_random(&seed) % sizeof(buf);

		fake_random_bytes(&seed, buf, len);
		must_fail(buf, len, "random bytes, round", (size_t)round);
	}
}

/* Behind a good header, with a good CRC: random sections get as far as they can. */
static void test_random_sections(void **state)
{
	uint32_t seed = 815;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		struct error err = ERROR_INIT;
		struct stream_writer w;
		struct stream s;

		begin(&w);
		add(&w, "a", 0);
		add(&w, "b", 0);
		assert_int_equal(stream_end(&w, &err), 0);
		for (int n = 0; n < 4; n++)
			w.data[sizeof(struct wire_header) +
			       fake_random(&seed) % (w.len - sizeof(struct wire_header))] = (uint8_t)
				fake_random(&seed);
		repair(&w);
		if (stream_parse(&s, w.data, w.len, &err) == 0) {
			stream_check_claimed(&s, &err);
			stream_fini(&s);
		} else {
			assert_true(says_where(err.text));
		}
		stream_writer_fini(&w);
	}
}

static void test_unclaimed_sections_are_named(void **state)
{
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct stream s;

	(void)state;
	begin(&w);
	add(&w, "mine", 0);
	add(&w, "yours", 1);
	add(&w, "theirs", 2);
	stream_section_begin(&w, "whatever", 0, 1, SECTION_IGNORABLE);
	stream_section_end(&w);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
	stream_find(&s, "mine", 0)->claimed = true;
	assert_int_equal(stream_check_claimed(&s, &err), -EPROTO);
	assert_string_equal(err.text, "no device here for section 'yours' 1, 'theirs' 2");
	stream_find(&s, "yours", 1)->claimed = true;
	stream_find(&s, "theirs", 2)->claimed = true;
	assert_int_equal(stream_check_claimed(&s, &err), 0);
	stream_fini(&s);
	stream_writer_fini(&w);
}

static void test_hundreds_of_unclaimed_sections(void **state)
{
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct stream s;

	(void)state;
	begin(&w);
	for (uint32_t i = 0; i < 300; i++)
		add(&w, "a-name-that-is-rather-long-for-a-section", i);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
	assert_int_equal(s.nsections, 300);
	assert_int_equal(stream_check_claimed(&s, &err), -EPROTO);
	stream_fini(&s);
	stream_writer_fini(&w);
}

/* ---- the writer ---- */

static void fields_outside_a_section(struct stream_writer *w)
{
	stream_field(w, "lost", FIELD_U8, 0, "", 1);
}

static void section_in_a_section(struct stream_writer *w)
{
	stream_section_begin(w, "outer", 0, 1, 0);
	add(w, "inner", 0);
}

static void open_section(struct stream_writer *w)
{
	stream_section_begin(w, "open", 0, 1, 0);
}

static void long_section_name(struct stream_writer *w)
{
	add(w, "a-section-whose-name-has-48-bytes-one-too-many--", 0);
}

static void long_field_name(struct stream_writer *w)
{
	stream_section_begin(w, "s", 0, 1, 0);
	stream_field(w, "a-field-whose-name-has-48-bytes-one-too-many-or-", FIELD_U8, 0, "", 1);
	stream_section_end(w);
}

static void unknown_type(struct stream_writer *w)
{
	stream_section_begin(w, "s", 0, 1, 0);
	stream_field(w, "f", (enum field_type)77, 0, "", 1);
	stream_section_end(w);
}

static void test_writer_errors_stick(void **state)
{
	static void (*const mistakes[])(struct stream_writer *) = {
		fields_outside_a_section, section_in_a_section, open_section,
		long_section_name,        long_field_name,      unknown_type,
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(mistakes); i++) {
		struct error err = ERROR_INIT;
		struct stream_writer w;

		begin(&w);
		mistakes[i](&w);
		/* All that follows is harmless, and the first mistake is what is reported. */
		if (mistakes[i] != open_section)
			for (int n = 0; n < 100; n++)
				add(&w, "fine", (uint32_t)n);
		assert_int_equal(stream_end(&w, &err), -EINVAL);
		assert_true(err.text[0] != '\0');
		assert_int_equal(stream_end(&w, &err), -EINVAL);
		stream_writer_fini(&w);
	}
}

static void test_writer_can_begin_again(void **state)
{
	const struct stream_header header = { .producer = "again" };
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct stream s;

	(void)state;
	begin(&w);
	open_section(&w);
	assert_int_equal(stream_end(&w, &err), -EINVAL);
	stream_begin(&w, &header);
	add(&w, "thing", 0);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
	assert_string_equal(s.header.producer, "again");
	stream_fini(&s);
	stream_writer_fini(&w);
}

static void test_writer_refuses_to_grow_for_ever(void **state)
{
	uint8_t *big = calloc(1, 8 << 20);
	struct error err = ERROR_INIT;
	struct stream_writer w;

	(void)state;
	assert_non_null(big);
	begin(&w);
	stream_section_begin(&w, "big", 0, 1, 0);
	for (int i = 0; i < 20; i++)
		stream_field(&w, "bytes", FIELD_U8, 0, big, 8 << 20);
	stream_section_end(&w);
	assert_int_equal(stream_end(&w, &err), -EFBIG);
	stream_writer_fini(&w);
	free(big);
}

static void test_hostile_names_are_made_printable(void **state)
{
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct stream s;

	(void)state;
	begin(&w);
	add(&w, "a\033[31m\n", 0);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
	assert_int_equal(stream_check_claimed(&s, &err), -EPROTO);
	assert_null(strchr(err.text, '\033'));
	assert_null(strchr(err.text, '\n'));
	stream_fini(&s);
	stream_writer_fini(&w);
}

static void test_types(void **state)
{
	(void)state;
	assert_int_equal(field_type_size(0), 0);
	assert_int_equal(field_type_size(FIELD_BOOL), 1);
	assert_int_equal(field_type_size(FIELD_U16), 2);
	assert_int_equal(field_type_size(FIELD_U64), 8);
	assert_int_equal(field_type_size(FIELD_STRING + 1), 0);
	assert_string_equal(field_type_name(FIELD_U32), "u32");
	assert_string_equal(field_type_name(0), "unknown");
	assert_string_equal(field_type_name(~0u), "unknown");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_whole_stream_is_good, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_flipped_bit_is_noticed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_each_cut_is_noticed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stray_bytes_are_noticed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_streams_in_a_row, setup, teardown),
		cmocka_unit_test(test_repair_is_right),
		cmocka_unit_test(test_nonsense_lengths),
		cmocka_unit_test(test_nonsense_counts),
		cmocka_unit_test(test_malformed_fields),
		cmocka_unit_test(test_malformed_field_after_which),
		cmocka_unit_test(test_section_names),
		cmocka_unit_test(test_foreign_format),
		cmocka_unit_test(test_doubled_section),
		cmocka_unit_test(test_missing_section_is_noticed),
		cmocka_unit_test(test_random_bytes),
		cmocka_unit_test(test_random_sections),
		cmocka_unit_test(test_unclaimed_sections_are_named),
		cmocka_unit_test(test_hundreds_of_unclaimed_sections),
		cmocka_unit_test(test_writer_errors_stick),
		cmocka_unit_test(test_writer_can_begin_again),
		cmocka_unit_test(test_writer_refuses_to_grow_for_ever),
		cmocka_unit_test(test_hostile_names_are_made_printable),
		cmocka_unit_test(test_types),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
