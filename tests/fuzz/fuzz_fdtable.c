/* SPDX-License-Identifier: MIT */
/*
 * The fd table, as it is and with its CRCs repaired. Descriptors 100 to 107 are one of each kind,
 * so that a table can name real ones.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fuzz.h"

static struct fdtable table, again;
static int input_fd, output_fd;

static void place(int fd, int number)
{
	fuzz_must(fd >= 0 && dup2(fd, number) == number);
	close(fd);
}

static int listening(void)
{
	/* An address without a path is one of the abstract name space that nobody has. */
	const struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	fuzz_must(bind(fd, (const struct sockaddr *)&sun, sizeof(sun.sun_family)) == 0);
	fuzz_must(listen(fd, 1) == 0);
	return fd;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	int pair[2], ends[2];

	(void)argc;
	(void)argv;
	fuzz_must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(ends) == 0);
	place(memfd_create("fuzz", MFD_ALLOW_SEALING), 100);
	place(listening(), 101);
	place(pair[0], 102);
	place(open("/dev/null", O_RDWR), 103);
	place(ends[0], 104);
	place(open("/proc/self/exe", O_RDONLY), 105);
	place(open("/dev/ptmx", O_RDWR | O_NOCTTY), 106);
	place(open("/", O_PATH), 107);
	input_fd = memfd_create("fuzz-input", MFD_CLOEXEC);
	output_fd = memfd_create("fuzz-output", MFD_CLOEXEC);
	return 0;
}

static void check_table(void)
{
	struct error err = ERROR_INIT;

	fuzz_must(table.count <= FDTABLE_MAX && table.nmarks <= UPDATE_MARKS_MAX);
	fuzz_must_work(fdtable_write(&table, output_fd, &err), &err);
	fuzz_must_work(fdtable_read(&again, output_fd, &err), &err);
	fuzz_must(memcmp(&table, &again, sizeof(table)) == 0);
	for (uint32_t i = 0; i < table.count; i++) {
		const struct fdtable_entry *e = &again.entries[i];

		fuzz_must(fdtable_has(&again, e->name, e->id));
		fuzz_must(fdtable_take(&again, e->name, e->id, e->kind, &err) == e->fd);
		fuzz_must(fdtable_take(&again, e->name, e->id, 0, &err) < 0);
	}
	fuzz_must_work(fdtable_check_taken(&again, &err), &err);
	fuzz_must(table.count == 0 || fdtable_check_taken(&table, &err) < 0);
}

static int read_it(const uint8_t *data, size_t size)
{
	struct error err = ERROR_INIT;
	int r;

	fuzz_fill(input_fd, data, size);
	r = fdtable_read(&table, input_fd, &err);
	if (r < 0) {
		fuzz_must_explain(r, &err);
		r = fdtable_describe_read(&table, input_fd, &err);
		if (r < 0)
			fuzz_must_explain(r, &err);
		/* Also of a table that was refused callers look at what is in it. */
		fuzz_must(table.count <= FDTABLE_MAX && table.nmarks <= UPDATE_MARKS_MAX);
		fdtable_check_taken(&table, &err);
		return r;
	}
	check_table();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;

	if (read_it(data, size) == 0)
		return 0;
	copy = malloc(size + 1);
	fuzz_must(copy);
	if (size)
		memcpy(copy, data, size);
	fuzz_repair_crcs(copy, size);
	read_it(copy, size);
	free(copy);
	return 0;
}
