/* SPDX-License-Identifier: MIT */
/*
 * The files by which a test and molt-faults speak, in MOLT_FAULTS_DIR, and system calls made by
 * hand: nothing here allocates, locks or calls what may be wrapped. What must work and does not
 * ends the process with status 99.
 */
#ifndef MOLT_TESTS_FAULTS_FILES_H
#define MOLT_TESTS_FAULTS_FILES_H

#include <stdbool.h>
#include <stddef.h>

/* 0 or more, or -errno. */
long raw(long number, long a, long b, long c, long d);

bool file_exists(const char *name);

/* Its text, ended by a NUL, as far as there is room; false: there is no such file. */
bool file_read(const char *name, char *text, size_t size);

/* flags: those of open(), beside O_WRONLY and O_CREAT. */
void file_write(const char *name, int flags, const char *text);

/* False: it is not there any more. */
bool file_rename(const char *from, const char *to);

/* Makes the one and waits until the other is there, for 20 s at most. */
void file_wait(const char *make, const char *until);

#endif
