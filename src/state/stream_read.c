/* SPDX-License-Identifier: MIT */
/*
 * Reading a stream: hostile input. Every length is compared with what is left before it is used;
 * all framing, down to each field, is checked here once, so that what comes later can only go wrong
 * in meaning, not in bounds.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wire.h"

struct cursor {
	const uint8_t *data;
	size_t len;
	size_t pos;
};

static bool take(struct cursor *c, void *out, size_t len)
{
	if (len > c->len - c->pos)
		return false;
	memcpy(out, c->data + c->pos, len);
	c->pos += len;
	return true;
}

/* A name for people: what the file says may be anything. */
static void printable(char *out, size_t size, const char *name, size_t len)
{
	size_t n = 0;

	for (size_t i = 0; i < len && name[i] && n + 1 < size; i++)
		out[n++] = name[i] >= ' ' && name[i] <= '~' ? name[i] : '?';
	out[n] = '\0';
}

static int read_header(struct stream *s, struct cursor *c, uint32_t *crcs, struct error *err)
{
	struct wire_header h;

	if (!take(c, &h, sizeof(h)))
		return err_set(err, EBADMSG, "header: cut short, %zu of %zu bytes", c->len,
			       sizeof(h));
	if (memcmp(h.magic, WIRE_MAGIC, sizeof(h.magic)) != 0)
		return err_set(err, EBADMSG, "header: no state stream (wrong magic)");
	if (crc32c(0, &h, offsetof(struct wire_header, crc)) != h.crc)
		return err_set(err, EBADMSG, "header: CRC does not match");
	if (h.format != STREAM_FORMAT)
		return err_set(err, EPROTO, "header: stream format %u, this molt reads format %u",
			       h.format, STREAM_FORMAT);
	s->header.format = h.format;
	s->header.machine_version = h.machine_version;
	printable(s->header.producer, sizeof(s->header.producer), h.producer, sizeof(h.producer));
	memcpy(s->header.uuid, h.uuid, sizeof(h.uuid));
	memcpy(s->header.nonce, h.nonce, sizeof(h.nonce));
	*crcs = crc32c(0, &h.crc, sizeof(h.crc));
	return 0;
}

static int decode_field(const uint8_t *payload, size_t len, size_t *pos, struct stream_field *out)
{
	struct cursor c = { payload, len, *pos };
	struct wire_field f;
	size_t elem, bytes;

	if (!take(&c, &f, sizeof(f)))
		return -EBADMSG;
	elem = field_type_size(f.type);
	if (!elem || f.reserved || !f.name_len || f.name_len > STREAM_NAME_MAX)
		return -EBADMSG;
	memset(out->name, 0, sizeof(out->name));
	if (!take(&c, out->name, f.name_len) || strlen(out->name) != f.name_len)
		return -EBADMSG;
	bytes = (size_t)f.count * elem; /* 32 bits times 8 at most: no overflow */
	if (bytes > c.len - c.pos)
		return -EBADMSG;
	out->type = f.type;
	out->flags = f.flags;
	out->count = f.count;
	out->data = payload + c.pos;
	*pos = c.pos + bytes;
	return 1;
}

int stream_next_field(const struct stream_section *sec, size_t *pos, struct stream_field *field)
{
	if (*pos >= sec->payload_len)
		return 0;
	return decode_field(sec->payload, sec->payload_len, pos, field);
}

/* last: where the field before it begins, if it is not the first. */
static int malformed_field(const struct stream_section *sec, size_t last, size_t pos,
			   struct error *err)
{
	char name[STREAM_NAME_MAX + 1] = "the section's start";
	struct stream_field field;

	if (pos && stream_next_field(sec, &last, &field) > 0)
		printable(name, sizeof(name), field.name, sizeof(field.name));
	return err_set(err, EBADMSG,
		       "section '%s' %u: malformed field after '%s' at byte %zu of it", sec->name,
		       sec->instance, name, pos);
}

static int check_fields(const struct stream_section *sec, struct error *err)
{
	size_t pos = 0, before = 0, last = 0;
	struct stream_field field;
	int r;

	while ((r = stream_next_field(sec, &pos, &field)) > 0) {
		last = before;
		before = pos;
	}
	return r < 0 ? malformed_field(sec, last, pos, err) : 0;
}

/* One section from just behind its tag's position; c stands at the tag. */
static int read_section(struct stream_section *sec, struct cursor *c, size_t number, uint32_t *crcs,
			struct error *err)
{
	size_t start = c->pos;
	struct wire_section w;
	uint32_t crc;

	if (!take(c, &w, sizeof(w)))
		return err_set(err, EBADMSG, "section %zu at byte %zu: cut short", number, start);
	printable(sec->name, sizeof(sec->name), w.name, sizeof(w.name));
	if (w.payload_len > c->len - c->pos || c->len - c->pos - w.payload_len < sizeof(crc))
		return err_set(err, EBADMSG,
			       "section %zu '%s' at byte %zu: cut short (%u bytes long, %zu left)",
			       number, sec->name, start, w.payload_len, c->len - c->pos);
	sec->instance = w.instance;
	sec->version = w.version;
	sec->flags = w.flags;
	sec->payload = c->data + c->pos;
	sec->payload_len = w.payload_len;
	c->pos += w.payload_len;
	take(c, &crc, sizeof(crc));
	if (crc32c(0, c->data + start, sizeof(w) + w.payload_len) != crc)
		return err_set(err, EBADMSG, "section %zu '%s' at byte %zu: CRC does not match",
			       number, sec->name, start);
	if (!w.name[0] || w.name[STREAM_NAME_MAX])
		return err_set(err, EBADMSG, "section %zu at byte %zu: malformed name", number,
			       start);
	*crcs = crc32c(*crcs, &crc, sizeof(crc));
	return check_fields(sec, err);
}

static int read_end(const struct stream *s, struct cursor *c, uint32_t crcs, struct error *err)
{
	struct wire_end e;
	size_t start = c->pos;

	if (!take(c, &e, sizeof(e)))
		return err_set(err, EBADMSG, "end marker at byte %zu: cut short", start);
	if (crc32c(0, &e, offsetof(struct wire_end, crc)) != e.crc || e.crc_of_crcs != crcs)
		return err_set(err, EBADMSG, "end marker at byte %zu: CRC does not match", start);
	if (e.sections != s->nsections)
		return err_set(err, EBADMSG, "end marker: %u sections written, %zu read",
			       e.sections, s->nsections);
	if (c->pos != c->len)
		return err_set(err, EBADMSG, "end marker: %zu stray bytes after it",
			       c->len - c->pos);
	return 0;
}

static int add_section(struct stream *s, struct error *err)
{
	if (s->nsections == STREAM_MAX_SECTIONS)
		return err_set(err, EBADMSG, "section %zu: a stream has at most %u",
			       s->nsections + 1, STREAM_MAX_SECTIONS);
	if (s->nsections == s->room) {
		int r = stream_reserve(s, s->room ? s->room * 2 : 64, err);

		if (r < 0)
			return r;
	}
	memset(&s->sections[s->nsections], 0, sizeof(*s->sections));
	return 0;
}

static int read_sections(struct stream *s, struct cursor *c, uint32_t crcs, struct error *err)
{
	for (;;) {
		struct stream_section *sec;
		uint32_t tag;
		int r;

		if (c->len - c->pos < sizeof(tag))
			return err_set(err, EBADMSG,
				       "end marker missing: cut short after section %zu '%s'",
				       s->nsections,
				       s->nsections ? s->sections[s->nsections - 1].name : "");
		memcpy(&tag, c->data + c->pos, sizeof(tag));
		if (tag == WIRE_END)
			return read_end(s, c, crcs, err);
		if (tag != WIRE_SECTION)
			return err_set(err, EBADMSG,
				       "section %zu at byte %zu (or end marker): unknown tag 0x%08x",
				       s->nsections + 1, c->pos, tag);
		r = add_section(s, err);
		if (r < 0)
			return r;
		sec = &s->sections[s->nsections];
		r = read_section(sec, c, s->nsections + 1, &crcs, err);
		if (r < 0)
			return r;
		if (stream_find(s, sec->name, sec->instance))
			return err_set(err, EBADMSG, "section '%s' %u is there twice", sec->name,
				       sec->instance);
		s->nsections++;
	}
}

int stream_reserve(struct stream *s, size_t sections, struct error *err)
{
	struct stream_section *grown = realloc(s->sections, sections * sizeof(*grown));

	if (!grown)
		return err_set(err, ENOMEM, "no memory for %zu sections", sections);
	s->sections = grown;
	s->room = sections;
	return 0;
}

int stream_parse(struct stream *s, const void *buf, size_t len, struct error *err)
{
	*s = (struct stream){ 0 };
	return stream_parse_reserved(s, buf, len, err);
}

int stream_parse_reserved(struct stream *s, const void *buf, size_t len, struct error *err)
{
	struct cursor c = { buf, len, 0 };
	uint32_t crcs = 0;
	int r;

	s->nsections = 0;
	r = read_header(s, &c, &crcs, err);
	if (r == 0)
		r = read_sections(s, &c, crcs, err);
	if (r < 0)
		stream_fini(s);
	return r;
}

void stream_fini(struct stream *s)
{
	free(s->sections);
	s->sections = NULL;
	s->nsections = s->room = 0;
}

static struct stream_section *find_between(struct stream *s, size_t from, size_t to,
					   const char *name, uint32_t instance)
{
	for (size_t i = from; i < to; i++)
		if (s->sections[i].instance == instance && strcmp(s->sections[i].name, name) == 0)
			return &s->sections[i];
	return NULL;
}

struct stream_section *stream_find(struct stream *s, const char *name, uint32_t instance)
{
	/* Threads that load vCPUs look at the same time: any value of it will do. */
	size_t next = __atomic_load_n(&s->found, __ATOMIC_RELAXED) + 1;
	struct stream_section *sec = find_between(s, next, s->nsections, name, instance);

	if (!sec)
		sec = find_between(s, 0, next < s->nsections ? next : s->nsections, name, instance);
	if (sec)
		__atomic_store_n(&s->found, (size_t)(sec - s->sections), __ATOMIC_RELAXED);
	return sec;
}

bool stream_is_gone(struct stream *newer, const struct stream_section *sec)
{
	char owner[sizeof(sec->name)];
	char *slash;

	memcpy(owner, sec->name, sizeof(owner));
	slash = strchr(owner, '/');
	if (!slash)
		return false;
	*slash = '\0';
	return stream_find(newer, owner, sec->instance) &&
	       !stream_find(newer, sec->name, sec->instance);
}

int stream_check_claimed(const struct stream *s, struct error *err)
{
	char names[512] = "";
	size_t len = 0;

	for (size_t i = 0; i < s->nsections; i++) {
		const struct stream_section *sec = &s->sections[i];

		if (sec->claimed || (sec->flags & SECTION_IGNORABLE))
			continue;
		if (len < sizeof(names))
			len += (size_t)snprintf(names + len, sizeof(names) - len, "%s'%s' %u",
						len ? ", " : "", sec->name, sec->instance);
	}
	if (names[0])
		return err_set(err, EPROTO, "no device here for section %s", names);
	return 0;
}
