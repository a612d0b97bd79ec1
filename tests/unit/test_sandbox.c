/* SPDX-License-Identifier: MIT */
/* The sandbox, each case in a child of its own: nothing of it could be taken back. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/sandbox/sandbox.h>
#include "molt_version.h"

#include "../../src/sandbox/internal.h"
#include "../../src/sandbox/lists.h"
#include "../../src/vm/crew_impl.h"
#include "child_check.h"

static const struct sandbox_dir nowhere[] = { { 0 } };

static pid_t start_child(void (*run)(void))
{
	pid_t pid = fork();

	if (pid == 0) {
		run();
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

/* The status that the child ended with. */
static int in_child(void (*run)(void))
{
	int status;
	pid_t pid = start_child(run);

	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void must_work(void (*run)(void))
{
	if (sandbox_level()) {
		print_message("# the tests run in molt's own sandbox already\n");
		skip();
	}
	assert_int_equal(in_child(run), 0);
}

/* What /proc says of us; -1 where this kernel does not. */
static int own_status(const char *key)
{
	FILE *file = fopen("/proc/self/status", "re");
	char line[256];
	int value = -1;

	while (file && fgets(line, sizeof(line), file))
		if (strncmp(line, key, strlen(key)) == 0)
			value = (int)strtol(line + strlen(key) + 1, NULL, 16);
	if (file)
		fclose(file);
	return value;
}

static void enter_twice(void)
{
	struct error err = ERROR_INIT;
	int filters = own_status("Seccomp_filters");

	CHECK(sandbox_level() == 0);
	CHECK(sandbox_enter(nowhere, false, &err) == 0);
	CHECK(sandbox_level() == SANDBOX_LEVEL);
	CHECK(filters < 0 || own_status("Seccomp_filters") == filters + 1);
	for (int i = 0; i < 20; i++)
		CHECK(sandbox_enter(nowhere, false, &err) == 0);
	CHECK(filters < 0 || own_status("Seccomp_filters") == filters + 1);
	CHECK(own_status("CapPrm") == 0);
	CHECK(own_status("NoNewPrivs") == 1);
}

static void test_level_is_found_and_nothing_is_added_twice(void **state)
{
	(void)state;
	must_work(enter_twice);
}

static void nothing(void)
{
}

static void refused_calls(void)
{
	struct error err = ERROR_INIT;

	CHECK(sandbox_enter(nowhere, false, &err) == 0);
	CHECK(mount("none", "/", "tmpfs", 0, NULL) == -1 && errno == EPERM);
	CHECK(unshare(0) == -1 && errno == EPERM);
	CHECK(syscall(SYS_bpf, 0, NULL, 0) == -1 && errno == EPERM);
	if (!MOLT_SANITIZED) {
		CHECK(personality(0xffffffff) != -1);
		CHECK(personality(0) == -1 && errno == EPERM);
	}
	/* Conditions look at what the kernel does: at the lower half of an int. */
	CHECK(syscall(SYS_socket, 0xabcdul << 32 | AF_INET, SOCK_DGRAM, 0) == -1 && errno == EPERM);
	CHECK(syscall(SYS_socket, 0xabcdul << 32 | AF_UNIX, SOCK_STREAM, 0) >= 0);
	CHECK(syscall(SYS_kill, 0xfffffffful, 0) == -1 && errno == EPERM);
	CHECK(syscall(SYS_kill, -1l, 0) == -1 && errno == EPERM);
	CHECK(syscall(SYS_kill, (long)getpid(), 0) == 0);
	CHECK(syscall(SYS_clone, (long)(CLONE_NEWUSER | SIGCHLD), 0, 0, 0, 0) == -1);
	CHECK(errno == EPERM);
	CHECK(chmod("/nowhere", 0600) == -1 && errno == EPERM);
	/* A C library takes an older call then. */
	CHECK(syscall(SYS_clone3, NULL, 0) == -1 && errno == ENOSYS);
	CHECK(syscall(452 /* fchmodat2 */, AT_FDCWD, "/nowhere", 0600, 0) == -1);
	CHECK(errno == ENOSYS);
	CHECK(prctl(PR_GET_NAME, (char[16]){ 0 }) == 0);
	CHECK(sandbox_level() == SANDBOX_LEVEL);
	/* What an image that is not written yet may need. */
	CHECK(in_child(nothing) == 0);
}

static void test_refused_calls(void **state)
{
	(void)state;
	must_work(refused_calls);
}

static char dir[32];

static void wait_for_a_signal(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	pause();
}

static void files(void)
{
	const struct sandbox_dir write[] = { { dir, SANDBOX_DIR_WRITE, true },
					     { "/nowhere/at/all", SANDBOX_DIR_WRITE, true },
					     { 0 } };
	struct error err = ERROR_INIT;
	char path[64];

	CHECK(sandbox_enter(write, false, &err) == 0);
	snprintf(path, sizeof(path), "%s/file", dir);
	CHECK(open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) >= 0);
	CHECK(unlink(path) == 0);
	CHECK(open("/etc/passwd", O_RDONLY | O_CLOEXEC) >= 0);
	CHECK(open("/dev/null", O_WRONLY | O_CLOEXEC) >= 0);
	snprintf(path, sizeof(path), "%s-not", dir);
	CHECK(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) == -1 && errno == EACCES);
	CHECK(mkdir(path, 0700) == -1 && errno == EACCES);
}

static void test_files(void **state)
{
	(void)state;
	if (!landlock_abi()) {
		print_message("# this kernel has no Landlock\n");
		skip();
	}
	strcpy(dir, "/tmp/molt-sandbox-XXXXXX");
	assert_non_null(mkdtemp(dir));
	must_work(files);
	rmdir(dir);
}

/* An I/O process is older than what main gives up, and has to be killed where it does not end. */
static void signals(void)
{
	struct error err = ERROR_INIT;
	pid_t first;

	sandbox_scope_signals();
	first = start_child(wait_for_a_signal);
	CHECK(sandbox_enter(nowhere, false, &err) == 0);
	CHECK(kill(getppid(), 0) == -1 && errno == EPERM);
	CHECK(kill(first, SIGKILL) == 0);
	CHECK(waitpid(first, NULL, 0) == first);
}

static void test_signals(void **state)
{
	(void)state;
	if (landlock_abi() < 6) {
		print_message("# this kernel's Landlock does not know signals\n");
		skip();
	}
	must_work(signals);
}

static void no_files(void)
{
	struct error err = ERROR_INIT;

	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(landlock_confine_thread(&err) == 0);
	CHECK(open("/etc/passwd", O_RDONLY | O_CLOEXEC) == -1 && errno == EACCES);
	CHECK(open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC) == -1 && errno == EACCES);
	CHECK(open("/dev/null", O_WRONLY | O_CLOEXEC) == -1 && errno == EACCES);
}

/* The second wall: the filter alone would do as well. */
static void test_landlock_of_a_thread(void **state)
{
	(void)state;
	if (!landlock_abi()) {
		print_message("# this kernel has no Landlock\n");
		skip();
	}
	assert_int_equal(in_child(no_files), 0);
}

static int log_pipe[2];

static void forbidden(void)
{
	struct error err = ERROR_INIT;

	log_set_fd(log_pipe[1]);
	CHECK(sandbox_catch_forbidden_calls(&err) == 0);
	CHECK(sandbox_enter_thread(&err) == 0);
	open("/etc/passwd", O_RDONLY | O_CLOEXEC);
}

static void ends_and_is_named(void (*run)(void), const char *words)
{
	char text[512] = "";
	int status;

	assert_int_equal(pipe2(log_pipe, O_CLOEXEC), 0);
	status = in_child(run);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGSYS);
	close(log_pipe[1]);
	assert_true(read(log_pipe[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strstr(text, words));
	close(log_pipe[0]);
}

static void test_forbidden_call_ends_the_process_and_is_named(void **state)
{
	(void)state;
	if (MOLT_SANITIZED) {
		print_message("# threads are not confined in builds with a sanitizer\n");
		skip();
	}
	ends_and_is_named(forbidden, "tried system call 257 (openat)");
}

/* Of a terminal that is enough to have it signal whoever is in its foreground. */
static void have_a_descriptor_signal(void)
{
	struct error err = ERROR_INIT;
	int ends[2];

	CHECK(pipe2(ends, O_CLOEXEC) == 0);
	log_set_fd(log_pipe[1]);
	CHECK(sandbox_prepare_io(&err) == 0);
	CHECK(sandbox_enter_io(&err) == 0);
	CHECK(fd_set_nonblock(ends[0], true) == 0);
	fcntl(ends[0], F_SETFL, O_NONBLOCK | O_ASYNC);
}

static void test_the_io_process_makes_no_descriptor_signal(void **state)
{
	(void)state;
	if (MOLT_SANITIZED) {
		print_message("# the I/O process is not confined in builds with a sanitizer\n");
		skip();
	}
	ends_and_is_named(have_a_descriptor_signal, "tried system call 72 (fcntl)");
}

/* ---- stopped in the middle of a nap: by SIGSTOP, or the cgroup freezer of `docker pause` ---- */

#define NAP_NS 500000000u
#define NAPS 20 /* this process may be slow to catch one of them */

static void nap(void)
{
	struct crew_member cm = { 0 };

	CHECK(crew_nap(&cm, now_ns() + NAP_NS));
	/* A vCPU thread may not call exit_group; a sanitizer's own thread would outlive exit. */
	syscall(MOLT_SANITIZED ? SYS_exit_group : SYS_exit, 0);
}

static void nap_as_a_vcpu_thread(void)
{
	struct error err = ERROR_INIT;

	CHECK(sandbox_enter_thread(&err) == 0);
	nap();
}

static void nap_as_the_io_process(void)
{
	struct error err = ERROR_INIT;

	CHECK(sandbox_prepare_io(&err) == 0);
	CHECK(sandbox_enter_io(&err) == 0);
	nap();
}

/* The state in proc_pid_stat(5): S sleeps, Z has ended. */
static char process_state(pid_t pid)
{
	char path[32], state = 'Z';
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	file = fopen(path, "re");
	if (file) {
		assert_int_equal(fscanf(file, "%*d (%*[^)]) %c", &state), 1);
		fclose(file);
	}
	return state;
}

static void wait_for_nap(pid_t pid)
{
	char c = 0;

	while (c != 'S' && c != 'Z')
		c = process_state(pid);
}

/* The status that it ended with; *caught: it was stopped before. */
static int stop_and_continue(void (*run)(void), bool *caught)
{
	int status;
	pid_t pid = start_child(run);

	wait_for_nap(pid);
	kill(pid, SIGSTOP);
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	*caught = WIFSTOPPED(status);
	if (!*caught)
		return status;
	kill(pid, SIGCONT);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void must_nap_on(void (*run)(void))
{
	bool caught = false;

	for (int i = 0; i < NAPS && !caught; i++)
		assert_int_equal(stop_and_continue(run, &caught), 0);
	assert_true(caught);
}

static void test_a_nap_that_is_stopped_goes_on(void **state)
{
	(void)state;
	must_nap_on(nap_as_a_vcpu_thread);
	must_nap_on(nap_as_the_io_process);
}

/* Made without the C library, which would read the time zone's file. */
static void test_log_tells_the_time(void **state)
{
	char text[256] = "";
	struct tm tm = { 0 };
	struct timespec now;
	int ends[2];

	(void)state;
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	log_set_fd(ends[1]);
	log_error("now");
	log_set_fd(STDERR_FILENO);
	assert_true(read(ends[0], text, sizeof(text) - 1) > 0);
	assert_non_null(strptime(text, "%Y-%m-%dT%H:%M:%S", &tm));
	/* Not time(), which is up to a tick behind the clock that the log asks. */
	clock_gettime(CLOCK_REALTIME, &now);
	assert_in_range(timegm(&tm) + 2 - now.tv_sec, 0, 2);
	close(ends[0]);
	close(ends[1]);
}

static void user(const char *text, uid_t uid, gid_t gid)
{
	struct sandbox_user u;
	struct error err = ERROR_INIT;

	assert_int_equal(sandbox_find_user(text, &u, &err), 0);
	assert_int_equal(u.uid, uid);
	assert_int_equal(u.gid, gid);
}

static void test_users(void **state)
{
	static const char *const bad[] = {
		"",           ":",  "root:", ":root", "no-such-user", "0:no-such-group",
		"4294967295", "-1", "1x",
	};

	(void)state;
	user("root", 0, 0);
	user("0", 0, 0);
	user("root:7", 0, 7);
	user("0:root", 0, 0);
	user("54321:9", 54321, 9);
	user("54321", 54321, 54321);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct sandbox_user u;
		struct error err = ERROR_INIT;

		assert_true(sandbox_find_user(bad[i], &u, &err) < 0);
		assert_non_null(strstr(err.text, "--user"));
	}
}

static void become(void)
{
	const struct sandbox_user u = { .uid = 54321, .gid = 9 }, other = { .uid = 1, .gid = 1 };
	struct error err = ERROR_INIT;

	CHECK(sandbox_may_become(&u, &err) == 0);
	CHECK(sandbox_become(&u, &err) == 0);
	CHECK(getuid() == 54321 && geteuid() == 54321 && getgid() == 9 && getgroups(0, NULL) == 0);
	CHECK(sandbox_become(&u, &err) == 0);
	CHECK(sandbox_may_become(&other, &err) == -EPERM);
	CHECK(setuid(0) == -1);
}

static void test_another_user(void **state)
{
	(void)state;
	if (geteuid() != 0) {
		print_message("# only root can become another user\n");
		skip();
	}
	assert_int_equal(in_child(become), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_level_is_found_and_nothing_is_added_twice),
		cmocka_unit_test(test_refused_calls),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_signals),
		cmocka_unit_test(test_landlock_of_a_thread),
		cmocka_unit_test(test_forbidden_call_ends_the_process_and_is_named),
		cmocka_unit_test(test_the_io_process_makes_no_descriptor_signal),
		cmocka_unit_test(test_a_nap_that_is_stopped_goes_on),
		cmocka_unit_test(test_log_tells_the_time),
		cmocka_unit_test(test_users),
		cmocka_unit_test(test_another_user),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
