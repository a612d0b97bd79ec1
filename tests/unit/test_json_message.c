/* SPDX-License-Identifier: MIT */
/* The id of a message: which text it is, in whatever surroundings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <molt/base/fd.h>
#include <molt/control/json_message.h>

static void expect_id(const char *text, const char *expected)
{
	char *id = json_message_id(text, strlen(text));

	if (expected && id)
		assert_string_equal(id, expected);
	else if (expected || id)
		fail_msg("%s: id %s instead of %s", text, id ? id : "none",
			 expected ? expected : "none");
	free(id);
}

/* Each by itself, in an array and in an object. */
static void test_any_value_comes_back_as_it_is(void **state)
{
	static const char *const values[] = {
		"null",
		"true",
		"false",
		"0",
		"-0",
		"7",
		"-1",
		"9223372036854775807",
		"9223372036854775808",
		"-9223372036854775809",
		"18446744073709551616",
		"123456789012345678901234567890123456789012345678901234567890",
		"1.0",
		"1.10",
		"0.0",
		"1e3",
		"1E+3",
		"1e-7",
		"1e999",
		"-1.5e400",
		"0.1234567890123456789012345678901",
		"\"\"",
		"\"a\"",
		"\"\\u0000\"",
		"\"\\u00e9\\ud83d\\ude00\"",
		"\"\303\251\"",
		"\"a\\\"b\\\\\"",
		"\"}{][,:\"",
		"[]",
		"{}",
		"[ 1 ,  2 ]",
		"[[1e999],{\"id\":2}]",
		"{\"id\": 3, \"n\" : [null]}",
	};
	char text[512], value[200];

	(void)state;
	for (size_t i = 0; i < 3 * ARRAY_SIZE(values); i++) {
		struct error err = ERROR_INIT;
		json_t *msg;

		snprintf(value, sizeof(value),
			 i % 3 == 0   ? "%s"
			 : i % 3 == 1 ? "[%s, 1]"
				      : "{\"x\": %s}",
			 values[i / 3]);
		snprintf(text, sizeof(text), "{\"execute\":\"x\", \"id\" : %s }", value);
		expect_id(text, value);
		msg = json_message_parse(text, strlen(text), &err);
		assert_non_null(msg);
		assert_string_equal(json_string_value(json_object_get(msg, "execute")), "x");
		json_decref(msg);
		snprintf(text, sizeof(text), "{\"id\":%s,\"execute\":\"x\"}", value);
		expect_id(text, value);
	}
}

static void test_a_long_string(void **state)
{
	static char value[60000], text[60100];

	(void)state;
	memset(value, 'x', sizeof(value) - 1);
	value[0] = value[sizeof(value) - 2] = '"';
	snprintf(text, sizeof(text), "{\"id\":%s}", value);
	expect_id(text, value);
}

static void test_how_it_is_written(void **state)
{
	(void)state;
	expect_id("{'id':'it\\'s'}", "\"it's\"");
	expect_id("{\"\\u0069d\":1}", "1");
	expect_id("{\"id\"\r\n:\r\n[1,\r\n\t2]\r\n}", "[1,   2]");
	expect_id("{\"a\":\"\\\"id\\\":2\",\"id\":3}", "3");
	expect_id("{\"a\":{\"id\":1}}", NULL);
	expect_id("{\"ID\":1,\"idx\":2}", NULL);
	expect_id("[{\"id\":1}]", NULL);
	expect_id("\"id\"", NULL);
	expect_id("", NULL);
}

/* What is no JSON around it does not matter; it must be some itself. */
static void test_in_what_is_no_json(void **state)
{
	static const char *const bad[] = {
		"",      "01",      "-",           "+1",
		"1.",    ".5",      "1.e3",        "1e",
		"1e+",   "0x10",    "1-2",         "1 2",
		"1.2.3", "00",      "-01",         "1e5e5",
		"1.5-1", "\"\\x\"", "\"\\ud800\"", "\"\303(\"",
		"[1,]",  "[1 2]",   "nul",         "{\"a\":1,\"a\":2}",
		"{1:2}", "NaN",
	};
	char text[200];

	(void)state;
	expect_id("{\"execute\": stop, \"id\": 7}", "7");
	expect_id("{\"id\": 7, \"execute\": }", "7");
	expect_id("{\"arguments\":{\"n\":1e999},\"id\":\"a\"}", "\"a\"");
	expect_id("{\"id\": 7, \"arguments\": [[[", "7");
	expect_id("{\"id\": 7", NULL);
	expect_id("{id: 7}", NULL);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct error err = ERROR_INIT;

		snprintf(text, sizeof(text), "{\"execute\":\"x\",\"id\":%s}", bad[i]);
		expect_id(text, NULL);
		assert_null(json_message_parse(text, strlen(text), &err));
		assert_memory_equal(err.text, "JSON parse error, ", 18);
	}
}

static void test_an_id_twice_is_an_error(void **state)
{
	static const char text[] = "{\"id\":1,\"id\":1e999,\"execute\":\"x\"}";
	struct error err = ERROR_INIT;

	(void)state;
	expect_id(text, "1");
	assert_null(json_message_parse(text, sizeof(text) - 1, &err));
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* The longest messages of the worst kinds take no longer than others. */
static void test_nothing_takes_long(void **state)
{
	static const char *const fill[] = {
		"1", "-",        "1.",       "0",      "-0", "0.", "1e",   "1e+", "[",  "[0,",
		"{", "{\"id\":", ",\"id\":", "\"a\":", ":",  "\"", "\"\\", "'",   "\\", " ",
	};
	static char text[64 << 10];
	uint64_t start = cpu_ns();

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(fill); i++) {
		size_t n = (size_t)snprintf(text, sizeof(text), "{\"id\":");

		while (n + strlen(fill[i]) < sizeof(text)) {
			memcpy(text + n, fill[i], strlen(fill[i]));
			n += strlen(fill[i]);
		}
		free(json_message_id(text, n));
		text[n - 1] = '}';
		free(json_message_id(text, n));
	}
	assert_true(cpu_ns() - start < 500000000u);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_any_value_comes_back_as_it_is),
		cmocka_unit_test(test_a_long_string),
		cmocka_unit_test(test_how_it_is_written),
		cmocka_unit_test(test_in_what_is_no_json),
		cmocka_unit_test(test_an_id_twice_is_an_error),
		cmocka_unit_test(test_nothing_takes_long),
	};

	return cmocka_run_group_tests_name("json_message", tests, NULL, NULL);
}
