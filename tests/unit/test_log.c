/* SPDX-License-Identifier: MIT */
/*
 * The log while a guest runs: nobody waits for its reader, nobody floods it, what is lost is told.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "hanging_file.h"

#define SITES 26 /* what the rate limit takes for so many call sites */
#define PER_SITE LOG_BURST

static const char *const sites[SITES] = {
	"a %04u %s", "b %04u %s", "c %04u %s", "d %04u %s", "e %04u %s", "f %04u %s", "g %04u %s",
	"h %04u %s", "i %04u %s", "j %04u %s", "k %04u %s", "l %04u %s", "m %04u %s", "n %04u %s",
	"o %04u %s", "p %04u %s", "q %04u %s", "r %04u %s", "s %04u %s", "t %04u %s", "u %04u %s",
	"v %04u %s", "w %04u %s", "x %04u %s", "y %04u %s", "z %04u %s",
};

static char padding[1001];

static void start(int fd)
{
	struct error err = ERROR_INIT;

	log_set_fd(fd);
	assert_int_equal(log_start(&err), 0);
}

static int teardown(void **state)
{
	(void)state;
	log_stop(5000);
	log_set_fd(2);
	return 0;
}

/* A pipe in which no room is left for even one byte. */
static void full_pipe(int ends[2])
{
	char junk[4096];

	memset(junk, '.', sizeof(junk));
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	fd_set_nonblock(ends[1], true);
	for (size_t n = sizeof(junk); n; n /= 2)
		while (write(ends[1], junk, n) > 0)
			;
	fd_set_nonblock(ends[1], false);
}

/* 260 lines of 1 KiB: four times what the queue holds. */
static unsigned int say_much(void)
{
	unsigned int n = 0;

	memset(padding, '#', sizeof(padding) - 1);
	for (size_t i = 0; i < SITES; i++)
		for (int k = 0; k < PER_SITE; k++)
			log_write(LOG_LEVEL_INFO, sites[i], n++, padding);
	return n;
}

static char *read_all(int fd, unsigned int ms)
{
	size_t room = 2 << 20, len = 0;
	char *text = calloc(1, room);
	uint64_t end = now_ns() + ms * 1000000ull;

	assert_non_null(text);
	fd_set_nonblock(fd, true);
	while (now_ns() < end) {
		ssize_t n = read(fd, text + len, room - 1 - len);

		if (n > 0)
			len += (size_t)n;
		else
			usleep(1000);
	}
	return text;
}

static unsigned int count(const char *text, const char *words)
{
	unsigned int n = 0;

	for (const char *p = text; (p = strstr(p, words)); p++)
		n++;
	return n;
}

static void a_reader_that_stalls_holds_nobody_up(void **state)
{
	uint64_t before = now_ns();
	unsigned int said, lost;
	const char *told;
	int ends[2];
	char *text;

	(void)state;
	full_pipe(ends);
	start(ends[1]);
	said = say_much();
	assert_false(log_drain(30));
	assert_true(now_ns() - before < 2000000000ull);
	text = read_all(ends[0], 500);
	told = strstr(text, " warn: log: ");
	assert_non_null(told);
	lost = (unsigned int)atoi(told + strlen(" warn: log: "));
	assert_int_equal(count(text, " ####"), said - lost);
	/* Whole and in order, and the count is where they are missing: after all that were kept. */
	assert_int_equal(count(text, "####\n"), said - lost);
	assert_null(strstr(told, "####"));
	for (unsigned int n = 0; n + lost < said; n++) {
		char number[16];

		snprintf(number, sizeof(number), " %04u ##", n);
		assert_int_equal(count(text, number), 1);
	}
	log_info("and on it goes");
	assert_true(log_drain(5000));
	free(text);
	text = read_all(ends[0], 50);
	assert_int_equal(count(text, "and on it goes"), 1);
	assert_int_equal(count(text, "lines lost"), 0);
	free(text);
	teardown(NULL);
	close(ends[0]);
	close(ends[1]);
}

static void the_end_does_not_wait_for_ever(void **state)
{
	uint64_t before;
	int ends[2];
	char *text;

	(void)state;
	full_pipe(ends);
	start(ends[1]);
	log_info("the last word");
	before = now_ns();
	log_stop(100);
	assert_true(now_ns() - before >= 100000000);
	assert_true(now_ns() - before < 3000000000ull);
	log_info("nor does this"); /* still not written by whoever says it */
	assert_int_equal(log_unwritten(), 2);
	text = read_all(ends[0], 2000);
	assert_int_equal(count(text, "the last word\n"), 1);
	free(text);
	teardown(NULL);
	close(ends[0]);
	close(ends[1]);
}

static void a_flood_is_counted(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	char text[65536] = "";

	(void)state;
	start(fd);
	for (int i = 0; i < 5000; i++)
		log_warn("flood");
	log_info("something else");
	log_stop(5000);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_int_equal(count(text, " warn: flood"), LOG_BURST);
	assert_int_equal(count(text, "something else"), 1);
	assert_int_equal(count(text, "4990 more lines like \"flood\" suppressed"), 1);
	close(fd);
}

/*
 * A description that somebody else has made non-blocking, as a shell's child may do with its
 * terminal.
 */
static void a_line_waits_for_room(void **state)
{
	int ends[2];
	char *text;

	(void)state;
	full_pipe(ends);
	fd_set_nonblock(ends[1], true);
	start(ends[1]);
	log_info("wait for me");
	assert_false(log_drain(100));
	text = read_all(ends[0], 300);
	assert_int_equal(count(text, "wait for me\n"), 1);
	assert_true(log_drain(5000));
	free(text);
	teardown(NULL);
	close(ends[0]);
	close(ends[1]);
}

static void what_a_full_disk_lost_is_told(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC), full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	char text[4096] = "";
	const char *told;

	(void)state;
	start(full);
	log_info("one");
	log_info("two");
	log_info("three");
	assert_true(log_drain(5000));
	log_set_fd(fd);
	log_info("four");
	log_stop(5000);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	told = strstr(text, "log: 3 lines lost");
	assert_non_null(told);
	assert_int_equal(count(text, "lines lost"), 1);
	assert_non_null(strstr(told, "four\n"));
	close(fd);
	close(full);
}

static void the_predecessors_losses_are_told(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	char text[4096] = "";

	(void)state;
	log_set_fd(fd);
	log_hold();
	log_info("said before the commit");
	assert_false(log_drain(0));
	log_add_lost(7);
	assert_int_equal(log_unwritten(), 8);
	start(fd);
	log_stop(5000);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_true(strstr(text, "log: 7 lines lost") < strstr(text, "said before the commit"));
	assert_non_null(strstr(text, "log: 7 lines lost"));
	assert_int_equal(log_unwritten(), 0);
	close(fd);
}

/* In a process that has the lines and not the thread, as a stand-in when its successor has begun. */
static void lines_since_the_rest_are_written(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC), status;
	char text[4096] = "";
	pid_t pid;

	(void)state;
	start(fd);
	log_rest();
	assert_int_equal(log_unwritten_at_rest(), 0);
	pid = fork();
	if (pid == 0) {
		log_write_since_rest(5000);
		log_info("since");
		log_write_since_rest(5000);
		_exit(log_unwritten() ? 1 : 0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_int_equal(count(text, "since"), 1);
	close(fd);
}

static void lines_are_cut_and_stay_lines(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	static char text[8192], much[4000];

	(void)state;
	memset(much, 'x', sizeof(much) - 1);
	start(fd);
	log_always("%s", much);
	log_error("two\nlines");
	log_set_level(LOG_LEVEL_ERROR);
	log_always("wanted");
	log_info("not wanted");
	log_set_level(LOG_LEVEL_INFO);
	log_stop(5000);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_int_equal(count(text, "\n"), 3);
	assert_non_null(strstr(text, "two lines\n"));
	assert_non_null(strstr(text, " info: wanted\n"));
	close(fd);
}

/* No exec while a thread is in such a write; one who does not read is no reason. */
static void a_file_that_hangs_is_in_the_way_of_an_exec(void **state)
{
	char path[] = "/tmp/molt-log-XXXXXX";
	struct error err = ERROR_INIT;
	int fd = mkstemp(path), ends[2];

	(void)state;
	full_pipe(ends);
	start(ends[1]);
	log_info("nobody reads this");
	assert_int_equal(log_before_exec(&err), 0);
	close(ends[0]);
	assert_true(log_drain(5000));
	log_set_fd(fd);
	hang_file(path);
	log_info("before it hung");
	hang_wait();
	assert_int_equal(log_before_exec(&err), -EBUSY);
	assert_non_null(strstr(err.text, "hangs"));
	hang_file(NULL);
	assert_true(log_drain(5000));
	assert_int_equal(log_before_exec(&err), 0);
	log_stop(5000);
	close(ends[1]);
	close(fd);
	unlink(path);
}

#define THREADS 4
#define LINES 40

/* Sites that no case before has used up. */
static char own_sites[THREADS][LINES / LOG_BURST][16];

static void *talk(void *opaque)
{
	char(*mine)[16] = opaque;

	for (unsigned int i = 0; i < LINES; i++) {
		strcpy(mine[i / LOG_BURST], "%u %s");
		log_write(LOG_LEVEL_INFO, mine[i / LOG_BURST], i, "thread");
	}
	return NULL;
}

static void threads_do_not_mix_lines(void **state)
{
	int fd = memfd_create("log", MFD_CLOEXEC);
	pthread_t threads[THREADS];
	static char text[65536];

	(void)state;
	start(fd);
	for (size_t i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, talk, own_sites[i]), 0);
	for (size_t i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	log_stop(5000);
	assert_true(pread(fd, text, sizeof(text) - 1, 0) > 0);
	assert_int_equal(count(text, " thread\n"), THREADS * LINES);
	assert_int_equal(count(text, "\n"), THREADS * LINES);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_reader_that_stalls_holds_nobody_up, teardown),
		cmocka_unit_test_teardown(the_end_does_not_wait_for_ever, teardown),
		cmocka_unit_test_teardown(a_flood_is_counted, teardown),
		cmocka_unit_test_teardown(a_line_waits_for_room, teardown),
		cmocka_unit_test_teardown(what_a_full_disk_lost_is_told, teardown),
		cmocka_unit_test_teardown(the_predecessors_losses_are_told, teardown),
		cmocka_unit_test_teardown(lines_since_the_rest_are_written, teardown),
		cmocka_unit_test_teardown(a_file_that_hangs_is_in_the_way_of_an_exec, teardown),
		cmocka_unit_test_teardown(lines_are_cut_and_stay_lines, teardown),
		cmocka_unit_test_teardown(threads_do_not_mix_lines, teardown),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
