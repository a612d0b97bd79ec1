/* SPDX-License-Identifier: MIT */
/*
 * The state stream's framing: a header, tagged sections each with its own CRC32C, an end marker.
 * docs/state-format.md is the specification. This layer knows nothing of what a section means.
 *
 * Everything read is taken for hostile: a length is checked against what is there before it is
 * used, and nothing is allocated by a length from the file.
 */
#ifndef MOLT_STATE_STREAM_H
#define MOLT_STATE_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>

#ifndef STREAM_FORMAT /* tests build the molt of another age */
#define STREAM_FORMAT 1
#endif
#define STREAM_NAME_MAX 47 /* of a section or a field, without the NUL */
#define STREAM_MAX_BYTES (64u << 20)
#define STREAM_MAX_SECTIONS 8192u
#define STREAM_NONCE_BYTES 16

enum field_type {
	FIELD_BOOL = 1, /* one byte, 0 or 1 */
	FIELD_U8,
	FIELD_U16,
	FIELD_U32,
	FIELD_U64,
	FIELD_STRING, /* count bytes of UTF-8 without a NUL */
};

/* Bytes of one element of a type; 0 for a type that does not exist. */
size_t field_type_size(unsigned int type);
const char *field_type_name(unsigned int type);

struct stream_header {
	uint32_t format;
	uint32_t machine_version;
	char producer[32]; /* version of the molt that wrote it, NUL-terminated */
	uint8_t uuid[16];
	uint8_t nonce[STREAM_NONCE_BYTES];
};

/* ---- writing ---- */

/*
 * A growing buffer. Errors stick: after the first failed allocation every call is harmless and
 * stream_end() reports it, so that writers need no check at each field.
 */
struct stream_writer {
	uint8_t *data;
	size_t len;
	size_t capacity;
	size_t section_start; /* 0 while no section is open */
	uint32_t sections;
	uint32_t crc_of_crcs;
	bool fixed; /* see stream_writer_use() */
	int error;
};

/* Reserves reserve bytes at once, so that a writer used in the pause need not allocate there. */
int stream_writer_init(struct stream_writer *w, size_t reserve, struct error *err);
/* Or into memory that stays the caller's, and does not grow: -EFBIG from stream_end() then. */
void stream_writer_use(struct stream_writer *w, void *memory, size_t size);
void stream_writer_fini(struct stream_writer *w);

void stream_begin(struct stream_writer *w, const struct stream_header *header);

#define SECTION_IGNORABLE 1u /* a reader that does not know this section may skip it */
#define FIELD_IGNORABLE 1u   /* the same for a field */

void stream_section_begin(struct stream_writer *w, const char *name, uint32_t instance,
			  uint32_t version, uint32_t flags);
/* data: count elements of the type, in host order; molt runs on little-endian hosts only. */
void stream_field(struct stream_writer *w, const char *name, enum field_type type, uint32_t flags,
		  const void *data, uint32_t count);
void stream_section_end(struct stream_writer *w);

/* Writes the end marker. 0, or the first error of all calls since stream_begin(). */
int stream_end(struct stream_writer *w, struct error *err);

/* ---- reading ---- */

struct stream_section {
	char name[STREAM_NAME_MAX + 1];
	uint32_t instance;
	uint32_t version;
	uint32_t flags;
	const uint8_t *payload; /* inside the buffer given to stream_parse() */
	size_t payload_len;
	bool claimed;
};

struct stream_field {
	char name[STREAM_NAME_MAX + 1];
	unsigned int type;
	uint32_t flags;
	uint32_t count;
	const uint8_t *data; /* not aligned: memcpy() from it */
};

struct stream {
	struct stream_header header;
	struct stream_section *sections;
	size_t nsections;
	size_t found; /* where the last one was found: the next is mostly behind it */
	size_t room;  /* sections that there is memory for */
};

/*
 * Checks the framing of all of buf (header, each section and each field in it, every CRC, the end
 * marker, nothing after it) and indexes the sections. buf must outlive the stream. On an error the
 * sentence names the section and the offset, and the stream holds nothing.
 */
int stream_parse(struct stream *s, const void *buf, size_t len, struct error *err);

/*
 * For a parser that must not allocate: stream_reserve() makes room for so many sections in a stream
 * that was all zero, stream_parse_reserved() is stream_parse() into it (and allocates if they are
 * more).
 */
int stream_reserve(struct stream *s, size_t sections, struct error *err);
int stream_parse_reserved(struct stream *s, const void *buf, size_t len, struct error *err);
void stream_fini(struct stream *s);

/* Writes a section as it was read. */
void stream_copy_section(struct stream_writer *w, const struct stream_section *sec);

/* The section of that name and instance, or NULL. Does not claim it. */
struct stream_section *stream_find(struct stream *s, const char *name, uint32_t instance);

/* Whether an older stream's section is a subsection of one that the newer has without it. */
bool stream_is_gone(struct stream *newer, const struct stream_section *sec);

/*
 * Steps through the fields of a section: *pos starts at 0; returns 1 with a field, 0 at the end,
 * -EBADMSG on a malformed field (never after stream_parse() was happy with it).
 */
int stream_next_field(const struct stream_section *sec, size_t *pos, struct stream_field *field);

/* 0 if every section was claimed or is ignorable; else an error that names all that were not. */
int stream_check_claimed(const struct stream *s, struct error *err);

/* CRC32C (Castagnoli), as in RFC 3720 appendix B.4; crc is 0 or the value for what came before. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
