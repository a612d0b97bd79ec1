/* SPDX-License-Identifier: MIT */
/*
 * The log: one line a message, "<time> molt[<pid>] <level>: <text>", to standard error or a file.
 * Level and destination belong to the process, not to a machine: they are the one piece of state in
 * molt that is global. Safe from every thread; a line is one write(2).
 *
 * At first, and in all of molt's tools, a line is written at once. A molt that runs a guest calls
 * log_start(): from then on nobody waits for the log's reader. Lines wait in memory, a thread of
 * their own writes them, and what does not fit is counted and told later. From then on each call
 * site (told by its format string) may also write LOG_BURST lines at once and one more each
 * LOG_REFILL_S seconds; what is beyond that is only counted. So whoever can cause a line, guest or
 * client, can cause no flood of them.
 */
#ifndef MOLT_BASE_LOG_H
#define MOLT_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>

#define LOG_BURST 10
#define LOG_REFILL_S 5
#define LOG_DRAIN_MS 20 /* what an update waits for the log's reader; the guest runs */
#define LOG_END_MS 200  /* what the end of molt waits for it */

enum log_level {
	LOG_LEVEL_ALWAYS = -1, /* not an error, but wanted at every level; shown as "info" */
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARN,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* "error", "warn", "info" or "debug" to a level; -EINVAL for any other name. */
int log_level_parse(const char *name);
const char *log_level_name(enum log_level level);

void log_set_level(enum log_level level);
enum log_level log_get_level(void);

/* Where lines go from now on. The descriptor stays the caller's; 2 (standard error) at start. */
void log_set_fd(int fd);
int log_get_fd(void);

void log_write(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_always(...) log_write(LOG_LEVEL_ALWAYS, __VA_ARGS__)
#define log_error(...) log_write(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warn(...) log_write(LOG_LEVEL_WARN, __VA_ARGS__)
#define log_info(...) log_write(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_write(LOG_LEVEL_DEBUG, __VA_ARGS__)

/*
 * From here on lines wait in memory, if need be for log_start(). For a successor, before its
 * commit.
 */
void log_hold(void);

/*
 * Main only: lines wait in memory and a thread writes them. Where it cannot be had they are written
 * at once again, as before, and this is -errno with the sentence.
 */
int log_start(struct error *err);

/*
 * Waits at most ms milliseconds until all lines are written; false if they are not. Makes no
 * thread.
 */
bool log_drain(unsigned int ms);

/*
 * Whether a program can be executed as far as the log goes, now. -EBUSY with the sentence where it
 * is a file and in a write: an exec would wait for the thread in it.
 */
int log_before_exec(struct error *err);

/*
 * Lines wait in memory from here on, and the thread ends where it has nothing to do: another
 * process that has this memory may then log, too, and the thread is not missed when an exec has
 * ended it. Until log_start(), or log_revive() there.
 */
void log_rest(void);

/*
 * As log_drain(), then ends the thread. For the end of a process, also one that is about to exec.
 */
void log_stop(unsigned int ms);

/*
 * Of the lines that wait those that did at log_rest(), or were lost by then, are a successor's to
 * tell of; what was logged since is written by who still has this memory when the other has gone
 * on without it, waiting for that as log_stop(). It logs nothing afterwards.
 */
uint64_t log_unwritten_at_rest(void);
void log_write_since_rest(unsigned int ms);

/* First of all in the stand-in, which has the lines but not the thread; it makes a new one. */
void log_revive(void);

/* Lines that were lost or are still waiting; and the predecessor's, to be told. */
uint64_t log_unwritten(void);
void log_add_lost(uint64_t lines);

#endif
