/* SPDX-License-Identifier: MIT */
/* What the commands of the update take and return, and what its events hold. */
#include <molt/base/fd.h>

#include "internal.h"

const struct command_member update_args[] = {
	{ .name = "state-file", .type = &command_string, .optional = true },
	{ .name = "state-fd", .type = &command_string, .optional = true },
	{ .name = "command", .type = &command_strings, .optional = true },
	{ .name = "command-fd", .type = &command_string, .optional = true },
	{ .name = "timeout", .type = &command_int, .optional = true },
	{ .name = "no-check", .type = &command_bool, .optional = true },
	{ .name = "check-only", .type = &command_bool, .optional = true },
	{ .name = "no-io", .type = &command_bool, .optional = true },
	{ 0 }
};

static const struct command_member stage_members[] = { { .name = "name", .type = &command_string },
						       { .name = "us", .type = &command_int },
						       { 0 } };
static const struct command_type stage = { .name = "UpdateStage", .members = stage_members };
static const struct command_type stages = { .name = "[UpdateStage]", .elements = &stage };
static const struct command_member device_members[] = {
	{ .name = "id", .type = &command_string },
	{ .name = "class", .type = &command_string },
	{ .name = "state-bytes", .type = &command_int },
	{ .name = "fds", .type = &command_int },
	{ 0 }
};
static const struct command_type device = { .name = "UpdateDevice", .members = device_members };
static const struct command_type devices = { .name = "[UpdateDevice]", .elements = &device };
#define REPORT_MEMBERS(absent) \
	{ .name = "pid", .type = &command_int, .optional = (absent) }, \
		{ .name = "previous-pid", .type = &command_int, .optional = true }, \
		{ .name = "version", .type = &command_string, .optional = (absent) }, \
		{ .name = "previous-version", .type = &command_string, .optional = (absent) }, \
		{ .name = "updates", .type = &command_int, .optional = (absent) }, \
		{ .name = "total-us", .type = &command_int, .optional = (absent) }, \
		{ .name = "blackout-us", .type = &command_int, .optional = true }, \
		{ .name = "hand-off-us", .type = &command_int, .optional = true }, \
		{ .name = "mapped-bytes", .type = &command_int, .optional = true }, \
		{ .name = "state-bytes", .type = &command_int, .optional = (absent) }, \
		{ .name = "stages", .type = &stages, .optional = (absent) }, \
	{ \
		.name = "devices", .type = &devices, .optional = (absent) \
	}
static const struct command_member report_members[] = { REPORT_MEMBERS(false), { 0 } };
static const struct command_type report = { .name = "UpdateReport", .members = report_members };

/* A report; or, with check-only, how the check went alone. */
static const char *const check_values[] = { "passed", NULL };
static const struct command_type check = { .name = "UpdateCheck", .values = check_values };
static const struct command_member result_members[] = {
	{ .name = "check", .type = &check, .optional = true },
	REPORT_MEMBERS(true),
	{ 0 }
};
const struct command_type update_result_type = {
	.name = "UpdateResult",
	.members = result_members,
};

static const char *const statuses[] = { "none", "running", "completed", "failed", NULL };
static const struct command_type status = { .name = "UpdateStatus", .values = statuses };
static const struct command_member info_members[] = {
	{ .name = "status", .type = &status },
	{ .name = "updates", .type = &command_int },
	{ .name = "path", .type = &command_string },
	{ .name = "error", .type = &command_string, .optional = true },
	{ .name = "last", .type = &report, .optional = true },
	{ 0 }
};
const struct command_type update_info_type = { .name = "UpdateInfo", .members = info_members };

static const char *const migrations[] = { "setup", "active", "completed", "failed", NULL };
static const struct command_type migration = { .name = "MigrationStatus", .values = migrations };
static const struct command_member migration_members[] = { { .name = "status", .type = &migration },
							   { 0 } };

static const struct command_member failure_members[] = {
	{ .name = "error", .type = &command_string },
	{ .name = "pid", .type = &command_int },
	{ 0 }
};

static const struct command_member progress_members[] = {
	{ .name = "mapped-bytes", .type = &command_int },
	{ .name = "total-bytes", .type = &command_int },
	{ 0 }
};

const struct command_event update_events[] = {
	{ .name = "UPDATE_COMPLETED", .data = report_members },
	{ .name = "UPDATE_FAILED", .data = failure_members },
	{ .name = "UPDATE_PROGRESS", .data = progress_members },
	{ .name = "MIGRATION", .data = migration_members },
};
const size_t update_events_count = ARRAY_SIZE(update_events);

/* ---- QEMU's migrate ---- */

static const char *const modes[] = { "normal", "cpr-exec", NULL };
static const struct command_type mode = { .name = "MigMode", .values = modes };
const struct command_member migrate_parameter_args[] = {
	{ .name = "mode", .type = &mode, .optional = true },
	{ .name = "cpr-exec-command", .type = &command_strings, .optional = true },
	{ 0 }
};
const struct command_type migrate_parameters_type = {
	.name = "MigrationParameters",
	.members = migrate_parameter_args,
};

static const struct command_member capability_members[] = {
	{ .name = "capability", .type = &command_string },
	{ .name = "state", .type = &command_bool },
	{ 0 }
};
static const struct command_type capability = {
	.name = "MigrationCapabilityStatus",
	.members = capability_members,
};
const struct command_type migrate_capabilities_type = {
	.name = "[MigrationCapabilityStatus]",
	.elements = &capability,
};
const struct command_member migrate_capability_args[] = {
	{ .name = "capabilities", .type = &migrate_capabilities_type },
	{ 0 }
};

/* An addr has other members for each transport: those of a file are what run() looks at. */
static const char *const channel_types[] = { "main", NULL };
static const struct command_type channel_type = {
	.name = "MigrationChannelType",
	.values = channel_types,
};
static const struct command_member channel_members[] = {
	{ .name = "channel-type", .type = &channel_type, .optional = true },
	{ .name = "addr", .type = &command_any },
	{ 0 }
};
static const struct command_type channel = {
	.name = "MigrationChannel",
	.members = channel_members,
};
static const struct command_type channels = { .name = "[MigrationChannel]", .elements = &channel };
/* QEMU ignores detach, which controllers send all the same. */
const struct command_member migrate_args[] = {
	{ .name = "uri", .type = &command_string, .optional = true },
	{ .name = "channels", .type = &channels, .optional = true },
	{ .name = "detach", .type = &command_bool, .optional = true },
	{ .name = "resume", .type = &command_bool, .optional = true },
	{ 0 }
};

static const struct command_member migrate_members[] = {
	{ .name = "status", .type = &migration, .optional = true },
	{ .name = "error-desc", .type = &command_string, .optional = true },
	{ 0 }
};
const struct command_type migrate_info_type = {
	.name = "MigrationInfo",
	.members = migrate_members,
};
