/* SPDX-License-Identifier: MIT */
/* What signals do to a running machine. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../src/vmm/signals.h"
#include "machine_bench.h"

#include <molt/base/fd.h>

static const int all[] = { SIGHUP,  SIGINT,  SIGQUIT, SIGTERM, SIGTSTP,
			   SIGCONT, SIGTTIN, SIGTTOU, SIGCHLD };

struct signals_bench {
	struct signals signals;
	struct bench b;
};

/* As a shell starts a program. */
static int usual_signals(void **state)
{
	sigset_t none;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(all); i++)
		signal(all[i], SIG_DFL);
	sigemptyset(&none);
	return sigprocmask(SIG_SETMASK, &none, NULL);
}

static void start(struct signals_bench *t)
{
	struct error err = ERROR_INIT;

	bench_prepare(&t->b, 2);
	assert_int_equal(signals_open(&t->signals, t->b.loop, &t->b.m, &err), 0);
	assert_int_equal(bench_create(&t->b, &err), 0);
}

static void end(struct signals_bench *t)
{
	signals_close(&t->signals);
	bench_fini(&t->b);
}

static bool is_blocked(int sig)
{
	sigset_t now;

	sigprocmask(SIG_BLOCK, NULL, &now);
	return sigismember(&now, sig);
}

static void send(struct signals_bench *t, int sig)
{
	assert_int_equal(kill(getpid(), sig), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_turn(t->b.loop, 0), 0);
}

static void assert_told(struct signals_bench *t, unsigned int times)
{
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(bench_vcpu(&t->b, i)->kvmclock_ctrls, times);
}

static void an_ending_signal_is_the_exit_status(void **state)
{
	static const int ending[] = { SIGHUP, SIGINT, SIGTERM };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ending); i++) {
		struct signals_bench t;

		start(&t);
		bench_run(&t.b);
		assert_int_equal(kill(getpid(), ending[i]), 0);
		assert_int_equal(bench_run_to_the_end(&t.b), 128 + ending[i]);
		assert_non_null(strstr(t.b.events, "host-signal"));
		end(&t);
	}
}

static void ignored_signals_are_left_alone(void **state)
{
	static const int left[] = { SIGHUP, SIGINT, SIGTERM, SIGTSTP };
	struct signals_bench t;
	sigset_t set;

	(void)state;
	/* A predecessor may have blocked them, and one may be pending. */
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_SIZE(left); i++) {
		signal(left[i], SIG_IGN);
		sigaddset(&set, left[i]);
	}
	sigprocmask(SIG_BLOCK, &set, NULL);
	kill(getpid(), SIGTERM);
	start(&t);
	bench_run(&t.b);
	for (size_t i = 0; i < ARRAY_SIZE(left); i++) {
		assert_false(is_blocked(left[i]));
		send(&t, left[i]);
	}
	assert_null(strstr(t.b.events, "host-signal"));
	assert_told(&t, 0);
	assert_int_equal(signals_exit_status(&t.signals), -EINTR);
	end(&t);
}

static void the_others_are_blocked(void **state)
{
	static const int blocked[] = { SIGHUP,  SIGTERM, SIGTSTP,         SIGCONT,
				       SIGTTIN, SIGTTOU, CREW_KICK_SIGNAL };
	struct signals_bench t;

	(void)state;
	signal(SIGINT, SIG_IGN);
	start(&t);
	for (size_t i = 0; i < ARRAY_SIZE(blocked); i++)
		assert_true(is_blocked(blocked[i]));
	assert_false(is_blocked(SIGINT));
	assert_false(is_blocked(SIGQUIT));
	assert_false(is_blocked(SIGCHLD));
	end(&t);
}

static void children_are_not_reaped_by_the_kernel(void **state)
{
	struct signals_bench t;
	int status = 0;
	pid_t pid;

	(void)state;
	signal(SIGCHLD, SIG_IGN);
	start(&t);
	pid = fork();
	if (pid == 0)
		_exit(7);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 7);
	end(&t);
}

static void the_guest_is_told_that_it_was_stopped(void **state)
{
	struct error err = ERROR_INIT;
	struct signals_bench t;

	(void)state;
	start(&t);
	bench_run(&t.b);
	send(&t, SIGCONT);
	assert_told(&t, 1);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(atomic_load(&t.b.m.crew->members[i].goal), CREW_RUN);
	/* What the user has paused stays so. */
	assert_int_equal(machine_pause(&t.b.m, &err), 0);
	send(&t, SIGCONT);
	assert_told(&t, 2);
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(atomic_load(&t.b.m.crew->members[i].goal), CREW_PARK);
	end(&t);
}

/* main() sees to it that this group is orphaned: nobody could continue it. */
static void an_orphaned_group_is_not_stopped(void **state)
{
	struct signals_bench t;

	(void)state;
	start(&t);
	bench_run(&t.b);
	send(&t, SIGTSTP);
	assert_true(is_blocked(SIGTSTP));
	for (uint32_t i = 0; i < 2; i++)
		assert_int_equal(atomic_load(&t.b.m.crew->members[i].goal), CREW_RUN);
	end(&t);
}

static void go_on(struct device *dev, bool stopping)
{
	(void)dev;
	if (stopping)
		kill(getpid(), SIGCONT);
}

/* A child that can be stopped, since we are in its session and not in its group: how it fared. */
static int stop_child(const struct device_class *cls)
{
	struct device dev = { .cls = cls };
	struct signals_bench t;
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		setpgid(0, 0);
		start(&t);
		t.b.m.devices[t.b.m.ndevices++] = &dev;
		bench_run(&t.b);
		send(&t, SIGTSTP);
		_exit(7);
	}
	assert_int_equal(waitpid(pid, &status, WUNTRACED), pid);
	if (WIFSTOPPED(status)) {
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
	}
	return status;
}

/* Which comes when the SIGTSTP was read, and molt is not stopped yet. */
static void a_stop_is_called_off_by_sigcont(void **state)
{
	const struct device_class quiet = { .name = "quiet" };
	const struct device_class quick = { .name = "quick", .job_control = go_on };
	int status;

	(void)state;
	assert_true(WIFSTOPPED(stop_child(&quiet)));
	status = stop_child(&quick);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 7);
}

static void a_start_is_ended_by_what_ends(void **state)
{
	struct signals_bench t;

	(void)state;
	start(&t);
	kill(getpid(), SIGCONT);
	kill(getpid(), SIGTSTP);
	kill(getpid(), SIGTERM);
	assert_int_equal(signals_exit_status(&t.signals), 128 + SIGTERM);
	end(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(an_ending_signal_is_the_exit_status, usual_signals),
		cmocka_unit_test_setup(ignored_signals_are_left_alone, usual_signals),
		cmocka_unit_test_setup(the_others_are_blocked, usual_signals),
		cmocka_unit_test_setup(children_are_not_reaped_by_the_kernel, usual_signals),
		cmocka_unit_test_setup(the_guest_is_told_that_it_was_stopped, usual_signals),
		cmocka_unit_test_setup(an_orphaned_group_is_not_stopped, usual_signals),
		cmocka_unit_test_setup(a_stop_is_called_off_by_sigcont, usual_signals),
		cmocka_unit_test_setup(a_start_is_ended_by_what_ends, usual_signals),
	};
	int status = 0;
	pid_t child = fork();

	/* A session of its own, whose process group is orphaned. */
	if (child == 0 && setsid() >= 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		exit(cmocka_run_group_tests_name("signals", tests, NULL, NULL));
	}
	if (child <= 0 || waitpid(child, &status, 0) < 0)
		return 1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}
