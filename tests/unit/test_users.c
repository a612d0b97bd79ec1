/* SPDX-License-Identifier: MIT */
/*
 * Which user molt becomes. Each case is in a child, in a user and mount name space with an /etc and
 * a /var/lib of its own, of which it is root, and which has no other user.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/control/control_path.h>

#include "../../src/vmm/become_user.h"
#include "child_check.h"

#define CANNOT 77

static bool put(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

static bool put_map(const char *path, unsigned int id)
{
	char text[32];

	snprintf(text, sizeof(text), "0 %u 1", id);
	return put(path, text);
}

static bool enter_space(void)
{
	const unsigned int uid = geteuid(), gid = getegid();

	return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && put("/proc/self/setgroups", "deny") &&
	       put_map("/proc/self/uid_map", uid) && put_map("/proc/self/gid_map", gid) &&
	       mount("none", "/etc", "tmpfs", 0, "mode=755") == 0 &&
	       mount("none", "/var/lib", "tmpfs", 0, "mode=755") == 0;
}

static void in_space(void (*run)(void))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		if (!enter_space())
			_exit(CANNOT);
		run();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) {
		print_message("# no user name space can be made here\n");
		skip();
	}
	assert_int_equal(status, 0);
}

static void stay_root(void)
{
	const struct vmm_config cfg = { 0 };
	struct error err = ERROR_INIT;
	struct chosen_user u;

	CHECK(put("/etc/passwd", "molt:x:54321:54321::/:/bin/false\n"));
	CHECK(choose_user(&u, &cfg, &err) == 0 && u.by_default);
	CHECK(become_user(&u, &cfg, &err) == 0);
	CHECK(geteuid() == 0 && u.user.uid == 0 && !u.by_default);
}

static void read_only_run(void)
{
	const struct vmm_config cfg = { .user = "root", .control = "name=web1" };
	struct error err = ERROR_INIT;
	struct chosen_user u;

	CHECK(mount("none", "/run", "tmpfs", MS_RDONLY, "mode=755") == 0);
	CHECK(choose_user(&u, &cfg, &err) == 0);
	CHECK(become_user(&u, &cfg, &err) == -EROFS);
	CHECK(strcmp(err.text, "/run/molt: Read-only file system; give --control a path") == 0);
}

static void test_run_that_is_read_only(void **state)
{
	(void)state;
	in_space(read_only_run);
}

/* Of the user who became this one; or of a session that is over. */
static void anothers_session(const char *dir, int code)
{
	const struct sandbox_user user = { 0 };
	struct error err = ERROR_INIT;
	int status;
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		CHECK(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
		CHECK(setenv("XDG_RUNTIME_DIR", dir, 1) == 0);
		CHECK(control_path_make_dir("name=web1", &user, &err) == -code);
		CHECK(strncmp(err.text, dir, strlen(dir)) == 0);
		CHECK(strstr(err.text, "XDG_RUNTIME_DIR") && strstr(err.text, "--control a path"));
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_runtime_directory_that_is_anothers(void **state)
{
	(void)state;
	anothers_session("/nonexistent", ENOENT);
	anothers_session("/usr", EACCES);
}

static void test_nobody_to_become_by_default(void **state)
{
	(void)state;
	in_space(stay_root);
}

static void become_who_was_asked_for(void)
{
	const struct vmm_config cfg = { .user = "54321" };
	struct error err = ERROR_INIT;
	struct chosen_user u;

	CHECK(choose_user(&u, &cfg, &err) == 0);
	CHECK(become_user(&u, &cfg, &err) < 0 && strstr(err.text, "54321"));
}

static void test_nobody_to_become_who_was_asked_for(void **state)
{
	(void)state;
	in_space(become_who_was_asked_for);
}

static uid_t user_of(const char *name)
{
	struct sandbox_user u = { 0 };
	struct error err = ERROR_INIT;

	return sandbox_user_for_name(name, &u, &err) == 0 ? u.uid : 0;
}

static void last_line_without_end(void)
{
	CHECK(put("/etc/subuid", "other:100000:65536\nmolt:200000:10"));
	CHECK(user_of("web1") == 200000);
	CHECK(user_of("web2") == 200001);
	CHECK(put("/etc/subuid", "molt:200000:10x"));
	CHECK(user_of("web1") == 0);
}

static void test_range_in_a_last_line_without_end(void **state)
{
	(void)state;
	in_space(last_line_without_end);
}

/* As editors leave it, in which somebody has removed the line of a guest that is no more. */
static void table_without_end(void)
{
	CHECK(put("/etc/subuid", "molt:200000:10\n"));
	CHECK(mkdir("/var/lib/molt", 0755) == 0);
	CHECK(put(SANDBOX_USERS, "200000 web1\n200002 web3"));
	for (int again = 0; again < 2; again++) {
		CHECK(user_of("web2") == 200001);
		CHECK(user_of("web1") == 200000);
		CHECK(user_of("web3") == 200002);
		CHECK(user_of("web4") == 200003);
	}
}

static void test_table_with_a_last_line_without_end(void **state)
{
	(void)state;
	in_space(table_without_end);
}

static void private_table(void)
{
	struct stat st;

	CHECK(put("/etc/subuid", "molt:200000:10\n"));
	CHECK(user_of("web1") == 200000);
	CHECK(stat(SANDBOX_USERS, &st) == 0 && (st.st_mode & 0777) == 0600);
	/* As earlier versions made it. */
	CHECK(chmod(SANDBOX_USERS, 0644) == 0);
	CHECK(user_of("web1") == 200000);
	CHECK(stat(SANDBOX_USERS, &st) == 0 && (st.st_mode & 0777) == 0600);
}

static void test_nobody_else_can_lock_the_table(void **state)
{
	(void)state;
	in_space(private_table);
}

static void locked_table(void)
{
	struct sandbox_user u;
	struct error err = ERROR_INIT;
	int fd;

	CHECK(put("/etc/subuid", "molt:200000:10\n"));
	CHECK(user_of("web1") == 200000);
	fd = open(SANDBOX_USERS, O_RDONLY | O_CLOEXEC);
	CHECK(flock(fd, LOCK_EX) == 0);
	alarm(20);
	CHECK(sandbox_user_for_name("web1", &u, &err) == -EWOULDBLOCK);
	CHECK(strstr(err.text, SANDBOX_USERS) && strstr(err.text, "lock"));
	close(fd);
	CHECK(user_of("web1") == 200000);
}

static void test_a_locked_table_is_not_waited_for_without_end(void **state)
{
	(void)state;
	in_space(locked_table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_nobody_to_become_by_default),
		cmocka_unit_test(test_nobody_to_become_who_was_asked_for),
		cmocka_unit_test(test_run_that_is_read_only),
		cmocka_unit_test(test_runtime_directory_that_is_anothers),
		cmocka_unit_test(test_range_in_a_last_line_without_end),
		cmocka_unit_test(test_table_with_a_last_line_without_end),
		cmocka_unit_test(test_nobody_else_can_lock_the_table),
		cmocka_unit_test(test_a_locked_table_is_not_waited_for_without_end),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests_name("users", tests, NULL, NULL);
}
