/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * Whoever logs in a molt that runs a guest is main or a vCPU thread, and neither may wait. What a
 * log is written to can block whatever one does: standard error is an open file description that
 * molt shares with others (no O_NONBLOCK), and a file's file system may hang. So a line goes into a
 * queue in memory, and a thread that has nothing else to do writes it (writer.h). A line is in the
 * queue until it has been taken for writing, and then in `piece` until it is written: memory that
 * the stand-in shares.
 *
 * The queue takes no more from the moment something did not fit until it is empty; then how many
 * lines were lost is said, in the place where they are missing. Lines that could not be written (a
 * full disk, a reader that is gone) are counted likewise and told before the next one that can.
 *
 * The thread dies with an exec. What an update waits for it, LOG_DRAIN_MS, is before the pause.
 */
#include <errno.h>
#include <stdint.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/printable.h>
#include <molt/base/writer.h>

#include "log_queue.h"

static size_t next_piece(void *opaque, const void **piece, int *fd, unsigned int *again_ms);
static void piece_written(void *opaque, ssize_t result);

static const char *const level_names[] = {
	[LOG_LEVEL_ERROR] = "error",
	[LOG_LEVEL_WARN] = "warn",
	[LOG_LEVEL_INFO] = "info",
	[LOG_LEVEL_DEBUG] = "debug",
};

static const struct writer_ops writer_ops = {
	.thread_name = "log",
	.next = next_piece,
	.written = piece_written,
};

/*
 * The only mutable globals of molt: a log that had to be handed to every function would not be
 * used.
 */
static _Atomic int log_level = LOG_LEVEL_INFO;
static _Atomic int log_fd = STDERR_FILENO;
static atomic_bool is_file;
static _Atomic bool held; /* lines go through the queue */
static struct writer writer = WRITER_INIT(&writer_ops, NULL);
static struct {
	pthread_mutex_t lock; /* of all below */
	struct log_queue queue;
	struct log_sites sites;
	char piece[LOG_LINE_MAX]; /* the line that is being written */
	size_t piece_len;
	size_t piece_done;
	uint64_t piece_tells; /* it is about so many lost lines; else 0 */
	bool failed;          /* the last write: what is lost is told when one succeeds */
	uint64_t at_rest;     /* log_unwritten() when log_rest() was done */
} state = { .lock = PTHREAD_MUTEX_INITIALIZER };

const char *log_level_name(enum log_level level)
{
	return level_names[level < 0 ? LOG_LEVEL_INFO : level];
}

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

static void note_kind(void)
{
	atomic_store(&is_file, fd_type(atomic_load(&log_fd)) == S_IFREG);
}

void log_set_fd(int fd)
{
	atomic_store(&log_fd, fd);
	note_kind();
}

int log_get_fd(void)
{
	return atomic_load(&log_fd);
}

/*
 * gmtime_r() reads the time zone's file at its first call, which a thread without access to files
 * must not. A year is counted from March, so that the leap day is its last.
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

/* "<time> molt[<pid>] <level>: "; line holds LOG_LINE_MAX bytes. */
static size_t begin_line(char *line, enum log_level level)
{
	struct timespec ts;
	size_t len;

	clock_gettime(CLOCK_REALTIME, &ts);
	len = (size_t)print_time(line, LOG_LINE_MAX, ts.tv_sec);
	return len + (size_t)snprintf(line + len, LOG_LINE_MAX - len, ".%06ldZ molt[%d] %s: ",
				      ts.tv_nsec / 1000, (int)getpid(), log_level_name(level));
}

/*
 * Cuts what is too long and ends the line; how long it is with that. What clients and files call
 * themselves is in it, too: a line break would make two of it.
 */
static size_t end_line(char *line)
{
	size_t len = strnlen(line, LOG_LINE_MAX - 1);

	printable_line(line, len);
	line[len++] = '\n';
	return len;
}

static void __attribute__((format(printf, 3, 4)))
format_line(char *line, enum log_level level, const char *fmt, ...)
{
	size_t len = begin_line(line, level);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line + len, LOG_LINE_MAX - 1 - len, fmt, ap);
	va_end(ap);
}

/* Of the first line that may not, the writer is told: it sees that it is told of in the end. */
static bool may_pass(const char *fmt, enum log_level level, uint64_t *more)
{
	bool pass, first;

	pthread_mutex_lock(&state.lock);
	pass = log_sites_pass(&state.sites, fmt, (uint32_t)(level < 0 ? LOG_LEVEL_INFO : level),
			      now_ns(), more);
	first = !pass && state.sites.suppressed == 1;
	pthread_mutex_unlock(&state.lock);
	if (first)
		writer_kick(&writer);
	return pass;
}

static void queue_line(const char *line, size_t len)
{
	pthread_mutex_lock(&state.lock);
	log_queue_put(&state.queue, line, len);
	pthread_mutex_unlock(&state.lock);
	writer_kick(&writer);
}

/* #syscalls vcpu: write getpid futex clock_gettime */
void log_write(enum log_level level, const char *fmt, ...)
{
	bool queued = atomic_load(&held);
	char line[LOG_LINE_MAX];
	int saved = errno;
	uint64_t more = 0;
	size_t len;
	va_list ap;

	if ((int)level > atomic_load(&log_level))
		return;
	if (queued && !may_pass(fmt, level, &more))
		return;
	len = begin_line(line, level);
	va_start(ap, fmt);
	vsnprintf(line + len, sizeof(line) - 1 - len, fmt, ap);
	va_end(ap);
	len = strlen(line);
	if (more)
		snprintf(line + len, sizeof(line) - 1 - len, " (%llu more suppressed)",
			 (unsigned long long)more);
	len = end_line(line);
	if (queued)
		queue_line(line, len);
	else if (write(atomic_load(&log_fd), line, len) < 0)
		errno = 0; /* nobody can be told that the log cannot be written */
	errno = saved;
}

/* ---- the writer's side; next_piece() and its like are called with the lock held ---- */

static bool tell_lost(void)
{
	if (!state.queue.lost || (state.queue.full && state.queue.len))
		return false;
	state.piece_tells = state.queue.lost;
	format_line(state.piece, LOG_LEVEL_WARN, "log: %llu lines lost, which could not be written",
		    (unsigned long long)state.queue.lost);
	state.piece_len = end_line(state.piece);
	return true;
}

/*
 * So that a flood that has ended is told of, too. all: in any case. The line's length, 0: there is
 * none.
 */
static size_t tell_suppressed(char *line, bool all)
{
	uint64_t more = 0;
	const struct log_site *site = log_sites_report(&state.sites, now_ns(), all, &more);

	if (!site)
		return 0;
	format_line(line, (enum log_level)site->level, "%llu more lines like \"%.80s\" suppressed",
		    (unsigned long long)more, site->fmt);
	return end_line(line);
}

static void choose_piece(void)
{
	/*
	 * While nothing can be written, lines are tried all the same, but not one and the same for
	 * ever.
	 */
	bool vain = state.failed && (state.piece_tells || !state.queue.len);

	state.piece_done = 0;
	state.piece_tells = 0;
	state.piece_len = 0;
	if (!vain && tell_lost())
		return;
	state.piece_len = log_queue_take(&state.queue, state.piece);
	if (!state.piece_len)
		state.piece_len = tell_suppressed(state.piece, false);
}

static size_t next_piece(void *opaque, const void **piece, int *fd, unsigned int *again_ms)
{
	size_t left;

	(void)opaque;
	pthread_mutex_lock(&state.lock);
	if (state.piece_done == state.piece_len)
		choose_piece();
	left = state.piece_len - state.piece_done;
	if (!left && state.sites.suppressed)
		*again_ms = LOG_REFILL_S * 1000;
	*piece = state.piece + state.piece_done;
	*fd = atomic_load(&log_fd);
	pthread_mutex_unlock(&state.lock);
	return left;
}

static void piece_written(void *opaque, ssize_t result)
{
	(void)opaque;
	pthread_mutex_lock(&state.lock);
	state.failed = result <= 0;
	if (result > 0) {
		state.piece_done += (size_t)result;
		if (state.piece_done == state.piece_len)
			state.queue.lost -= state.piece_tells;
	} else {
		state.queue.lost += !state.piece_tells;
		state.piece_done = state.piece_len;
	}
	pthread_mutex_unlock(&state.lock);
}

/* ---- life ---- */

void log_hold(void)
{
	if (!atomic_exchange(&held, true))
		note_kind();
}

/* Without a thread: as it was before there was one. */
static void write_directly(void)
{
	const void *piece;
	unsigned int again_ms;
	size_t len;
	int fd;

	atomic_store(&held, false);
	while ((len = next_piece(NULL, &piece, &fd, &again_ms)) > 0) {
		ssize_t n = write(fd, piece, len);

		piece_written(NULL, n < 0 ? -errno : n);
	}
}

int log_start(struct error *err)
{
	int r = writer_start(&writer, err);

	if (r < 0) {
		write_directly();
		return r;
	}
	log_hold();
	return 0;
}

bool log_drain(unsigned int ms)
{
	return !atomic_load(&held) || writer_wait(&writer, ms);
}

int log_before_exec(struct error *err)
{
	bool is_written;

	if (log_drain(0) || !atomic_load(&is_file))
		return 0;
	is_written = writer_hold(&writer, 0);
	writer_release(&writer);
	return is_written ? 0
			  : err_set(err, EBUSY,
				    "the log does not take what is being written to it: its file "
				    "system hangs");
}

void log_rest(void)
{
	/*
	 * One that is in a write that does not end waits for nobody, and the exec ends it. But it
	 * must not go on, or end by itself, just then: a lock of the log's or of malloc's may go
	 * with it that the stand-in needs.
	 */
	if (!writer_wait(&writer, 0) || !writer_rest(&writer, LOG_DRAIN_MS))
		writer_freeze(&writer);
	state.at_rest = log_unwritten();
}

uint64_t log_unwritten_at_rest(void)
{
	return state.at_rest;
}

void log_write_since_rest(unsigned int ms)
{
	/* The log's thread may have ended with it, by the exec. Nobody else logs here by now. */
	pthread_mutex_init(&state.lock, NULL);
	if (log_unwritten() <= state.at_rest)
		return;
	log_revive();
	log_stop(ms);
}

/* What was suppressed is told now or never. */
static void queue_suppressed(void)
{
	char line[LOG_LINE_MAX];
	size_t len;

	pthread_mutex_lock(&state.lock);
	while ((len = tell_suppressed(line, true)) > 0)
		log_queue_put(&state.queue, line, len);
	pthread_mutex_unlock(&state.lock);
}

void log_stop(unsigned int ms)
{
	struct error err = ERROR_INIT;
	bool written;

	if (!atomic_load(&held) || log_start(&err) < 0)
		return;
	queue_suppressed();
	writer_kick(&writer);
	written = log_drain(ms);
	if (!written)
		writer_finish(&writer);
	/* Where not, a thread may hang; lines go on waiting, in vain, rather than block. */
	if (writer_stop(&writer, LOG_DRAIN_MS) && written)
		atomic_store(&held, false);
}

void log_revive(void)
{
	struct error err = ERROR_INIT;

	pthread_mutex_init(&state.lock, NULL);
	writer_revive(&writer);
	if (atomic_load(&held) && log_start(&err) < 0)
		log_error("the log is written by whoever has something to say: %s", err.text);
}

uint64_t log_unwritten(void)
{
	uint64_t lines;

	pthread_mutex_lock(&state.lock);
	lines = state.queue.lost + state.queue.lines;
	/* Half a line is in the reader's hands, and the count of lost ones is not one of them. */
	lines += state.piece_done < state.piece_len && !state.piece_tells;
	pthread_mutex_unlock(&state.lock);
	return lines;
}

void log_add_lost(uint64_t lines)
{
	pthread_mutex_lock(&state.lock);
	state.queue.lost += lines;
	pthread_mutex_unlock(&state.lock);
}
