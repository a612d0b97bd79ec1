/* SPDX-License-Identifier: MIT */
/*
 * Disks, as QEMU's query-block and query-blockstats show them. What molt does not know or have is
 * left out; what QEMU does not have is added beside it. Counters of a queue come from memory that
 * another process writes: they are numbers of any size.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>

#include "block.h"

struct device *block_named(const struct machine *m, json_t *args, const char *one,
			   const char *other, struct error *err)
{
	const char *a = json_string_value(json_object_get(args, one));
	const char *b = json_string_value(json_object_get(args, other));
	const char *name = a ? a : b;

	if (!name || (a && b)) {
		err_set(err, EINVAL, "Need exactly one of '%s' and '%s'", one, other);
		return NULL;
	}
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->block && strcmp(m->devices[i]->id, name) == 0)
			return m->devices[i];
	err_set(err, ENODEV, "Cannot find device='%.100s'", name);
	return NULL;
}

static void set(json_t *object, const char *name, uint64_t value)
{
	json_object_set_new(object, name, json_integer(block_number(value)));
}

/* ---- query-block ---- */

static void add_limit(json_t *to, const char *name, const struct block_limit *l)
{
	char key[16];

	set(to, name, l->rate);
	snprintf(key, sizeof(key), "%s_rd", name);
	set(to, key, 0);
	snprintf(key, sizeof(key), "%s_wr", name);
	set(to, key, 0);
	if (!l->rate)
		return;
	snprintf(key, sizeof(key), "%s_max", name);
	set(to, key, l->burst);
}

static json_t *inserted(struct device *dev, const struct block_info *info)
{
	const struct device_block_ops *ops = dev->cls->block;
	struct block_limit limits[BLOCK_LIMITS] = { 0 };
	const char *file = info->file ? info->file : info->socket ? info->socket : "";
	const char *format = info->socket ? "vhost-user" : "raw";
	json_t *o = json_pack(
		"{s:o,s:s,s:b,s:s,s:i,s:b,s:b,s:s,s:i,s:{s:b,s:b,s:b},s:{s:o,s:s,s:I}}", "file",
		json_any_string(file), "node-name", dev->id, "ro", info->readonly, "drv", format,
		"backing_file_depth", 0, "encrypted", 0, "active", 1, "detect_zeroes", "off",
		"write_threshold", 0, "cache", "writeback", 1, "direct", info->direct, "no-flush",
		0, "image", "filename", json_any_string(file), "format", format, "virtual-size",
		block_number(info->size));

	if (ops->limits)
		ops->limits(dev, limits);
	add_limit(o, "iops", &limits[BLOCK_OPS]);
	add_limit(o, "bps", &limits[BLOCK_BYTES]);
	return o;
}

static json_t *back_end(const struct block_info *info)
{
	uint64_t now = now_ns(), age = now > info->since_ns ? now - info->since_ns : 0;
	json_t *o = json_pack("{s:s,s:s,s:I,s:i,s:i}", "type",
			      info->socket ? "vhost-user" : "molt-io", "state", info->state,
			      "state-ms", block_number(age / 1000000), "queues", (int)info->queues,
			      "queue-size", (int)info->queue_size);

	if (info->pid > 0) {
		json_object_set_new(o, "pid", json_integer(info->pid));
		json_object_set_new(o, "outdated", json_boolean(info->outdated));
	}
	if (info->engine)
		json_object_set_new(o, "engine", json_string(info->engine));
	if (info->socket)
		json_object_set_new(o, "socket", json_any_string(info->socket));
	return o;
}

static json_t *block_info(struct device *dev)
{
	struct block_info info;

	dev->cls->block->info(dev, &info);
	return json_pack("{s:s,s:s,s:s,s:b,s:b,s:o,s:o}", "device", dev->id, "qdev", dev->id,
			 "type", "unknown", "removable", 0, "locked", 0, "inserted",
			 inserted(dev, &info), "back-end", back_end(&info));
}

static int run_query_block(void *opaque, const struct command_origin *origin, json_t *args,
			   json_t **result, struct error *err)
{
	const struct machine *m = ((struct control *)opaque)->machine;

	(void)origin;
	(void)args;
	(void)err;
	*result = json_array();
	for (unsigned int i = 0; i < m->ndevices; i++)
		if (m->devices[i]->cls->block)
			json_array_append_new(*result, block_info(m->devices[i]));
	return 0;
}

/* ---- query-blockstats ---- */

static void add_to(uint64_t *sum, uint64_t value)
{
	if (__builtin_add_overflow(*sum, value, sum))
		*sum = UINT64_MAX;
}

static void add_stats(struct block_stats *sum, const struct block_stats *s)
{
	for (unsigned int k = 0; k < BLOCK_KINDS; k++) {
		add_to(&sum->kinds[k].requests, s->kinds[k].requests);
		add_to(&sum->kinds[k].errors, s->kinds[k].errors);
		add_to(&sum->kinds[k].bytes, s->kinds[k].bytes);
		add_to(&sum->kinds[k].time_ns, s->kinds[k].time_ns);
		for (unsigned int i = 0; i < BLOCK_BUCKETS; i++)
			add_to(&sum->kinds[k].latency[i], s->kinds[k].latency[i]);
	}
	add_to(&sum->invalid, s->invalid);
	add_to(&sum->held, s->held);
	add_to(&sum->held_ns, s->held_ns);
	add_to(&sum->kicks, s->kicks);
	add_to(&sum->calls, s->calls);
	add_to(&sum->resubmitted, s->resubmitted);
	sum->broken = sum->broken || s->broken;
}

static json_t *histogram(const struct device_block_ops *ops, const struct block_counters *c)
{
	json_t *boundaries = json_array(), *bins = json_array();

	for (unsigned int i = 0; i < BLOCK_BUCKETS; i++) {
		if (i > 0)
			json_array_append_new(boundaries,
					      json_integer(block_number(ops->bucket_ns(i))));
		json_array_append_new(bins, json_integer(block_number(c->latency[i])));
	}
	return json_pack("{s:o,s:o}", "boundaries", boundaries, "bins", bins);
}

static void add_kind(json_t *to, const struct device_block_ops *ops, const char *name,
		     const struct block_counters *c)
{
	char key[32];

	snprintf(key, sizeof(key), "%s_operations", name);
	set(to, key, c->requests > c->errors ? c->requests - c->errors : 0);
	snprintf(key, sizeof(key), "failed_%s_operations", name);
	set(to, key, c->errors);
	snprintf(key, sizeof(key), "%s_total_time_ns", name);
	set(to, key, c->time_ns);
	snprintf(key, sizeof(key), "%s_bytes", name);
	if (strcmp(name, "flush") != 0)
		set(to, key, c->bytes);
	snprintf(key, sizeof(key), "%s_latency_histogram", name);
	json_object_set_new(to, key, histogram(ops, c));
}

static json_t *stats_object(const struct device_block_ops *ops, const struct block_stats *s)
{
	static const char *const names[] = {
		[BLOCK_READ] = "rd",
		[BLOCK_WRITE] = "wr",
		[BLOCK_FLUSH] = "flush",
		[BLOCK_DISCARD] = "unmap",
	};
	json_t *o = json_pack("{s:i,s:i,s:i,s:b,s:b,s:[],s:b}", "rd_merged", 0, "wr_merged", 0,
			      "unmap_merged", 0, "account_invalid", 0, "account_failed", 1,
			      "timed_stats", "broken", s->broken);

	for (unsigned int k = 0; k < BLOCK_KINDS; k++)
		add_kind(o, ops, names[k], &s->kinds[k]);
	set(o, "invalid_operations", s->invalid);
	set(o, "held_operations", s->held);
	set(o, "held_total_time_ns", s->held_ns);
	set(o, "resubmitted_operations", s->resubmitted);
	set(o, "kicks", s->kicks);
	set(o, "calls", s->calls);
	return o;
}

static json_t *disk_stats(struct device *dev, bool queues)
{
	const struct device_block_ops *ops = dev->cls->block;
	struct block_stats sum = { 0 }, s;
	json_t *list = json_array(), *o;
	struct block_info info;

	ops->info(dev, &info);
	for (uint32_t q = 0; q < info.queues; q++) {
		ops->stats(dev, q, &s);
		add_stats(&sum, &s);
		if (queues)
			json_array_append_new(list, stats_object(ops, &s));
	}
	o = json_pack("{s:s,s:s,s:s,s:o}", "device", dev->id, "qdev", dev->id, "node-name", dev->id,
		      "stats", stats_object(ops, &sum));
	if (queues)
		json_object_set(o, "queues", list);
	json_decref(list);
	return o;
}

/* All queues of all disks would be more than a client's queue holds. */
static int run_query_blockstats(void *opaque, const struct command_origin *origin, json_t *args,
				json_t **result, struct error *err)
{
	const struct machine *m = ((struct control *)opaque)->machine;
	bool queues = json_is_true(json_object_get(args, "queues"));
	struct device *only = NULL;

	(void)origin;
	if (json_object_get(args, "device")) {
		only = block_named(m, args, "device", "", err);
		if (!only)
			return -err->code;
	} else if (queues) {
		return err_set(err, EINVAL, "'queues' needs a 'device'");
	}
	*result = json_array();
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];

		if (dev->cls->block && dev->cls->block->stats && (!only || dev == only))
			json_array_append_new(*result, disk_stats(dev, queues));
	}
	return 0;
}

const struct command block_commands[] = {
	{ .name = "query-block",
	  .help = "the disks, and who serves them",
	  .returns = &block_list_type,
	  .run = run_query_block },
	{ .name = "query-blockstats",
	  .help = "what the disks have done, and how long it took",
	  .args = block_stats_args,
	  .returns = &block_stats_list_type,
	  .run = run_query_blockstats },
	{ .name = "block_resize",
	  .help = "make a disk larger or smaller",
	  .args = block_resize_args,
	  .run = block_run_resize },
	{ .name = "block_set_io_throttle",
	  .help = "set a disk's limits",
	  .args = block_throttle_args,
	  .run = block_run_throttle },
};
const size_t block_commands_count = ARRAY_SIZE(block_commands);
