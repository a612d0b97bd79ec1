/* SPDX-License-Identifier: MIT */
/*
 * Output appended to a file: never truncated, so that the log of a guest that was started again by
 * mistake is still there. A full disk drops output until there is room; the guest does not notice.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "chardev_impl.h"

static int file_open(struct chardev *cd, const char *path, struct error *err)
{
	/* Non-blocking for what is no regular file: a fifo without a reader must not stop us. */
	int flags = O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

	cd->out_fd = open(path, flags, 0600);
	if (cd->out_fd < 0)
		return err_sys(err, errno, "cannot open %s for output%s", path,
			       fd_output_hint(path, errno));
	snprintf(cd->describe, sizeof(cd->describe), "file %s", path);
	return 0;
}

static int file_adopt(struct chardev *cd, struct fdtable *fds, struct error *err)
{
	cd->out_fd = chardev_take_fd(cd, "file", 0, fds, err);
	return cd->out_fd < 0 ? cd->out_fd : 0;
}

static int file_save_fds(const struct chardev *cd, struct fdtable *fds, struct error *err)
{
	return chardev_add_fd(cd, "file", cd->out_fd, fds, err);
}

static void file_close(struct chardev *cd, bool undo)
{
	(void)undo;
	fd_close(&cd->out_fd);
}

static void file_output_error(struct chardev *cd, int error)
{
	chardev_lose_output(cd, error, false);
}

const struct chardev_kind chardev_file = {
	.name = "file",
	.takes_path = true,
	.has_output = true,
	.open = file_open,
	.adopt = file_adopt,
	.save_fds = file_save_fds,
	.close = file_close,
	.output_error = file_output_error,
};
