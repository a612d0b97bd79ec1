/* SPDX-License-Identifier: MIT */
/* What the host says of its pages, in directories made for the test, and populating. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/vm/memory.h>

#include "src/vm/hostpages.h"

#define HUGE (2ull << 20)

static struct error err;

static const char *const files[] = {
	"hugepages-2048kB/nr_hugepages",
	"hugepages-2048kB/free_hugepages",
	"hugepages-2048kB/resv_hugepages",
	"hugepages-2048kB/shmem_enabled",
	"shmem_enabled",
};

static int make_dir(void **state)
{
	char *dir = strdup("/tmp/molt-hostpages-XXXXXX");
	char sub[128];

	if (!dir || !mkdtemp(dir))
		return -1;
	snprintf(sub, sizeof(sub), "%s/hugepages-2048kB", dir);
	*state = dir;
	return mkdir(sub, 0700);
}

static int remove_dir(void **state)
{
	char path[128];

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", (char *)*state, files[i]);
		unlink(path);
	}
	snprintf(path, sizeof(path), "%s/hugepages-2048kB", (char *)*state);
	rmdir(path);
	rmdir(*state);
	free(*state);
	return 0;
}

static void host_says(const char *dir, const char *name, const char *text)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "w");
	assert_non_null(f);
	fputs(text, f);
	assert_int_equal(fclose(f), 0);
}

static void says(const char *words)
{
	if (!strstr(err.text, words))
		fail_msg("'%s' does not say '%s'", err.text, words);
}

/* ---- huge pages that are missing ---- */

static void test_shortage_counts_what_is_missing(void **state)
{
	char words[128];

	host_says(*state, files[0], "100\n");
	host_says(*state, files[1], "40\n");
	host_says(*state, files[2], "30\n");
	assert_int_equal(hostpages_shortage(*state, HUGE, 64 * HUGE, &err), -ENOMEM);
	says("needs 64 huge pages of 2 MiB, of which the host has 10 free");
	snprintf(words, sizeof(words), "echo 154 >%s/hugepages-2048kB/nr_hugepages",
		 (char *)*state);
	says(words);
}

static void test_shortage_that_is_over_or_unknown(void **state)
{
	host_says(*state, files[0], "100\n");
	host_says(*state, files[1], "100\n");
	host_says(*state, files[2], "0\n");
	assert_int_equal(hostpages_shortage(*state, HUGE, 64 * HUGE, &err), -ENOMEM);
	says("did not get them, although 100 are free now");
	assert_int_equal(hostpages_shortage("/nowhere", HUGE, HUGE, &err), -ENOMEM);
	says("needs 1 huge pages of 2 MiB and did not get them; how many the host has is not to be seen");
	assert_null(strstr(err.text, "echo"));
}

/* ---- whether MADV_HUGEPAGE has an effect ---- */

static void test_thp_by_the_settings_of_the_host(void **state)
{
	static const struct {
		const char *all, *one, *against; /* against: NULL if huge pages are made */
	} hosts[] = {
		{ "always within_size advise [never] deny force\n", NULL,
		  "shmem_enabled is 'never'" },
		{ "always within_size advise never [deny] force\n", NULL,
		  "shmem_enabled is 'deny'" },
		{ "always within_size [advise] never deny force\n", NULL, NULL },
		{ "[always] within_size advise never deny force\n", NULL, NULL },
		{ "always within_size advise [never] deny force\n",
		  "always [inherit] within_size advise never\n", "/shmem_enabled is 'never'" },
		{ "always within_size advise [never] deny force\n",
		  "always inherit within_size [advise] never\n", NULL },
		{ "always within_size [advise] never deny force\n",
		  "always inherit within_size advise [never]\n",
		  "hugepages-2048kB/shmem_enabled is 'never'" },
		{ "always within_size advise never [deny] force\n",
		  "[always] inherit within_size advise never\n", "/shmem_enabled is 'deny'" },
		{ "always within_size advise never deny [force]\n",
		  "always inherit within_size advise [never]\n", NULL },
	};

	for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
		host_says(*state, files[4], hosts[i].all);
		host_says(*state, files[3], hosts[i].one ? hosts[i].one : "");
		assert_int_equal(hostpages_thp_possible(*state, &err), !hosts[i].against);
		if (hosts[i].against)
			says(hosts[i].against);
	}
	says("echo advise >");
}

static void test_thp_where_the_host_does_not_tell(void **state)
{
	(void)state;
	assert_true(hostpages_thp_possible("/nowhere", &err));
}

/* ---- populating ---- */

static int64_t allocated(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (int64_t)st.st_blocks * 512;
}

static void test_populate_allocates_everything(void **state)
{
	const uint64_t size = 70ull << 20; /* more than one piece, and an odd one */
	int fd = hostpages_memfd("test", false, 0, &err);
	uint64_t done = 0;
	void *hva;

	(void)state;
	assert_true(fd >= 0);
	assert_int_equal(hostpages_size(fd), HOSTPAGE_SMALL);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	hva = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(hva, MAP_FAILED);
	assert_int_equal(allocated(fd), 0);
	assert_int_equal(hostpages_populate(fd, hva, size, &done, size, &err), 0);
	assert_true(done == size);
	assert_true(allocated(fd) >= (int64_t)size);
	munmap(hva, size);
	close(fd);
}

static void test_populate_ends_at_a_signal(void **state)
{
	struct memory_options opt = { .prefault = true };
	struct memory mem;
	sigset_t set, old;
	int sig;

	(void)state;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, &old);
	raise(SIGTERM);
	assert_int_equal(memory_create(&mem, MEMORY_MIN_BYTES, &opt, NULL, &err), -EINTR);
	says("ended by a signal");
	assert_int_equal(mem.count, 0);
	assert_int_equal(sigwait(&set, &sig), 0);
	assert_int_equal(memory_create(&mem, MEMORY_MIN_BYTES, &opt, NULL, &err), 0);
	sigprocmask(SIG_SETMASK, &old, NULL);
	memory_destroy(&mem);
}

static void test_a_size_that_no_host_has(void **state)
{
	(void)state;
	assert_true(hostpages_memfd("test", true, 1ull << 40, &err) < 0);
	says("huge pages of 1048576 MiB");
	says(HUGEPAGES_DIR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_shortage_counts_what_is_missing, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_shortage_that_is_over_or_unknown, make_dir,
						remove_dir),
		cmocka_unit_test_setup_teardown(test_thp_by_the_settings_of_the_host, make_dir,
						remove_dir),
		cmocka_unit_test(test_thp_where_the_host_does_not_tell),
		cmocka_unit_test(test_populate_allocates_everything),
		cmocka_unit_test(test_populate_ends_at_a_signal),
		cmocka_unit_test(test_a_size_that_no_host_has),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
