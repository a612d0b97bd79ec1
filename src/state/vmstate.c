/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/state/vmstate.h>

static uint32_t get_count(const struct vmstate_field *f, const void *data)
{
	const char *base = data;
	uint32_t count;

	if (f->type == FIELD_STRING)
		return (uint32_t)strnlen(base + f->offset, f->max - 1);
	if (!f->variable)
		return f->max;
	memcpy(&count, base + f->count_offset, sizeof(count));
	return count <= f->max ? count : f->max;
}

static void save_section(struct stream_writer *w, const struct vmstate *vms, const char *name,
			 uint32_t instance, const void *data)
{
	stream_section_begin(w, name, instance, vms->version,
			     vms->ignorable ? SECTION_IGNORABLE : 0);
	for (const struct vmstate_field *f = vms->fields; f->name; f++) {
		if (f->flags & VMSTATE_NOT_SAVED)
			continue;
		stream_field(w, f->name, f->type,
			     f->flags & VMSTATE_IGNORABLE ? FIELD_IGNORABLE : 0,
			     (const char *)data + f->offset, get_count(f, data));
	}
	stream_section_end(w);
}

static void subsection_name(char *out, size_t size, const char *name, const struct vmstate *sub)
{
	snprintf(out, size, "%s/%s", name, sub->name);
}

void vmstate_save(struct stream_writer *w, const struct vmstate *vms, uint32_t instance,
		  const void *data)
{
	char name[2 * STREAM_NAME_MAX];

	save_section(w, vms, vms->name, instance, data);
	for (const struct vmstate *const *sub = vms->subsections; sub && *sub; sub++) {
		if ((*sub)->needed && !(*sub)->needed(data))
			continue;
		subsection_name(name, sizeof(name), vms->name, *sub);
		save_section(w, *sub, name, instance, data);
	}
}

/*
 * Looks from field *index on, round the table: a stream of our own kind has the fields in the
 * table's order, and a table of 150 would else be gone through for each of them, within the guest's
 * pause.
 */
static const struct vmstate_field *find_field(const struct vmstate *vms, const char *name,
					      size_t *index)
{
	size_t at = *index;

	do {
		const struct vmstate_field *f = &vms->fields[at];

		if (!f->name) {
			at = 0;
			continue;
		}
		if (!(f->flags & VMSTATE_NOT_SAVED) && strcmp(f->name, name) == 0) {
			*index = at;
			return f;
		}
		at++;
	} while (at != *index);
	return NULL;
}

static int check_bools(const struct stream_field *in)
{
	for (uint32_t i = 0; i < in->count; i++)
		if (in->data[i] > 1)
			return -EBADMSG;
	return 0;
}

static int store_string(const struct vmstate_field *f, const struct stream_field *in, void *data)
{
	char *dst = (char *)data + f->offset;

	if (in->count >= f->max || memchr(in->data, '\0', in->count))
		return -EBADMSG;
	memset(dst, 0, f->max);
	memcpy(dst, in->data, in->count);
	return 0;
}

static int store_field(const struct vmstate_field *f, const struct stream_field *in, void *data)
{
	char *base = data;

	if (in->type != f->type)
		return -EBADMSG;
	if (f->type == FIELD_STRING)
		return store_string(f, in, data);
	if (f->variable ? in->count > f->max : in->count != f->max)
		return -EBADMSG;
	if (f->type == FIELD_BOOL && check_bools(in) < 0)
		return -EBADMSG;
	memcpy(base + f->offset, in->data, in->count * field_type_size(f->type));
	if (f->variable)
		memcpy(base + f->count_offset, &in->count, sizeof(in->count));
	return 0;
}

static void store_default(const struct vmstate_field *f, void *data)
{
	size_t size = field_type_size(f->type);
	char *dst = (char *)data + f->offset;
	uint32_t zero = 0;

	if (f->variable) { /* none, and no page of it is touched */
		memcpy((char *)data + f->count_offset, &zero, sizeof(zero));
		return;
	}
	for (uint32_t i = 0; i < f->max; i++)
		memcpy(dst + i * size, &f->def, size); /* little-endian: the low bytes */
}

#define FIELDS_MAX 256 /* of one table; a test holds every class to it */

static int load_fields(const struct stream_section *sec, const struct vmstate *vms, void *data,
		       struct error *err)
{
	bool seen[FIELDS_MAX] = { false };
	struct stream_field in;
	size_t pos = 0, index = 0;
	int r;

	while ((r = stream_next_field(sec, &pos, &in)) > 0) {
		const struct vmstate_field *f = find_field(vms, in.name, &index);

		if (!f && (in.flags & FIELD_IGNORABLE))
			continue;
		if (!f)
			return err_set(err, EPROTO, "unknown field '%s'", in.name);
		if (index >= FIELDS_MAX || seen[index])
			return err_set(err, EBADMSG, "field '%s' is there twice", in.name);
		seen[index] = true;
		if (store_field(f, &in, data) < 0)
			return err_set(err, EBADMSG,
				       "field '%s': %u x %s does not fit here (at most %u x %s)",
				       in.name, in.count, field_type_name(in.type), f->max,
				       field_type_name(f->type));
	}
	if (r < 0)
		return err_set(err, EBADMSG, "malformed field");
	index = 0;
	for (const struct vmstate_field *f = vms->fields; f->name; f++, index++) {
		if ((f->flags & VMSTATE_NOT_SAVED) || (index < FIELDS_MAX && seen[index]))
			continue;
		if (!(f->flags & VMSTATE_HAS_DEFAULT))
			return err_set(err, EPROTO, "field '%s' is missing", f->name);
		store_default(f, data);
	}
	return 0;
}

/* try: nothing is to come alive, so post_load is left out. */
static int load_section(struct stream_section *sec, const struct vmstate *vms, void *data, bool try,
			struct error *err)
{
	int r;

	sec->claimed = true;
	if (sec->version > vms->version || sec->version < vms->min_version)
		return err_set(err, EPROTO, "version %u, this molt loads %u to %u", sec->version,
			       vms->min_version, vms->version);
	r = load_fields(sec, vms, data, err);
	if (r == 0 && vms->post_load && !try)
		r = vms->post_load(data, sec->version, err);
	return r;
}

static void default_section(const struct vmstate *vms, void *data)
{
	for (const struct vmstate_field *f = vms->fields; f->name; f++)
		if (!(f->flags & VMSTATE_NOT_SAVED))
			store_default(f, data);
}

/* Subsections first: the section's own post_load then sees everything. */
static int load_subsections(struct stream *s, const struct vmstate *vms, const char *section,
			    uint32_t instance, void *data, bool try, struct error *err)
{
	char name[2 * STREAM_NAME_MAX];

	for (const struct vmstate *const *sub = vms->subsections; sub && *sub; sub++) {
		struct stream_section *sec;
		int r;

		subsection_name(name, sizeof(name), section, *sub);
		sec = stream_find(s, name, instance);
		if (!sec) {
			default_section(*sub, data);
			continue;
		}
		r = load_section(sec, *sub, data, try, err);
		if (r < 0) {
			err_prefix(err, "section '%s' %u", name, instance);
			return r;
		}
	}
	return 0;
}

static int load(struct stream *s, const struct vmstate *vms, const char *name, uint32_t instance,
		void *data, bool try, struct error *err)
{
	struct stream_section *sec = stream_find(s, name, instance);
	int r;

	if (!sec)
		return err_set(err, EPROTO, "section '%s' %u is missing", name, instance);
	r = load_subsections(s, vms, name, instance, data, try, err);
	if (r < 0)
		return r;
	r = load_section(sec, vms, data, try, err);
	if (r < 0)
		err_prefix(err, "section '%s' %u", name, instance);
	return r;
}

int vmstate_load(struct stream *s, const struct vmstate *vms, uint32_t instance, void *data,
		 struct error *err)
{
	return load(s, vms, vms->name, instance, data, false, err);
}

int vmstate_try(struct stream *s, const struct vmstate *vms, const char *name, uint32_t instance,
		struct error *err)
{
	void *scratch = calloc(1, vms->size);
	int r;

	if (!scratch)
		return err_set(err, ENOMEM, "section '%s' %u: no memory", name, instance);
	r = load(s, vms, name, instance, scratch, true, err);
	free(scratch);
	return r;
}
