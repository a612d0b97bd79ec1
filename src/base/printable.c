/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/printable.h>

/*
 * The character that text begins with (len bytes are there), and how many bytes it has: 1 and
 * *valid false for a byte that begins none. Unicode, chapter 3, table 3-7.
 */
static size_t decode(const char *text, size_t len, uint32_t *code, bool *valid)
{
	const unsigned char *in = (const unsigned char *)text;
	size_t n = in[0] < 0x80 ? 1 : in[0] < 0xe0 ? 2 : in[0] < 0xf0 ? 3 : 4;

	*code = n == 1 ? in[0] : in[0] & (0x7fu >> n);
	*valid = n == 1 || (in[0] >= 0xc2 && in[0] <= 0xf4 && n <= len);
	for (size_t i = 1; *valid && i < n; i++) {
		*valid = (in[i] & 0xc0) == 0x80;
		*code = *code << 6 | (in[i] & 0x3f);
	}
	if (*valid && ((n == 3 && *code < 0x800) || (n == 4 && *code < 0x10000) ||
		       *code > 0x10ffff || (*code >= 0xd800 && *code < 0xe000)))
		*valid = false;
	return *valid ? n : 1;
}

static bool is_harmless(uint32_t code)
{
	if (code < 0x20 || (code >= 0x7f && code < 0xa0))
		return false;
	/* Arabic letter mark, the two marks, line and paragraph, embeddings, isolates */
	return code != 0x61c && code != 0x200e && code != 0x200f &&
	       !(code >= 0x2028 && code <= 0x202e) && !(code >= 0x2066 && code <= 0x2069);
}

void printable_print(FILE *out, const char *text)
{
	size_t len = strlen(text), shown = len < PRINTABLE_MAX ? len : PRINTABLE_MAX;
	uint32_t code;
	bool valid;

	for (size_t at = 0, n; at < shown; at += n) {
		n = decode(text + at, len - at, &code, &valid);
		if (valid && is_harmless(code)) {
			fwrite(text + at, 1, n, out);
			continue;
		}
		for (size_t i = 0; i < n; i++)
			fprintf(out, "\\x%02x", (unsigned int)(unsigned char)text[at + i]);
	}
	if (shown < len)
		fprintf(out, "... (%zu bytes in all)", len);
}

void printable_printf(FILE *out, const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) < 0)
		text = NULL;
	va_end(ap);
	printable_print(out, text ? text : "no memory for a message");
	putc('\n', out);
}

void printable_print_json(FILE *out, const json_t *value, size_t flags)
{
	_cleanup_free_ char *text = json_dumps(value, flags | JSON_ENCODE_ANY);
	size_t len = text ? strlen(text) : 0;
	uint32_t code;
	bool valid;

	for (size_t at = 0, n; at < len; at += n) {
		n = decode(text + at, len - at, &code, &valid);
		/* What jansson writes is valid; below a blank it is its own layout. */
		if (code < 0x20 || is_harmless(code))
			fwrite(text + at, 1, n, out);
		else
			fprintf(out, "\\u%04x", code);
	}
	putc('\n', out);
}

void printable_line(char *line, size_t len)
{
	uint32_t code;
	bool valid;

	for (size_t at = 0, n; at < len; at += n) {
		n = decode(line + at, len - at, &code, &valid);
		if (!valid || !is_harmless(code))
			memset(line + at, code == '\n' || code == '\t' ? ' ' : '?', n);
	}
}
