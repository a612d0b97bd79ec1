/* SPDX-License-Identifier: MIT */
/*
 * The log: one line a message, "<time> molt[<pid>] <level>: <text>", to standard error or a file.
 * Level and destination belong to the process, not to a machine: they are the one piece of state
 * in molt that is global. Safe from every thread; a line is one write(2).
 */
#ifndef MOLT_BASE_LOG_H
#define MOLT_BASE_LOG_H

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* "error", "warn", "info" or "debug" to a level; -EINVAL for any other name. */
int log_level_parse(const char *name);

void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* Where lines go from now on. The descriptor stays the caller's; 2 (standard error) at start. */
void log_set_fd(int fd);
int log_get_fd(void);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
