/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/update/update.h>

#include "check_bench.h"

static int memfd(const void *data, size_t len)
{
	int fd = memfd_create("check-bench", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, data, len), 0);
	return fd;
}

static void check_options(void *opaque, struct stream *s, json_t *reasons)
{
	struct error err = ERROR_INIT;
	struct machine_guest guest;

	if (machine_peek_config(&guest, opaque, s, &err) < 0)
		update_check_reason(reasons, "%s", err.text);
}

json_t *bench_check(const struct machine_model *model, const struct takeover_kinds *kinds,
		    const void *stream, size_t len, const struct fdtable *fds)
{
	int stream_fd = memfd(stream, len), table_fd = memfd("", 0), answer_fd = memfd("", 0);
	struct error err = ERROR_INIT;
	_cleanup_free_ void *text = NULL;
	json_t *answer, *reasons;
	char env[64];
	size_t n = 0;

	assert_int_equal(fdtable_write(fds, table_fd, &err), 0);
	snprintf(env, sizeof(env), "%d:%d:%d", stream_fd, table_fd, answer_fd);
	setenv("MOLT_CHECK", env, 1);
	if (update_check_answer(kinds, check_options, (void *)(uintptr_t)model, &err) < 0 ||
	    fd_read_file(answer_fd, "answer", 1 << 16, &text, &n, &err) < 0)
		fail_msg("%s", err.text);
	unsetenv("MOLT_CHECK");
	answer = json_loadb(text, n, 0, NULL);
	reasons = json_incref(json_object_get(answer, "reasons"));
	assert_true(json_is_array(reasons));
	json_decref(answer);
	close(stream_fd);
	close(table_fd);
	close(answer_fd);
	return reasons;
}
