/* SPDX-License-Identifier: MIT */
/* Where the log of a VMM goes: standard error or the file of --log-file, also over updates. */
#ifndef MOLT_VMM_LOG_FILE_H
#define MOLT_VMM_LOG_FILE_H

#include <limits.h>

#include <molt/base/command.h>
#include <molt/base/log.h>
#include <molt/state/fdtable.h>
#include <molt/state/kinds.h>

struct log_file {
	int fd;              /* -1: standard error */
	char path[PATH_MAX]; /* empty: standard error, or a predecessor did not say */
	uint64_t lost;       /* lines that the predecessor could not write */
};

/*
 * Level and destination: the file at path (NULL: standard error) or, with fds and stream (incoming),
 * what the predecessor had; nothing is opened by its path then. 0 or -errno with the sentence.
 */
int log_file_open(struct log_file *f, const char *path, enum log_level level, struct fdtable *fds,
		  struct stream *stream, struct error *err);

/* Section "log", which a successor may ignore, and descriptor "log". */
int log_file_save(const struct log_file *f, struct stream_writer *w, struct fdtable *fds,
		  struct error *err);
extern const struct takeover_kind log_file_kind;

/* log-reopen, for rotation; opaque is the struct log_file. */
extern const struct command log_file_commands[];
extern const size_t log_file_commands_count;

#endif
