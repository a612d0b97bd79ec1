/* SPDX-License-Identifier: MIT */
/*
 * `molt state`: a state stream as JSON. It shows what is there by the stream's own tags alone and
 * knows no device, so that it can read a stream of any release with the same framing.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>
#include <molt/base/printable.h>
#include <molt/state/stream.h>

#include "cli.h"

#define LIST_BYTES_MAX 8 /* longer byte arrays are printed as one string of hex digits */

static const struct option_def state_options[] = {
	{ .name = "summary", .help = "one line a section: name, instance, version, bytes" },
	{ .name = NULL }
};

const struct cli_command state_command = {
	.name = "state",
	.usage = "[--summary] FILE",
	.summary = "Check a state stream and print it as JSON",
	.details = "64-bit values and byte arrays of more than 8 bytes are printed as strings of\n"
		   "hex digits.\n",
	.options = state_options,
};

static json_t *hex_string(const uint8_t *data, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	_cleanup_free_ char *text = malloc(2 * len + 1);

	if (!text)
		return NULL;
	for (size_t i = 0; i < len; i++) {
		text[2 * i] = digits[data[i] >> 4];
		text[2 * i + 1] = digits[data[i] & 15];
	}
	return json_stringn(text, 2 * len);
}

static json_t *uuid_string(const uint8_t *u)
{
	return json_sprintf("%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
			    "%02x%02x%02x%02x%02x%02x",
			    u[0], u[1], u[2], u[3], u[4], u[5], u[6], u[7], u[8], u[9], u[10],
			    u[11], u[12], u[13], u[14], u[15]);
}

static json_t *element(unsigned int type, const uint8_t *data)
{
	uint64_t value = 0;

	memcpy(&value, data, field_type_size(type)); /* little-endian: the low bytes */
	switch (type) {
	case FIELD_BOOL:
		return json_boolean(value);
	case FIELD_U64: /* JSON readers lose digits beyond 2^53, jansson's integers have a sign */
		return json_sprintf("0x%" PRIx64, value);
	default:
		return json_integer((json_int_t)value);
	}
}

static json_t *text_value(const struct stream_field *f)
{
	json_t *text = json_stringn((const char *)f->data, f->count);
	_cleanup_free_ char *copy = NULL;

	if (text)
		return text;
	copy = strndup((const char *)f->data, f->count);
	return copy ? json_any_string(copy) : NULL;
}

static json_t *field_value(const struct stream_field *f)
{
	json_t *list;

	if (f->type == FIELD_STRING)
		return text_value(f);
	if (f->count == 1)
		return element(f->type, f->data);
	if (f->type == FIELD_U8 && f->count > LIST_BYTES_MAX)
		return hex_string(f->data, f->count);
	list = json_array();
	for (uint32_t i = 0; i < f->count; i++)
		json_array_append_new(list,
				      element(f->type, f->data + i * field_type_size(f->type)));
	return list;
}

static json_t *fields_json(const struct stream_section *sec)
{
	json_t *fields = json_array();
	struct stream_field f;
	size_t pos = 0;

	while (stream_next_field(sec, &pos, &f) > 0) {
		json_t *field = json_pack("{s:o,s:s,s:I,s:o}", "name", json_any_string(f.name),
					  "type", field_type_name(f.type), "count",
					  (json_int_t)f.count, "value", field_value(&f));

		if (field && (f.flags & FIELD_IGNORABLE))
			json_object_set_new(field, "ignorable", json_true());
		json_array_append_new(fields, field);
	}
	return fields;
}

static json_t *section_json(const struct stream_section *sec)
{
	return json_pack("{s:o,s:I,s:I,s:I,s:I,s:o}", "name", json_any_string(sec->name),
			 "instance", (json_int_t)sec->instance, "version", (json_int_t)sec->version,
			 "flags", (json_int_t)sec->flags, "bytes", (json_int_t)sec->payload_len,
			 "fields", fields_json(sec));
}

static json_t *header_json(const struct stream_header *h)
{
	return json_pack("{s:I,s:I,s:o,s:o,s:o}", "format", (json_int_t)h->format,
			 "machine-version", (json_int_t)h->machine_version, "producer",
			 json_any_string(h->producer), "uuid", uuid_string(h->uuid), "nonce",
			 hex_string(h->nonce, sizeof(h->nonce)));
}

/* Section by section, so that a big stream is not held in memory as JSON as a whole. */
static void print_json(const struct stream *s)
{
	json_t *header = header_json(&s->header);

	printf("{\n\"header\": ");
	printable_print_json(stdout, header, JSON_INDENT(2));
	json_decref(header);
	printf(",\"sections\": [");
	for (size_t i = 0; i < s->nsections; i++) {
		json_t *section = section_json(&s->sections[i]);

		printf("%s\n", i ? "," : "");
		printable_print_json(stdout, section, JSON_INDENT(2));
		json_decref(section);
	}
	printf("]\n}\n");
}

static void print_summary(const struct stream *s)
{
	printable_printf(stdout, "format %u, machine version %u, written by molt %s",
			 s->header.format, s->header.machine_version, s->header.producer);
	for (size_t i = 0; i < s->nsections; i++) {
		const struct stream_section *sec = &s->sections[i];

		printable_printf(stdout, "%-32s %5u  v%-3u %8zu bytes%s", sec->name, sec->instance,
				 sec->version, sec->payload_len,
				 sec->flags & SECTION_IGNORABLE ? "  ignorable" : "");
	}
}

static int print_file(const char *path, bool summary, struct error *err)
{
	/* Non-blocking for a fifo, which is no stream, and not to be waited for either. */
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	_cleanup_free_ void *buf = NULL;
	struct stream s;
	size_t len;
	int r;

	if (fd < 0)
		return err_sys(err, errno, "%s", path);
	r = fd_read_file(fd, path, STREAM_MAX_BYTES, &buf, &len, err);
	if (r < 0)
		return r;
	r = stream_parse(&s, buf, len, err);
	if (r < 0) {
		err_prefix(err, "%s", path);
		return r;
	}
	if (summary)
		print_summary(&s);
	else
		print_json(&s);
	stream_fini(&s);
	return 0;
}

int cmd_state(int argc, char **argv)
{
	struct error err = ERROR_INIT;
	struct cli_args args;
	int status;

	if (cli_begin(&args, &state_command, argc, argv, &status)) {
		status = 0;
		if (args.nwords != 1)
			status = cli_usage_error(&state_command, "one FILE is needed");
		else if (print_file(args.words[0], cli_given(&args, "summary"), &err) < 0)
			status = cli_failure(&state_command, &err);
	}
	cli_args_fini(&args);
	return status;
}
