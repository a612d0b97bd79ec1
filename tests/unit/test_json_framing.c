/* SPDX-License-Identifier: MIT */
/* Finding the ends of JSON messages, however they arrive. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <molt/base/json.h>
#include <molt/control/json_framing.h>
#include <molt/control/json_message.h>

/* Feeds text in pieces of step bytes and writes what comes out as "[message]" or "!<error>". */
static void frames(const char *text, size_t len, size_t step, char *out, size_t size)
{
	struct json_framer f = { 0 };
	char *buf = malloc(len + 1);
	size_t have = 0, fed = 0, n = 0, start, end;

	out[0] = '\0';
	while (fed < len) {
		size_t piece = len - fed < step ? len - fed : step;
		enum json_frame what;

		memcpy(buf + have, text + fed, piece);
		have += piece;
		fed += piece;
		while ((what = json_framer_scan(&f, buf, have, &start, &end)) != JSON_FRAME_MORE) {
			int r = what == JSON_FRAME_MESSAGE
					? snprintf(out + n, size - n, "[%.*s]", (int)(end - start),
						   buf + start)
					: snprintf(out + n, size - n, "!%d", (int)what);

			assert_true(r > 0 && (size_t)r < size - n);
			n += (size_t)r;
			memmove(buf, buf + end, have - end);
			have -= end;
			json_framer_drop(&f, end);
		}
		/* White space in front may be thrown away, or kept: both must work. */
		if (fed % 2) {
			memmove(buf, buf + start, have - start);
			have -= start;
			json_framer_drop(&f, start);
		}
	}
	free(buf);
}

static void expect(const char *text, size_t len, const char *expected)
{
	char out[4096];

	for (size_t step = 1; step <= len; step++) {
		frames(text, len, step, out, sizeof(out));
		assert_string_equal(out, expected);
	}
}

#define EXPECT(text, expected) expect(text, sizeof(text) - 1, expected)

static void test_messages_need_no_separator(void **state)
{
	(void)state;
	EXPECT("{\"a\":1}{\"b\":[2,{}]}", "[{\"a\":1}][{\"b\":[2,{}]}]");
	EXPECT(" \r\n\t{} \n {}\n", "[{}][{}]");
}

static void test_brackets_in_strings_do_not_count(void **state)
{
	(void)state;
	EXPECT("{\"a\":\"}]{\"}{}", "[{\"a\":\"}]{\"}][{}]");
	EXPECT("{\"a\":\"\\\"}\"}", "[{\"a\":\"\\\"}\"}]");
	EXPECT("{\"a\":\"\\\\\"}{}", "[{\"a\":\"\\\\\"}][{}]");
	EXPECT("{'a':'\"}'}{}", "[{'a':'\"}'}][{}]");
}

static void test_values_outside_brackets_are_messages(void **state)
{
	(void)state;
	EXPECT("12 true\n\"s\"{}", "[12][true][\"s\"][{}]");
	EXPECT("x{}", "[x][{}]");
}

static void test_half_a_message_is_none(void **state)
{
	(void)state;
	EXPECT("{\"execute\": \"stop\"", "");
	EXPECT("\"abc", "");
	EXPECT("12", "");
}

static void test_control_characters_force_a_known_state(void **state)
{
	(void)state;
	EXPECT("{\"a\":\"\001{}", "!2[{}]");
	EXPECT("{\"a\":[[\377{}", "!2[{}]");
	EXPECT("\376{}", "!2[{}]");
	EXPECT("{\"a\":\"b\nc\"}{}", "!2[c]"); /* the quote after c opens a string for good */
	expect("[\0{}", 4, "!2[{}]");
}

static void test_unmatched_brackets(void **state)
{
	(void)state;
	EXPECT("}{}", "!3[{}]");
	EXPECT("{]{}", "!3[{}]");
	EXPECT("[}[]", "!3[[]]");
}

static void test_depth_is_limited(void **state)
{
	char text[JSON_FRAMING_MAX_DEPTH + 1];
	struct json_framer f = { 0 };
	size_t start, end;

	(void)state;
	memset(text, '[', sizeof(text));
	assert_int_equal(json_framer_scan(&f, text, sizeof(text) - 1, &start, &end),
			 JSON_FRAME_MORE);
	assert_int_equal(json_framer_scan(&f, text, sizeof(text), &start, &end),
			 JSON_FRAME_TOO_DEEP);
	assert_int_equal(end, sizeof(text));
	assert_int_equal(f.depth, 0);
}

static void test_deepest_message_is_whole(void **state)
{
	char text[2 * JSON_FRAMING_MAX_DEPTH];
	struct json_framer f = { 0 };
	size_t start, end;

	(void)state;
	memset(text, '[', JSON_FRAMING_MAX_DEPTH);
	memset(text + JSON_FRAMING_MAX_DEPTH, ']', JSON_FRAMING_MAX_DEPTH);
	assert_int_equal(json_framer_scan(&f, text, sizeof(text), &start, &end),
			 JSON_FRAME_MESSAGE);
	assert_int_equal(start, 0);
	assert_int_equal(end, sizeof(text));
}

static void expect_parsed(const char *text, const char *expected)
{
	struct error err = ERROR_INIT;
	json_t *msg = json_message_parse(text, strlen(text), &err);
	char *dump;

	assert_non_null(msg);
	dump = json_dumps(msg, JSON_COMPACT | JSON_ENCODE_ANY);
	assert_string_equal(dump, expected);
	free(dump);
	json_decref(msg);
}

static void test_single_quotes(void **state)
{
	(void)state;
	expect_parsed("{'a':'b'}", "{\"a\":\"b\"}");
	expect_parsed("{'a':'say \"b\"'}", "{\"a\":\"say \\\"b\\\"\"}");
	expect_parsed("['it\\'s', \"it's\", \"\\'\"]", "[\"it's\",\"it's\",\"'\"]");
	expect_parsed("['\\\\', '\\\\\"', '\\\"', '']", "[\"\\\\\",\"\\\\\\\"\",\"\\\"\",\"\"]");
}

static void expect_refused(const char *text)
{
	struct error err = ERROR_INIT;

	assert_null(json_message_parse(text, strlen(text), &err));
	assert_int_equal(err.code, EINVAL);
	assert_memory_equal(err.text, "JSON parse error, ", 18);
}

static void test_what_is_not_json(void **state)
{
	(void)state;
	expect_refused("{\"execute\": }");
	expect_refused("nonsense");
	expect_refused("{\"a\":1,\"a\":2}");
	expect_refused("[\"\303(\"]");
	expect_refused("['\\x']");
	expect_refused("[1e999]");
}

static void test_any_text_becomes_a_string(void **state)
{
	json_t *s = json_any_string("caf\303\251");

	(void)state;
	assert_string_equal(json_string_value(s), "caf\303\251");
	json_decref(s);
	s = json_any_string("caf\303");
	assert_string_equal(json_string_value(s), "caf?");
	json_decref(s);
}

/* Whatever bytes come: the scanner gets on, and errors leave it as new. */
static void test_noise(void **state)
{
	static const char alphabet[] = "{}[]\"'\\ \n,:a1\377\001";
	uint32_t seed = 1;

	(void)state;
	for (unsigned int round = 0; round < 2000; round++) {
		struct json_framer f = { 0 };
		size_t start = 0, end = 0;
		char text[64];

		for (size_t i = 0; i < sizeof(text); i++) {
			seed = seed * 1664525u + 1013904223u;
			text[i] = alphabet[(seed >> 16) % (sizeof(alphabet) - 1)];
		}
		for (size_t at = 0; at < sizeof(text); at += end) {
			enum json_frame what = json_framer_scan(&f, text + at, sizeof(text) - at,
								&start, &end);

			assert_true(start <= end && end <= sizeof(text) - at);
			if (what == JSON_FRAME_MORE)
				break;
			assert_true(end > 0);
			json_framer_drop(&f, end);
			assert_int_equal(f.depth, 0);
			assert_int_equal(f.pos, 0);
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_messages_need_no_separator),
		cmocka_unit_test(test_brackets_in_strings_do_not_count),
		cmocka_unit_test(test_values_outside_brackets_are_messages),
		cmocka_unit_test(test_half_a_message_is_none),
		cmocka_unit_test(test_control_characters_force_a_known_state),
		cmocka_unit_test(test_unmatched_brackets),
		cmocka_unit_test(test_depth_is_limited),
		cmocka_unit_test(test_deepest_message_is_whole),
		cmocka_unit_test(test_single_quotes),
		cmocka_unit_test(test_what_is_not_json),
		cmocka_unit_test(test_any_text_becomes_a_string),
		cmocka_unit_test(test_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
