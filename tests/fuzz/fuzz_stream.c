/* SPDX-License-Identifier: MIT */
/*
 * The state stream's loader: the bytes as they are and with their CRCs repaired. A stream that is
 * parsed goes to every section's own loader; what loads must come out of a save, a load and a
 * second save as the same bytes.
 */
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/boot/boot_files.h>
#include <molt/state/vmstate.h>
#include <molt/update/update.h>
#include <molt/vm/machine.h>

#include "fuzz.h"

static struct takeover_kinds kinds;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	fuzz_takeover_kinds(&kinds);
	return 0;
}

static void walk(const struct stream_section *sec)
{
	struct stream_field f;
	size_t pos = 0;
	int r;

	while ((r = stream_next_field(sec, &pos, &f)) == 1)
		fuzz_must(f.data + f.count * field_type_size(f.type) <=
			  sec->payload + sec->payload_len);
	fuzz_must(r == 0);
}

static void save(struct stream_writer *w, const struct vmstate *vms, uint32_t instance,
		 const void *data)
{
	const struct stream_header header = { .producer = "fuzz" };
	struct error err = ERROR_INIT;

	fuzz_must_work(stream_writer_init(w, 4096, &err), &err);
	stream_begin(w, &header);
	vmstate_save(w, vms, instance, data);
	fuzz_must_work(stream_end(w, &err), &err);
}

static void check_identity(const struct vmstate *vms, uint32_t instance, const void *data)
{
	_cleanup_free_ void *again = calloc(1, vms->size);
	struct error err = ERROR_INIT;
	struct stream_writer a, b;
	struct stream s;

	save(&a, vms, instance, data);
	fuzz_must_work(stream_parse(&s, a.data, a.len, &err), &err);
	fuzz_must_work(vmstate_load(&s, vms, instance, again, &err), &err);
	fuzz_must_work(stream_check_claimed(&s, &err), &err);
	stream_fini(&s);
	save(&b, vms, instance, again);
	fuzz_must(a.len == b.len && memcmp(a.data, b.data, a.len) == 0);
	stream_writer_fini(&a);
	stream_writer_fini(&b);
}

static void load(struct stream *s, const struct takeover_kind *kind, uint32_t instance)
{
	struct vmstate vms = *kind->vms;
	_cleanup_free_ void *data = calloc(1, vms.size);
	struct error err = ERROR_INIT;
	int tried, r;

	vms.name = kind->section;
	tried = vmstate_try(s, kind->vms, kind->section, instance, &err);
	r = vmstate_load(s, &vms, instance, data, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
	else
		check_identity(&vms, instance, data);
	/* What the check before an update refuses, the update would have refused. */
	fuzz_must(tried == 0 || r < 0);
}

/* Loaders that do more with a section than keep it. No descriptor came with the stream. */
static void load_rooms(struct stream *s)
{
	static struct fdtable no_fds;
	struct incoming in = { .stream = *s, .failure = "fuzz" };
	struct update_self self = { .exe_fd = -1 };
	struct machine_guest guest = { 0 };
	struct error err = ERROR_INIT;
	struct boot_files files;
	int r;

	r = machine_peek_config(&guest, &machine_model, s, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
	r = boot_files_load(&files, s, &no_fds, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
	r = update_self_load(&self, &in, &err);
	free(in.wire);
	if (r < 0)
		fuzz_must_explain(r, &err);
	else
		fuzz_must(self.path && self.argv[0]);
	update_self_fini(&self);
}

static void load_all(struct stream *s)
{
	struct error err = ERROR_INIT;
	int r;

	for (size_t i = 0; i < s->nsections; i++) {
		const struct takeover_kind *kind = takeover_kinds_section(&kinds,
									  s->sections[i].name);

		walk(&s->sections[i]);
		if (kind && kind->vms && !strchr(s->sections[i].name, '/'))
			load(s, kind, s->sections[i].instance);
	}
	load_rooms(s);
	r = stream_check_claimed(s, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error err = ERROR_INIT;
	struct stream s;
	uint8_t *copy;

	if (fuzz_parse(&s, data, size, &copy, &err) == 0)
		load_all(&s);
	stream_fini(&s);
	free(copy);
	return 0;
}
