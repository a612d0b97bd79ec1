/* SPDX-License-Identifier: MIT */
/*
 * Where JSON messages begin and end, and their parsing. The first byte says into which pieces the
 * rest is cut: whole or in pieces, the messages must be the same.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/control/json_framing.h>
#include <molt/control/json_message.h>

#include "fuzz.h"

/* What came out: for each frame its kind and its text, with a NUL behind. */
struct frames {
	uint8_t *data;
	size_t len;
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

static void note(struct frames *out, enum json_frame what, const char *text, size_t len)
{
	out->data[out->len++] = (uint8_t)what;
	if (what == JSON_FRAME_MESSAGE) {
		memcpy(out->data + out->len, text, len);
		out->len += len;
	}
	out->data[out->len++] = 0;
}

/* Feeds the framer as the server does: a buffer that grows at its end and shrinks at its front. */
static void scan(const uint8_t *data, size_t size, size_t piece, struct frames *out)
{
	struct json_framer f = { 0 };
	size_t from = 0, to = 0, start, end;

	while (to < size) {
		enum json_frame what;

		to = size - to < piece ? size : to + piece;
		do {
			const char *buf = (const char *)data + from;

			what = json_framer_scan(&f, buf, to - from, &start, &end);
			fuzz_must(start <= to - from && end <= to - from);
			if (what == JSON_FRAME_MORE) {
				json_framer_drop(&f, start);
				from += start;
				break;
			}
			fuzz_must(end > 0);
			fuzz_must(what != JSON_FRAME_MESSAGE || start < end);
			note(out, what, buf + start, end - start);
			json_framer_drop(&f, end);
			from += end;
		} while (from < to);
	}
}

/* What was parsed and is written out again is parsed as the same. */
static void parse(const char *text, size_t len)
{
	struct error err = ERROR_INIT;
	json_t *msg = json_message_parse(text, len, &err), *again;
	char *out;

	if (!msg) {
		fuzz_must(err.text[0] != '\0');
		return;
	}
	out = json_dumps(msg, JSON_ENSURE_ASCII | JSON_ENCODE_ANY);
	fuzz_must(out);
	again = json_message_parse(out, strlen(out), &err);
	/* A real too large for its text to be read again is all that may differ. */
	fuzz_must(!again || json_equal(msg, again));
	fuzz_must(again);
	free(out);
	json_decref(again);
	json_decref(msg);
}

/* Whatever was sent, an answer with its id is one message that has the same id. */
static void answer(const char *text, size_t len)
{
	char *id = json_message_id(text, len), *again = NULL, *out = NULL;
	struct json_framer f = { 0 };
	struct error err = ERROR_INIT;
	size_t start, end;
	json_t *msg;

	if (!id)
		return;
	fuzz_must(json_text_is_value(id, strlen(id)));
	fuzz_must(asprintf(&out, "{\"return\": {}, \"id\": %s}", id) > 0);
	fuzz_must(json_framer_scan(&f, out, strlen(out), &start, &end) == JSON_FRAME_MESSAGE);
	fuzz_must(start == 0 && end == strlen(out));
	again = json_message_id(out, end);
	fuzz_must(again && strcmp(id, again) == 0);
	msg = json_message_parse(out, end, &err);
	fuzz_must(msg);
	json_decref(msg);
	free(again);
	free(out);
	free(id);
}

static void parse_all(const struct frames *f)
{
	for (size_t at = 0; at < f->len;) {
		size_t end = at + 1;

		while (f->data[end])
			end++;
		if (f->data[at] == JSON_FRAME_MESSAGE)
			parse((const char *)f->data + at + 1, end - at - 1);
		answer((const char *)f->data + at + 1, end - at - 1);
		at = end + 1;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct frames whole = { 0 }, cut = { 0 };

	if (size < 2)
		return 0;
	whole.data = malloc(3 * size);
	cut.data = malloc(3 * size);
	fuzz_must(whole.data && cut.data);
	scan(data + 1, size - 1, size, &whole);
	scan(data + 1, size - 1, 1 + data[0] % 16u, &cut);
	fuzz_must(whole.len == cut.len && memcmp(whole.data, cut.data, whole.len) == 0);
	parse_all(&whole);
	free(whole.data);
	free(cut.data);
	return 0;
}
