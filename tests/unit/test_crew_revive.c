/* SPDX-License-Identifier: MIT */
/*
 * A crew in a process that shares another's memory, but not its threads: the stand-in's case, whose
 * threads are all gone, and that of two processes of which each has threads of its own for the same
 * work. What happens there is told by a pipe, "ok" or the line that went wrong: nothing in such a
 * process may be cmocka's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "crew_bench.h"

#include "molt_version.h"

#define STACK_BYTES (256u << 10)
#define MEMBERS 4
#define TURNS 300
#define LIMIT_S 30

int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);

/* How the first process ends. */
enum end {
	END_EXIT,
	END_KILLED,
	END_EXEC,
	END_LOCKED, /* killed with the lock held and a job half done */
};

/* What both processes see. */
struct scene {
	struct crew_bench b;
	struct crew second;
	int told[2]; /* the pipe */
	int life[2]; /* its writing end is the first process's until it has ended, or another image */
	enum end end;
	_Atomic int turn; /* 0: the first process's, 1: the other's */
	_Atomic pid_t standin;
};

static void tell(struct scene *s, int line)
{
	char text[32];
	int len = line ? snprintf(text, sizeof(text), "line %d", line)
		       : snprintf(text, sizeof(text), "ok");

	syscall(SYS_write, s->told[1], text, (size_t)len);
	syscall(SYS_exit_group, line ? 1 : 0);
}

#define CHECK(condition) \
	do { \
		if (!(condition)) \
			tell(s, __LINE__); \
	} while (0)

/* Until it returns the memory is the other process's, errno and all. */
static void wait_for_its_end(struct scene *s)
{
	char byte;

	syscall(SYS_alarm, LIMIT_S); /* whatever goes wrong, it is not left behind */
	syscall(SYS_close, s->life[1]);
	syscall(SYS_read, s->life[0], &byte, 1);
}

static void play_turn(struct scene *s, struct crew *crew, int i)
{
	unsigned int counts[SLEEPERS_MAX];

	crew_bench_count_sleeps(&s->b, counts);
	crew_unpark(crew);
	if (i % 2)
		CHECK(crew_wait_entered(crew) > 0);
	if (i % 3 == 0)
		CHECK(crew_bench_wait_asleep(&s->b, counts));
	CHECK(crew_park(crew) <= now_ns());
	CHECK(crew_bench_is_quiet(&s->b));
}

static void work_together(struct scene *s, struct crew *crew)
{
	struct together t = { .wanted = MEMBERS + 1 };
	struct error err = ERROR_INIT;

	crew->host_cpus = MEMBERS + 1;
	crew_job_start(crew, crew_bench_together, &t);
	crew_job_offer(crew, MEMBERS + 1);
	CHECK(crew_job_finish(crew, &err) == 0);
	CHECK(t.late == 0);
}

/* ---- all threads gone ---- */

static int heir(void *opaque)
{
	struct error err = ERROR_INIT;
	struct scene *s = opaque;

	wait_for_its_end(s);
	crew_forget(&s->b.crew);
	CHECK(crew_start(&s->b.crew, false, &err) == 0);
	CHECK(crew_job_finish(&s->b.crew, &err) == 0);
	crew_wait_parked(&s->b.crew);
	for (uint32_t i = 0; i < MEMBERS; i++)
		CHECK(s->b.crew.members[i].parked && !s->b.crew.members[i].confined);
	for (int i = 0; i < 20; i++)
		play_turn(s, &s->b.crew, i);
	work_together(s, &s->b.crew);
	crew_bench_fini(&s->b);
	tell(s, 0);
	return 0;
}

static int hang(void *opaque, uint32_t item, struct error *err)
{
	(void)opaque;
	(void)item;
	(void)err;
	for (;;)
		pause();
	return 0;
}

static void end_by(struct scene *s)
{
	if (s->end == END_LOCKED) {
		crew_job_start(&s->b.crew, hang, NULL);
		crew_job_offer(&s->b.crew, MEMBERS);
		usleep(10000);
		pthread_mutex_lock(&s->b.crew.lock);
	}
	if (s->end == END_EXEC)
		execl("/bin/true", "true", NULL);
	if (s->end == END_EXIT)
		_exit(0);
	kill(getpid(), SIGKILL);
}

static void *new_stack(void)
{
	char *stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);

	return stack == MAP_FAILED ? NULL : stack + STACK_BYTES;
}

static void leave_an_heir(struct scene *s)
{
	struct error err = ERROR_INIT;
	void *stack = new_stack();

	CHECK(stack && crew_bench_start(&s->b, MEMBERS, &err));
	for (int i = 0; i < 20; i++)
		play_turn(s, &s->b.crew, i);
	s->b.crew.members[1].confined = true;
	CHECK(__clone(heir, stack, CLONE_VM, s) > 0);
	close(s->life[0]);
	end_by(s);
}

/* ---- two processes, each with its own threads ---- */

static void wait_turn(struct scene *s, int whose)
{
	while (atomic_load(&s->turn) != whose)
		usleep(20);
}

static int standin(void *opaque)
{
	struct error err = ERROR_INIT;
	struct scene *s = opaque;

	CHECK(crew_bench_second(&s->b, &s->second, &err));
	CHECK(crew_start(&s->second, false, &err) == 0);
	CHECK(crew_job_finish(&s->second, &err) == 0);
	crew_wait_parked(&s->second);
	for (int i = 0; i < TURNS; i++) {
		wait_turn(s, 1);
		play_turn(s, &s->second, i);
		atomic_store(&s->turn, 0);
	}
	wait_turn(s, 1);
	crew_unpark(&s->second);
	/* They run on while the other process becomes another program. */
	wait_for_its_end(s);
	crew_park(&s->second);
	CHECK(crew_bench_is_quiet(&s->b));
	work_together(s, &s->second);
	crew_stop(&s->second);
	crew_fini(&s->second);
	tell(s, 0);
	return 0;
}

/* The new process has this thread's thread-local memory, which this one does not touch again. */
static void *lend_thread(void *opaque)
{
	struct scene *s = opaque;
	void *stack = new_stack();

	CHECK(stack);
	atomic_store(&s->standin, __clone(standin, stack, CLONE_VM, s));
	for (;;)
		syscall(SYS_pause);
	return NULL;
}

static void take_turns(struct scene *s)
{
	struct error err = ERROR_INIT;
	pthread_t lender;

	CHECK(crew_bench_start(&s->b, MEMBERS, &err));
	CHECK(pthread_create(&lender, NULL, lend_thread, s) == 0);
	while (!atomic_load(&s->standin))
		usleep(100);
	CHECK(atomic_load(&s->standin) > 0);
	for (int i = 0; i < TURNS; i++) {
		wait_turn(s, 0);
		play_turn(s, &s->b.crew, i);
		atomic_store(&s->turn, 1);
	}
	wait_turn(s, 0);
	atomic_store(&s->turn, 1);
	usleep(10000);
	close(s->life[0]);
	execl("/bin/true", "true", NULL);
}

/* ---- the test's side ---- */

static void play(void (*first)(struct scene *s), enum end end)
{
	struct pollfd pfd = { .events = POLLIN };
	struct scene *s;
	char text[32] = "";
	pid_t pid;

	if (MOLT_SANITIZED)
		skip(); /* its library keeps books on threads that the other process lacks */
	s = calloc(1, sizeof(*s));
	assert_non_null(s);
	s->end = end;
	assert_int_equal(pipe2(s->told, O_CLOEXEC), 0);
	assert_int_equal(pipe2(s->life, O_CLOEXEC), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		first(s);
		tell(s, __LINE__);
	}
	close(s->told[1]);
	close(s->life[1]);
	pfd.fd = s->told[0];
	assert_int_equal(poll(&pfd, 1, LIMIT_S * 1000), 1);
	(void)!read(s->told[0], text, sizeof(text) - 1);
	assert_string_equal(text, "ok");
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(s->told[0]);
	close(s->life[0]);
	free(s);
}

static void test_threads_that_ended_with_their_process(void **state)
{
	(void)state;
	play(leave_an_heir, END_EXIT);
}

static void test_threads_whose_process_was_killed(void **state)
{
	(void)state;
	play(leave_an_heir, END_KILLED);
}

static void test_threads_whose_process_execs(void **state)
{
	(void)state;
	play(leave_an_heir, END_EXEC);
}

static void test_a_lock_and_a_job_that_died_with_it(void **state)
{
	(void)state;
	play(leave_an_heir, END_LOCKED);
}

static void test_two_processes_take_turns(void **state)
{
	(void)state;
	play(take_turns, END_EXEC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads_that_ended_with_their_process),
		cmocka_unit_test(test_threads_whose_process_was_killed),
		cmocka_unit_test(test_threads_whose_process_execs),
		cmocka_unit_test(test_a_lock_and_a_job_that_died_with_it),
		cmocka_unit_test(test_two_processes_take_turns),
	};

	return cmocka_run_group_tests_name("crew_revive", tests, NULL, NULL);
}
