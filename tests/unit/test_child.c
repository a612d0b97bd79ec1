/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/child.h>
#include <molt/base/end_signals.h>
#include <molt/base/fd.h>
#include <molt/base/thread.h>

#include "child_check.h"

static struct child sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		setpgid(0, 0);
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	setpgid(pid, pid); /* whoever comes first */
	return (struct child){ .pid = pid, .fd = -1 };
}

static void test_waits_for_its_own_child_alone(void **state)
{
	struct child a = sleeper(), b = sleeper();

	(void)state;
	assert_true(child_hold(&a));
	assert_false(child_wait(&a, 0));
	kill(b.pid, SIGKILL);
	assert_false(child_wait(&a, 50));
	child_kill(&a, false);
	assert_true(child_wait(&a, 10000));
	assert_int_equal(a.pid, 0);
	assert_int_equal(a.fd, -1);
	/* The other one's end is still there to be taken. */
	assert_int_equal(waitpid(b.pid, NULL, 0), b.pid);
}

static void test_number_that_is_no_childs(void **state)
{
	struct child parent = { .pid = getppid(), .fd = -1 }, none = CHILD_NONE;

	(void)state;
	assert_false(child_hold(&parent));
	assert_int_equal(parent.pid, 0);
	assert_true(child_wait(&parent, 0));
	assert_false(child_hold(&none));
	assert_true(child_wait(&none, 0));
}

static void test_child_that_others_have_waited_for(void **state)
{
	struct child c = sleeper();
	pid_t pid = c.pid;

	(void)state;
	assert_true(child_hold(&c));
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	/* Its number may be anybody's by now: nobody is hit. */
	child_kill(&c, false);
	assert_true(child_wait(&c, 1000));
}

static void test_group_goes_with_its_leader(void **state)
{
	char byte;
	int fds[2];
	pid_t pid;
	struct child c;

	(void)state;
	assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		setpgid(0, 0);
		if (fork() == 0)
			for (;;)
				pause();
		(void)!write(fds[1], "x", 1);
		for (;;)
			pause();
	}
	close(fds[1]);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	c = (struct child){ .pid = pid, .fd = -1 };
	assert_true(child_hold(&c));
	child_kill(&c, true);
	assert_true(child_wait(&c, 10000));
	/* The pipe's end says that nobody is left of the group. */
	assert_int_equal(read(fds[0], &byte, 1), 0);
	close(fds[0]);
}

static int status_of(pid_t pid)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

/* One that hangs, with signals blocked as molt has them. */
static void test_signals_that_wait_for_another_process(void **state)
{
	sigset_t ending, before, found;
	struct child child;
	int status;

	(void)state;
	end_signals(&ending);
	sigaddset(&ending, SIGUSR1);
	sigprocmask(SIG_BLOCK, &ending, &before);
	child = sleeper();
	sigprocmask(SIG_SETMASK, &before, NULL);
	assert_true(child_hold(&child));
	status = status_of(child.pid);
	end_signals_of(status, &found);
	assert_true(sigisemptyset(&found));
	kill(child.pid, SIGTERM);
	kill(child.pid, SIGHUP);
	kill(child.pid, SIGUSR1); /* which ends nobody */
	end_signals_of(status, &found);
	assert_int_equal(sigismember(&found, SIGTERM), 1);
	assert_int_equal(sigismember(&found, SIGHUP), 1);
	assert_int_equal(sigismember(&found, SIGINT), 0);
	assert_int_equal(sigismember(&found, SIGUSR1), 0);
	child_kill(&child, false);
	assert_int_equal(waitpid(child.pid, NULL, 0), child.pid);
	end_signals_of(status, &found);
	assert_true(sigisemptyset(&found));
	fd_close(&child.fd);
	close(status);
	end_signals_of(-1, &found);
	assert_true(sigisemptyset(&found));
}

/* /proc has them before the signals, in one line, as long as they are many. */
static void test_signals_of_a_process_with_many_groups(void **state)
{
	gid_t groups[1000];
	sigset_t ending, before, found;
	struct child child;
	int status;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(groups); i++)
		groups[i] = 1000000000 + (gid_t)i;
	if (getgroups(0, NULL) > 1 || setgroups(1, groups) < 0) {
		print_message("# only root, and where it is in no groups, can be in many\n");
		skip();
	}
	end_signals(&ending);
	sigprocmask(SIG_BLOCK, &ending, &before);
	/* Wherever it is that a piece of the file ends. */
	for (size_t n = 200; n <= ARRAY_SIZE(groups); n += n < 400 ? 1 : 200) {
		assert_int_equal(setgroups(n, groups), 0);
		child = sleeper();
		assert_true(child_hold(&child));
		kill(child.pid, SIGTERM);
		status = status_of(child.pid);
		end_signals_of(status, &found);
		close(status);
		child_kill(&child, false);
		assert_true(child_wait(&child, 10000));
		if (!sigismember(&found, SIGTERM))
			fail_msg("%zu groups", n);
	}
	sigprocmask(SIG_SETMASK, &before, NULL);
	assert_int_equal(setgroups(0, NULL), 0);
}

static rlim_t soft_limit(rlim_t soft, rlim_t hard)
{
	struct rlimit limit = { .rlim_cur = soft, .rlim_max = hard };

	CHECK(setrlimit(RLIMIT_STACK, &limit) == 0);
	CHECK(thread_main_stack(256 << 10, NULL) == 0);
	CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_max == hard);
	return limit.rlim_cur;
}

/* A limit that nobody but root could raise is refused, and no larger one is touched. */
static void small_stack(void)
{
	struct rlimit small = { .rlim_cur = 64 << 10, .rlim_max = 96 << 10 };
	struct error err = ERROR_INIT;

	CHECK(geteuid() != 0 || setresuid(65534, 65534, 65534) == 0);
	CHECK(soft_limit(512 << 10, 2 << 20) == 512 << 10);
	CHECK(soft_limit(64 << 10, 1 << 20) == 256 << 10);
	CHECK(setrlimit(RLIMIT_STACK, &small) == 0);
	CHECK(thread_main_stack(256 << 10, &err) == -EPERM);
	CHECK(strstr(err.text, "the stack needs 256 KiB"));
	CHECK(strstr(err.text, "RLIMIT_STACK") && strstr(err.text, "which is 96 KiB"));
}

static void test_limit_of_mains_stack(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		small_stack();
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define NOBODY 65534

/* The stand-in's side of it; 0: it has seen what waits for its parent. */
static int see_signal_of_parent(int status)
{
	sigset_t found;
	char path[32];

	snprintf(path, sizeof(path), "/proc/%d/status", (int)getppid());
	CHECK(access("/proc/self/status", R_OK) == 0);
	CHECK(open(path, O_RDONLY | O_CLOEXEC) < 0 && errno == ENOENT);
	end_signals_of(status, &found);
	CHECK(sigismember(&found, SIGTERM) == 1 && !sigismember(&found, SIGINT));
	return 0;
}

/* As molt is: not root, not dumpable. It is another process that looks. */
static int hidden_process(void)
{
	int status, result;
	sigset_t ending;
	pid_t pid;

	CHECK(setgroups(0, NULL) == 0 && setgid(NOBODY) == 0 && setuid(NOBODY) == 0);
	CHECK(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
	end_signals(&ending);
	sigprocmask(SIG_BLOCK, &ending, NULL);
	status = end_signals_open();
	CHECK(status >= 0);
	kill(getpid(), SIGTERM);
	pid = fork();
	if (pid == 0)
		_exit(see_signal_of_parent(status));
	CHECK(waitpid(pid, &result, 0) == pid);
	return result;
}

/* 2: it is not to be had here. In a pid name space, for before Linux 5.8 all of one hid as much. */
static int in_a_proc_that_hides(void)
{
	int result;
	pid_t pid;

	if (unshare(CLONE_NEWNS | CLONE_NEWPID) < 0)
		return 2;
	pid = fork();
	if (pid == 0) {
		if (mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		    mount("proc", "/proc", "proc", 0, "hidepid=2") < 0)
			_exit(2);
		_exit(hidden_process() ? 1 : 0);
	}
	CHECK(waitpid(pid, &result, 0) == pid);
	return WIFEXITED(result) ? WEXITSTATUS(result) : 1;
}

/* As with ProtectProc=invisible of a service, and in containers. */
static void test_signals_of_a_process_that_proc_hides(void **state)
{
	pid_t pid = fork();
	int result;

	(void)state;
	if (pid == 0)
		_exit(in_a_proc_that_hides());
	assert_int_equal(waitpid(pid, &result, 0), pid);
	if (WIFEXITED(result) && WEXITSTATUS(result) == 2) {
		print_message("# a proc that hides processes takes root\n");
		skip();
	}
	assert_int_equal(result, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_waits_for_its_own_child_alone),
		cmocka_unit_test(test_number_that_is_no_childs),
		cmocka_unit_test(test_child_that_others_have_waited_for),
		cmocka_unit_test(test_group_goes_with_its_leader),
		cmocka_unit_test(test_signals_that_wait_for_another_process),
		cmocka_unit_test(test_signals_of_a_process_with_many_groups),
		cmocka_unit_test(test_limit_of_mains_stack),
		cmocka_unit_test(test_signals_of_a_process_that_proc_hides),
	};

	return cmocka_run_group_tests_name("child", tests, NULL, NULL);
}
