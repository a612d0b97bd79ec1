/* SPDX-License-Identifier: MIT */
/* What an update tells when it is done: the answer to `update`, UPDATE_COMPLETED, query-update. */
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

/* Whether a section is called that, or is a subsection of one that is. */
static bool is_called(const struct stream_section *sec, const char *name)
{
	size_t len = name ? strlen(name) : 0;

	return len && strncmp(sec->name, name, len) == 0 &&
	       (sec->name[len] == '\0' || sec->name[len] == '/');
}

static const char *host_section(const struct takeover_kind *host)
{
	if (!host || host->section)
		return host ? host->section : NULL;
	return host->vms ? host->vms->name : NULL;
}

/* By the sections of its class and number; what it took the rest of, the stream, belongs to nobody.
 */
static uint64_t bytes_of(const struct device *dev, const struct stream *s)
{
	const char *own = dev->cls->state ? dev->cls->state->name : NULL;
	const char *host = host_section(dev->cls->host);
	uint64_t bytes = 0;

	for (size_t i = 0; i < s->nsections; i++) {
		const struct stream_section *sec = &s->sections[i];

		if (sec->instance == dev->instance && (is_called(sec, own) || is_called(sec, host)))
			bytes += sec->payload_len;
	}
	return bytes;
}

static json_t *devices(const struct machine *m, const struct stream *s)
{
	json_t *list = json_array();

	for (unsigned int i = 0; i < m->ndevices; i++) {
		const struct device *dev = m->devices[i];

		json_array_append_new(list, json_pack("{s:s,s:s,s:I,s:i}", "id", dev->id, "class",
						      dev->cls->name, "state-bytes",
						      (json_int_t)bytes_of(dev, s), "fds",
						      (int)dev->fds_taken));
	}
	return list;
}

/* Of what was loaded: the final state stands in the place of what is in it. */
static size_t state_bytes(const struct incoming *in)
{
	size_t bytes = in->stream_len;

	for (size_t i = 0; i < in->stream.nsections && in->last.nsections; i++) {
		const struct stream_section *sec = &in->stream.sections[i], *last;

		last = stream_find((struct stream *)&in->last, sec->name, sec->instance);
		if (last)
			bytes += last->payload_len - sec->payload_len;
	}
	return bytes;
}

static json_int_t us(uint64_t from_ns, uint64_t to_ns)
{
	return (json_int_t)((to_ns - from_ns) / 1000);
}

json_t *update_report(const struct update *u, const struct incoming *in)
{
	const struct update_wire *wire = in->wire;
	const struct fdtable *t = in->fds;
	json_t *stages = json_array(), *r;

	for (uint32_t i = 0; i < t->nmarks; i++)
		json_array_append_new(stages,
				      json_pack("{s:s,s:I}", "name", t->marks[i].name, "us",
						us(t->marks[i].start_ns, t->marks[i].end_ns)));
	r = json_pack("{s:i,s:s,s:s,s:I,s:I,s:I,s:o,s:o}", "pid", (int)getpid(), "version",
		      u->self->version, "previous-version", wire->version, "updates",
		      (json_int_t)u->updates, "total-us", us(t->marks[0].start_ns, now_ns()),
		      "state-bytes", (json_int_t)state_bytes(in), "stages", stages, "devices",
		      devices(u->machine, &in->stream));
	if (r && stand_in_link_left_process(in->link))
		json_object_set_new(r, "previous-pid",
				    json_integer(stand_in_link_left_process(in->link)));
	/* A guest that was paused before and stays so has no blackout. */
	if (r && in->entered_ns && in->stopped_ns)
		json_object_set_new(r, "blackout-us",
				    json_integer(us(in->stopped_ns, in->entered_ns)));
	if (r && in->maps_ram)
		json_object_set_new(r, "mapped-bytes", json_integer((json_int_t)in->mapped));
	if (r && in->handed_ns)
		json_object_set_new(r, "hand-off-us",
				    json_integer(us(t->stopped_ns, in->handed_ns)));
	return r;
}
