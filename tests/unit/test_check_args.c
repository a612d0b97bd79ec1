/* SPDX-License-Identifier: MIT */
/* Arguments against their table, at any depth. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>

#include "../../src/control/internal.h"

static const char *const colours[] = { "red", "green", NULL };
static const struct command_type colour = { .name = "Colour", .values = colours };
static const struct command_member lamp_members[] = {
	{ .name = "colour", .type = &colour },
	{ .name = "watts", .type = &command_int, .optional = true },
	{ 0 }
};
static const struct command_type lamp = { .name = "Lamp", .members = lamp_members };
static const struct command_type lamps = { .name = "[Lamp]", .elements = &lamp };
static const struct command_member args[] = {
	{ .name = "name", .type = &command_string },
	{ .name = "on", .type = &command_bool, .optional = true },
	{ .name = "lamps", .type = &lamps, .optional = true },
	{ .name = "other", .type = &command_any, .optional = true },
	{ 0 }
};

static int check(const struct command_member *known, const char *json, struct error *err)
{
	json_t *value = json_loads(json, 0, NULL);
	int r;

	assert_non_null(value);
	*err = ERROR_INIT;
	r = control_check_args(known, value, err);
	json_decref(value);
	return r;
}

static void test_what_is_right(void **state)
{
	static const char *const right[] = {
		"{\"name\":\"\"}",
		"{\"name\":\"a\",\"on\":false,\"lamps\":[]}",
		"{\"name\":\"a\",\"lamps\":[{\"colour\":\"red\",\"watts\":-1},"
		"{\"colour\":\"green\"}]}",
		"{\"name\":\"a\",\"other\":null}",
		"{\"name\":\"a\",\"other\":[{\"x\":1.5}]}",
	};
	struct error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(right); i++)
		if (check(args, right[i], &err) != 0)
			fail_msg("%s: %s", right[i], err.text);
	assert_int_equal(check(NULL, "{}", &err), 0);
}

static void test_what_is_wrong(void **state)
{
	static const char *const wrong[][2] = {
		{ "{}", "Parameter 'name' is missing" },
		{ "{\"name\":null}", "Invalid parameter type for 'name', expected: string" },
		{ "{\"name\":\"\",\"on\":0}",
		  "Invalid parameter type for 'on', expected: boolean" },
		{ "{\"name\":\"\",\"off\":true}", "Parameter 'off' is unexpected" },
		{ "{\"name\":\"\",\"\":1}", "Parameter '' is unexpected" },
		{ "{\"name\":\"\",\"lamps\":{}}",
		  "Invalid parameter type for 'lamps', expected: array" },
		{ "{\"name\":\"\",\"lamps\":[{\"colour\":\"red\"},7]}",
		  "Invalid parameter type for 'lamps[1]', expected: object" },
		{ "{\"name\":\"\",\"lamps\":[{}]}", "Parameter 'lamps[0].colour' is missing" },
		{ "{\"name\":\"\",\"lamps\":[{\"colour\":\"blue\"}]}",
		  "Parameter 'lamps[0].colour' does not accept value 'blue'" },
		{ "{\"name\":\"\",\"lamps\":[{\"colour\":1}]}",
		  "Invalid parameter type for 'lamps[0].colour', expected: string" },
		{ "{\"name\":\"\",\"lamps\":[{\"colour\":\"red\",\"watts\":1.0}]}",
		  "Invalid parameter type for 'lamps[0].watts', expected: integer" },
		{ "{\"name\":\"\",\"lamps\":[{\"colour\":\"red\",\"volts\":1}]}",
		  "Parameter 'lamps[0].volts' is unexpected" },
	};
	struct error err;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_int_equal(check(args, wrong[i][0], &err), -EINVAL);
		assert_string_equal(err.text, wrong[i][1]);
	}
	assert_int_equal(check(NULL, "{\"a\":1}", &err), -EINVAL);
	assert_string_equal(err.text, "Parameter 'a' is unexpected");
}

static void test_names_of_any_length(void **state)
{
	char json[5000];
	struct error err;

	(void)state;
	memset(json, 'x', sizeof(json));
	memcpy(json, "{\"name\":\"\",\"", 12);
	strcpy(json + sizeof(json) - 5, "\":1}");
	assert_int_equal(check(args, json, &err), -EINVAL);
	assert_non_null(strstr(err.text, "xxx"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_is_right),
		cmocka_unit_test(test_what_is_wrong),
		cmocka_unit_test(test_names_of_any_length),
	};

	return cmocka_run_group_tests_name("check_args", tests, NULL, NULL);
}
