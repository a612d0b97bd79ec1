/* SPDX-License-Identifier: MIT */
/* The stream's layout on the wire; docs/state-format.md tells it to people. All little-endian. */
#ifndef MOLT_STATE_WIRE_H
#define MOLT_STATE_WIRE_H

#include <assert.h>
#include <stdint.h>

#include <molt/state/stream.h>

#define WIRE_MAGIC "MOLTSTRM"
#define WIRE_SECTION 0x54434553u /* "SECT" */
#define WIRE_END 0x21444e45u     /* "END!" */

struct wire_header {
	char magic[8];
	uint32_t format;
	uint32_t machine_version;
	char producer[32];
	uint8_t uuid[16];
	uint8_t nonce[STREAM_NONCE_BYTES];
	uint32_t reserved;
	uint32_t crc; /* of all before it */
};
static_assert(sizeof(struct wire_header) == 88, "wire format");

/* Followed by payload_len bytes of fields and a uint32_t CRC of header and payload. */
struct wire_section {
	uint32_t tag;
	uint32_t instance;
	uint32_t version;
	uint32_t flags;
	uint32_t payload_len;
	char name[STREAM_NAME_MAX + 1]; /* padded with NULs */
};
static_assert(sizeof(struct wire_section) == 68, "wire format");

/* Followed by name_len bytes of name, then count elements. */
struct wire_field {
	uint8_t type;
	uint8_t flags;
	uint8_t name_len;
	uint8_t reserved;
	uint32_t count;
};
static_assert(sizeof(struct wire_field) == 8, "wire format");

struct wire_end {
	uint32_t tag;
	uint32_t sections;
	uint32_t crc_of_crcs; /* of the header's CRC and every section's, in order */
	uint32_t crc;         /* of the three above */
};
static_assert(sizeof(struct wire_end) == 16, "wire format");

#endif
