/* SPDX-License-Identifier: MIT */
/* Process 1 of a pid name space, and the child that runs the guest for it. */
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
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/error.h>
#include <molt/base/fd.h>
#include <molt/base/notify.h>

#include "../../src/cli/init.h"

#define CANNOT 77
#define PATIENCE_S 20

struct terminal {
	int master;
	const char *path;
	int ready[2]; /* written to when the guest would run */
};

/* Takes any signal as the end, as the VMM does. */
static void be_process_one(const struct terminal *t)
{
	struct error err = ERROR_INIT;
	int tell;

	close(t->master);
	close(t->ready[0]);
	signal(SIGHUP, SIG_DFL);
	/* The first that a session's leader opens is its own. */
	if (setsid() < 0 || open(t->path, O_RDWR | O_CLOEXEC) < 0)
		_exit(CANNOT);
	if (init_stay_behind(&tell, &err) < 0)
		_exit(1);
	alarm(PATIENCE_S);
	(void)!write(t->ready[1], "x", 1);
	for (;;)
		pause();
}

/* Process 1 of a name space: a child of one that has made it, and whose end is as its own. */
static void make_space(const struct terminal *t)
{
	int status;
	pid_t pid;

	if (unshare(CLONE_NEWUSER | CLONE_NEWPID) < 0)
		_exit(CANNOT);
	pid = fork();
	if (pid == 0)
		be_process_one(t);
	close(t->master);
	close(t->ready[1]);
	_exit(pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status)
									      : 1);
}

static void test_the_terminal_hangs_up(void **state)
{
	struct terminal t = { .master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC) };
	int status;
	pid_t pid;
	char ch;

	(void)state;
	assert_true(t.master >= 0 && grantpt(t.master) == 0 && unlockpt(t.master) == 0);
	t.path = ptsname(t.master);
	assert_int_equal(pipe2(t.ready, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0)
		make_space(&t);
	close(t.ready[1]);
	(void)!read(t.ready[0], &ch, 1);
	close(t.ready[0]);
	close(t.master);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == CANNOT) {
		print_message("# no pid name space can be made here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 128 + SIGHUP);
}

/* ---- a service manager outside ---- */

/* The guest runs at once, and ends. */
static void be_ready_as_process_one(void)
{
	struct error err = ERROR_INIT;
	int tell;

	if (init_stay_behind(&tell, &err) < 0)
		_exit(1);
	notify_ready(tell, getpid());
	_exit(0);
}

static void be_a_service(const char *address)
{
	int status = 0;
	char text[16];
	pid_t pid;

	/* Whom it has started is this process, by its number there. */
	snprintf(text, sizeof(text), "%d", (int)getpid());
	setenv("SYSTEMD_EXEC_PID", text, 1);
	setenv("NOTIFY_SOCKET", address, 1);
	if (unshare(CLONE_NEWUSER | CLONE_NEWPID) < 0)
		_exit(CANNOT);
	pid = fork();
	if (pid == 0)
		be_ready_as_process_one();
	_exit(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : 1);
}

static void test_the_manager_knows_process_one_by_another_number(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), status;
	char address[32], said[64] = "";
	pid_t pid;

	(void)state;
	snprintf(address, sizeof(address), "@molt-test-init-%d", (int)getpid());
	memcpy(addr.sun_path + 1, address + 1, strlen(address) - 1);
	assert_int_equal(bind(fd, (const struct sockaddr *)&addr,
			      (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(address))),
			 0);
	pid = fork();
	if (pid == 0)
		be_a_service(address);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == CANNOT) {
		close(fd);
		print_message("# no pid name space can be made here\n");
		skip();
	}
	assert_int_equal(WEXITSTATUS(status), 0);
	(void)!recv(fd, said, sizeof(said) - 1, MSG_DONTWAIT);
	close(fd);
	assert_string_equal(said, "READY=1\n");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_terminal_hangs_up),
		cmocka_unit_test(test_the_manager_knows_process_one_by_another_number),
	};

	return cmocka_run_group_tests_name("init", tests, NULL, NULL);
}
