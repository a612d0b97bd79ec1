/* SPDX-License-Identifier: MIT */
/* For a test's child, in which cmocka's assertions would run the parent's tests on. */
#ifndef MOLT_TESTS_CHILD_CHECK_H
#define MOLT_TESTS_CHILD_CHECK_H

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* Ends the process with status 1 and a line, unless cond is so. */
#define CHECK(cond) \
	do { \
		if (!(cond)) { \
			fprintf(stderr, "%s:%d: %s is not so (errno %d)\n", __FILE__, __LINE__, \
				#cond, errno); \
			_exit(1); \
		} \
	} while (0)

#endif
