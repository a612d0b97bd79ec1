/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

size_t field_type_size(unsigned int type)
{
	switch (type) {
	case FIELD_BOOL:
	case FIELD_U8:
	case FIELD_STRING:
		return 1;
	case FIELD_U16:
		return 2;
	case FIELD_U32:
		return 4;
	case FIELD_U64:
		return 8;
	default:
		return 0;
	}
}

const char *field_type_name(unsigned int type)
{
	static const char *const names[] = {
		[FIELD_BOOL] = "bool", [FIELD_U8] = "u8",   [FIELD_U16] = "u16",
		[FIELD_U32] = "u32",   [FIELD_U64] = "u64", [FIELD_STRING] = "string",
	};

	return field_type_size(type) ? names[type] : "unknown";
}

int stream_writer_init(struct stream_writer *w, size_t reserve, struct error *err)
{
	*w = (struct stream_writer){ .capacity = reserve };
	w->data = malloc(reserve);
	if (!w->data)
		return err_set(err, ENOMEM, "no memory for a state stream of %zu bytes", reserve);
	return 0;
}

void stream_writer_use(struct stream_writer *w, void *memory, size_t size)
{
	*w = (struct stream_writer){ .data = memory, .capacity = size, .fixed = true };
}

void stream_writer_fini(struct stream_writer *w)
{
	if (!w->fixed)
		free(w->data);
	*w = (struct stream_writer){ 0 };
}

static void put(struct stream_writer *w, const void *data, size_t len)
{
	if (w->error)
		return;
	if (len > w->capacity - w->len) {
		size_t capacity = w->capacity * 2 + len;
		bool may_grow = !w->fixed && capacity <= STREAM_MAX_BYTES;
		uint8_t *grown = may_grow ? realloc(w->data, capacity) : NULL;

		if (!grown) {
			w->error = may_grow ? ENOMEM : EFBIG;
			return;
		}
		w->data = grown;
		w->capacity = capacity;
	}
	if (len)
		memcpy(w->data + w->len, data, len);
	w->len += len;
}

static void put_name(char *dst, size_t size, const char *src)
{
	size_t len = strlen(src);

	memset(dst, 0, size);
	memcpy(dst, src, len < size ? len : size - 1);
}

void stream_begin(struct stream_writer *w, const struct stream_header *header)
{
	struct wire_header h = {
		.format = STREAM_FORMAT,
		.machine_version = header->machine_version,
	};

	w->len = 0;
	w->section_start = 0;
	w->sections = 0;
	w->error = 0;
	memcpy(h.magic, WIRE_MAGIC, sizeof(h.magic));
	put_name(h.producer, sizeof(h.producer), header->producer);
	memcpy(h.uuid, header->uuid, sizeof(h.uuid));
	memcpy(h.nonce, header->nonce, sizeof(h.nonce));
	h.crc = crc32c(0, &h, offsetof(struct wire_header, crc));
	w->crc_of_crcs = crc32c(0, &h.crc, sizeof(h.crc));
	put(w, &h, sizeof(h));
}

void stream_section_begin(struct stream_writer *w, const char *name, uint32_t instance,
			  uint32_t version, uint32_t flags)
{
	struct wire_section s = {
		.tag = WIRE_SECTION,
		.instance = instance,
		.version = version,
		.flags = flags,
	};

	if (w->section_start || strlen(name) > STREAM_NAME_MAX)
		w->error = w->error ? w->error : EINVAL;
	put_name(s.name, sizeof(s.name), name);
	w->section_start = w->len;
	put(w, &s, sizeof(s));
}

void stream_field(struct stream_writer *w, const char *name, enum field_type type, uint32_t flags,
		  const void *data, uint32_t count)
{
	size_t name_len = strlen(name);
	struct wire_field f = {
		.type = (uint8_t)type,
		.flags = (uint8_t)flags,
		.name_len = (uint8_t)name_len,
		.count = count,
	};

	if (!w->section_start || name_len > STREAM_NAME_MAX || !field_type_size(type)) {
		w->error = w->error ? w->error : EINVAL;
		return;
	}
	put(w, &f, sizeof(f));
	put(w, name, name_len);
	put(w, data, count * field_type_size(type));
}

void stream_section_end(struct stream_writer *w)
{
	struct wire_section *s;
	uint32_t crc;

	if (!w->error) {
		size_t payload = w->len - w->section_start - sizeof(*s);
		uint32_t payload_len = (uint32_t)payload;

		memcpy(w->data + w->section_start + offsetof(struct wire_section, payload_len),
		       &payload_len, sizeof(payload_len));
		crc = crc32c(0, w->data + w->section_start, sizeof(*s) + payload);
		put(w, &crc, sizeof(crc));
		w->crc_of_crcs = crc32c(w->crc_of_crcs, &crc, sizeof(crc));
		w->sections++;
	}
	w->section_start = 0;
}

void stream_copy_section(struct stream_writer *w, const struct stream_section *sec)
{
	stream_section_begin(w, sec->name, sec->instance, sec->version, sec->flags);
	put(w, sec->payload, sec->payload_len);
	stream_section_end(w);
}

int stream_end(struct stream_writer *w, struct error *err)
{
	struct wire_end e = {
		.tag = WIRE_END,
		.sections = w->sections,
		.crc_of_crcs = w->crc_of_crcs,
	};

	if (w->section_start)
		w->error = w->error ? w->error : EINVAL;
	e.crc = crc32c(0, &e, offsetof(struct wire_end, crc));
	put(w, &e, sizeof(e));
	if (w->error)
		return err_sys(err, w->error, "state stream of %zu bytes, %u sections", w->len,
			       w->sections);
	return 0;
}
