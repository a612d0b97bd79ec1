/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdint.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/log.h>

static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARN] = "warn",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

/* The only mutable globals of molt: a log that had to be handed to every function would not be used. */
static _Atomic int log_level = LOG_LEVEL_INFO;
static _Atomic int log_fd = STDERR_FILENO;

int log_level_parse(const char *name)
{
	for (int i = LOG_LEVEL_ERROR; i <= LOG_LEVEL_DEBUG; i++)
		if (strcmp(name, level_names[i]) == 0)
			return i;
	return -EINVAL;
}

void log_set_level(enum log_level level)
{
	atomic_store(&log_level, (int)level);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load(&log_level);
}

void log_set_fd(int fd)
{
	atomic_store(&log_fd, fd);
}

int log_get_fd(void)
{
	return atomic_load(&log_fd);
}

/*
 * gmtime_r() reads the time zone's file at its first call, which a thread without access to files must
 * not. A year is counted from March, so that the leap day is its last.
 */
static int print_time(char *line, size_t size, time_t seconds)
{
	int64_t days = (int64_t)seconds / 86400, of_day = (int64_t)seconds % 86400;
	int64_t day = days + 719468; /* since 0000-03-01 */
	int64_t era = day / 146097, of_era = day % 146097;
	int64_t year = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
	int64_t of_year = of_era - (365 * year + year / 4 - year / 100);
	int64_t month = (5 * of_year + 2) / 153; /* 0 is March */

	return snprintf(line, size, "%04d-%02d-%02dT%02d:%02d:%02d",
			(int)(year + era * 400 + (month >= 10)),
			(int)(month < 10 ? month + 3 : month - 9),
			(int)(of_year - (153 * month + 2) / 5 + 1), (int)(of_day / 3600),
			(int)(of_day / 60 % 60), (int)(of_day % 60));
}

/* #syscalls vcpu: write getpid */
void log_write(enum log_level level, const char *fmt, ...)
{
	char line[1400];
	struct timespec ts;
	size_t len;
	va_list ap;
	int saved = errno;

	if ((int)level > atomic_load(&log_level))
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	len = (size_t)print_time(line, sizeof(line), ts.tv_sec);
	len += (size_t)snprintf(line + len, sizeof(line) - len, ".%06ldZ molt[%d] %s: ",
				ts.tv_nsec / 1000, (int)getpid(), level_names[level]);
	va_start(ap, fmt);
	vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
	va_end(ap);
	len = strlen(line);
	line[len++] = '\n';
	/* Nobody can be told that the log cannot be written. */
	if (write(atomic_load(&log_fd), line, len) < 0)
		errno = 0;
	errno = saved;
}
