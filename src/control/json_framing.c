/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * QMP messages follow each other with or without white space and arrive in any pieces, so a scanner
 * has to find their ends: a message begins at the first byte that is not white space and ends where
 * its last bracket closes; outside brackets a string ends at its quote and anything else (a number,
 * a keyword, noise) at white space, a quote or a bracket.
 *
 * Errors lose as little as possible. A byte that can be in no JSON text (a control character, 0xFE,
 * 0xFF) always brings the scanner back to its initial state, as qmp-spec's "Forcing the JSON parser
 * into known-good state" asks; so does a bracket that closes nothing. All else is left to the
 * parser, whose complaint costs exactly one message.
 */
#include <string.h>

#include <molt/control/json_framing.h>

static bool is_forbidden(const struct json_framer *f, unsigned char ch)
{
	return ch >= 0xfe || (ch < 0x20 && (f->quote || !json_framing_space((char)ch)));
}

static void restart(struct json_framer *f)
{
	*f = (struct json_framer){ .pos = f->pos, .start = f->pos };
}

/* The byte after the current one ends the message. */
static enum json_frame finish(struct json_framer *f, enum json_frame what, size_t *start,
			      size_t *end)
{
	*start = f->start;
	*end = f->pos;
	restart(f);
	return what;
}

bool json_framer_string(struct json_framer *f, char ch)
{
	if (f->escaped) {
		f->escaped = false;
	} else if (ch == '\\') {
		f->escaped = true;
	} else if (ch == f->quote) {
		f->quote = 0;
		return true;
	}
	return false;
}

static enum json_frame open_bracket(struct json_framer *f, char ch)
{
	if (f->depth == JSON_FRAMING_MAX_DEPTH)
		return JSON_FRAME_TOO_DEEP;
	f->depth++;
	f->kinds = f->kinds << 1 | (ch == '{');
	return JSON_FRAME_MORE;
}

static enum json_frame close_bracket(struct json_framer *f, char ch)
{
	if (f->depth == 0 || (f->kinds & 1) != (ch == '}'))
		return JSON_FRAME_UNMATCHED;
	f->depth--;
	f->kinds >>= 1;
	return f->depth ? JSON_FRAME_MORE : JSON_FRAME_MESSAGE;
}

/* Outside strings. */
static enum json_frame scan_structure(struct json_framer *f, char ch)
{
	switch (ch) {
	case '{':
	case '[':
		return open_bracket(f, ch);
	case '}':
	case ']':
		return close_bracket(f, ch);
	case '"':
	case '\'':
		f->quote = ch;
		return JSON_FRAME_MORE;
	default:
		f->bare = f->depth == 0;
		return JSON_FRAME_MORE;
	}
}

static bool ends_bare(char ch)
{
	return json_framing_space(ch) || strchr("{}[]\"'", ch);
}

enum json_frame json_framer_scan(struct json_framer *f, const char *buf, size_t len, size_t *start,
				 size_t *end)
{
	while (f->pos < len) {
		char ch = buf[f->pos];
		enum json_frame what = JSON_FRAME_MORE;

		if (is_forbidden(f, (unsigned char)ch)) {
			f->pos++;
			return finish(f, JSON_FRAME_BAD_BYTE, start, end);
		}
		/* The byte that ends a bare word belongs to what follows. */
		if (f->bare && ends_bare(ch))
			return finish(f, JSON_FRAME_MESSAGE, start, end);
		f->pos++;
		if (f->quote) {
			if (json_framer_string(f, ch) && f->depth == 0)
				what = JSON_FRAME_MESSAGE;
		} else if (!json_framing_space(ch)) {
			what = scan_structure(f, ch);
		} else if (f->depth == 0) {
			f->start = f->pos;
		}
		if (what != JSON_FRAME_MORE)
			return finish(f, what, start, end);
	}
	*start = f->start;
	*end = len;
	return JSON_FRAME_MORE;
}

void json_framer_drop(struct json_framer *f, size_t n)
{
	f->pos -= n;
	f->start -= n < f->start ? n : f->start;
}

const char *json_frame_text(enum json_frame frame)
{
	switch (frame) {
	case JSON_FRAME_BAD_BYTE:
		return "JSON parse error, stray control character or byte that is not UTF-8";
	case JSON_FRAME_UNMATCHED:
		return "JSON parse error, closing bracket without its opening one";
	case JSON_FRAME_TOO_DEEP:
		return "JSON nesting depth limit exceeded";
	case JSON_FRAME_MORE:
	case JSON_FRAME_MESSAGE:
		break;
	}
	return "JSON parse error";
}
