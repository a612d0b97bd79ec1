/* SPDX-License-Identifier: MIT */
/* The types are named as QEMU's schema names them in its text. */
#include <molt/base/fd.h>

#include "machine_schema.h"

static const char *const run_states[] = { "prelaunch", "running",        "paused",
					  "shutdown",  "internal-error", NULL };
static const struct command_type run_state = { .name = "RunState", .values = run_states };
static const struct command_member status_members[] = {
	{ .name = "status", .type = &run_state },
	{ .name = "running", .type = &command_bool },
	{ 0 }
};
const struct command_type machine_status_type = {
	.name = "StatusInfo",
	.members = status_members,
};

static const struct command_member kvm_members[] = { { .name = "enabled", .type = &command_bool },
						     { .name = "present", .type = &command_bool },
						     { 0 } };
const struct command_type machine_kvm_type = { .name = "KvmInfo", .members = kvm_members };

static const struct command_member name_members[] = {
	{ .name = "name", .type = &command_string, .optional = true },
	{ 0 }
};
const struct command_type machine_name_type = { .name = "NameInfo", .members = name_members };

static const struct command_member uuid_members[] = { { .name = "UUID", .type = &command_string },
						      { 0 } };
const struct command_type machine_uuid_type = { .name = "UuidInfo", .members = uuid_members };

static const char *const targets[] = { "x86_64", NULL };
static const struct command_type target = { .name = "SysEmuTarget", .values = targets };
static const struct command_member target_members[] = { { .name = "arch", .type = &target }, { 0 } };
const struct command_type machine_target_type = {
	.name = "TargetInfo",
	.members = target_members,
};

static const struct command_member cpu_members[] = {
	{ .name = "cpu-index", .type = &command_int },
	{ .name = "qom-path", .type = &command_string },
	{ .name = "thread-id", .type = &command_int },
	{ .name = "target", .type = &target },
	{ 0 }
};
static const struct command_type cpu = { .name = "CpuInfoFast", .members = cpu_members };
const struct command_type machine_cpus_type = { .name = "[CpuInfoFast]", .elements = &cpu };

static const struct command_member chardev_members[] = {
	{ .name = "label", .type = &command_string },
	{ .name = "filename", .type = &command_string },
	{ .name = "frontend-open", .type = &command_bool },
	{ 0 }
};
static const struct command_type chardev = { .name = "ChardevInfo", .members = chardev_members };
const struct command_type machine_chardevs_type = {
	.name = "[ChardevInfo]",
	.elements = &chardev,
};

static const struct command_member machine_members[] = {
	{ .name = "name", .type = &command_string },
	{ .name = "is-default", .type = &command_bool, .optional = true },
	{ .name = "cpu-max", .type = &command_int },
	{ .name = "hotpluggable-cpus", .type = &command_bool },
	{ .name = "numa-mem-supported", .type = &command_bool },
	{ .name = "deprecated", .type = &command_bool },
	{ .name = "acpi", .type = &command_bool },
	{ 0 }
};
static const struct command_type machine = { .name = "MachineInfo", .members = machine_members };
const struct command_type machine_list_type = { .name = "[MachineInfo]", .elements = &machine };

static const char *const causes[] = {
	"guest-reset",           "guest-shutdown", "guest-panic", "host-qmp-quit",
	"host-qmp-system-reset", "host-signal",    "host-ui",     NULL
};
static const struct command_type cause = { .name = "ShutdownCause", .values = causes };
static const struct command_member cause_members[] = { { .name = "guest", .type = &command_bool },
						       { .name = "reason", .type = &cause },
						       { 0 } };

static const char *const actions[] = { "run", "poweroff", NULL };
static const struct command_type action = { .name = "GuestPanicAction", .values = actions };
static const struct command_member panic_members[] = { { .name = "action", .type = &action },
						       { 0 } };

const struct command_event machine_events[] = {
	{ .name = "STOP" },
	{ .name = "RESUME" },
	{ .name = "RESET", .data = cause_members },
	{ .name = "SHUTDOWN", .data = cause_members },
	{ .name = "POWERDOWN" },
	{ .name = "GUEST_PANICKED", .data = panic_members },
};
const size_t machine_events_count = ARRAY_SIZE(machine_events);
