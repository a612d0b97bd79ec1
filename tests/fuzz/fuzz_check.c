/* SPDX-License-Identifier: MIT */
/*
 * Both readers of the check before an update: the successor's of the machine's description and the
 * predecessor's of the answer. Input: a length and so many bytes of stream, the rest is the fd
 * table; with the length 0xffff the rest is an answer. What the successor answers is read as well.
 */
#include <sys/mman.h>

#include "../../src/update/check.c"
#include "fuzz.h"

#define ONLY_ANSWER 0xffff

static struct takeover_kinds kinds;
static struct update update;
static char *argv0[] = { (char *)"successor", NULL };
static int stream_fd, table_fd;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char env[64];

	(void)argc;
	(void)argv;
	fuzz_takeover_kinds(&kinds);
	stream_fd = memfd_create("fuzz-stream", MFD_CLOEXEC);
	table_fd = memfd_create("fuzz-table", MFD_CLOEXEC);
	update.check.answer_fd = memfd_create("fuzz-answer", MFD_CLOEXEC);
	update.hand_over.argv = argv0;
	snprintf(env, sizeof(env), "%d:%d:%d", stream_fd, table_fd, update.check.answer_fd);
	setenv(CHECK_ENV, env, 1);
	return 0;
}

static void check_options(void *opaque, struct stream *s, json_t *reasons)
{
	struct error err = ERROR_INIT;
	struct machine_guest guest;

	(void)opaque;
	if (machine_peek_config(&guest, &machine_model, s, &err) < 0)
		update_check_reason(reasons, "%s", err.text);
}

/* foreign: the answer, where it is not one that molt gave. */
static void read_the_answer(const struct fuzz_input *foreign)
{
	struct error err = ERROR_INIT;
	int r = read_answer(&update, &err);

	if (r < 0)
		fuzz_must_explain(r, &err);
	if (foreign && !memmem(foreign->data, foreign->len, "(null)", 6))
		fuzz_must(!strstr(err.text, "(null)"));
	/* molt's own answers are understood; only their number has a limit. */
	if (!foreign)
		fuzz_must(r == 0 || r == -EPROTO || r == -EFBIG);
}

static void put_stream(int fd, const uint8_t *data, size_t len)
{
	uint8_t *copy = malloc(len + 1);

	fuzz_must(copy);
	if (len)
		memcpy(copy, data, len);
	fuzz_repair_crcs(copy, len);
	fuzz_fill(fd, copy, len);
	free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct error err = ERROR_INIT;
	size_t len = fuzz_u16(&in);

	if (len == ONLY_ANSWER) {
		fuzz_fill(update.check.answer_fd, in.data, in.len);
		read_the_answer(&in);
		return 0;
	}
	len = len < in.len ? len : in.len;
	put_stream(stream_fd, in.data, len);
	put_stream(table_fd, in.data + len, in.len - len);
	fuzz_must(ftruncate(update.check.answer_fd, 0) == 0 &&
		  lseek(update.check.answer_fd, 0, SEEK_SET) == 0);
	fuzz_must_work(update_check_answer(&kinds, check_options, NULL, &err), &err);
	read_the_answer(NULL);
	return 0;
}
