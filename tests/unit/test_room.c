/* SPDX-License-Identifier: MIT */
/* Room for an update: what control groups and host leave, told by trees of files that are made
 * here. */
#include <errno.h>
#include <ftw.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "../../src/update/cgroup.h"
#include "../../src/update/room.h"

#define MIB (1ull << 20)
#define V2_MOUNT "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
#define OTHER_MOUNTS \
	"23 1 0:21 / /proc rw - proc proc rw\n" \
	"nonsense\n" \
	"24 1 0:22 / /sys rw master:1 propagate_from:2 - sysfs sysfs rw,memory\n"

struct tree {
	char root[64];
	struct room_need need;
	enum room room;
	struct error err;
};

static void put(const struct tree *t, const char *path, const char *text)
{
	char full[512];
	FILE *f;

	snprintf(full, sizeof(full), "%s%s", t->root, path);
	for (char *slash = full + strlen(t->root) + 1; (slash = strchr(slash, '/')); slash++) {
		*slash = '\0';
		assert_true(mkdir(full, 0700) == 0 || errno == EEXIST);
		*slash = '/';
	}
	f = fopen(full, "w");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void put_group(const struct tree *t, const char *dir, const char *name, const char *text)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	put(t, path, text);
}

static int setup(void **state)
{
	struct tree *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	strcpy(t->root, "/tmp/molt-room-XXXXXX");
	assert_non_null(mkdtemp(t->root));
	t->need = (struct room_need){
		.ram = 1024 * MIB,
		.present = 512 * MIB,
		.page = 4096,
		.vcpus = 2,
		.threads = 3,
	};
	*state = t;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static int teardown(void **state)
{
	struct tree *t = *state;

	nftw(t->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(t);
	return 0;
}

static int ask(struct tree *t)
{
	t->err = ERROR_INIT;
	t->room = (enum room)77;
	return update_room(t->root, &t->need, &t->room, &t->err);
}

static void fits_all(struct tree *t)
{
	assert_int_equal(ask(t), 0);
	assert_int_equal(t->room, ROOM_FOR_ALL);
}

static void refused(struct tree *t, int code, const char *words)
{
	assert_int_equal(ask(t), -code);
	if (!strstr(t->err.text, words))
		fail_msg("'%s' is not in: %s", words, t->err.text);
}

/* What is there for all, and for all but the tables; in bytes, without nested paging. */
static uint64_t all(const struct tree *t)
{
	return room_bytes(&t->need, ROOM_FOR_ALL, false);
}

static uint64_t least(const struct tree *t)
{
	return room_bytes(&t->need, ROOM_WITHOUT_TABLES, false);
}

static void put_number(const struct tree *t, const char *dir, const char *name, uint64_t n)
{
	char text[32];

	snprintf(text, sizeof(text), "%llu\n", (unsigned long long)n);
	put_group(t, dir, name, text);
}

/* A group of version 2 with left bytes. */
static void v2_group(const struct tree *t, const char *dir, uint64_t left)
{
	put_number(t, dir, "memory.max", 600 * MIB + left);
	put_number(t, dir, "memory.current", 600 * MIB);
}

static void v2(const struct tree *t, const char *group)
{
	char line[128];

	snprintf(line, sizeof(line), "0::%s\n", group);
	put(t, "/proc/self/cgroup", line);
	put(t, "/proc/self/mountinfo", OTHER_MOUNTS V2_MOUNT);
}

/* ---- what is needed ---- */

static void test_the_need_grows_with_each_of_its_parts(void **state)
{
	const struct room_need none = { 0 };
	struct room_need more = none;
	uint64_t floor = room_bytes(&none, ROOM_FOR_ALL, false);

	(void)state;
	assert_in_range(floor, MIB, 4 * MIB);
	more.program = 3 * MIB;
	assert_int_equal(room_bytes(&more, ROOM_FOR_ALL, false), floor + 3 * MIB);
	more = none;
	more.vcpus = 64;
	assert_in_range(room_bytes(&more, ROOM_FOR_ALL, false) - floor, 13 * MIB, 20 * MIB);
	more = none;
	more.ram = 1024 * MIB;
	assert_in_range(room_bytes(&more, ROOM_FOR_ALL, false) - floor, 2560 << 10, 2600 << 10);
	assert_in_range(room_bytes(&more, ROOM_FOR_ALL, true) - floor, 512 << 10, 520 << 10);
	more.threads = more.disks = 1;
	assert_true(room_bytes(&more, ROOM_FOR_ALL, true) > floor + (520 << 10));
}

static void test_tables_are_for_pages_that_exist(void **state)
{
	struct room_need need = { .present = 1024 * MIB, .page = 4096 };
	uint64_t without = room_bytes(&(struct room_need){ 0 }, ROOM_FOR_ALL, false);

	(void)state;
	assert_int_equal(room_bytes(&need, ROOM_FOR_ALL, false) - without, 4 * MIB);
	assert_int_equal(room_bytes(&need, ROOM_WITHOUT_TABLES, false) - without, 2 * MIB);
	need.page = 2 * MIB;
	assert_int_equal(room_bytes(&need, ROOM_FOR_ALL, false) - without, 2 * 4096);
	need.present = 0;
	assert_int_equal(room_bytes(&need, ROOM_FOR_ALL, false), without);
}

/* ---- what cannot be seen ---- */

static void test_nothing_to_be_seen_is_room(void **state)
{
	struct tree *t = *state;

	fits_all(t);
	put(t, "/proc/self/cgroup", "0::/web\n");
	fits_all(t);
	put(t, "/proc/self/mountinfo", OTHER_MOUNTS);
	fits_all(t);
	v2(t, "/web");
	fits_all(t);
	put(t, "/sys/fs/cgroup/web/memory.max", "1\n"); /* and no memory.current */
	fits_all(t);
	put(t, "/sys/fs/cgroup/web/memory.current", "\n");
	fits_all(t);
	put(t, "/sys/fs/cgroup/web/memory.current", "many\n");
	fits_all(t);
	put(t, "/sys/fs/cgroup/web/memory.current", "2\n");
	refused(t, ENOMEM, "/sys/fs/cgroup/web has 0 KiB left");
}

static void test_a_group_outside_the_name_space_is_unknown(void **state)
{
	struct tree *t = *state;

	v2_group(t, "/sys/fs/cgroup", 1);
	v2(t, "/../../web");
	fits_all(t);
	v2(t, "/..");
	fits_all(t);
	v2(t, "/..web");
	refused(t, ENOMEM, "control group /sys/fs/cgroup has 0 KiB left");
}

static void test_broken_files_do_no_harm(void **state)
{
	static const char *const texts[] = {
		"", "\n", ":", "0:", "0::", "1:memory", ":::::\n", "1:memory:/\n", "- - -\n"
	};
	struct tree *t = *state;

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		put(t, "/proc/self/cgroup", texts[i]);
		for (size_t j = 0; j < ARRAY_SIZE(texts); j++) {
			put(t, "/proc/self/mountinfo", texts[j]);
			put(t, "/proc/loadavg", texts[j]);
			put(t, "/proc/meminfo", texts[j]);
			fits_all(t);
		}
	}
}

/* ---- memory ---- */

static void test_enough_is_enough_to_the_byte(void **state)
{
	struct tree *t = *state;

	v2(t, "/web");
	v2_group(t, "/sys/fs/cgroup/web", all(t));
	fits_all(t);
	v2_group(t, "/sys/fs/cgroup/web", all(t) - 1);
	assert_int_equal(ask(t), 0);
	assert_int_equal(t->room, ROOM_WITHOUT_TABLES);
	v2_group(t, "/sys/fs/cgroup/web", least(t));
	assert_int_equal(ask(t), 0);
	assert_int_equal(t->room, ROOM_WITHOUT_TABLES);
	v2_group(t, "/sys/fs/cgroup/web", least(t) - 1);
	assert_int_equal(ask(t), -ENOMEM);
}

static void test_the_sentence_has_the_figures(void **state)
{
	struct tree *t = *state;

	v2(t, "/web");
	v2_group(t, "/sys/fs/cgroup/web", 1 * MIB);
	refused(t, ENOMEM,
		"the update needs 7360 KiB beside guest RAM, and control group "
		"/sys/fs/cgroup/web has 1024 KiB left: raise its memory.max of 615424 "
		"KiB by 6848 KiB");
	assert_null(strstr(t->err.text, "binary"));
	assert_null(strstr(t->err.text, "earlier update"));
	t->need.program = 4096000;
	t->need.leaving = 1;
	refused(t, ENOMEM,
		"11360 KiB beside guest RAM (4000 of them for a copy of the successor's "
		"binary)");
	refused(t, ENOMEM, "an earlier update's memory is still being freed: try again soon");
}

static void test_an_ancestor_may_be_the_tightest(void **state)
{
	struct tree *t = *state;

	v2(t, "/a.slice/b.slice/web.scope");
	v2_group(t, "/sys/fs/cgroup/a.slice/b.slice/web.scope", 16 * MIB);
	v2_group(t, "/sys/fs/cgroup/a.slice/b.slice", 17 * MIB);
	v2_group(t, "/sys/fs/cgroup/a.slice", 2 * MIB);
	refused(t, ENOMEM, "control group /sys/fs/cgroup/a.slice has 2048 KiB left");
	put(t, "/sys/fs/cgroup/a.slice/memory.max", "max\n");
	put(t, "/sys/fs/cgroup/a.slice/b.slice/memory.max", "max\n");
	fits_all(t);
	v2_group(t, "/sys/fs/cgroup/a.slice/b.slice/web.scope", MIB);
	refused(t, ENOMEM, "b.slice/web.scope has 1024 KiB left");
}

static void test_page_cache_is_taken_back_and_guest_ram_is_not(void **state)
{
	struct tree *t = *state;
	char text[256];

	v2(t, "/web");
	v2_group(t, "/sys/fs/cgroup/web", all(t) - 8 * 4096);
	put(t, "/sys/fs/cgroup/web/memory.stat",
	    "anon 900000000\nfile 900000000\nshmem 900000000\ninactive_anon 900000000\n"
	    "active_anon 900000000\nunevictable 900000000\nslab 900000000\n"
	    "slab_unreclaimable 900000000\nworkingset_refault_file 900000000\n");
	assert_int_equal(ask(t), 0);
	assert_int_equal(t->room, ROOM_WITHOUT_TABLES);
	for (int missing = 0; missing < 2; missing++) {
		snprintf(text, sizeof(text),
			 "inactive_file %d\nactive_file %d\nslab_reclaimable %d\n", 4 * 4096,
			 4 * 4096, 4 * 4096 - missing);
		put(t, "/sys/fs/cgroup/web/memory.stat", text);
		assert_int_equal(ask(t), 0);
		assert_int_equal(t->room, missing ? ROOM_WITHOUT_TABLES : ROOM_FOR_ALL);
	}
}

static void test_swap_counts_where_it_may_be_used(void **state)
{
	struct tree *t = *state;

	v2(t, "/a/web");
	v2_group(t, "/sys/fs/cgroup/a/web", 0);
	put(t, "/sys/fs/cgroup/a/web/memory.stat", "inactive_anon 9999999\nactive_anon 90000000\n");
	put(t, "/sys/fs/cgroup/a/web/memory.swap.max", "max\n");
	put(t, "/sys/fs/cgroup/a/web/memory.swap.current", "0\n");
	refused(t, ENOMEM, "/a/web has 0 KiB left");
	put(t, "/proc/meminfo", "MemAvailable: 99999999 kB\nSwapFree:        65536 kB\n");
	fits_all(t);
	put(t, "/sys/fs/cgroup/a/memory.swap.max", "1048576\n");
	put(t, "/sys/fs/cgroup/a/memory.swap.current", "4096\n");
	refused(t, ENOMEM, "/a/web has 1020 KiB left");
	put(t, "/sys/fs/cgroup/a/memory.swap.max", "0\n");
	refused(t, ENOMEM, "/a/web has 0 KiB left");
	put(t, "/sys/fs/cgroup/a/memory.swap.max", "max\n");
	put(t, "/sys/fs/cgroup/a/web/memory.stat", "inactive_anon 4096\nactive_anon 8192\n");
	refused(t, ENOMEM, "/a/web has 12 KiB left");
}

static void test_beyond_memory_high_nothing_is_mapped_in_advance(void **state)
{
	struct tree *t = *state;

	v2(t, "/web");
	v2_group(t, "/sys/fs/cgroup/web", 100 * MIB);
	fits_all(t);
	put_number(t, "/sys/fs/cgroup/web", "memory.high", 601 * MIB);
	assert_int_equal(ask(t), 0);
	assert_int_equal(t->room, ROOM_WITHOUT_TABLES);
}

static void test_the_host(void **state)
{
	struct tree *t = *state;

	put(t, "/proc/meminfo",
	    "MemTotal:  1 kB\nMemFree:  1 kB\nMemAvailable:       3072 kB\nSwapFree:  0 kB\n");
	refused(t, ENOMEM,
		"this host has 3072 KiB (MemAvailable and SwapFree in /proc/meminfo): "
		"free 4288 KiB");
	put(t, "/proc/meminfo", "MemAvailable: 3072 kB\nSwapTotal: 9 kB\nSwapFree: 4288 kB\n");
	assert_int_equal(ask(t), 0);
	assert_int_equal(t->room, ROOM_WITHOUT_TABLES);
	put(t, "/proc/meminfo", "MemAvailable: 30720 kB\nSwapFree: 0 kB\n");
	fits_all(t);
}

static void test_nested_paging_needs_less(void **state)
{
	struct tree *t = *state;

	v2(t, "/web");
	v2_group(t, "/sys/fs/cgroup/web", room_bytes(&t->need, ROOM_FOR_ALL, true));
	put(t, "/sys/module/kvm_intel/parameters/ept", "N\n");
	refused(t, ENOMEM, "the update needs 7360 KiB");
	put(t, "/sys/module/kvm_amd/parameters/npt", "1\n");
	fits_all(t);
	put(t, "/sys/module/kvm_amd/parameters/npt", "0\n");
	put(t, "/sys/module/kvm_intel/parameters/ept", "Y\n");
	fits_all(t);
}

/* ---- where groups are ---- */

static void test_a_containers_own_group_is_the_mount_point(void **state)
{
	struct tree *t = *state;

	put(t, "/proc/self/cgroup", "3:cpu,memory:/docker/1234/web\n0::/\n");
	put(t, "/proc/self/mountinfo",
	    "40 30 0:30 /docker/1234 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
	    "41 30 0:30 /docker/12345 /elsewhere ro - cgroup cgroup rw,memory\n"
	    "42 30 0:30 /docker/1 /elsewhere ro - cgroup cgroup rw,memory\n");
	put(t, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "8192\n");
	put(t, "/sys/fs/cgroup/memory/memory.usage_in_bytes", "4096\n");
	put(t, "/elsewhere/memory.limit_in_bytes", "1\n");
	put(t, "/elsewhere/memory.usage_in_bytes", "0\n");
	refused(t, ENOMEM,
		"control group /sys/fs/cgroup/memory has 4 KiB left: raise its "
		"memory.limit_in_bytes of 8 KiB");
	put(t, "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
	fits_all(t);
	put(t, "/sys/fs/cgroup/memory/web/memory.limit_in_bytes", "8192\n");
	put(t, "/sys/fs/cgroup/memory/web/memory.usage_in_bytes", "8192\n");
	refused(t, ENOMEM, "control group /sys/fs/cgroup/memory/web has 0 KiB left");
}

static void test_of_two_mounts_that_which_shows_more(void **state)
{
	struct tree *t = *state;

	v2(t, "/a/web");
	put(t, "/proc/self/mountinfo",
	    "40 30 0:30 /a/web /part rw - cgroup2 cgroup2 rw\n"
	    "41 30 0:30 / /with\\040space\\134 rw - cgroup2 cgroup2 rw\n"
	    "42 30 0:30 /a /other rw - cgroup2 cgroup2 rw\n");
	v2_group(t, "/with space\\/a", 4096);
	refused(t, ENOMEM, "control group /with space\\/a has 4 KiB left");
}

static void test_both_versions_each_with_its_controllers(void **state)
{
	struct tree *t = *state;

	put(t, "/proc/self/cgroup", "5:name=memory:/n\n4:pids:/p\n0::/web\n");
	put(t, "/proc/self/mountinfo",
	    "40 30 0:30 / /g/n rw - cgroup cgroup rw,name=memory\n"
	    "41 30 0:31 / /g/pids rw - cgroup cgroup rw,pids\n" V2_MOUNT);
	v2_group(t, "/sys/fs/cgroup/web", 0);
	refused(t, ENOMEM, "/sys/fs/cgroup/web has 0 KiB");
	put(t, "/g/pids/p/pids.max", "10\n");
	put(t, "/g/pids/p/pids.current", "9\n");
	refused(t, EAGAIN, "control group /g/pids/p has room for 1: raise pids.max, which is 10");
}

/* ---- version 1 ---- */

static void v1(const struct tree *t, const char *group)
{
	char line[128];

	snprintf(line, sizeof(line), "2:cpu:/c\n3:memory,hugetlb:%s\n0::/\n", group);
	put(t, "/proc/self/cgroup", line);
	put(t, "/proc/self/mountinfo",
	    OTHER_MOUNTS "40 30 0:30 / /g/c rw - cgroup cgroup rw,cpu\n"
			 "41 30 0:31 / /g/m rw - cgroup cgroup rw,hugetlb,memory\n" V2_MOUNT);
}

static void v1_group(const struct tree *t, const char *dir, uint64_t left)
{
	put_number(t, dir, "memory.limit_in_bytes", 600 * MIB + left);
	put_number(t, dir, "memory.usage_in_bytes", 600 * MIB);
}

static void test_version_1_counts_what_is_beneath_a_group(void **state)
{
	struct tree *t = *state;

	v1(t, "/a/web");
	v1_group(t, "/g/m/a/web", 0);
	put(t, "/g/m/a/web/memory.stat", "inactive_file 900000000\ntotal_inactive_file 4096\n");
	refused(t, ENOMEM, "/g/m/a/web has 4 KiB left");
	put(t, "/g/m/a/web/memory.stat", "inactive_file 0\ntotal_inactive_file 900000000\n");
	fits_all(t);
	v1_group(t, "/g/m/a", 0);
	refused(t, ENOMEM, "/g/m/a has 0 KiB left");
	put(t, "/g/m/a/memory.use_hierarchy", "0\n");
	fits_all(t);
	put(t, "/g/m/a/memory.use_hierarchy", "1\n");
	refused(t, ENOMEM, "/g/m/a has 0 KiB left");
}

static void test_version_1_and_swap(void **state)
{
	struct tree *t = *state;

	v1(t, "/web");
	v1_group(t, "/g/m/web", 0);
	put(t, "/g/m/web/memory.stat", "total_inactive_anon 90000000\ntotal_active_anon 0\n");
	put(t, "/proc/meminfo", "MemAvailable: 99999999 kB\nSwapFree:        65536 kB\n");
	fits_all(t);
	put(t, "/g/m/web/memory.swappiness", "0\n");
	refused(t, ENOMEM, "/g/m/web has 0 KiB left: raise its memory.limit_in_bytes");
	put(t, "/g/m/web/memory.swappiness", "60\n");
	put(t, "/g/m/web/memory.memsw.limit_in_bytes", "1048576\n");
	put(t, "/g/m/web/memory.memsw.usage_in_bytes", "524288\n");
	refused(t, ENOMEM, "/g/m/web has 512 KiB left: raise its memory.memsw.limit_in_bytes");
}

/* ---- threads ---- */

static void test_threads_of_a_group(void **state)
{
	struct tree *t = *state;

	v2(t, "/a/web");
	put(t, "/sys/fs/cgroup/a/web/pids.max", "max\n");
	put(t, "/sys/fs/cgroup/a/web/pids.current", "7\n");
	put(t, "/sys/fs/cgroup/a/pids.max", "10\n");
	put(t, "/sys/fs/cgroup/a/pids.current", "7\n");
	fits_all(t);
	put(t, "/sys/fs/cgroup/a/pids.current", "8\n");
	refused(t, EAGAIN,
		"the update needs 3 more threads, and control group /sys/fs/cgroup/a has "
		"room for 2: raise pids.max, which is 10");
	put(t, "/sys/fs/cgroup/a/pids.current", "11\n");
	refused(t, EAGAIN, "room for 0");
}

static void test_threads_of_the_host(void **state)
{
	struct tree *t = *state;

	put(t, "/proc/loadavg", "0.13 0.20 0.18 2/197 4711\n");
	put(t, "/proc/sys/kernel/threads-max", "200\n");
	fits_all(t);
	t->need.threads = 4;
	refused(t, EAGAIN,
		"the update needs 4 more threads, and this host has room for 3: raise "
		"kernel.threads-max, which is 200");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_need_grows_with_each_of_its_parts),
		cmocka_unit_test(test_tables_are_for_pages_that_exist),
		cmocka_unit_test_setup_teardown(test_nothing_to_be_seen_is_room, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_group_outside_the_name_space_is_unknown,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_broken_files_do_no_harm, setup, teardown),
		cmocka_unit_test_setup_teardown(test_enough_is_enough_to_the_byte, setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_sentence_has_the_figures, setup, teardown),
		cmocka_unit_test_setup_teardown(test_an_ancestor_may_be_the_tightest, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_page_cache_is_taken_back_and_guest_ram_is_not,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_swap_counts_where_it_may_be_used, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_beyond_memory_high_nothing_is_mapped_in_advance,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_the_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nested_paging_needs_less, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_containers_own_group_is_the_mount_point,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_of_two_mounts_that_which_shows_more, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_both_versions_each_with_its_controllers, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_version_1_counts_what_is_beneath_a_group,
						setup, teardown),
		cmocka_unit_test_setup_teardown(test_version_1_and_swap, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads_of_a_group, setup, teardown),
		cmocka_unit_test_setup_teardown(test_threads_of_the_host, setup, teardown),
	};

	return cmocka_run_group_tests_name("room", tests, NULL, NULL);
}
