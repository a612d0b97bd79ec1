/* SPDX-License-Identifier: MIT */
/*
 * QEMU's sequence for cpr-exec, so that a controller written for it works: migrate-set-parameters
 * with mode and cpr-exec-command, then migrate to a file: URI. Facts from QEMU's
 * docs/devel/migration/CPR.rst and qapi/migration.json.
 *
 * `migrate` to anything that cannot hold the whole state before the exec (a socket, a pipe) is
 * refused at once: the reader would have to be served by a process that is gone.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>

#include "internal.h"

static int run_set_parameters(void *opaque, const struct command_origin *origin, json_t *args,
			      json_t **result, struct error *err)
{
	struct update *u = opaque;
	json_t *mode = json_object_get(args, "mode");
	json_t *command = json_object_get(args, "cpr-exec-command");

	(void)origin;
	(void)result;
	if (command && !json_array_size(command))
		return err_set(err, EINVAL,
			       "Parameter 'cpr-exec-command' expects at least one string");
	if (mode)
		u->migrate.cpr_exec = strcmp(json_string_value(mode), "cpr-exec") == 0;
	if (command) {
		json_decref(u->migrate.command);
		u->migrate.command = json_incref(command);
	}
	return 0;
}

static int run_query_parameters(void *opaque, const struct command_origin *origin, json_t *args,
				json_t **result, struct error *err)
{
	const struct update *u = opaque;

	(void)origin;
	(void)args;
	(void)err;
	*result = json_pack("{s:s}", "mode", u->migrate.cpr_exec ? "cpr-exec" : "normal");
	if (u->migrate.command)
		json_object_set(*result, "cpr-exec-command", u->migrate.command);
	return 0;
}

/* Controllers switch "events" on before a migration; molt sends MIGRATION events in any case. */
static int run_set_capabilities(void *opaque, const struct command_origin *origin, json_t *args,
				json_t **result, struct error *err)
{
	json_t *list = json_object_get(args, "capabilities"), *cap;
	size_t i;

	(void)opaque;
	(void)origin;
	(void)result;
	json_array_foreach (list, i, cap) {
		const char *name = json_string_value(json_object_get(cap, "capability"));

		if (json_is_true(json_object_get(cap, "state")) && strcmp(name, "events") != 0)
			return err_set(err, ENOTSUP, "molt has no migration capability '%s'", name);
	}
	return 0;
}

/* The path of `channels`, the newer way to say it; NULL with the reason where there is none. */
static const char *channel_path(json_t *channels, struct error *err)
{
	json_t *addr = json_object_get(json_array_get(channels, 0), "addr");
	const char *transport = json_string_value(json_object_get(addr, "transport"));
	const char *path = json_string_value(json_object_get(addr, "filename"));
	json_int_t offset = json_integer_value(json_object_get(addr, "offset"));

	if (json_array_size(channels) != 1 || !transport)
		err_set(err, EINVAL, "Parameter 'channels' must hold one channel with an 'addr'");
	else if (strcmp(transport, "file") != 0)
		err_set(err, ENOTSUP,
			"migrate over '%s' cannot take the whole state before the "
			"exec; use a file",
			transport);
	else if (offset != 0)
		err_set(err, ENOTSUP, "migrate to a file at an offset is not possible");
	else if (!path)
		err_set(err, EINVAL, "Parameter 'filename' is missing");
	else
		return path;
	return NULL;
}

static const char *uri_path(const char *uri, struct error *err)
{
	if (strncmp(uri, "file:", 5) == 0 && !strstr(uri, ",offset="))
		return uri + 5;
	err_set(err, ENOTSUP,
		"migrate to '%s' cannot take the whole state before the exec; use file:PATH", uri);
	return NULL;
}

static int run_migrate(void *opaque, const struct command_origin *origin, json_t *args,
		       json_t **result, struct error *err)
{
	struct update *u = opaque;
	const char *uri = json_string_value(json_object_get(args, "uri"));
	json_t *channels = json_object_get(args, "channels");
	const char *path;
	int r;

	(void)result;
	if (json_is_true(json_object_get(args, "resume")))
		return err_set(err, ENOTSUP, "molt has no migration that could be resumed");
	if (!uri == !channels)
		return err_set(err, EINVAL, "need either 'uri' or 'channels' argument");
	path = uri ? uri_path(uri, err) : channel_path(channels, err);
	if (!path)
		return -(err ? err->code : EINVAL);
	if (!path[0])
		return err_set(err, EINVAL, "migrate: the file's path is empty; use file:PATH");
	if (!u->migrate.cpr_exec)
		return err_set(err, ENOTSUP,
			       "molt migrates in mode 'cpr-exec' only: set it with "
			       "migrate-set-parameters");
	if (!u->migrate.command)
		return err_set(err, EINVAL, "cpr-exec mode requires setting cpr-exec-command");
	r = update_request(u, origin, UPDATE_KIND_MIGRATE, path, u->migrate.command, err);
	if (r == 0)
		u->ops.event(u->ops.opaque, "MIGRATION", json_pack("{s:s}", "status", "setup"));
	return r;
}

void update_restore_migrate(struct update *u, const struct update_wire *wire)
{
	const uint8_t *word = wire->command, *end = word + wire->command_len;
	json_t *command;

	if (wire->kind != UPDATE_KIND_MIGRATE || word == end || end[-1])
		return;
	command = json_array();
	for (; word < end; word += strlen((const char *)word) + 1)
		json_array_append_new(command, json_any_string((const char *)word));
	json_decref(u->migrate.command);
	u->migrate.command = command;
	u->migrate.cpr_exec = command != NULL;
}

static int run_query_migrate(void *opaque, const struct command_origin *origin, json_t *args,
			     json_t **result, struct error *err)
{
	static const char *const names[] = {
		[UPDATE_STATUS_RUNNING] = "active",
		[UPDATE_STATUS_COMPLETED] = "completed",
		[UPDATE_STATUS_FAILED] = "failed",
	};
	const struct update *u = opaque;

	(void)origin;
	(void)args;
	(void)err;
	*result = json_object();
	if (u->status != UPDATE_STATUS_NONE)
		json_object_set_new(*result, "status", json_string(names[u->status]));
	if (u->status == UPDATE_STATUS_FAILED)
		json_object_set_new(*result, "error-desc", json_any_string(u->last_error.text));
	return 0;
}

/* Those of QEMU that molt has. */
static int run_query_capabilities(void *opaque, const struct command_origin *origin, json_t *args,
				  json_t **result, struct error *err)
{
	(void)opaque;
	(void)origin;
	(void)args;
	(void)err;
	*result = json_pack("[{s:s,s:b}]", "capability", "events", "state", 1);
	return 0;
}

const struct command migrate_commands[] = {
	{ .name = "migrate-set-parameters",
	  .help = "QEMU: mode and successor of migrate",
	  .args = migrate_parameter_args,
	  .run = run_set_parameters },
	{ .name = "query-migrate-parameters",
	  .help = "QEMU: what was set",
	  .returns = &migrate_parameters_type,
	  .run = run_query_parameters },
	{ .name = "migrate-set-capabilities",
	  .help = "QEMU: 'events' is accepted",
	  .args = migrate_capability_args,
	  .run = run_set_capabilities },
	{ .name = "query-migrate-capabilities",
	  .help = "QEMU: 'events', which is on",
	  .returns = &migrate_capabilities_type,
	  .run = run_query_capabilities },
	{ .name = "migrate",
	  .help = "QEMU: update in mode cpr-exec to a file: URI",
	  .args = migrate_args,
	  .run = run_migrate },
	{ .name = "query-migrate",
	  .help = "QEMU: how the last migrate went",
	  .returns = &migrate_info_type,
	  .run = run_query_migrate },
};
const size_t migrate_commands_count = ARRAY_SIZE(migrate_commands);
