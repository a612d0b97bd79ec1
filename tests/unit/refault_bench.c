/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "refault_bench.h"

#define SIZE (MEMORY_LOW_MAX + REFAULT_HIGH)

const struct refault_run refault_runs[REFAULT_RUNS] = {
	{ 0, 3 },
	{ (2 << 20) - 2 * PAGE, 5 },
	{ 64 << 20, 512 },
	{ MEMORY_LOW_MAX - PAGE, 1 },
	{ MEMORY_HIGH_BASE + 5 * PAGE, 1 },
	{ MEMORY_HIGH_BASE + REFAULT_HIGH - PAGE, 1 },
};

static struct error err;

static void write_runs(struct refault_bench *s)
{
	for (size_t i = 0; i < REFAULT_RUNS; i++)
		for (uint64_t p = 0; p < refault_runs[i].pages; p++) {
			uint64_t gpa = refault_runs[i].gpa + p * PAGE;

			assert_int_equal(memory_write(&s->old, gpa, &gpa, sizeof(gpa)), 0);
			s->written += PAGE;
		}
}

int refault_set_up(void **state)
{
	/* Single pages are what is counted here, whatever the host does by itself. */
	const struct memory_options opt = { .thp = MEMORY_THP_OFF };
	struct refault_bench *s = calloc(1, sizeof(*s));
	struct fdtable *fds = calloc(1, sizeof(*fds));

	log_set_level(LOG_LEVEL_ERROR);
	assert_non_null(s);
	assert_non_null(fds);
	assert_int_equal(memory_create(&s->old, SIZE, &opt, NULL, &err), 0);
	write_runs(s);
	assert_int_equal(memory_save_fds(&s->old, fds, &err), 0);
	for (int i = 0; i < 2; i++)
		fds->entries[i].fd = fcntl(fds->entries[i].fd, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(memory_create(&s->new, SIZE, &opt, fds, &err), 0);
	assert_int_equal(loop_create(&s->loop, &err), 0);
	free(fds);
	*state = s;
	return 0;
}

int refault_tear_down(void **state)
{
	struct refault_bench *s = *state;

	refault_stop(&s->refault);
	memory_destroy(&s->old);
	memory_destroy(&s->new);
	loop_destroy(s->loop);
	free(s);
	return 0;
}

uint64_t refault_allocated(const struct memory *mem)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < mem->count; i++) {
		struct stat st;

		assert_int_equal(fstat(mem->regions[i].fd, &st), 0);
		sum += (uint64_t)st.st_blocks * 512;
	}
	return sum;
}

bool refault_is_mapped(const struct memory *mem, uint64_t gpa)
{
	uintptr_t hva = (uintptr_t)memory_ptr(mem, gpa, 1);
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t entry = 0;

	assert_true(fd >= 0);
	assert_int_equal(pread(fd, &entry, sizeof(entry), (off_t)(hva / PAGE * sizeof(entry))),
			 sizeof(entry));
	close(fd);
	return entry >> 63;
}
