/* SPDX-License-Identifier: MIT */
/* The machine's commands and events: thin, what they do is the machine's. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include <molt/backend/chardev.h>
#include <molt/base/fd.h>
#include <molt/base/json.h>
#include <molt/control/commands.h>

#include "block.h"
#include "machine_schema.h"

#define UNUSED_ARGS(opaque, origin, args, result, err) \
	do { \
		(void)(opaque); \
		(void)(origin); \
		(void)(args); \
		(void)(result); \
		(void)(err); \
	} while (0)

static int run_query_status(void *opaque, const struct command_origin *origin, json_t *args,
			    json_t **result, struct error *err)
{
	const struct machine *m = opaque;
	enum run_state state = m->guest.run_state;

	UNUSED_ARGS(opaque, origin, args, result, err);
	*result = json_pack("{s:s,s:b}", "status", run_state_name(state), "running",
			    state == RUN_STATE_RUNNING);
	return 0;
}

static int run_query_cpus_fast(void *opaque, const struct command_origin *origin, json_t *args,
			       json_t **result, struct error *err)
{
	const struct machine *m = opaque;

	UNUSED_ARGS(opaque, origin, args, result, err);
	*result = json_array();
	for (uint32_t i = 0; i < m->guest.cpus; i++) {
		char path[32];

		snprintf(path, sizeof(path), "/machine/cpu[%u]", i);
		json_array_append_new(*result,
				      json_pack("{s:i,s:s,s:i,s:s}", "cpu-index", (int)i,
						"qom-path", path, "thread-id",
						(int)m->crew->members[i].tid, "target", "x86_64"));
	}
	return 0;
}

static int run_query_kvm(void *opaque, const struct command_origin *origin, json_t *args,
			 json_t **result, struct error *err)
{
	UNUSED_ARGS(opaque, origin, args, result, err);
	*result = json_pack("{s:b,s:b}", "enabled", 1, "present", 1);
	return 0;
}

static int run_query_name(void *opaque, const struct command_origin *origin, json_t *args,
			  json_t **result, struct error *err)
{
	const struct machine *m = opaque;

	UNUSED_ARGS(opaque, origin, args, result, err);
	*result = json_object();
	if (m->guest.name[0])
		json_object_set_new(*result, "name", json_any_string(m->guest.name));
	return 0;
}

static int run_query_uuid(void *opaque, const struct command_origin *origin, json_t *args,
			  json_t **result, struct error *err)
{
	const struct machine *m = opaque;
	char text[37], *p = text;

	UNUSED_ARGS(opaque, origin, args, result, err);
	for (unsigned int i = 0; i < sizeof(m->uuid); i++)
		p += sprintf(p, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x",
			     m->uuid[i]);
	*result = json_pack("{s:s}", "UUID", text);
	return 0;
}

static int run_query_target(void *opaque, const struct command_origin *origin, json_t *args,
			    json_t **result, struct error *err)
{
	UNUSED_ARGS(opaque, origin, args, result, err);
	*result = json_pack("{s:s}", "arch", "x86_64");
	return 0;
}

/* Of each machine version, by the name that `molt run --machine` knows it by. */
static int run_query_machines(void *opaque, const struct command_origin *origin, json_t *args,
			      json_t **result, struct error *err)
{
	const struct machine_model *model = ((const struct machine *)opaque)->model;

	UNUSED_ARGS(opaque, origin, args, result, err);
	*result = json_array();
	for (uint32_t version = 1; version <= model->newest; version++) {
		json_t *info;
		char name[16];

		snprintf(name, sizeof(name), "%u", version);
		info = json_pack("{s:s,s:i,s:b,s:b,s:b,s:b}", "name", name, "cpu-max",
				 MACHINE_MAX_VCPUS, "hotpluggable-cpus", 0, "numa-mem-supported", 0,
				 "deprecated", 0, "acpi", 1);
		if (info && version == model->newest)
			json_object_set_new(info, "is-default", json_true());
		json_array_append_new(*result, info);
	}
	return 0;
}

/* In QEMU's words. "frontend" is the device, which is always there. */
static json_t *chardev_info(const struct chardev *cd)
{
	char name[PATH_MAX + 64], label[64];

	chardev_filename(cd, name, sizeof(name));
	chardev_label(cd, label, sizeof(label));
	return json_pack("{s:s,s:o,s:b}", "label", label, "filename", json_any_string(name),
			 "frontend-open", 1);
}

static int run_query_chardev(void *opaque, const struct command_origin *origin, json_t *args,
			     json_t **result, struct error *err)
{
	const struct machine *m = opaque;

	UNUSED_ARGS(opaque, origin, args, result, err);
	*result = json_array();
	for (unsigned int i = 0; i < m->ndevices; i++) {
		struct device *dev = m->devices[i];

		if (dev->cls->chardev)
			json_array_append_new(*result, chardev_info(dev->cls->chardev(dev)));
	}
	return 0;
}

static int run_stop(void *opaque, const struct command_origin *origin, json_t *args,
		    json_t **result, struct error *err)
{
	struct machine *m = opaque;

	UNUSED_ARGS(opaque, origin, args, result, err);
	return m->guest.run_state == RUN_STATE_RUNNING ? machine_pause(m, err) : 0;
}

static int run_cont(void *opaque, const struct command_origin *origin, json_t *args,
		    json_t **result, struct error *err)
{
	struct machine *m = opaque;

	UNUSED_ARGS(opaque, origin, args, result, err);
	switch (m->guest.run_state) {
	case RUN_STATE_RUNNING:
		return 0;
	case RUN_STATE_SHUTDOWN:
	case RUN_STATE_INTERNAL_ERROR:
		return err_set(err, EPERM, "Resetting the Virtual Machine is required");
	default:
		return machine_resume(m, err);
	}
}

static int run_system_reset(void *opaque, const struct command_origin *origin, json_t *args,
			    json_t **result, struct error *err)
{
	static const char reason[] = "host-qmp-system-reset";
	struct machine *m = opaque;
	uint64_t stopped_ns;
	int r = 0;

	UNUSED_ARGS(opaque, origin, args, result, err);
	if (m->guest.run_state == RUN_STATE_RUNNING)
		r = machine_park_in_time(m, NULL, &stopped_ns, err);
	if (r < 0) /* nothing has been reset, and it runs on */
		return r;
	r = machine_reset(m, reason, err);
	if (r < 0) { /* what is left of it cannot run on */
		machine_exit(m, MACHINE_EXIT_FAILURE, reason);
		return r;
	}
	return 0;
}

static int run_system_powerdown(void *opaque, const struct command_origin *origin, json_t *args,
				json_t **result, struct error *err)
{
	UNUSED_ARGS(opaque, origin, args, result, err);
	return machine_power_button(opaque, err);
}

static int run_quit(void *opaque, const struct command_origin *origin, json_t *args,
		    json_t **result, struct error *err)
{
	UNUSED_ARGS(opaque, origin, args, result, err);
	machine_exit(opaque, MACHINE_EXIT_OK, "host-qmp-quit");
	return 0;
}

static const struct command machine_commands[] = {
	{ .name = "query-status",
	  .help = "whether the guest runs",
	  .returns = &machine_status_type,
	  .run = run_query_status },
	{ .name = "query-cpus-fast",
	  .help = "the vCPUs and their threads",
	  .returns = &machine_cpus_type,
	  .run = run_query_cpus_fast },
	{ .name = "query-kvm",
	  .help = "whether KVM is used: always",
	  .returns = &machine_kvm_type,
	  .run = run_query_kvm },
	{ .name = "query-name",
	  .help = "the name given with --name",
	  .returns = &machine_name_type,
	  .run = run_query_name },
	{ .name = "query-uuid",
	  .help = "the machine's UUID",
	  .returns = &machine_uuid_type,
	  .run = run_query_uuid },
	{ .name = "query-target",
	  .help = "the guest's architecture",
	  .returns = &machine_target_type,
	  .run = run_query_target },
	{ .name = "query-machines",
	  .help = "the machine versions that this molt has",
	  .returns = &machine_list_type,
	  .run = run_query_machines },
	{ .name = "query-chardev",
	  .help = "what the serial port is plugged into",
	  .returns = &machine_chardevs_type,
	  .run = run_query_chardev },
	{ .name = "stop", .help = "pause the guest", .run = run_stop },
	{ .name = "cont", .help = "let the guest run", .run = run_cont },
	{ .name = "system_reset", .help = "reset the guest", .run = run_system_reset },
	{ .name = "system_powerdown",
	  .help = "press the power button",
	  .run = run_system_powerdown },
	{ .name = "quit", .help = "end molt and the guest with it", .run = run_quit },
};

void control_add_machine_commands(struct control *c, struct machine *m)
{
	if (!c)
		return;
	c->machine = m;
	control_add_commands(c, block_commands, block_commands_count, c);
	control_add_commands(c, machine_commands, ARRAY_SIZE(machine_commands), m);
	control_add_events(c, machine_events, machine_events_count);
}

/* Whether the guest did it itself is in the reason's name. */
static bool is_guests(const char *detail)
{
	return strncmp(detail, "guest-", 6) == 0;
}

/* The data of RESET and SHUTDOWN. */
static json_t *cause(const char *detail)
{
	return json_pack("{s:b,s:s}", "guest", is_guests(detail), "reason", detail);
}

void control_machine_event(struct control *c, enum machine_event event, const char *detail)
{
	switch (event) {
	case MACHINE_EVENT_STOP:
		control_event(c, "STOP", NULL);
		break;
	case MACHINE_EVENT_RESUME:
		control_event(c, "RESUME", NULL);
		break;
	case MACHINE_EVENT_RESET:
		if (is_guests(detail))
			control_frequent_event(c, "RESET", cause(detail));
		else
			control_event(c, "RESET", cause(detail));
		break;
	case MACHINE_EVENT_SHUTDOWN:
		control_event(c, "SHUTDOWN", cause(detail));
		break;
	case MACHINE_EVENT_POWERDOWN:
		control_event(c, "POWERDOWN", NULL);
		break;
	case MACHINE_EVENT_GUEST_PANICKED:
		control_frequent_event(c, "GUEST_PANICKED", json_pack("{s:s}", "action", detail));
		break;
	}
}
