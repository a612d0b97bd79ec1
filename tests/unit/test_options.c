/* SPDX-License-Identifier: MIT */
/* Command lines: the option table engine and the parsers of values. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "../../src/cli/cli.h"

static const struct option_def options[] = {
	{ .name = "memory", .arg = "SIZE", .help = "guest RAM", .def = "256M" },
	{ .name = "mem", .alias_of = "memory" },
	{ .name = "kernel", .arg = "FILE", .help = "kernel" },
	{ .name = "pause", .help = "do not run" },
	{ .name = NULL }
};

static const struct cli_command command = {
	.name = "test",
	.usage = "",
	.summary = "Test",
	.options = options,
};

struct line {
	struct cli_args args;
	struct error err;
	int r;
};

/* Parses words, which end with NULL; the first is the command's name. */
static struct line parse(char **argv)
{
	struct line line = { .err = ERROR_INIT };
	int argc = 0;

	while (argv[argc])
		argc++;
	line.r = cli_args_parse(&line.args, &command, argc, argv, &line.err);
	return line;
}

#define LINE(...) parse((char *[]){ (char *)"test", __VA_ARGS__, NULL })

static void test_both_ways_to_give_a_value(void **state)
{
	struct line l = LINE("--memory", "1G", "--kernel=a=b");

	(void)state;
	assert_int_equal(l.r, 0);
	assert_string_equal(cli_value(&l.args, "memory"), "1G");
	assert_string_equal(cli_value(&l.args, "kernel"), "a=b");
	cli_args_fini(&l.args);
}

static void test_default_where_not_given(void **state)
{
	struct line l = LINE("--pause");

	(void)state;
	assert_int_equal(l.r, 0);
	assert_string_equal(cli_value(&l.args, "memory"), "256M");
	assert_false(cli_given(&l.args, "memory"));
	assert_null(cli_value(&l.args, "kernel"));
	assert_true(cli_given(&l.args, "pause"));
	cli_args_fini(&l.args);
}

static void test_alias_is_its_target(void **state)
{
	struct line l = LINE("--mem=2G");

	(void)state;
	assert_string_equal(cli_value(&l.args, "memory"), "2G");
	assert_true(cli_given(&l.args, "memory"));
	cli_args_fini(&l.args);
}

static void test_the_last_one_counts_and_all_are_there(void **state)
{
	struct line l = LINE("--memory=1G", "--mem", "2G");

	(void)state;
	assert_string_equal(cli_value(&l.args, "memory"), "2G");
	assert_string_equal(cli_value_at(&l.args, "memory", 0), "1G");
	assert_string_equal(cli_value_at(&l.args, "memory", 1), "2G");
	assert_null(cli_value_at(&l.args, "memory", 2));
	cli_args_fini(&l.args);
}

static void test_value_may_look_like_an_option(void **state)
{
	struct line l = LINE("--kernel", "--pause");

	(void)state;
	assert_string_equal(cli_value(&l.args, "kernel"), "--pause");
	assert_false(cli_given(&l.args, "pause"));
	cli_args_fini(&l.args);
}

static void test_words_and_dashes(void **state)
{
	struct line l = LINE("sock", "--pause", "-", "--", "--kernel", "x");

	(void)state;
	assert_int_equal(l.r, 0);
	assert_int_equal(l.args.nwords, 4);
	assert_int_equal(l.args.dashes, 2);
	assert_string_equal(l.args.words[0], "sock");
	assert_string_equal(l.args.words[1], "-");
	assert_string_equal(l.args.words[2], "--kernel");
	assert_true(cli_given(&l.args, "pause"));
	cli_args_fini(&l.args);
}

static void test_dashes_may_be_a_value(void **state)
{
	struct line l = LINE("--kernel", "--", "--pause");

	(void)state;
	assert_int_equal(l.r, 0);
	assert_string_equal(cli_value(&l.args, "kernel"), "--");
	assert_true(cli_given(&l.args, "pause"));
	cli_args_fini(&l.args);
}

static void test_nothing_after_dashes(void **state)
{
	struct line none = LINE("--pause"), empty = LINE("sock", "--"),
		    value = LINE("--kernel", "--"), word = LINE("--", "--");

	(void)state;
	assert_false(none.args.ends_in_dashes);
	assert_true(empty.args.ends_in_dashes);
	assert_int_equal(empty.args.nwords, 1);
	assert_false(value.args.ends_in_dashes);
	assert_false(word.args.ends_in_dashes);
	cli_args_fini(&none.args);
	cli_args_fini(&empty.args);
	cli_args_fini(&value.args);
	cli_args_fini(&word.args);
}

static void test_only_the_first_dashes_count(void **state)
{
	struct line l = LINE("--", "--", "a");

	(void)state;
	assert_int_equal(l.args.dashes, 0);
	assert_int_equal(l.args.nwords, 2);
	assert_string_equal(l.args.words[0], "--");
	cli_args_fini(&l.args);
}

/* `molt run` keeps it for its successor. */
static void test_argv_is_left_as_it_is(void **state)
{
	char *argv[] = { (char *)"test", (char *)"a",        (char *)"--pause",
			 (char *)"b",    (char *)"--memory", (char *)"1G",
			 (char *)"--",   (char *)"c",        NULL };
	char *before[sizeof(argv) / sizeof(argv[0])];
	struct line l;

	(void)state;
	memcpy(before, argv, sizeof(argv));
	l = parse(argv);
	assert_int_equal(l.r, 0);
	assert_memory_equal(argv, before, sizeof(argv));
	cli_args_fini(&l.args);
}

/* getopt() would stop at the first word then. */
static void test_order_does_not_depend_on_the_environment(void **state)
{
	struct line l;

	(void)state;
	setenv("POSIXLY_CORRECT", "1", 1);
	l = LINE("a", "--pause", "b");
	unsetenv("POSIXLY_CORRECT");
	assert_int_equal(l.args.nwords, 2);
	assert_true(cli_given(&l.args, "pause"));
	cli_args_fini(&l.args);
}

static void test_an_error_leaves_nothing_behind(void **state)
{
	struct line l = LINE("-xyz", "a");

	(void)state;
	assert_int_equal(l.r, -EINVAL);
	cli_args_fini(&l.args);
	l = LINE("--pause");
	assert_int_equal(l.r, 0);
	assert_int_equal(l.args.nwords, 0);
	assert_true(cli_given(&l.args, "pause"));
	cli_args_fini(&l.args);
}

static void test_empty_words_and_values(void **state)
{
	struct line l = LINE("", "--kernel=", "--memory", "");

	(void)state;
	assert_int_equal(l.args.nwords, 1);
	assert_string_equal(l.args.words[0], "");
	assert_string_equal(cli_value(&l.args, "kernel"), "");
	assert_string_equal(cli_value(&l.args, "memory"), "");
	cli_args_fini(&l.args);
}

static void test_no_dashes(void **state)
{
	struct line l = LINE("a", "b");

	(void)state;
	assert_int_equal(l.args.dashes, 2);
	cli_args_fini(&l.args);
}

static void expect_error(struct line l, const char *sentence)
{
	assert_int_equal(l.r, -EINVAL);
	assert_string_equal(l.err.text, sentence);
	cli_args_fini(&l.args);
}

static void test_unknown_options_are_named(void **state)
{
	(void)state;
	expect_error(LINE("--kernl", "x"), "unknown option '--kernl'; did you mean '--kernel'?");
	expect_error(LINE("--kernl=x"), "unknown option '--kernl'; did you mean '--kernel'?");
	expect_error(LINE("-kernel", "x"), "unknown option '-kernel'; did you mean '--kernel'?");
	expect_error(LINE("--hepl"), "unknown option '--hepl'; did you mean '--help'?");
	expect_error(LINE("--zzzzzz"), "unknown option '--zzzzzz'");
	expect_error(LINE("-x"), "unknown option '-x'");
	expect_error(LINE("-xh"), "unknown option '-xh'");
	expect_error(LINE("-hx"), "unknown option '-hx'");
	expect_error(LINE("--=x"), "unknown option '--'");
	expect_error(LINE("a", "--kernl", "x", "--pause"),
		     "unknown option '--kernl'; did you mean '--kernel'?");
}

static void test_names_are_not_abbreviated(void **state)
{
	(void)state;
	expect_error(LINE("--kern", "x"), "unknown option '--kern'; did you mean '--kernel'?");
	expect_error(LINE("--kern=x"), "unknown option '--kern'; did you mean '--kernel'?");
	expect_error(LINE("--kern"), "unknown option '--kern'; did you mean '--kernel'?");
	expect_error(LINE("--pau=1"), "unknown option '--pau'; did you mean '--pause'?");
	expect_error(LINE("--me", "1G"), "unknown option '--me'; did you mean '--mem'?");
	expect_error(LINE("--hel"), "unknown option '--hel'; did you mean '--help'?");
}

static void test_missing_and_needless_values(void **state)
{
	(void)state;
	expect_error(LINE("--kernel"), "option '--kernel' needs a value: --kernel FILE");
	expect_error(LINE("--mem"), "option '--mem' needs a value: --mem SIZE");
	expect_error(LINE("--pause=1"), "option '--pause' takes no value");
	expect_error(LINE("--pause="), "option '--pause' takes no value");
	expect_error(LINE("--help=x"), "option '--help' takes no value");
}

static void test_help_is_asked_for(void **state)
{
	struct line l = LINE("--pause", "--help");

	(void)state;
	assert_int_equal(l.r, CLI_HELP_WANTED);
	cli_args_fini(&l.args);
	l = LINE("-h");
	assert_int_equal(l.r, CLI_HELP_WANTED);
	cli_args_fini(&l.args);
	l = LINE("--", "-h");
	assert_int_equal(l.r, 0);
	cli_args_fini(&l.args);
}

static void test_aliases_lead_to_options(void **state)
{
	(void)state;
	for (const struct option_def *o = run_command.options; o->name; o++) {
		const struct option_def *target = run_command.options;

		if (!o->alias_of) {
			assert_non_null(o->help);
			continue;
		}
		while (target->name && strcmp(target->name, o->alias_of) != 0)
			target++;
		assert_non_null(target->name);
		assert_null(target->alias_of);
	}
}

static void expect_size(const char *text, uint64_t expected)
{
	struct error err = ERROR_INIT;
	uint64_t bytes = 1;

	assert_int_equal(value_size("size", text, &bytes, &err), 0);
	assert_int_equal(bytes, expected);
}

static void test_sizes(void **state)
{
	(void)state;
	expect_size("0", 0);
	expect_size("65536", 65536);
	expect_size("64K", 65536);
	expect_size("64k", 65536);
	expect_size("64KiB", 65536);
	expect_size("512M", 512ull << 20);
	expect_size("512mib", 512ull << 20);
	expect_size("4G", 4ull << 30);
	expect_size("1T", 1ull << 40);
	expect_size("18446744073709551615", UINT64_MAX);
	expect_size("16777215T", 16777215ull << 40);
}

static void expect_no_size(const char *text, int code)
{
	struct error err = ERROR_INIT;
	uint64_t bytes = 42;

	assert_int_equal(value_size("--memory", text, &bytes, &err), -code);
	assert_int_equal(bytes, 42);
	assert_non_null(strstr(err.text, text));
	assert_non_null(strstr(err.text, "--memory"));
}

static void test_no_sizes(void **state)
{
	static const char *const texts[] = { "",    "M",  "-1",    "+1",   " 1",  "1 ",  "1.5G",
					     "1MB", "1X", "1KiBs", "0x10", "1Ki", "12M5" };

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		expect_no_size(texts[i], EINVAL);
	expect_no_size("18446744073709551616", ERANGE);
	expect_no_size("16777216T", ERANGE);
	expect_no_size("99999999999999999999G", ERANGE);
}

static void test_numbers(void **state)
{
	struct error err = ERROR_INIT;
	uint64_t n = 0;

	(void)state;
	assert_int_equal(value_number("--cpus", "254", 1, 254, &n, &err), 0);
	assert_int_equal(n, 254);
	assert_int_equal(value_number("x", "0xfF", 0, 255, &n, &err), 0);
	assert_int_equal(n, 255);
	assert_int_equal(value_number("x", "010", 0, 255, &n, &err), 0);
	assert_int_equal(n, 10);
	assert_int_equal(value_number("--cpus", "255", 1, 254, &n, &err), -ERANGE);
	assert_string_equal(err.text, "--cpus 255 is out of range: 1 to 254");
	assert_int_equal(value_number("--cpus", "0", 1, 254, &n, &err), -ERANGE);
}

static void test_no_numbers(void **state)
{
	static const char *const texts[] = {
		"", "a", "-1", "1a", " 1", "0x", "0x-1", "0x0x1", "1.0"
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct error err = ERROR_INIT;
		uint64_t n;

		assert_int_equal(value_number("--cpus", texts[i], 0, 100, &n, &err), -EINVAL);
		assert_non_null(strstr(err.text, "is not a number"));
	}
}

static void expect_seconds(const char *text, uint64_t expected)
{
	struct error err = ERROR_INIT;
	uint64_t ms = 42;

	assert_int_equal(value_seconds("x", text, 0, 600000, &ms, &err), 0);
	assert_int_equal(ms, expected);
}

static void test_seconds(void **state)
{
	(void)state;
	expect_seconds("0", 0);
	expect_seconds("5", 5000);
	expect_seconds("0.5", 500);
	expect_seconds("0.50", 500);
	expect_seconds("0.025", 25);
	expect_seconds("12.345", 12345);
	expect_seconds("600.000", 600000);
}

static void expect_no_seconds(const char *text, int code, const char *sentence)
{
	struct error err = ERROR_INIT;
	uint64_t ms = 42;

	assert_int_equal(value_seconds("--timeout", text, 1, 600000, &ms, &err), -code);
	assert_int_equal(ms, 42);
	assert_non_null(strstr(err.text, sentence));
}

static void test_no_seconds(void **state)
{
	static const char *const texts[] = {
		"",
		".",
		".5",
		"5.",
		"-1",
		"+1",
		"1e3",
		"0.0001",
		"1.5s",
		"0x1",
		"1,5",
		"nan",
		"99999999999999999999s"
	};

	(void)state;
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		expect_no_seconds(texts[i], EINVAL, "is not a number of seconds");
	expect_no_seconds("0", ERANGE, "--timeout 0 is out of range: 0.001 to 600 seconds");
	expect_no_seconds("600.001", ERANGE, "out of range");
	expect_no_seconds("18446744073709552", ERANGE, "out of range");
	expect_no_seconds("99999999999999999999.5", ERANGE, "out of range");
}

static const char *const keys[] = { "size", "file", "shared", NULL };

static void test_list_with_a_bare_first_value(void **state)
{
	struct error err = ERROR_INIT;
	struct value_list list;

	(void)state;
	assert_int_equal(value_list_parse(&list, "--memory", "512M,shared=on", keys, &err), 0);
	assert_string_equal(value_list_get(&list, "size"), "512M");
	assert_string_equal(value_list_get(&list, "shared"), "on");
	assert_null(value_list_get(&list, "file"));
	value_list_fini(&list);
}

static void test_list_of_keys(void **state)
{
	struct error err = ERROR_INIT;
	struct value_list list;

	(void)state;
	assert_int_equal(value_list_parse(&list, "x", "file=a=b,size=1", keys, &err), 0);
	assert_string_equal(value_list_get(&list, "file"), "a=b");
	assert_string_equal(value_list_get(&list, "size"), "1");
	value_list_fini(&list);
}

static void test_doubled_commas_are_part_of_the_value(void **state)
{
	struct error err = ERROR_INIT;
	struct value_list list;

	(void)state;
	assert_int_equal(value_list_parse(&list, "x", "file=a,,b,,,size=1", keys, &err), 0);
	assert_string_equal(value_list_get(&list, "file"), "a,b,");
	assert_string_equal(value_list_get(&list, "size"), "1");
	value_list_fini(&list);
}

static void expect_bad_list(const char *text, const char *sentence)
{
	struct error err = ERROR_INIT;
	struct value_list list;

	assert_int_equal(value_list_parse(&list, "--memory", text, keys, &err), -EINVAL);
	assert_string_equal(err.text, sentence);
	assert_null(list.text);
}

static void test_bad_lists(void **state)
{
	(void)state;
	expect_bad_list("", "--memory: 'size' has an empty value");
	expect_bad_list("1,", "--memory: a comma with nothing behind it");
	expect_bad_list("1,on", "--memory: 'on' has no value: on=VALUE");
	expect_bad_list("1,size=2", "--memory: 'size' is given twice");
	expect_bad_list("1,sharde=on", "--memory: unknown key 'sharde'; did you mean 'shared'?");
	expect_bad_list("1,quux=on", "--memory: unknown key 'quux'");
	expect_bad_list("file=", "--memory: 'file' has an empty value");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_both_ways_to_give_a_value),
		cmocka_unit_test(test_default_where_not_given),
		cmocka_unit_test(test_alias_is_its_target),
		cmocka_unit_test(test_the_last_one_counts_and_all_are_there),
		cmocka_unit_test(test_value_may_look_like_an_option),
		cmocka_unit_test(test_words_and_dashes),
		cmocka_unit_test(test_dashes_may_be_a_value),
		cmocka_unit_test(test_nothing_after_dashes),
		cmocka_unit_test(test_only_the_first_dashes_count),
		cmocka_unit_test(test_argv_is_left_as_it_is),
		cmocka_unit_test(test_order_does_not_depend_on_the_environment),
		cmocka_unit_test(test_an_error_leaves_nothing_behind),
		cmocka_unit_test(test_empty_words_and_values),
		cmocka_unit_test(test_no_dashes),
		cmocka_unit_test(test_unknown_options_are_named),
		cmocka_unit_test(test_names_are_not_abbreviated),
		cmocka_unit_test(test_missing_and_needless_values),
		cmocka_unit_test(test_help_is_asked_for),
		cmocka_unit_test(test_aliases_lead_to_options),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_no_sizes),
		cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_no_numbers),
		cmocka_unit_test(test_seconds),
		cmocka_unit_test(test_no_seconds),
		cmocka_unit_test(test_list_with_a_bare_first_value),
		cmocka_unit_test(test_list_of_keys),
		cmocka_unit_test(test_doubled_commas_are_part_of_the_value),
		cmocka_unit_test(test_bad_lists),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
