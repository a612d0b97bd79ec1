/* SPDX-License-Identifier: MIT */
/*
 * Prometheus' text exposition format, version 0.0.4: a metric's samples stand together, under its
 * name, help and type; times are in seconds. Requests, bytes and the like are told of each queue,
 * histograms of the whole disk, or a disk with 64 queues would have 12000 of their numbers.
 */
#include <stdarg.h>
#include <string.h>

#include <molt/base/fd.h>

#include "stats.h"

/* A number of a disk, a queue or a kind of request in it. */
struct metric {
	const char *name; /* after "molt_disk_" */
	const char *help;
	const char *member; /* of query-blockstats's object, or with kinds what follows the prefix */
	double scale;
};

static const struct metric queue_metrics[] = {
	{ "invalid_requests_total", "Requests that were wrong or not supported.",
	  "invalid_operations", 1 },
	{ "held_requests_total", "Requests that a limit made wait.", "held_operations", 1 },
	{ "held_seconds_total", "How long limits made them wait.", "held_total_time_ns", 1e-9 },
	{ "resubmitted_requests_total", "Requests done again for an I/O process that was gone.",
	  "resubmitted_operations", 1 },
	{ "kicks_total", "Notifications from the driver.", "kicks", 1 },
	{ "calls_total", "Interrupts to the driver.", "calls", 1 },
};

static const struct metric gauges[] = {
	{ "limit_operations", "Requests a second that are let through, 0: all.", "iops", 1 },
	{ "limit_bytes", "Bytes a second that are let through, 0: all.", "bps", 1 },
};

static void family(FILE *out, const char *name, const char *help, const char *type)
{
	fprintf(out, "# HELP molt_%s %s\n# TYPE molt_%s %s\n", name, help, name, type);
}

/* Servers may say anything; what could end a label, or steer a terminal, is not shown. */
static void label(FILE *out, const char *name, const json_t *value)
{
	const char *text = json_string_value(value);

	fprintf(out, "%s=\"", name);
	for (size_t i = 0; text && text[i] && i < 256; i++)
		putc(text[i] >= ' ' && text[i] <= '~' && text[i] != '"' && text[i] != '\\'
			     ? text[i]
			     : '?',
		     out);
	putc('"', out);
}

static void begin(FILE *out, const char *name, const json_t *disk)
{
	fprintf(out, "molt_disk_%s{", name);
	label(out, "id", json_object_get(disk, "device"));
}

/* ---- disks ---- */

static void print_info(FILE *out, const struct stats_sample *s)
{
	json_t *disk;
	size_t i;

	family(out, "disk_info", "Who serves the disk, and how that stands.", "gauge");
	json_array_foreach (s->blocks, i, disk) {
		const json_t *back_end = json_object_get(disk, "back-end");

		begin(out, "info", disk);
		putc(',', out);
		label(out, "type", json_object_get(back_end, "type"));
		putc(',', out);
		label(out, "state", json_object_get(back_end, "state"));
		putc(',', out);
		label(out, "engine", json_object_get(back_end, "engine"));
		fputs("} 1\n", out);
	}
	family(out, "disk_io_process_outdated",
	       "Whether the I/O process is of the binary before an update.", "gauge");
	json_array_foreach (s->blocks, i, disk) {
		const json_t *back_end = json_object_get(disk, "back-end");

		if (!json_object_get(back_end, "pid"))
			continue;
		begin(out, "io_process_outdated", disk);
		fprintf(out, "} %d\n", json_is_true(json_object_get(back_end, "outdated")));
	}
	family(out, "disk_size_bytes", "The disk's size as the guest sees it.", "gauge");
	json_array_foreach (s->blocks, i, disk) {
		json_t *image = json_object_get(json_object_get(disk, "inserted"), "image");

		begin(out, "size_bytes", disk);
		fprintf(out, "} %llu\n", (unsigned long long)stats_number(image, "virtual-size"));
	}
}

static void print_limits(FILE *out, const struct stats_sample *s)
{
	json_t *disk;
	size_t i;

	for (size_t n = 0; n < ARRAY_SIZE(gauges); n++) {
		char name[64];

		snprintf(name, sizeof(name), "disk_%s", gauges[n].name);
		family(out, name, gauges[n].help, "gauge");
		json_array_foreach (s->blocks, i, disk) {
			json_t *inserted = json_object_get(disk, "inserted");

			begin(out, gauges[n].name, disk);
			fprintf(out, "} %llu\n",
				(unsigned long long)stats_number(inserted, gauges[n].member));
		}
	}
}

/* ---- queues ---- */

typedef void print_fn(FILE *out, const struct metric *m, const json_t *disk, const json_t *stats,
		      size_t queue);

static void each_queue(FILE *out, const struct stats_sample *s, const struct metric *m,
		       const char *type, print_fn *print)
{
	json_t *disk, *stats;
	char name[64];
	size_t i, q;

	snprintf(name, sizeof(name), "disk_%s", m->name);
	family(out, name, m->help, type);
	json_array_foreach (s->stats, i, disk)
		json_array_foreach (json_object_get(disk, "queues"), q, stats)
			if (q < STATS_QUEUES_MAX)
				print(out, m, disk, stats, q);
}

static void print_number(FILE *out, const struct metric *m, const json_t *disk, const json_t *stats,
			 size_t queue)
{
	uint64_t value = stats_number(stats, m->member);

	begin(out, m->name, disk);
	fprintf(out, ",queue=\"%zu\"} ", queue);
	if (m->scale == 1)
		fprintf(out, "%llu\n", (unsigned long long)value);
	else
		fprintf(out, "%.9f\n", (double)value * m->scale);
}

static void print_broken(FILE *out, const struct metric *m, const json_t *disk, const json_t *stats,
			 size_t queue)
{
	begin(out, m->name, disk);
	fprintf(out, ",queue=\"%zu\"} %d\n", queue,
		json_is_true(json_object_get(stats, m->member)));
}

/* Errors are told apart, and part of all requests. */
static void print_kinds(FILE *out, const struct metric *m, const json_t *disk, const json_t *stats,
			size_t queue)
{
	for (const struct stats_kind *k = stats_kinds; k->name; k++) {
		uint64_t errors = stats_errors(stats, k), value = errors;

		if (strcmp(m->member, "bytes") == 0 && strcmp(k->name, "flush") == 0)
			continue;
		if (m->member[0])
			value = stats_of_kind(stats, k, m->member);
		if (strcmp(m->member, "operations") == 0)
			value += errors;
		begin(out, m->name, disk);
		fprintf(out, ",queue=\"%zu\",kind=\"%s\"} %llu\n", queue, k->name,
			(unsigned long long)value);
	}
}

/* ---- histograms ---- */

static void print_histogram(FILE *out, const json_t *disk, const json_t *stats,
			    const struct stats_kind *k)
{
	const json_t *h = stats_histogram(stats, k);
	const json_t *bounds = json_object_get(h, "boundaries"), *bins = json_object_get(h, "bins");
	static const char name[] = "request_duration_seconds";
	uint64_t sum = 0;

	for (size_t i = 0; i < json_array_size(bins) && i < STATS_BINS_MAX; i++) {
		json_int_t n = json_integer_value(json_array_get(bins, i));

		if (__builtin_add_overflow(sum, n > 0 ? (uint64_t)n : 0, &sum))
			sum = UINT64_MAX;
		if (i >= json_array_size(bounds))
			break;
		begin(out, "request_duration_seconds_bucket", disk);
		fprintf(out, ",kind=\"%s\",le=\"%.10g\"} %llu\n", k->name,
			(double)json_integer_value(json_array_get(bounds, i)) * 1e-9,
			(unsigned long long)sum);
	}
	begin(out, "request_duration_seconds_bucket", disk);
	fprintf(out, ",kind=\"%s\",le=\"+Inf\"} %llu\n", k->name, (unsigned long long)sum);
	fprintf(out, "molt_disk_%s_sum{", name);
	label(out, "id", json_object_get(disk, "device"));
	fprintf(out, ",kind=\"%s\"} %.9f\n", k->name,
		(double)stats_of_kind(stats, k, "total_time_ns") * 1e-9);
	fprintf(out, "molt_disk_%s_count{", name);
	label(out, "id", json_object_get(disk, "device"));
	fprintf(out, ",kind=\"%s\"} %llu\n", k->name, (unsigned long long)sum);
}

static void print_histograms(FILE *out, const struct stats_sample *s)
{
	json_t *disk;
	size_t i;

	family(out, "disk_request_duration_seconds",
	       "From a request taken out of the ring to its being put back.", "histogram");
	json_array_foreach (s->stats, i, disk)
		for (const struct stats_kind *k = stats_kinds; k->name; k++)
			print_histogram(out, disk, json_object_get(disk, "stats"), k);
}

static void print_guest(FILE *out, const struct stats_sample *s)
{
	const json_t *last = json_object_get(s->update, "last");

	family(out, "guest_running", "Whether the guest runs.", "gauge");
	fprintf(out, "molt_guest_running %d\n",
		json_is_true(json_object_get(s->status, "running")));
	family(out, "updates_total", "Updates that the guest has gone through.", "counter");
	fprintf(out, "molt_updates_total %llu\n",
		(unsigned long long)stats_number(s->update, "updates"));
	if (!json_object_get(last, "blackout-us"))
		return;
	family(out, "update_blackout_seconds", "For how long the last one stopped it.", "gauge");
	fprintf(out, "molt_update_blackout_seconds %.6f\n",
		(double)stats_number(last, "blackout-us") * 1e-6);
}

void stats_print_prometheus(FILE *out, const struct stats_sample *s)
{
	static const struct metric requests = { "requests_total",
						"Requests that are done, with success or without.",
						"operations", 1 };
	static const struct metric errors = { "errors_total", "Those that ended as an I/O error.",
					      "", 1 };
	static const struct metric bytes = { "bytes_total", "Bytes of those with success.", "bytes",
					     1 };
	static const struct metric broken = {
		"queue_broken", "Whether the driver has broken the queue.", "broken", 1
	};

	print_guest(out, s);
	print_info(out, s);
	print_limits(out, s);
	each_queue(out, s, &requests, "counter", print_kinds);
	each_queue(out, s, &errors, "counter", print_kinds);
	each_queue(out, s, &bytes, "counter", print_kinds);
	for (size_t i = 0; i < ARRAY_SIZE(queue_metrics); i++)
		each_queue(out, s, &queue_metrics[i], "counter", print_number);
	each_queue(out, s, &broken, "gauge", print_broken);
	print_histograms(out, s);
}
