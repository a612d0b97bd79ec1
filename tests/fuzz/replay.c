/* SPDX-License-Identifier: MIT */
/*
 * Stands in for libFuzzer: feeds the target every file of the directories given, once as it is and
 * cut short at a few places. A directory that is missing or empty is an error, for then the test
 * would prove nothing. Of a target with variants the argument is DIR/TARGET, and the directories
 * are DIR/TARGET_VARIANT.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "fuzz.h"

#define FILE_MAX_BYTES (1u << 20)
#define CUTS 8

static void feed(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct error err = ERROR_INIT;
	void *buf;
	size_t len;

	fuzz_must(fd >= 0);
	fuzz_must_work(fd_read_file(fd, path, FILE_MAX_BYTES, &buf, &len, &err), &err);
	for (size_t i = 0; i <= CUTS; i++) {
		/* Exactly as long as it says, so that a sanitizer sees each byte too far. */
		size_t cut = len * (CUTS - i) / CUTS;
		uint8_t *copy = malloc(cut ? cut : 1);

		fuzz_must(copy);
		memcpy(copy, buf, cut);
		LLVMFuzzerTestOneInput(copy, cut);
		free(copy);
	}
	free(buf);
}

static unsigned int replay(const char *dir)
{
	struct dirent **list;
	int n = scandir(dir, &list, NULL, alphasort);
	unsigned int fed = 0;
	char path[4096];

	for (int i = 0; i < n; i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, list[i]->d_name);
		if (list[i]->d_name[0] != '.') {
			feed(path);
			fed++;
		}
		free(list[i]);
	}
	if (n >= 0)
		free(list);
	return fed;
}

static bool must_replay(const char *dir)
{
	unsigned int fed = replay(dir);

	printf("%s: %u inputs\n", dir, fed);
	return fed > 0;
}

static bool replay_variants(char **argv)
{
	char path[4096];
	const char *name;
	int argc = 1;

	LLVMFuzzerInitialize(&argc, &argv);
	for (size_t i = 0; (name = fuzz_variant(i)); i++) {
		snprintf(path, sizeof(path), "%s_%s", argv[1], name);
		if (!must_replay(path))
			return false;
	}
	return true;
}

#pragma weak fuzz_variant
int main(int argc, char **argv)
{
	if (argc < 2)
		return EXIT_FAILURE;
	if (fuzz_variant)
		return replay_variants(argv) ? EXIT_SUCCESS : EXIT_FAILURE;
	LLVMFuzzerInitialize(&argc, &argv);
	for (int i = 1; i < argc; i++)
		if (!must_replay(argv[i]))
			return EXIT_FAILURE;
	return EXIT_SUCCESS;
}
