/* SPDX-License-Identifier: MIT */
/*
 * Writes the part of the first corpus that molt itself writes; mkcorpus.py runs it. A machine over
 * the fake KVM is saved: the whole stream, each of its sections as a stream of its own, the fd
 * table, and both as the check before an update sees them.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/state/vmstate.h>

#include "../../src/update/internal.h"
#include "../unit/machine_bench.h"
#include "fuzz.h"

#define SEED 7
#define FIRST_FD 100 /* fuzz_fdtable.c has one of each kind from here on */

static const char *out_dir;

static void put(const char *target, const char *name, const void *head, size_t head_len,
		const void *data, size_t len)
{
	char path[512];
	int fd;

	snprintf(path, sizeof(path), "%s/%s/%s", out_dir, target, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	fuzz_must(fd >= 0 && fd_write_all(fd, head, head_len) == 0);
	fuzz_must(fd_write_all(fd, data, len) == 0);
	close(fd);
}

/* The section, fields as they are, in a stream of its own. */
static void put_section(const struct stream_section *sec)
{
	const struct stream_header header = { .machine_version = 1, .producer = "seeds" };
	struct error err = ERROR_INIT;
	struct stream_field f;
	struct stream_writer w;
	size_t pos = 0;

	fuzz_must_work(stream_writer_init(&w, 4096, &err), &err);
	stream_begin(&w, &header);
	stream_section_begin(&w, sec->name, sec->instance, sec->version, sec->flags);
	while (stream_next_field(sec, &pos, &f) == 1)
		stream_field(&w, f.name, (enum field_type)f.type, f.flags, f.data, f.count);
	stream_section_end(&w);
	fuzz_must_work(stream_end(&w, &err), &err);
	put("stream", sec->name, NULL, 0, w.data, w.len);
	stream_writer_fini(&w);
}

/* The command line of a predecessor, which the section 'update' must have to be taken. */
static void fill_update(struct update_wire *wire)
{
	static const char words[] = "/usr/bin/molt\0/usr/bin/molt\0run\0--name\0seeds";

	memcpy(wire->argv, words, sizeof(words));
	wire->argv_len = sizeof(words);
	strcpy(wire->id, "1");
}

/* What the bench's machine does not save: control server, update, boot files. */
static void put_empty(const struct takeover_kind *kind)
{
	const struct stream_header header = { .machine_version = 1, .producer = "seeds" };
	_cleanup_free_ void *data = calloc(1, kind->vms->size);
	struct vmstate vms = *kind->vms;
	struct error err = ERROR_INIT;
	struct stream_writer w;

	vms.name = kind->section;
	if (kind->vms == &update_vmstate)
		fill_update(data);
	fuzz_must_work(stream_writer_init(&w, 4096, &err), &err);
	stream_begin(&w, &header);
	vmstate_save(&w, &vms, 0, data);
	fuzz_must_work(stream_end(&w, &err), &err);
	put("stream", kind->section, NULL, 0, w.data, w.len);
	stream_writer_fini(&w);
}

static void put_kinds(struct stream *s)
{
	static struct takeover_kinds kinds;
	char name[80];

	fuzz_takeover_kinds(&kinds);
	for (size_t i = 0; i < kinds.count; i++) {
		/* The kind, its own version, and all fields good: zero, then from the input. */
		const uint8_t head[] = { (uint8_t)i, 1 };
		uint8_t fates[512];

		if (!kinds.kind[i].vms)
			continue;
		memset(fates, 1, sizeof(fates));
		snprintf(name, sizeof(name), "%s", kinds.kind[i].section);
		put("vmstate", name, head, sizeof(head), fates, sizeof(fates));
		if (!stream_find(s, kinds.kind[i].section, 0))
			put_empty(&kinds.kind[i]);
	}
}

/* The table's descriptors under the numbers that fuzz_fdtable.c has for their kinds. */
static void make_table(struct fdtable *fds, uint8_t **data, size_t *len)
{
	static const int number[] = {
		[FD_KIND_FILE] = 5, [FD_KIND_MEMFD] = 0, [FD_KIND_LISTEN] = 1, [FD_KIND_STREAM] = 2,
		[FD_KIND_TTY] = 6,  [FD_KIND_CHAR] = 3,  [FD_KIND_PIPE] = 4,   [FD_KIND_OTHER] = 7,
	};
	int memfd = memfd_create("table", MFD_CLOEXEC);
	struct error err = ERROR_INIT;
	void *buf;

	for (uint32_t kind = FD_KIND_FILE; kind <= FD_KIND_OTHER; kind++) {
		struct fdtable_entry *e = &fds->entries[fds->count++];

		snprintf(e->name, sizeof(e->name), "serial-chardev-%s",
			 fd_kind_name((enum fd_kind)kind));
		e->kind = kind;
	}
	for (uint32_t i = 0; i < fds->count; i++)
		fds->entries[i].fd = FIRST_FD + number[fds->entries[i].kind];
	fds->nmarks = 1;
	strcpy(fds->marks[0].name, "save");
	strcpy(fds->state_uri, "file:/state");
	fuzz_must_work(fdtable_write(fds, memfd, &err), &err);
	fuzz_must_work(fd_read_file(memfd, "table", 1 << 20, &buf, len, &err), &err);
	*data = buf;
	close(memfd);
}

static void put_check(const struct bench_state *st, const uint8_t *table, size_t table_len)
{
	size_t len = st->w.len + table_len;
	uint8_t *both = malloc(len);
	uint16_t head = (uint16_t)st->w.len;

	fuzz_must(both && st->w.len < UINT16_MAX);
	memcpy(both, st->w.data, st->w.len);
	memcpy(both + st->w.len, table, table_len);
	put("check", "machine", &head, sizeof(head), both, len);
	free(both);
}

int main(int argc, char **argv)
{
	struct bench_state st;
	struct bench b;
	uint8_t *table;
	size_t len;

	if (argc != 2)
		return EXIT_FAILURE;
	out_dir = argv[1];
	log_set_fd(-1);
	bench_init(&b, 1);
	bench_randomise(&b, SEED);
	bench_save(&b, &st, SEED);
	put("stream", "all", NULL, 0, st.w.data, st.w.len);
	for (size_t i = 0; i < st.s.nsections; i++)
		put_section(&st.s.sections[i]);
	put_kinds(&st.s);
	make_table(st.fds, &table, &len);
	put("fdtable", "machine", NULL, 0, table, len);
	put_check(&st, table, len);
	free(table);
	bench_state_fini(&st);
	bench_fini(&b);
	return EXIT_SUCCESS;
}
