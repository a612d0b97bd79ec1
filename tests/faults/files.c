/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "files.h"

#define PATH_BYTES 512
#define LOOK_MS 1
#define WAIT_S 20

long raw(long number, long a, long b, long c, long d)
{
	register long fourth __asm__("r10") = d;
	register long fifth __asm__("r8") = 0;

	__asm__ volatile("syscall"
			 : "+a"(number)
			 : "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth)
			 : "rcx", "r11", "memory");
	return number;
}

static bool find(char *path, const char *name)
{
	const char *dir = getenv("MOLT_FAULTS_DIR");

	return dir && snprintf(path, PATH_BYTES, "%s/%s", dir, name) < PATH_BYTES;
}

static int open_file(const char *name, int flags)
{
	char path[PATH_BYTES];

	return find(path, name) ? (int)raw(SYS_open, (long)path, flags | O_CLOEXEC, 0600, 0) : -1;
}

bool file_exists(const char *name)
{
	char path[PATH_BYTES];

	return find(path, name) && raw(SYS_access, (long)path, F_OK, 0, 0) == 0;
}

bool file_read(const char *name, char *text, size_t size)
{
	int fd = open_file(name, O_RDONLY);
	long n;

	if (fd < 0)
		return false;
	n = raw(SYS_read, fd, (long)text, (long)size - 1, 0);
	if (n < 0)
		_exit(99);
	text[n] = '\0';
	raw(SYS_close, fd, 0, 0, 0);
	return true;
}

void file_write(const char *name, int flags, const char *text)
{
	int fd = open_file(name, O_WRONLY | O_CREAT | flags);

	if (fd < 0 || raw(SYS_write, fd, (long)text, (long)strlen(text), 0) < 0)
		_exit(99);
	raw(SYS_close, fd, 0, 0, 0);
}

bool file_rename(const char *from, const char *to)
{
	char was[PATH_BYTES], is[PATH_BYTES];

	return find(was, from) && find(is, to) && raw(SYS_rename, (long)was, (long)is, 0, 0) == 0;
}

static long long now_ms(void)
{
	long long now[2] = { 0 };

	raw(SYS_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)now, 0, 0);
	return now[0] * 1000 + now[1] / 1000000;
}

void file_wait(const char *make, const char *until)
{
	long long end = now_ms() + WAIT_S * 1000;

	file_write(make, O_TRUNC, "");
	while (!file_exists(until) && now_ms() < end)
		raw(SYS_poll, 0, 0, LOOK_MS, 0);
}
