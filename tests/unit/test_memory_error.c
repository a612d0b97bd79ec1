/* SPDX-License-Identifier: MIT */
/* SIGBUS: for a guest whose RAM the host has lost, for molt itself, and early notices. */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "../../src/vm/vcpu_run.h"
#include "machine_bench.h"

#define LOST_GPA 0x3000u

/* A thread may send itself what else only the kernel can. */
static void send_bus_error(int code, void *at)
{
	siginfo_t info = { .si_signo = SIGBUS, .si_code = code };

	info.si_addr = at;
	syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), SIGBUS, &info);
}

static struct bench *bench;
static int (*fake_ioctl)(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg);
static atomic_int code; /* what vCPU 1 is to run into, once; or 0 */

/* As KVM does for a guest that touches such a page: with the signal pending it leaves. */
static int run_into_error(struct kvm *kvm, int fd, unsigned long request, uintptr_t arg)
{
	int now = request == KVM_RUN && fd == bench->m.vcpus[1].fd ? atomic_exchange(&code, 0) : 0;
	sigset_t blocked;

	if (now) {
		send_bus_error(now, memory_ptr(&bench->m.memory, LOST_GPA, 1));
		pthread_sigmask(SIG_BLOCK, NULL, &blocked);
		if (!sigismember(&blocked, SIGBUS))
			return -EINTR;
	}
	return fake_ioctl(kvm, fd, request, arg);
}

static bool log_has(int fd, const char *word)
{
	char text[8192];
	ssize_t len = pread(fd, text, sizeof(text) - 1, 0);

	assert_true(len >= 0);
	text[len] = '\0';
	return strstr(text, word);
}

static int log_to_memory(void)
{
	int fd = memfd_create("log", MFD_CLOEXEC);

	assert_true(fd >= 0);
	log_set_fd(fd);
	return fd;
}

static void log_back(int fd)
{
	log_set_fd(2);
	close(fd);
}

static void start(struct bench *b, int first)
{
	struct error err = ERROR_INIT;

	bench = b;
	atomic_store(&code, first);
	bench_prepare(b, 2);
	fake_ioctl = b->kvm->kvm.ioctl;
	b->kvm->kvm.ioctl = run_into_error;
	assert_int_equal(bench_create(b, &err), 0);
	bench_run(b);
}

static void test_lost_ram_ends_the_guest(void **state)
{
	int log = log_to_memory();
	struct bench b;

	(void)state;
	start(&b, BUS_MCEERR_AR);
	assert_int_equal(bench_run_to_the_end(&b), MACHINE_EXIT_VCPU_ERROR);
	assert_string_equal(b.events, "RESUME PANICKED:poweroff SHUTDOWN:guest-panic ");
	assert_true(log_has(log, "vCPU 1: the host has lost the guest's RAM at 0x3000"));
	log_back(log);
	bench_fini(&b);
}

static void test_early_notice_is_nothing(void **state)
{
	struct bench b;

	(void)state;
	start(&b, BUS_MCEERR_AO);
	send_bus_error(BUS_MCEERR_AO, memory_ptr(&b.m.memory, LOST_GPA, 1));
	for (int ms = 0; ms < 10000 && atomic_load(&code); ms++)
		usleep(1000);
	assert_int_equal(atomic_load(&code), 0);
	bench_play(&b, 1, fake_out(0x3ff, 1, 7));
	fake_vcpu_wait_played(b.kvm, b.m.vcpus[1].fd);
	assert_int_equal(atomic_load(&b.m.requests), 0);
	assert_int_equal(b.m.guest.run_state, RUN_STATE_RUNNING);
	bench_fini(&b);
}

/* Where its end is not the test's. Returns how the child has ended. */
static int in_a_child(void (*fn)(void))
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct error err = ERROR_INIT;

		if (vcpu_catch_memory_errors(&err) == 0)
			fn();
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

static void read_behind_the_end(void)
{
	int fd = memfd_create("empty", MFD_CLOEXEC);
	const volatile char *p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);

	(void)*p;
}

static void send_to_itself(void)
{
	kill(getpid(), SIGBUS);
}

static void test_what_molt_itself_cannot_read_ends_it(void **state)
{
	int log = log_to_memory(), status = in_a_child(read_behind_the_end);

	(void)state;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
	assert_true(log_has(log, "cannot be used (SIGBUS, code 2), which ends molt"));
	log_back(log);
}

static void test_sigbus_that_somebody_sends_ends_it(void **state)
{
	int status = in_a_child(send_to_itself);

	(void)state;
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGBUS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_lost_ram_ends_the_guest),
		cmocka_unit_test(test_early_notice_is_nothing),
		cmocka_unit_test(test_what_molt_itself_cannot_read_ends_it),
		cmocka_unit_test(test_sigbus_that_somebody_sends_ends_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
