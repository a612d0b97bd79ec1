/* SPDX-License-Identifier: MIT */
/*
 * Loading one section, built by the writer from the class's own table, so that the framing is right
 * from the start. Input: the kind, the version, then for each field a byte that says what becomes
 * of it and its contents. Of a section whose fields are all as they should be the load may fail
 * only in its post_load; of any other it may not succeed in silence with fields that were not asked
 * for.
 */
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/state/vmstate.h>

#include "fuzz.h"

enum fate {
	FATE_GOOD,
	FATE_ZERO, /* good, without contents from the input */
	FATE_MISSING,
	FATE_TWICE,
	FATE_TYPE,
	FATE_COUNT,
	FATE_UNKNOWN,   /* another one is there before it */
	FATE_IGNORABLE, /* the same, but it may be skipped */
	FATES
};

static struct takeover_kinds kinds;
static uint8_t contents[1 << 21];

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fuzz_takeover_kinds(&kinds);
	return 0;
}

static uint32_t good_count(const struct vmstate_field *f, struct fuzz_input *in)
{
	if (f->type == FIELD_STRING)
		return f->max ? fuzz_u16(in) % f->max : 0;
	return f->variable ? fuzz_u16(in) % (f->max + 1) : f->max;
}

static void fill(const struct vmstate_field *f, enum fate fate, uint32_t count,
		 struct fuzz_input *in)
{
	size_t len = count * field_type_size(f->type);

	if (fate == FATE_ZERO)
		memset(contents, f->type == FIELD_STRING ? 'x' : 0, len);
	else
		fuzz_bytes(in, contents, len);
	for (size_t i = 0; i < len; i++) {
		if (f->type == FIELD_BOOL)
			contents[i] &= 1;
		else if (f->type == FIELD_STRING && !contents[i])
			contents[i] = 'x';
	}
}

/* Whether the field is one that must load. */
static bool put_field(struct stream_writer *w, const struct vmstate_field *f, struct fuzz_input *in)
{
	enum fate fate = (enum fate)(fuzz_u8(in) % FATES);
	uint32_t count = good_count(f, in);
	enum field_type type = f->type;

	fill(f, fate, count, in);
	if (fate == FATE_UNKNOWN || fate == FATE_IGNORABLE)
		stream_field(w, "no such field", FIELD_U8,
			     fate == FATE_IGNORABLE ? FIELD_IGNORABLE : 0, contents, 1);
	if (fate == FATE_TYPE)
		type = type % FIELD_STRING + 1;
	if (fate == FATE_COUNT)
		count = fuzz_u16(in) % 4096;
	if (fate != FATE_MISSING)
		stream_field(w, f->name, type, 0, contents, count);
	if (fate == FATE_TWICE)
		stream_field(w, f->name, type, 0, contents, count);
	return fate == FATE_GOOD || fate == FATE_ZERO || fate == FATE_IGNORABLE;
}

static bool put_section(struct stream_writer *w, const struct vmstate *vms, struct fuzz_input *in)
{
	uint32_t version = vms->version + fuzz_u8(in) % 3 - 1;
	bool good = version >= vms->min_version && version <= vms->version;

	stream_section_begin(w, vms->name, 0, version, 0);
	for (const struct vmstate_field *f = vms->fields; f->name; f++)
		if (!(f->flags & VMSTATE_NOT_SAVED))
			good &= put_field(w, f, in);
	stream_section_end(w);
	return good;
}

static void try_load(struct stream *s, const struct vmstate *vms, bool good)
{
	_cleanup_free_ void *data = calloc(1, vms->size);
	struct vmstate bare = *vms;
	struct error err = ERROR_INIT;
	int r;

	bare.post_load = NULL;
	r = vmstate_load(s, &bare, 0, data, &err);
	fuzz_must(!good || r == 0);
	if (r == 0)
		r = vmstate_load(s, vms, 0, data, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
	fuzz_must_work(stream_check_claimed(s, &err), &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct stream_header header = { .producer = "fuzz" };
	struct fuzz_input in = { data, size };
	struct error err = ERROR_INIT;
	const struct takeover_kind *kind;
	struct stream_writer w;
	struct vmstate vms;
	struct stream s;
	bool good;

	kind = &kinds.kind[fuzz_u8(&in) % kinds.count];
	if (!kind->vms)
		return 0;
	vms = *kind->vms;
	vms.name = kind->section;
	fuzz_must_work(stream_writer_init(&w, 4096, &err), &err);
	stream_begin(&w, &header);
	good = put_section(&w, &vms, &in);
	fuzz_must_work(stream_end(&w, &err), &err);
	/* Whatever the writer writes can be read. */
	fuzz_must_work(stream_parse(&s, w.data, w.len, &err), &err);
	try_load(&s, &vms, good);
	stream_fini(&s);
	stream_writer_fini(&w);
	return 0;
}
