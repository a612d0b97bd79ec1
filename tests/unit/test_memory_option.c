/* SPDX-License-Identifier: MIT */
/* The value of --memory. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "src/cli/memory_option.h"

static struct memory_arg arg;
static struct error err;

static void test_a_size_alone(void **state)
{
	(void)state;
	assert_int_equal(cli_parse_memory("512M", &arg, &err), 0);
	assert_int_equal(arg.size, 512 << 20);
	assert_int_equal(arg.options.hugepages, 0);
	assert_int_equal(arg.options.thp, MEMORY_THP_HOST);
	assert_false(arg.options.prefault);
	assert_false(arg.hugepages_given);
	assert_int_equal(arg.refault, REFAULT_BEFORE);
	assert_true(arg.refault_limit_ns == 10000000000ull);
}

static void test_everything(void **state)
{
	(void)state;
	assert_int_equal(cli_parse_memory("size=4G,hugepages=1G,thp=off,prefault=on,"
					  "refault=background",
					  &arg, &err),
			 0);
	assert_true(arg.size == 4ull << 30);
	assert_true(arg.options.hugepages == 1ull << 30);
	assert_int_equal(arg.options.thp, MEMORY_THP_OFF);
	assert_true(arg.options.prefault);
	assert_true(arg.hugepages_given);
	assert_int_equal(arg.refault, REFAULT_BACKGROUND);
}

static void test_words_of_hugepages(void **state)
{
	static const struct {
		const char *text;
		uint64_t size;
	} words[] = {
		{ "1G,hugepages=on", MEMORY_HUGE_DEFAULT }, { "1G,hugepages=off", 0 },
		{ "1G,hugepages=2M", 2ull << 20 },          { "1G,hugepages=2MiB", 2ull << 20 },
		{ "1G,hugepages=1g", 1ull << 30 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
		assert_int_equal(cli_parse_memory(words[i].text, &arg, &err), 0);
		assert_true(arg.options.hugepages == words[i].size);
		assert_true(arg.hugepages_given);
	}
}

static void test_thp_and_the_opposites(void **state)
{
	(void)state;
	assert_int_equal(cli_parse_memory("1G,thp=on,prefault=off,refault=lazy", &arg, &err), 0);
	assert_int_equal(arg.options.thp, MEMORY_THP_ON);
	assert_false(arg.options.prefault);
	assert_int_equal(arg.refault, REFAULT_LAZY);
	assert_int_equal(cli_parse_memory("1G,thp=on,hugepages=off", &arg, &err), 0);
}

static void test_time_to_map_ram(void **state)
{
	(void)state;
	assert_int_equal(cli_parse_memory("1G,refault=before,refault-limit=0.25", &arg, &err), 0);
	assert_int_equal(arg.refault, REFAULT_BEFORE);
	assert_true(arg.refault_limit_ns == 250000000);
	assert_int_equal(cli_parse_memory("1G,refault-limit=0", &arg, &err), 0);
	assert_int_equal(arg.refault, REFAULT_BEFORE);
	assert_true(arg.refault_limit_ns == 0);
	assert_int_equal(cli_parse_memory("1G,refault-limit=3600.001", &arg, &err), -ERANGE);
	assert_non_null(strstr(err.text, "refault-limit"));
}

static void test_what_is_refused(void **state)
{
	static const struct {
		const char *text, *words;
	} bad[] = {
		{ "1G,hugepages=4M", "on, off, 2M or 1G" },
		{ "1G,hugepages=1", "on, off, 2M or 1G" },
		{ "1G,hugepages=yes", "hugepages=yes" },
		{ "1G,thp=always", "thp=always" },
		{ "1G,prefault=1", "it must be off or on" },
		{ "1G,refault=now", "it must be before, background or lazy" },
		{ "1G,refault-limit=-1", "refault-limit" },
		{ "1G,refault-limit=5s", "refault-limit" },
		{ "1G,thp=on,hugepages=2M", "exclude each other" },
		{ "thp=on", "size=SIZE is missing" },
		{ "1G,hugepage=2M", "did you mean 'hugepages'" },
		{ "1G,thp=on,thp=off", "twice" },
		{ "1X", "not a size" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(cli_parse_memory(bad[i].text, &arg, &err), -EINVAL);
		if (!strstr(err.text, bad[i].words))
			fail_msg("'%s' does not say '%s'", err.text, bad[i].words);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_size_alone),
		cmocka_unit_test(test_everything),
		cmocka_unit_test(test_words_of_hugepages),
		cmocka_unit_test(test_thp_and_the_opposites),
		cmocka_unit_test(test_time_to_map_ram),
		cmocka_unit_test(test_what_is_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
