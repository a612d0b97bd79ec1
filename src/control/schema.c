/* SPDX-License-Identifier: MIT */
/*
 * What query-qmp-schema tells: commands, events and all types that they lead to, from the tables by
 * which arguments are checked. Its form is QEMU's (qapi/introspect.json, SchemaInfo); where an
 * object has no name of its own it is called after the command or event.
 */
#include <stdio.h>
#include <string.h>

#include "internal.h"

#define NAME_MAX_BYTES 128

struct schema {
	json_t *list;
	json_t *seen; /* an object with a member for each name in the list */
	bool failed;  /* for want of memory */
};

/* Takes over the reference. */
static void add(struct schema *s, json_t *info)
{
	if (!info || json_array_append_new(s->list, info) < 0)
		s->failed = true;
}

/* False where a type of that name is there already. */
static bool is_new(struct schema *s, const char *name)
{
	if (json_object_get(s->seen, name))
		return false;
	if (json_object_set_new(s->seen, name, json_true()) < 0)
		s->failed = true;
	return !s->failed;
}

static json_t *enum_info(const struct command_type *type)
{
	json_t *values = json_array(), *members = json_array();

	for (const char *const *v = type->values; *v; v++) {
		json_array_append_new(values, json_string(*v));
		json_array_append_new(members, json_pack("{s:s}", "name", *v));
	}
	return json_pack("{s:s,s:s,s:o,s:o}", "name", type->name, "meta-type", "enum", "members",
			 members, "values", values);
}

static json_t *member_info(const struct command_member *m)
{
	json_t *info = json_pack("{s:s,s:s}", "name", m->name, "type", m->type->name);

	if (m->optional)
		json_object_set_new(info, "default", json_null());
	return info;
}

static void add_type(struct schema *s, const struct command_type *type);

static void add_object(struct schema *s, const char *name, const struct command_member *members)
{
	json_t *list = json_array();

	if (!is_new(s, name)) {
		json_decref(list);
		return;
	}
	for (const struct command_member *m = members; m && m->name; m++)
		if (json_array_append_new(list, member_info(m)) < 0)
			s->failed = true;
	add(s, json_pack("{s:s,s:s,s:o}", "name", name, "meta-type", "object", "members", list));
	for (const struct command_member *m = members; m && m->name; m++)
		add_type(s, m->type);
}

static void add_type(struct schema *s, const struct command_type *type)
{
	if (type->members) {
		add_object(s, type->name, type->members);
		return;
	}
	if (!is_new(s, type->name))
		return;
	if (type->json) {
		add(s, json_pack("{s:s,s:s,s:s}", "name", type->name, "meta-type", "builtin",
				 "json-type", type->json));
	} else if (type->values) {
		add(s, enum_info(type));
	} else {
		add(s, json_pack("{s:s,s:s,s:s}", "name", type->name, "meta-type", "array",
				 "element-type", type->elements->name));
		add_type(s, type->elements);
	}
}

/* The object of what goes in or out; *arg is its name. */
static void add_arg(struct schema *s, const char *of, const struct command_member *members,
		    char arg[NAME_MAX_BYTES])
{
	snprintf(arg, NAME_MAX_BYTES, members ? "%s-arg" : "empty", of);
	add_object(s, arg, members);
}

static void add_command(struct schema *s, const struct command *cmd)
{
	char arg[NAME_MAX_BYTES], none[NAME_MAX_BYTES];

	add_arg(s, cmd->name, cmd->args, arg);
	if (cmd->returns)
		add_type(s, cmd->returns);
	else
		add_arg(s, cmd->name, NULL, none);
	add(s, json_pack("{s:s,s:s,s:s,s:s}", "name", cmd->name, "meta-type", "command", "arg-type",
			 arg, "ret-type", cmd->returns ? cmd->returns->name : none));
}

static void add_event(struct schema *s, const struct command_event *ev)
{
	char arg[NAME_MAX_BYTES];

	add_arg(s, ev->name, ev->data, arg);
	add(s, json_pack("{s:s,s:s,s:s}", "name", ev->name, "meta-type", "event", "arg-type", arg));
}

json_t *control_schema(const struct control *c)
{
	struct schema s = { .list = json_array(), .seen = json_object() };

	s.failed = !s.list || !s.seen;
	for (unsigned int t = 0; t < c->ntables && !s.failed; t++) {
		for (size_t i = 0; c->tables[t].commands && i < c->tables[t].count; i++)
			add_command(&s, &c->tables[t].commands[i]);
		for (size_t i = 0; c->tables[t].events && i < c->tables[t].count; i++)
			add_event(&s, &c->tables[t].events[i]);
	}
	json_decref(s.seen);
	if (!s.failed)
		return s.list;
	json_decref(s.list);
	return NULL;
}
