/* SPDX-License-Identifier: MIT */
/* Guest RAM: its regions, the one way from gpa to pointer, and its trip to a successor. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/vm/memory.h>

#define SMALL MEMORY_MIN_BYTES
#define LARGE (MEMORY_LOW_MAX + (16ull << 20)) /* nothing of it is touched, so it costs nothing */

static struct error err;

static void test_sizes(void **state)
{
	static const uint64_t bad[] = {
		0,
		4096,
		SMALL - 4096,
		SMALL + 1,
		SMALL + 512,
		MEMORY_MAX_BYTES + 4096,
		UINT64_MAX,
		UINT64_MAX - 4095,
	};
	struct memory mem;

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(memory_create(&mem, bad[i], NULL, NULL, &err), -EINVAL);
		assert_non_null(strstr(err.text, "guest RAM of"));
	}
}

static void test_one_region(void **state)
{
	struct memory mem;

	(void)state;
	assert_int_equal(memory_create(&mem, SMALL, NULL, NULL, &err), 0);
	assert_int_equal(mem.count, 1);
	assert_int_equal(mem.size, SMALL);
	assert_non_null(memory_ptr(&mem, 0, SMALL));
	assert_null(memory_ptr(&mem, 0, SMALL + 1));
	assert_null(memory_ptr(&mem, SMALL, 1));
	assert_null(memory_ptr(&mem, SMALL, 0));
	assert_non_null(memory_ptr(&mem, SMALL - 1, 0));
	assert_null(memory_ptr(&mem, SMALL - 1, 2));
	assert_null(memory_ptr(&mem, 1, UINT64_MAX));
	assert_null(memory_ptr(&mem, UINT64_MAX, 1));
	assert_null(memory_ptr(&mem, UINT64_MAX, UINT64_MAX));
	memory_destroy(&mem);
	memory_destroy(&mem);
}

static void test_hole_below_4g(void **state)
{
	struct memory mem;

	(void)state;
	assert_int_equal(memory_create(&mem, LARGE, NULL, NULL, &err), 0);
	assert_int_equal(mem.count, 2);
	assert_int_equal(mem.regions[1].gpa, MEMORY_HIGH_BASE);
	assert_int_equal(mem.regions[1].size, 16 << 20);
	assert_non_null(memory_ptr(&mem, MEMORY_LOW_MAX - 8, 8));
	assert_null(memory_ptr(&mem, MEMORY_LOW_MAX - 8, 9));
	assert_null(memory_ptr(&mem, MEMORY_LOW_MAX, 1));
	assert_null(memory_ptr(&mem, MEMORY_HIGH_BASE - 1, 1));
	assert_null(memory_ptr(&mem, MEMORY_HIGH_BASE - 1, 2));
	assert_non_null(memory_ptr(&mem, MEMORY_HIGH_BASE, 16 << 20));
	assert_null(memory_ptr(&mem, MEMORY_HIGH_BASE, (16 << 20) + 1));
	memory_destroy(&mem);
}

static void test_exactly_the_low_part(void **state)
{
	struct memory mem;

	(void)state;
	assert_int_equal(memory_create(&mem, MEMORY_LOW_MAX, NULL, NULL, &err), 0);
	assert_int_equal(mem.count, 1);
	memory_destroy(&mem);
}

static void test_read_and_write(void **state)
{
	struct memory mem;
	uint64_t value = 0;

	(void)state;
	assert_int_equal(memory_create(&mem, SMALL, NULL, NULL, &err), 0);
	assert_int_equal(memory_read(&mem, 12345, &value, sizeof(value)), 0);
	assert_int_equal(value, 0);
	value = 0x0123456789abcdef;
	assert_int_equal(memory_write(&mem, 12345, &value, sizeof(value)), 0);
	value = 0;
	assert_int_equal(memory_read(&mem, 12345, &value, sizeof(value)), 0);
	assert_true(value == 0x0123456789abcdef);
	/* Nothing is copied where a part is not RAM. */
	value = 77;
	assert_int_equal(memory_read(&mem, SMALL - 4, &value, sizeof(value)), -EFAULT);
	assert_int_equal(value, 77);
	assert_int_equal(memory_write(&mem, SMALL - 4, &value, sizeof(value)), -EFAULT);
	assert_int_equal(memory_read(&mem, SMALL - 8, &value, sizeof(value)), 0);
	assert_int_equal(value, 0);
	memory_destroy(&mem);
}

static void test_clear(void **state)
{
	const uint32_t dirt = 0xd1d1d1d1;
	uint32_t value = 1;
	struct memory mem;

	(void)state;
	assert_int_equal(memory_create(&mem, SMALL, NULL, NULL, &err), 0);
	memory_write(&mem, 0, &dirt, sizeof(dirt));
	memory_write(&mem, SMALL - 4, &dirt, sizeof(dirt));
	assert_int_equal(memory_clear(&mem, &err), 0);
	memory_read(&mem, 0, &value, sizeof(value));
	assert_int_equal(value, 0);
	memory_read(&mem, SMALL - 4, &value, sizeof(value));
	assert_int_equal(value, 0);
	memory_destroy(&mem);
}

static void test_nobody_can_shrink_it(void **state)
{
	struct memory mem;

	(void)state;
	assert_int_equal(memory_create(&mem, SMALL, NULL, NULL, &err), 0);
	assert_int_equal(ftruncate(mem.regions[0].fd, 0), -1);
	assert_int_equal(ftruncate(mem.regions[0].fd, 2 * SMALL), -1);
	assert_int_equal(fcntl(mem.regions[0].fd, F_GETFD), FD_CLOEXEC);
	memory_destroy(&mem);
}

static void test_limit_of_file_sizes_is_named(void **state)
{
	struct error why = ERROR_INIT;
	struct rlimit before, limit;
	struct memory mem;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	limit = before;
	limit.rlim_cur = SMALL / 2;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
	assert_int_equal(memory_create(&mem, SMALL, NULL, NULL, &why), -EFBIG);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	signal(SIGXFSZ, SIG_DFL);
	assert_non_null(strstr(why.text, "RLIMIT_FSIZE"));
}

static void test_successor_has_the_same_memory(void **state)
{
	struct fdtable *fds = calloc(1, sizeof(*fds));
	const uint32_t sent = 0x600df00d;
	struct memory old, new;
	uint32_t got = 0;

	(void)state;
	assert_non_null(fds);
	assert_int_equal(memory_create(&old, LARGE, NULL, NULL, &err), 0);
	assert_int_equal(memory_save_fds(&old, fds, &err), 0);
	assert_int_equal(fds->count, 2);
	for (int i = 0; i < 2; i++)
		fds->entries[i].fd = fcntl(fds->entries[i].fd, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(memory_create(&new, LARGE, NULL, fds, &err), 0);
	assert_int_equal(fdtable_check_taken(fds, &err), 0);
	assert_int_equal(memory_write(&old, MEMORY_HIGH_BASE + 8, &sent, sizeof(sent)), 0);
	assert_int_equal(memory_read(&new, MEMORY_HIGH_BASE + 8, &got, sizeof(got)), 0);
	assert_int_equal(got, sent);
	memory_destroy(&old);
	memory_destroy(&new);
	free(fds);
}

static void test_missing_half_is_noticed(void **state)
{
	struct fdtable *fds = calloc(1, sizeof(*fds));
	struct memory old, new;

	(void)state;
	assert_non_null(fds);
	assert_int_equal(memory_create(&old, SMALL, NULL, NULL, &err), 0);
	assert_int_equal(memory_save_fds(&old, fds, &err), 0);
	/* The stream says more RAM than the table brings, and the region is of another size. */
	assert_true(memory_create(&new, LARGE, NULL, fds, &err) < 0);
	assert_non_null(strstr(err.text, "guest RAM 0"));
	assert_int_equal(new.count, 0);
	memory_destroy(&old);
	free(fds);
}

static void test_mappings_are_aligned(void **state)
{
	struct memory mem;

	(void)state;
	for (uint64_t size = SMALL; size <= LARGE + 4096; size += (LARGE - SMALL) / 3 + 4096) {
		size &= ~4095ull;
		assert_int_equal(memory_create(&mem, size, NULL, NULL, &err), 0);
		for (unsigned int i = 0; i < mem.count; i++)
			assert_int_equal((uintptr_t)mem.regions[i].hva % (2 << 20), 0);
		assert_int_equal(mem.page, 4096);
		memory_destroy(&mem);
	}
}

static int64_t allocated(const struct memory *mem)
{
	struct stat st;

	assert_int_equal(fstat(mem->regions[0].fd, &st), 0);
	return (int64_t)st.st_blocks * 512;
}

static void test_prefault_at_start_and_after_reset_but_not_in_a_successor(void **state)
{
	const struct memory_options opt = { .prefault = true };
	struct fdtable *fds = calloc(1, sizeof(*fds));
	struct memory mem, old, new;

	(void)state;
	assert_non_null(fds);
	assert_int_equal(memory_create(&mem, SMALL, &opt, NULL, &err), 0);
	assert_int_equal(allocated(&mem), SMALL);
	assert_int_equal(memory_clear(&mem, &err), 0);
	assert_int_equal(allocated(&mem), SMALL);
	memory_destroy(&mem);

	assert_int_equal(memory_create(&old, SMALL, NULL, NULL, &err), 0);
	assert_int_equal(memory_save_fds(&old, fds, &err), 0);
	fds->entries[0].fd = fcntl(fds->entries[0].fd, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(memory_create(&new, SMALL, &opt, fds, &err), 0);
	assert_int_equal(allocated(&new), 0);
	memory_destroy(&new);
	memory_destroy(&old);
	free(fds);
}

/* Whatever the host has: RAM of such pages, or a reason and nothing left behind. */
static void test_huge_pages_or_the_reason_why_not(void **state)
{
	const struct memory_options opt = { .hugepages = 2 << 20 };
	struct memory mem;
	int r;

	(void)state;
	r = memory_create(&mem, 2 * SMALL, &opt, NULL, &err);
	if (r < 0) {
		assert_non_null(strstr(err.text, "huge pages of 2 MiB"));
		assert_int_equal(mem.count, 0);
		return;
	}
	assert_int_equal(mem.page, 2 << 20);
	assert_int_equal((uintptr_t)mem.regions[0].hva % (2 << 20), 0);
	assert_true(memory_pages_are(&mem, 2 << 20));
	assert_true(memory_pages_are(&mem, MEMORY_HUGE_DEFAULT));
	assert_false(memory_pages_are(&mem, 0));
	memory_destroy(&mem);
}

static void test_ram_is_whole_huge_pages(void **state)
{
	struct memory_options opt = { .hugepages = 2 << 20 };
	struct memory mem;

	(void)state;
	assert_true(memory_create(&mem, 3 << 20, &opt, NULL, &err) < 0);
	/* Another reason only where the host has no such pages at all. */
	if (err.code == EINVAL)
		assert_non_null(strstr(err.text, "no multiple of the huge pages' size, 2 MiB"));
	assert_int_equal(mem.count, 0);
}

#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#define NOEXEC_SEAL 0x0008u /* MFD_NOEXEC_SEAL */

/*
 * Nobody can make a program of guest RAM, and a successor takes it as it does one without that
 * seal.
 */
static void test_ram_is_not_executable(void **state)
{
	struct fdtable *t = calloc(1, sizeof(*t));
	struct memory mem, next;
	struct stat st;
	int probe = memfd_create("probe", NOEXEC_SEAL);

	(void)state;
	if (probe < 0)
		skip();
	close(probe);
	assert_int_equal(memory_create(&mem, SMALL, NULL, NULL, &err), 0);
	assert_int_equal(fstat(mem.regions[0].fd, &st), 0);
	assert_int_equal(st.st_mode & 0111, 0);
	assert_true(fcntl(mem.regions[0].fd, F_GET_SEALS) & F_SEAL_EXEC);
	assert_int_equal(fchmod(mem.regions[0].fd, 0700), -1);
	assert_int_equal(memory_save_fds(&mem, t, &err), 0);
	assert_int_equal(t->entries[0].kind, FD_KIND_MEMFD);
	assert_int_equal(memory_create(&next, SMALL, NULL, t, &err), 0);
	munmap(mem.regions[0].hva, SMALL);
	memory_destroy(&next);
	free(t);
}

/* A kernel that does not know the flag, in this process from here on. */
static void old_kernel(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_memfd_create, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, NOEXEC_SEAL, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EINVAL),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { .len = ARRAY_SIZE(code), .filter = code };

	assert_int_equal(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
	assert_int_equal(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog), 0);
}

static void test_ram_on_an_older_kernel(void **state)
{
	struct memory mem;
	int status;
	pid_t pid = fork();

	(void)state;
	if (pid == 0) {
		old_kernel();
		if (memfd_create("probe", NOEXEC_SEAL) >= 0 || errno != EINVAL)
			_exit(2);
		_exit(memory_create(&mem, SMALL, NULL, NULL, &err) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_one_region),
		cmocka_unit_test(test_hole_below_4g),
		cmocka_unit_test(test_exactly_the_low_part),
		cmocka_unit_test(test_read_and_write),
		cmocka_unit_test(test_clear),
		cmocka_unit_test(test_nobody_can_shrink_it),
		cmocka_unit_test(test_limit_of_file_sizes_is_named),
		cmocka_unit_test(test_successor_has_the_same_memory),
		cmocka_unit_test(test_missing_half_is_noticed),
		cmocka_unit_test(test_mappings_are_aligned),
		cmocka_unit_test(test_prefault_at_start_and_after_reset_but_not_in_a_successor),
		cmocka_unit_test(test_huge_pages_or_the_reason_why_not),
		cmocka_unit_test(test_ram_is_whole_huge_pages),
		cmocka_unit_test(test_ram_is_not_executable),
		cmocka_unit_test(test_ram_on_an_older_kernel),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
