/* SPDX-License-Identifier: MIT */
/* What the commands about disks take and return, named as in QEMU's schema (qapi/block-core.json). */
#include "block.h"

#define INT(member) \
	{ \
		.name = member, .type = &command_int \
	}
#define OPTIONAL(member, of) \
	{ \
		.name = member, .type = &(of), .optional = true \
	}

/* ---- query-block ---- */

static const struct command_member image_members[] = {
	{ .name = "filename", .type = &command_string },
	{ .name = "format", .type = &command_string },
	INT("virtual-size"),
	{ 0 }
};
static const struct command_type image = { .name = "ImageInfo", .members = image_members };

static const struct command_member cache_members[] = {
	{ .name = "writeback", .type = &command_bool },
	{ .name = "direct", .type = &command_bool },
	{ .name = "no-flush", .type = &command_bool },
	{ 0 }
};
static const struct command_type cache = { .name = "BlockdevCacheInfo", .members = cache_members };

static const struct command_member inserted_members[] = {
	{ .name = "file", .type = &command_string },
	{ .name = "node-name", .type = &command_string },
	{ .name = "ro", .type = &command_bool },
	{ .name = "drv", .type = &command_string },
	INT("backing_file_depth"),
	{ .name = "encrypted", .type = &command_bool },
	{ .name = "active", .type = &command_bool },
	{ .name = "detect_zeroes", .type = &command_string },
	INT("write_threshold"),
	{ .name = "cache", .type = &cache },
	{ .name = "image", .type = &image },
	INT("iops"),
	INT("iops_rd"),
	INT("iops_wr"),
	OPTIONAL("iops_max", command_int),
	INT("bps"),
	INT("bps_rd"),
	INT("bps_wr"),
	OPTIONAL("bps_max", command_int),
	{ 0 }
};
static const struct command_type inserted = {
	.name = "BlockDeviceInfo",
	.members = inserted_members,
};

static const char *const states[] = { "disconnected", "handshake", "ready", "setup",
				      "running",      "draining",  NULL };
static const struct command_type state = { .name = "BackEndState", .values = states };
static const char *const kinds[] = { "molt-io", "vhost-user", NULL };
static const struct command_type kind = { .name = "BackEndType", .values = kinds };
static const struct command_member back_end_members[] = {
	{ .name = "type", .type = &kind },
	{ .name = "state", .type = &state },
	INT("state-ms"),
	INT("queues"),
	INT("queue-size"),
	OPTIONAL("pid", command_int),
	OPTIONAL("outdated", command_bool),
	OPTIONAL("engine", command_string),
	OPTIONAL("socket", command_string),
	{ 0 }
};
static const struct command_type back_end = { .name = "BackEndInfo", .members = back_end_members };

static const struct command_member block_members[] = {
	{ .name = "device", .type = &command_string },
	{ .name = "qdev", .type = &command_string },
	{ .name = "type", .type = &command_string },
	{ .name = "removable", .type = &command_bool },
	{ .name = "locked", .type = &command_bool },
	{ .name = "inserted", .type = &inserted },
	{ .name = "back-end", .type = &back_end },
	{ 0 }
};
static const struct command_type block = { .name = "BlockInfo", .members = block_members };
const struct command_type block_list_type = { .name = "[BlockInfo]", .elements = &block };

/* ---- query-blockstats ---- */

static const struct command_type numbers = { .name = "[int]", .elements = &command_int };
static const struct command_member histogram_members[] = {
	{ .name = "boundaries", .type = &numbers },
	{ .name = "bins", .type = &numbers },
	{ 0 }
};
static const struct command_type histogram = {
	.name = "BlockLatencyHistogramInfo",
	.members = histogram_members,
};

#define KIND(of) \
	INT(of "_operations"), INT("failed_" of "_operations"), INT(of "_total_time_ns"), \
	{ \
		.name = of "_latency_histogram", .type = &histogram \
	}
static const struct command_type any_list = { .name = "[any]", .elements = &command_any };
static const struct command_member stats_members[] = {
	KIND("rd"),
	INT("rd_bytes"),
	INT("rd_merged"),
	KIND("wr"),
	INT("wr_bytes"),
	INT("wr_merged"),
	KIND("flush"),
	KIND("unmap"),
	INT("unmap_bytes"),
	INT("unmap_merged"),
	{ .name = "account_invalid", .type = &command_bool },
	{ .name = "account_failed", .type = &command_bool },
	{ .name = "timed_stats", .type = &any_list },
	INT("invalid_operations"),
	INT("held_operations"),
	INT("held_total_time_ns"),
	INT("resubmitted_operations"),
	INT("kicks"),
	INT("calls"),
	{ .name = "broken", .type = &command_bool },
	{ 0 }
};
static const struct command_type stats = { .name = "BlockDeviceStats", .members = stats_members };
static const struct command_type queues = { .name = "[BlockDeviceStats]", .elements = &stats };

static const struct command_member disk_members[] = {
	{ .name = "device", .type = &command_string },
	{ .name = "qdev", .type = &command_string },
	{ .name = "node-name", .type = &command_string },
	{ .name = "stats", .type = &stats },
	OPTIONAL("queues", queues),
	{ 0 }
};
static const struct command_type disk = { .name = "BlockStats", .members = disk_members };
const struct command_type block_stats_list_type = { .name = "[BlockStats]", .elements = &disk };

const struct command_member block_stats_args[] = {
	{ .name = "query-nodes", .type = &command_bool, .optional = true },
	{ .name = "device", .type = &command_string, .optional = true },
	{ .name = "queues", .type = &command_bool, .optional = true },
	{ 0 }
};

/* ---- changes ---- */

const struct command_member block_resize_args[] = {
	{ .name = "device", .type = &command_string, .optional = true },
	{ .name = "node-name", .type = &command_string, .optional = true },
	{ .name = "size", .type = &command_int },
	{ 0 }
};

/* clang-format off */
const struct command_member block_throttle_args[] = {
	{ .name = "device", .type = &command_string, .optional = true },
	{ .name = "id", .type = &command_string, .optional = true },
	{ .name = "bps", .type = &command_int },
	{ .name = "bps_max", .type = &command_int, .optional = true },
	{ .name = "iops", .type = &command_int },
	{ .name = "iops_max", .type = &command_int, .optional = true },
	/* QEMU's, of which molt has none: 0, or 1 for a length, says nothing. */
	{ .name = "bps_rd", .type = &command_int, .optional = true },
	{ .name = "bps_wr", .type = &command_int, .optional = true },
	{ .name = "iops_rd", .type = &command_int, .optional = true },
	{ .name = "iops_wr", .type = &command_int, .optional = true },
	{ .name = "bps_rd_max", .type = &command_int, .optional = true },
	{ .name = "bps_wr_max", .type = &command_int, .optional = true },
	{ .name = "iops_rd_max", .type = &command_int, .optional = true },
	{ .name = "iops_wr_max", .type = &command_int, .optional = true },
	{ .name = "bps_max_length", .type = &command_int, .optional = true },
	{ .name = "bps_rd_max_length", .type = &command_int, .optional = true },
	{ .name = "bps_wr_max_length", .type = &command_int, .optional = true },
	{ .name = "iops_max_length", .type = &command_int, .optional = true },
	{ .name = "iops_rd_max_length", .type = &command_int, .optional = true },
	{ .name = "iops_wr_max_length", .type = &command_int, .optional = true },
	{ .name = "iops_size", .type = &command_int, .optional = true },
	{ .name = "group", .type = &command_string, .optional = true },
	{ 0 }
};
/* clang-format on */
