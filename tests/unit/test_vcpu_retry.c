/* SPDX-License-Identifier: MIT */
/* KVM_RUN that answers EAGAIN: for ever, for a while, and for a CPU that was not started. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "machine_bench.h"

#define COM1_SCRATCH 0x3ff
#define MANY 1000000u
#define SECOND 1000000000ull

/* Every KVM_RUN answers EAGAIN, times of them; the rest as usual. */
static void run_out_of_threads(struct bench *b, unsigned int times)
{
	pthread_mutex_lock(&b->kvm->lock);
	b->kvm->fail_request = KVM_RUN;
	b->kvm->fail_error = EAGAIN;
	b->kvm->fail_times = times;
	pthread_mutex_unlock(&b->kvm->lock);
}

static unsigned int answers(struct bench *b)
{
	unsigned int left;

	pthread_mutex_lock(&b->kvm->lock);
	left = b->kvm->fail_request == KVM_RUN ? b->kvm->fail_times : 0;
	pthread_mutex_unlock(&b->kvm->lock);
	return MANY - left;
}

static void wait_for_answers(struct bench *b, unsigned int count)
{
	const uint64_t end = now_ns() + 20 * SECOND;

	count += answers(b);
	while (answers(b) < count && now_ns() < end)
		usleep(1000);
	assert_true(answers(b) >= count);
}

static uint64_t cpu_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
	return (uint64_t)ts.tv_sec * SECOND + (uint64_t)ts.tv_nsec;
}

static int log_to_memory(void)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_true(fd >= 0);
	log_set_fd(fd);
	return fd;
}

static unsigned int lines_with(int fd, const char *word)
{
	char text[8192];
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);
	unsigned int n = 0;

	assert_true(len >= 0);
	text[len] = '\0';
	for (const char *p = strstr(text, word); p; p = strstr(p + 1, word))
		n++;
	return n;
}

static void log_back(int fd)
{
	log_set_fd(2);
	close(fd);
}

static void test_for_ever_is_an_error_that_names_the_limits(void **state)
{
	uint64_t cpu = cpu_ns(), start = now_ns();
	int log = log_to_memory();
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	assert_true(b.m.retry_ns == 60 * SECOND);
	b.m.retry_ns = 2 * SECOND;
	run_out_of_threads(&b, MANY);
	bench_run(&b);
	assert_int_equal(bench_run_to_the_end(&b), MACHINE_EXIT_VCPU_ERROR);
	assert_string_equal(b.events, "RESUME PANICKED:poweroff SHUTDOWN:guest-panic ");
	assert_true(now_ns() - start >= 2 * SECOND);
	assert_int_equal(lines_with(log, "RLIMIT_NPROC"), 1);
	assert_int_equal(lines_with(log, "pids.max"), 1);
	assert_int_equal(lines_with(log, "KVM_RUN: Resource temporarily unavailable"), 1);
	/* Nobody spun meanwhile. */
	assert_true(answers(&b) < 1000);
	assert_true(cpu_ns() - cpu < SECOND);
	log_back(log);
	bench_fini(&b);
}

static void test_it_may_pass(void **state)
{
	int log = log_to_memory();
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	bench_play(&b, 0, fake_out(COM1_SCRATCH, 1, 1));
	run_out_of_threads(&b, 100);
	bench_run(&b);
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[0].fd);
	assert_int_equal(atomic_load(&b.m.requests), 0);
	machine_park_vcpus(&b.m);
	log_back(log);
	bench_fini(&b);
}

static void test_kicks_are_obeyed_meanwhile(void **state)
{
	struct error err = ERROR_INIT;
	struct bench b;

	(void)state;
	bench_init(&b, 2);
	run_out_of_threads(&b, MANY);
	for (int i = 0; i < 20; i++) {
		unsigned int count;

		assert_int_equal(machine_resume(&b.m, &err), 0);
		wait_for_answers(&b, 4);
		assert_int_equal(machine_pause(&b.m, &err), 0);
		count = answers(&b);
		usleep(20000);
		assert_int_equal(answers(&b), count);
	}
	assert_int_equal(atomic_load(&b.m.requests), 0);
	bench_fini(&b);
}

/* Its guest may leave it so for as long as it likes. */
static void test_a_cpu_that_was_not_started_may_wait(void **state)
{
	int log = log_to_memory();
	struct bench b;

	(void)state;
	bench_init(&b, 1);
	b.m.retry_ns = SECOND;
	bench_vcpu(&b, 0)->mp_state.mp_state = KVM_MP_STATE_UNINITIALIZED;
	run_out_of_threads(&b, MANY);
	bench_run(&b);
	usleep(2500000);
	assert_int_equal(atomic_load(&b.m.requests), 0);
	assert_int_equal(lines_with(log, "vCPU 0"), 0);
	assert_true(answers(&b) < 1000);
	machine_park_vcpus(&b.m);
	log_back(log);
	bench_fini(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_for_ever_is_an_error_that_names_the_limits),
		cmocka_unit_test(test_it_may_pass),
		cmocka_unit_test(test_kicks_are_obeyed_meanwhile),
		cmocka_unit_test(test_a_cpu_that_was_not_started_may_wait),
	};

	return cmocka_run_group_tests_name("vcpu_retry", tests, NULL, NULL);
}
