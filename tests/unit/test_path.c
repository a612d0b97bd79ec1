/* SPDX-License-Identifier: MIT */
/* Paths made absolute, and commands looked up in PATH. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/path.h>

static void assert_path(char *found, const char *expected)
{
	if (expected)
		assert_string_equal(found, expected);
	else
		assert_null(found);
	free(found);
}

static void is_made_absolute(void **state)
{
	(void)state;
	assert_int_equal(chdir("/usr"), 0);
	assert_path(path_absolute("/a/./b"), "/a/./b");
	assert_path(path_absolute("a/b"), "/usr/a/b");
	assert_path(path_absolute(".//./a"), "/usr/a");
	assert_path(path_absolute("../a"), "/usr/../a");
}

static void file(const char *path, mode_t mode)
{
	int fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, mode);

	assert_true(fd >= 0);
	close(fd);
}

/* What is no program is passed over, as in a shell, and what is found is absolute. */
static void a_command_is_searched(void **state)
{
	char dir[] = "/tmp/molt-path-XXXXXX", expected[64], first[128];

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	assert_int_equal(mkdir("a", 0700) | mkdir("a/molt", 0700), 0);
	assert_int_equal(mkdir("b", 0700) | mkdir("c", 0700), 0);
	file("b/molt", 0600);
	file("c/molt", 0700);
	file("molt", 0700);
	snprintf(expected, sizeof(expected), "%s/c/molt", dir);
	snprintf(first, sizeof(first), "%s/a:%s/b:%s/c", dir, dir, dir);
	setenv("PATH", first, 1);
	assert_path(path_search("molt"), expected);
	setenv("PATH", ":a::b:./c:", 1);
	assert_path(path_search("molt"), expected);
	setenv("PATH", "a:b:", 1);
	assert_path(path_search("molt"), NULL);
	assert_path(path_search(""), NULL);
	assert_int_equal(unlink("molt") | unlink("c/molt") | unlink("b/molt") | rmdir("a/molt"), 0);
	assert_int_equal(rmdir("a") | rmdir("b") | rmdir("c") | rmdir(dir), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(is_made_absolute),
		cmocka_unit_test(a_command_is_searched),
	};

	return cmocka_run_group_tests_name("path", tests, NULL, NULL);
}
