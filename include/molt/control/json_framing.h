/* SPDX-License-Identifier: MIT */
/*
 * Where one JSON message ends and the next begins, in a byte stream that carries no lengths (QMP,
 * QEMU's docs/interop/qmp-spec.rst). The framer looks at brackets and quotes only: whether what
 * is between them is JSON is for the parser to say.
 */
#ifndef MOLT_CONTROL_JSON_FRAMING_H
#define MOLT_CONTROL_JSON_FRAMING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define JSON_FRAMING_MAX_DEPTH 64 /* nested arrays and objects: one bit each in `kinds` */

/* RFC 8259, section 2: what may be between a message's parts. */
static inline bool json_framing_space(char ch)
{
	return ch == ' ' || ch == '\t' || ch == '\r' || ch == '\n';
}

/* All zeroes is the state at the beginning of a stream. */
struct json_framer {
	size_t pos;         /* bytes of the caller's buffer that were looked at */
	size_t start;       /* where the message begins */
	uint64_t kinds;     /* open brackets, the innermost in bit 0: 1 for '{', 0 for '[' */
	unsigned int depth; /* how many of them are open */
	bool bare;          /* inside a number or keyword that no bracket encloses */
	bool escaped;       /* the last byte was a backslash in a string */
	char quote;         /* inside a string: the quote that ends it; else 0 */
};

enum json_frame {
	JSON_FRAME_MORE,      /* no whole message there yet */
	JSON_FRAME_MESSAGE,   /* one message */
	JSON_FRAME_BAD_BYTE,  /* a control character, 0xFE or 0xFF: forces a known state */
	JSON_FRAME_UNMATCHED, /* a closing bracket without its opening one */
	JSON_FRAME_TOO_DEEP,  /* more than JSON_FRAMING_MAX_DEPTH */
};

/*
 * Looks on in buf, of which the first len bytes are there, from where the last call stopped. With
 * JSON_FRAME_MESSAGE the message is buf[*start..*end). With an error, *end is the byte after the
 * offending one, and buf[*start..*end) the beginning of a message, which the framer has forgotten.
 * With JSON_FRAME_MORE, *start says how many bytes in front are mere white space. The caller may
 * then remove bytes from the front, up to *end (or *start), and must say so by json_framer_drop().
 */
enum json_frame json_framer_scan(struct json_framer *f, const char *buf, size_t len, size_t *start,
				 size_t *end);

/* The caller removed n bytes from the front of its buffer, all of them looked at. */
void json_framer_drop(struct json_framer *f, size_t n);

/* QMP's sentence for one of the errors. */
const char *json_frame_text(enum json_frame frame);

/* Takes a byte of a string, whose quote is in f->quote. True where it ends the string. */
bool json_framer_string(struct json_framer *f, char ch);

#endif
