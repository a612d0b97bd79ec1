/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/sandbox/sandbox.h>
#include <molt/state/vmstate.h>

#include "log_file.h"

static const struct vmstate_field log_fields[] = {
	VMSTATE_STRING(struct log_file, path), VMSTATE_U64(struct log_file, lost),
	VMSTATE_UNSAVED(struct log_file, fd, "in the fd table"), VMSTATE_END
};

static const struct vmstate log_vmstate = {
	.name = "log",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct log_file),
	.ignorable = true,
	.fields = log_fields,
};

static const char *const log_fds[] = { "log", NULL };
const struct takeover_kind log_file_kind = { .vms = &log_vmstate, .fds = log_fds };

/*
 * Non-blocking for a fifo: without a reader it is an error, not a start that hangs. It stays so,
 * which is nobody else's affair, since this open file description is ours.
 */
static int open_path(const char *path, struct error *err)
{
	int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd = open(path, flags, 0600);

	if (fd < 0)
		return err_sys(err, errno, "--log-file %s%s", path, fd_output_hint(path, errno));
	return fd;
}

static int take(struct log_file *f, struct fdtable *fds, struct stream *stream, struct error *err)
{
	int r = 0;

	if (stream_find(stream, log_vmstate.name, 0))
		r = vmstate_load(stream, &log_vmstate, 0, f, err);
	if (r < 0 || !fdtable_has(fds, "log", 0))
		return r;
	f->fd = fdtable_take(fds, "log", 0, 0, err);
	return f->fd < 0 ? f->fd : 0;
}

int log_file_open(struct log_file *f, const char *path, enum log_level level, struct fdtable *fds,
		  struct stream *stream, struct error *err)
{
	int r = 0;

	log_set_level(level);
	if (fds)
		r = take(f, fds, stream, err);
	else if (path)
		r = f->fd = open_path(path, err);
	if (r < 0)
		return r;
	/* A predecessor that did not tell the path was most likely started with the same one. */
	if (path && f->fd >= 0 && !f->path[0])
		snprintf(f->path, sizeof(f->path), "%s", path);
	if (f->fd >= 0)
		log_set_fd(f->fd);
	log_add_lost(f->lost);
	return 0;
}

int log_file_save(const struct log_file *f, struct stream_writer *w, struct fdtable *fds,
		  struct error *err)
{
	struct log_file now = { .lost = log_unwritten_at_rest() };

	strcpy(now.path, f->path);
	vmstate_save(w, &log_vmstate, 0, &now);
	return f->fd >= 0 ? fdtable_add(fds, log_fds[0], 0, f->fd, err) : 0;
}

/*
 * Under the old number: a line that is just being written must not get into whatever has that next.
 */
static int run_log_reopen(void *opaque, const struct command_origin *origin, json_t *args,
			  json_t **result, struct error *err)
{
	struct log_file *f = opaque;
	int fd, r = 0;

	(void)origin;
	(void)args;
	(void)result;
	if (f->fd < 0)
		return err_set(err, ENOENT,
			       "the log goes to standard error; with --log-file it "
			       "could be reopened");
	if (!f->path[0])
		return err_set(err, ENOENT,
			       "the log's path is not known: a predecessor that did "
			       "not tell it had opened the file; start the successor with "
			       "--log-file");
	log_drain(LOG_DRAIN_MS);
	fd = open_path(f->path, err);
	if (fd == -EACCES && sandbox_level())
		return err_set(err, EACCES,
			       "--log-file %s: permission denied, which may be the sandbox: its "
			       "directory must be molt's user's and hold no other files, or be named "
			       "in --sandbox write=",
			       f->path);
	if (fd < 0)
		return fd;
	if (dup3(fd, f->fd, O_CLOEXEC) < 0)
		r = err_sys(err, errno, "--log-file %s", f->path);
	log_set_fd(f->fd);
	fd_close(&fd);
	return r;
}

const struct command log_file_commands[] = {
	{ .name = "log-reopen",
	  .help = "open the log's file anew by its path, after a rotation",
	  .run = run_log_reopen },
};
const size_t log_file_commands_count = ARRAY_SIZE(log_file_commands);
