/* SPDX-License-Identifier: MIT */
/* The server's own commands: the negotiation, and what a client can ask about the protocol. */
#include <errno.h>

#include <molt/base/fd.h>

#include "internal.h"

static int run_capabilities(void *opaque, const struct command_origin *origin, json_t *args,
			    json_t **result, struct error *err)
{
	const char *wanted = json_string_value(json_array_get(json_object_get(args, "enable"), 0));
	struct control *c = opaque;

	(void)result;
	if (wanted)
		return err_set(err, EINVAL, "Capability %s not available", wanted);
	for (unsigned int i = 0; i < c->nclients; i++)
		if (c->clients[i]->number == origin->client)
			c->clients[i]->negotiated = true;
	return 0;
}

static int run_query_version(void *opaque, const struct command_origin *origin, json_t *args,
			     json_t **result, struct error *err)
{
	(void)opaque;
	(void)origin;
	(void)args;
	(void)err;
	*result = control_version();
	return 0;
}

static int run_query_commands(void *opaque, const struct command_origin *origin, json_t *args,
			      json_t **result, struct error *err)
{
	const struct control *c = opaque;

	(void)origin;
	(void)args;
	(void)err;
	*result = json_array();
	for (unsigned int t = 0; t < c->ntables; t++)
		for (size_t i = 0; c->tables[t].commands && i < c->tables[t].count; i++)
			json_array_append_new(*result, json_pack("{s:s}", "name",
								 c->tables[t].commands[i].name));
	return 0;
}

static int run_query_schema(void *opaque, const struct command_origin *origin, json_t *args,
			    json_t **result, struct error *err)
{
	(void)origin;
	(void)args;
	*result = control_schema(opaque);
	return *result ? 0 : err_set(err, ENOMEM, "no memory for the schema");
}

static const struct command_member capabilities_args[] = {
	{ .name = "enable", .type = &command_strings, .optional = true },
	{ 0 }
};

static const struct command_member triple_members[] = {
	{ .name = "major", .type = &command_int },
	{ .name = "minor", .type = &command_int },
	{ .name = "micro", .type = &command_int },
	{ 0 }
};
static const struct command_type triple = { .name = "VersionTriple", .members = triple_members };
static const struct command_member version_members[] = {
	{ .name = "qemu", .type = &triple },
	{ .name = "package", .type = &command_string },
	{ 0 }
};
static const struct command_type version_info = {
	.name = "VersionInfo",
	.members = version_members,
};

static const struct command_member command_members[] = {
	{ .name = "name", .type = &command_string },
	{ 0 }
};
static const struct command_type command_info = {
	.name = "CommandInfo",
	.members = command_members,
};
static const struct command_type command_list = {
	.name = "[CommandInfo]",
	.elements = &command_info,
};

/* Which members there are depends on meta-type; QEMU has a type for each of its values. */
static const char *const meta_types[] = { "builtin", "enum",  "array", "object",
					  "command", "event", NULL };
static const struct command_type meta_type = { .name = "SchemaMetaType", .values = meta_types };
static const struct command_type any_list = { .name = "[any]", .elements = &command_any };
static const struct command_member schema_members[] = {
	{ .name = "name", .type = &command_string },
	{ .name = "meta-type", .type = &meta_type },
	{ .name = "json-type", .type = &command_string, .optional = true },
	{ .name = "values", .type = &command_strings, .optional = true },
	{ .name = "members", .type = &any_list, .optional = true },
	{ .name = "element-type", .type = &command_string, .optional = true },
	{ .name = "arg-type", .type = &command_string, .optional = true },
	{ .name = "ret-type", .type = &command_string, .optional = true },
	{ 0 }
};
static const struct command_type schema_info = { .name = "SchemaInfo", .members = schema_members };
static const struct command_type schema_list = {
	.name = "[SchemaInfo]",
	.elements = &schema_info,
};

static const struct command server_commands[] = {
	{ .name = "qmp_capabilities",
	  .help = "leave capabilities negotiation mode",
	  .args = capabilities_args,
	  .run = run_capabilities },
	{ .name = "query-version",
	  .help = "the QMP level and molt's version",
	  .returns = &version_info,
	  .run = run_query_version },
	{ .name = "query-commands",
	  .help = "the names of all commands",
	  .returns = &command_list,
	  .run = run_query_commands },
	{ .name = "query-qmp-schema",
	  .help = "commands, events and their types",
	  .returns = &schema_list,
	  .run = run_query_schema },
};

void control_add_server_commands(struct control *c)
{
	control_add_commands(c, server_commands, ARRAY_SIZE(server_commands), c);
}
