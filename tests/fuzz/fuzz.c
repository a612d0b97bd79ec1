/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../../src/state/wire.h"
#include "fuzz.h"

void fuzz_fail(const char *file, int line, const char *what, const char *why)
{
	/* A target may have put something else in the place of stderr. */
	dprintf(STDERR_FILENO, "%s:%d: does not hold: %s %s\n", file, line, what, why);
	abort();
}

void fuzz_must_explain(int r, const struct error *err)
{
	fuzz_must(r < 0);
	fuzz_must(err->code == -r);
	fuzz_must(err->text[0] != '\0');
}

size_t fuzz_bytes(struct fuzz_input *in, void *buf, size_t len)
{
	size_t n = len < in->len ? len : in->len;

	memset(buf, 0, len);
	if (n)
		memcpy(buf, in->data, n);
	in->data += n;
	in->len -= n;
	return n;
}

uint8_t fuzz_u8(struct fuzz_input *in)
{
	uint8_t value;

	fuzz_bytes(in, &value, sizeof(value));
	return value;
}

uint16_t fuzz_u16(struct fuzz_input *in)
{
	uint16_t value;

	fuzz_bytes(in, &value, sizeof(value));
	return value;
}

uint64_t fuzz_u64(struct fuzz_input *in)
{
	uint64_t value;

	fuzz_bytes(in, &value, sizeof(value));
	return value;
}

static void put_crc(uint8_t *at, const void *data, size_t len, uint32_t *of_crcs)
{
	uint32_t crc = crc32c(0, data, len);

	memcpy(at, &crc, sizeof(crc));
	*of_crcs = crc32c(*of_crcs, &crc, sizeof(crc));
}

/* The section at data; its length with the CRC, 0 where it is not whole. */
static size_t repair_section(uint8_t *data, size_t len, uint32_t *crcs)
{
	struct wire_section w;
	size_t body;

	if (len < sizeof(w))
		return 0;
	memcpy(&w, data, sizeof(w));
	body = sizeof(w) + w.payload_len;
	if (w.tag != WIRE_SECTION || len - sizeof(w) < w.payload_len ||
	    len - body < sizeof(uint32_t))
		return 0;
	put_crc(data + body, data, body, crcs);
	return body + sizeof(uint32_t);
}

void fuzz_repair_crcs(uint8_t *data, size_t len)
{
	size_t at = sizeof(struct wire_header), n;
	uint32_t crcs = 0, ignored = 0;

	if (len < at)
		return;
	put_crc(data + offsetof(struct wire_header, crc), data, offsetof(struct wire_header, crc),
		&crcs);
	while ((n = repair_section(data + at, len - at, &crcs)) > 0)
		at += n;
	if (len - at < sizeof(struct wire_end))
		return;
	memcpy(data + at + offsetof(struct wire_end, crc_of_crcs), &crcs, sizeof(crcs));
	put_crc(data + at + offsetof(struct wire_end, crc), data + at,
		offsetof(struct wire_end, crc), &ignored);
}

int fuzz_parse(struct stream *s, const uint8_t *data, size_t len, uint8_t **copy, struct error *err)
{
	int r = stream_parse(s, data, len, err);

	*copy = NULL;
	if (r == 0)
		return 0;
	fuzz_must_explain(r, err);
	*copy = malloc(len + 1);
	fuzz_must(*copy);
	if (len)
		memcpy(*copy, data, len);
	fuzz_repair_crcs(*copy, len);
	r = stream_parse(s, *copy, len, err);
	if (r < 0)
		fuzz_must_explain(r, err);
	return r;
}

void fuzz_fill(int memfd, const void *data, size_t len)
{
	fuzz_must(ftruncate(memfd, 0) == 0);
	fuzz_must(pwrite(memfd, data, len, 0) == (ssize_t)len);
}

void fuzz_duplicate_fds(struct fdtable *fds)
{
	for (uint32_t i = 0; i < fds->count; i++) {
		fds->entries[i].fd = fcntl(fds->entries[i].fd, F_DUPFD_CLOEXEC, 3);
		fuzz_must(fds->entries[i].fd >= 0);
	}
}

void fuzz_close_untaken(struct fdtable *fds)
{
	for (uint32_t i = 0; i < fds->count; i++)
		if (!fds->entries[i].taken)
			close(fds->entries[i].fd);
}
