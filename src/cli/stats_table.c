/* SPDX-License-Identifier: MIT */
/* Disks as a table for people. */
#include <string.h>

#include <molt/base/printable.h>

#include "stats.h"

#define QUANTILE 99 /* percent */

/* What is shown, of two samples: how much more it is, a second; of one: how much it is. */
struct view {
	const json_t *now;
	const json_t *before; /* NULL: none */
	double seconds;       /* between them */
};

static uint64_t more(uint64_t now, uint64_t before)
{
	return now > before ? now - before : 0;
}

static double rate(const struct view *v, uint64_t now, uint64_t before)
{
	return v->before ? (double)more(now, before) / v->seconds : (double)now;
}

static double rate_of(const struct view *v, const char *key)
{
	return rate(v, stats_number(v->now, key), stats_number(v->before, key));
}

static const char *bytes_text(double bytes, char *buf, size_t size)
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	size_t i = 0;

	for (; bytes >= 1024 && i < 5; i++)
		bytes /= 1024;
	snprintf(buf, size, i ? "%.1f %s" : "%.0f %s", bytes, units[i]);
	return buf;
}

/* ---- latencies ---- */

static uint64_t bin(const json_t *histogram, size_t i)
{
	json_int_t n = json_integer_value(json_array_get(json_object_get(histogram, "bins"), i));

	return n > 0 ? (uint64_t)n : 0;
}

/* Microseconds below which QUANTILE percent of the requests stay; -1: there were none. */
static double quantile(const json_t *now, const json_t *before)
{
	const json_t *bounds = json_object_get(now, "boundaries");
	size_t size = json_array_size(bounds), n = size < STATS_BINS_MAX ? size : STATS_BINS_MAX;
	double all = 0, sum = 0;

	for (size_t i = 0; i <= n; i++)
		all += (double)more(bin(now, i), bin(before, i));
	for (size_t i = 0; i < n && all > 0; i++) {
		sum += (double)more(bin(now, i), bin(before, i));
		if (sum >= all * QUANTILE / 100)
			return (double)json_integer_value(json_array_get(bounds, i)) / 1000;
	}
	return all > 0 && n ? (double)json_integer_value(json_array_get(bounds, n - 1)) / 1000 : -1;
}

static void print_us(FILE *out, double us)
{
	if (us < 0)
		fprintf(out, " %10s", "-");
	else
		fprintf(out, " %10.1f", us);
}

/* ---- rows ---- */

static uint64_t requests(const json_t *stats, const struct stats_kind *k)
{
	return stats_of_kind(stats, k, "operations") + stats_errors(stats, k);
}

static void print_kind(FILE *out, const struct view *v, const struct stats_kind *k)
{
	uint64_t now = requests(v->now, k), before = requests(v->before, k);
	uint64_t done = more(now, before);
	double ns = (double)more(stats_of_kind(v->now, k, "total_time_ns"),
				 stats_of_kind(v->before, k, "total_time_ns"));
	char text[32];

	fprintf(out, "  %-10s %12.0f %12s %10.0f", k->name, rate(v, now, before),
		bytes_text(rate(v, stats_of_kind(v->now, k, "bytes"),
				stats_of_kind(v->before, k, "bytes")),
			   text, sizeof(text)),
		rate(v, stats_errors(v->now, k), stats_errors(v->before, k)));
	print_us(out, done ? ns / 1000 / (double)done : -1);
	print_us(out, quantile(stats_histogram(v->now, k), stats_histogram(v->before, k)));
	putc('\n', out);
}

static const char *text_of(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "-";
}

static void print_head(FILE *out, const json_t *block)
{
	const json_t *back_end = json_object_get(block, "back-end");
	const json_t *inserted = json_object_get(block, "inserted");
	char size[32];

	bytes_text((double)stats_number(json_object_get(inserted, "image"), "virtual-size"), size,
		   sizeof(size));
	printable_printf(out, "%s  %s  %s  %s  %s%s%s", text_of(block, "device"),
			 text_of(back_end, "state"), text_of(back_end, "engine"), size,
			 text_of(inserted, "file"),
			 json_is_true(json_object_get(inserted, "ro")) ? "  read-only" : "",
			 json_is_true(json_object_get(back_end, "outdated"))
				 ? "  I/O process of the binary before"
				 : "");
}

static void print_rows(FILE *out, const struct view *v)
{
	const char *each = v->before ? "/s" : "";

	fprintf(out, "  %-10s %10s%-2s %10s%-2s %10s %10s %10s\n", "", "requests", each, "bytes",
		each, "errors", "mean us", "p99 us");
	for (const struct stats_kind *k = stats_kinds; k->name; k++)
		print_kind(out, v, k);
	fprintf(out,
		"  kicks%s %.0f, calls%s %.0f, held%s %.0f, invalid%s %.0f, resubmitted%s %.0f%s\n",
		each, rate_of(v, "kicks"), each, rate_of(v, "calls"), each,
		rate_of(v, "held_operations"), each, rate_of(v, "invalid_operations"), each,
		rate_of(v, "resubmitted_operations"),
		json_is_true(json_object_get(v->now, "broken")) ? ", a queue is BROKEN" : "");
}

void stats_print_table(FILE *out, const struct stats_sample *s, const struct stats_sample *before)
{
	double seconds = before ? (double)more(s->at_ns, before->at_ns) / 1e9 : 1;
	json_t *block;
	size_t i;

	printable_printf(out, "guest %s, %llu updates", text_of(s->status, "status"),
			 (unsigned long long)stats_number(s->update, "updates"));
	json_array_foreach (s->blocks, i, block) {
		const json_t *was = before ? stats_find(before->stats, block) : NULL;
		const json_t *stats = stats_find(s->stats, block);
		const struct view v = {
			.now = json_object_get(stats, "stats"),
			.before = json_object_get(was, "stats"),
			.seconds = seconds > 0 ? seconds : 1,
		};

		print_head(out, block);
		if (stats)
			print_rows(out, &v);
		else
			fputs("  its back-end does not say what it does\n", out);
	}
	if (!json_array_size(s->blocks))
		fputs("no disks\n", out);
}
