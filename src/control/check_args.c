/* SPDX-License-Identifier: MIT */
/*
 * Whether the arguments of a command are what its table says: so the schema that clients ask for
 * tells what is accepted. The sentences are QEMU's (qapi/qobject-input-visitor.c).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "internal.h"

#define PATH_MAX_BYTES 200

static int check_value(const struct command_type *type, json_t *value, const char *path,
		       struct error *err);

static int wrong_type(const char *path, const char *expected, struct error *err)
{
	return err_set(err, EINVAL, "Invalid parameter type for '%s', expected: %s", path,
		       expected);
}

static int check_builtin(const char *json, json_t *value, const char *path, struct error *err)
{
	if (strcmp(json, "string") == 0 && !json_is_string(value))
		return wrong_type(path, "string", err);
	if (strcmp(json, "int") == 0 && !json_is_integer(value))
		return wrong_type(path, "integer", err);
	if (strcmp(json, "boolean") == 0 && !json_is_boolean(value))
		return wrong_type(path, "boolean", err);
	return 0;
}

static int check_enum(const char *const *values, json_t *value, const char *path, struct error *err)
{
	const char *text = json_string_value(value);

	if (!text)
		return wrong_type(path, "string", err);
	for (; *values; values++)
		if (strcmp(*values, text) == 0)
			return 0;
	return err_set(err, EINVAL, "Parameter '%s' does not accept value '%s'", path, text);
}

static int check_array(const struct command_type *elements, json_t *value, const char *path,
		       struct error *err)
{
	json_t *element;
	size_t i;

	if (!json_is_array(value))
		return wrong_type(path, "array", err);
	json_array_foreach (value, i, element) {
		char at[PATH_MAX_BYTES];
		int r;

		snprintf(at, sizeof(at), "%s[%zu]", path, i);
		r = check_value(elements, element, at, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static const struct command_member *find_member(const struct command_member *members,
						const char *name)
{
	for (; members && members->name; members++)
		if (strcmp(members->name, name) == 0)
			return members;
	return NULL;
}

static int check_object(const struct command_member *members, json_t *value, const char *path,
			struct error *err)
{
	const char *dot = path[0] ? "." : "", *key;
	const struct command_member *m;
	char at[PATH_MAX_BYTES];
	json_t *member;

	if (!json_is_object(value))
		return wrong_type(path, "object", err);
	json_object_foreach (value, key, member) {
		int r;

		snprintf(at, sizeof(at), "%s%s%s", path, dot, key);
		m = find_member(members, key);
		r = m ? check_value(m->type, member, at, err)
		      : err_set(err, EINVAL, "Parameter '%s' is unexpected", at);
		if (r < 0)
			return r;
	}
	for (m = members; m && m->name; m++)
		if (!m->optional && !json_object_get(value, m->name))
			return err_set(err, EINVAL, "Parameter '%s%s%s' is missing", path, dot,
				       m->name);
	return 0;
}

static int check_value(const struct command_type *type, json_t *value, const char *path,
		       struct error *err)
{
	if (type->json)
		return check_builtin(type->json, value, path, err);
	if (type->values)
		return check_enum(type->values, value, path, err);
	if (type->elements)
		return check_array(type->elements, value, path, err);
	return check_object(type->members, value, path, err);
}

int control_check_args(const struct command_member *known, json_t *args, struct error *err)
{
	return check_object(known, args, "", err);
}
