/* SPDX-License-Identifier: MIT */
/*
 * QMP messages: what a request must look like, which command it means, and how answers and
 * errors are put. The sentences are QEMU's where QEMU has one (qapi/qmp-dispatch.c,
 * monitor/qmp.c), because people search for them.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>
#include <molt/base/log.h>
#include "molt_version.h"

#include "internal.h"

#define GENERIC_ERROR "GenericError"
#define COMMAND_NOT_FOUND "CommandNotFound"

/* ---- putting messages ---- */

json_t *control_version(void)
{
	return json_pack("{s:{s:i,s:i,s:i},s:s}", "qemu", "major", CONTROL_QMP_MAJOR, "minor",
			 CONTROL_QMP_MINOR, "micro", CONTROL_QMP_MICRO, "package",
			 "molt " MOLT_VERSION);
}

json_t *control_greeting(void)
{
	return json_pack("{s:{s:o,s:[]}}", "QMP", "version", control_version(), "capabilities");
}

/* Answers carry the id of their request where it had one. */
static json_t *with_id(json_t *msg, json_t *id)
{
	if (msg && id && json_object_set(msg, "id", id) < 0) {
		json_decref(msg);
		return NULL;
	}
	return msg;
}

json_t *control_return(json_t *result, json_t *id)
{
	return with_id(json_pack("{s:o}", "return", result ? result : json_object()), id);
}

json_t *control_error(const char *class, const char *desc, json_t *id)
{
	return with_id(json_pack("{s:{s:s,s:o}}", "error", "class", class, "desc",
				 json_any_string(desc)), id);
}

static const char *sentence(const struct error *err, int code)
{
	return err->text[0] ? err->text : strerror(code);
}

void control_reply(struct control *c, uint32_t client, json_t *id, json_t *result,
		   const struct error *err)
{
	for (unsigned int i = 0; c && i < c->nclients; i++) {
		struct control_client *cl = c->clients[i];

		if (cl->dead || cl->number != client)
			continue;
		cl->busy = false;
		if (err)
			control_client_send_error(cl, GENERIC_ERROR, sentence(err, err->code), id);
		else
			control_client_send(cl, control_return(json_incref(result), id));
		control_client_update(cl);
		break;
	}
	json_decref(result);
}

/* ---- taking requests ---- */

struct request {
	const char *execute;
	json_t *args; /* borrowed; NULL if there are none */
	json_t *id;   /* borrowed; NULL if there is none */
};

static int check_member(const char *key, json_t *value, struct request *req, struct error *err)
{
	if (strcmp(key, "execute") == 0) {
		req->execute = json_string_value(value);
		if (!req->execute)
			return err_set(err, EINVAL, "QMP input member 'execute' must be a string");
	} else if (strcmp(key, "arguments") == 0) {
		req->args = value;
		if (!json_is_object(value))
			return err_set(err, EINVAL,
				       "QMP input member 'arguments' must be an object");
	} else if (strcmp(key, "id") != 0) {
		return err_set(err, EINVAL, "QMP input member '%s' is unexpected", key);
	}
	return 0;
}

static int check_request(json_t *msg, struct request *req, struct error *err)
{
	const char *key;
	json_t *value;

	if (!json_is_object(msg))
		return err_set(err, EINVAL, "QMP input must be a JSON object");
	req->id = json_object_get(msg, "id");
	json_object_foreach(msg, key, value) {
		int r = check_member(key, value, req, err);

		if (r < 0)
			return r;
	}
	if (!req->execute)
		return err_set(err, EINVAL, "QMP input lacks member 'execute'");
	return 0;
}

static int check_args(json_t *args, const char *const *known, struct error *err)
{
	const char *key;
	json_t *value;

	json_object_foreach(args, key, value) {
		const char *const *name = known;

		while (name && *name && strcmp(*name, key) != 0)
			name++;
		if (!name || !*name)
			return err_set(err, EINVAL, "Parameter '%s' is unexpected", key);
	}
	return 0;
}

/* ---- the server's own commands ---- */

static int check_capabilities(json_t *args, struct error *err)
{
	json_t *enable = json_object_get(args, "enable"), *value;
	size_t i;

	if (enable && !json_is_array(enable))
		return err_set(err, EINVAL,
			       "Invalid parameter type for 'enable', expected: array");
	json_array_foreach(enable, i, value) {
		const char *name = json_string_value(value);

		if (!name)
			return err_set(err, EINVAL,
				       "Invalid parameter type for 'enable[%zu]', expected: string",
				       i);
		return err_set(err, EINVAL, "Capability %s not available", name);
	}
	return 0;
}

static int run_capabilities(void *opaque, const struct command_origin *origin, json_t *args,
			    json_t **result, struct error *err)
{
	struct control *c = opaque;
	int r = check_capabilities(args, err);

	(void)result;
	for (unsigned int i = 0; r == 0 && i < c->nclients; i++)
		if (c->clients[i]->number == origin->client)
			c->clients[i]->negotiated = true;
	return r;
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
		for (size_t i = 0; i < c->tables[t].count; i++)
			json_array_append_new(*result, json_pack("{s:s}", "name",
						       c->tables[t].commands[i].name));
	return 0;
}

static const char *const capabilities_args[] = { "enable", NULL };

static const struct command server_commands[] = {
	{ .name = "qmp_capabilities", .help = "leave capabilities negotiation mode",
	  .args = capabilities_args, .run = run_capabilities },
	{ .name = "query-version", .help = "the QMP level and molt's version",
	  .run = run_query_version },
	{ .name = "query-commands", .help = "the names of all commands",
	  .run = run_query_commands },
};

void control_add_server_commands(struct control *c)
{
	control_add_commands(c, server_commands, ARRAY_SIZE(server_commands), c);
}

/* ---- dispatch ---- */

static const struct command *find_command(const struct control *c, const char *name, void **opaque)
{
	for (unsigned int t = 0; t < c->ntables; t++) {
		for (size_t i = 0; i < c->tables[t].count; i++) {
			if (strcmp(c->tables[t].commands[i].name, name) != 0)
				continue;
			*opaque = c->tables[t].opaque;
			return &c->tables[t].commands[i];
		}
	}
	return NULL;
}

/* NULL where the request may be run now, else the error's class. */
static const char *check_mode(const struct control_client *cl, const struct command *cmd,
			      const char *name, struct error *err)
{
	bool negotiates = cmd && cmd->run == run_capabilities;

	if (!cl->negotiated && !negotiates)
		err_set(err, ENOENT,
			"Expecting capabilities negotiation with 'qmp_capabilities'");
	else if (!cmd)
		err_set(err, ENOENT, "The command %s has not been found", name);
	else if (cl->negotiated && negotiates)
		err_set(err, ENOENT,
			"Capabilities negotiation is already complete, command ignored");
	else
		return NULL;
	return COMMAND_NOT_FOUND;
}

static void run_command(struct control_client *cl, const struct command *cmd, void *opaque,
			const struct request *req)
{
	struct command_origin origin = { .client = cl->number, .id = req->id };
	json_t *args = req->args ? json_incref(req->args) : json_object();
	struct error err = ERROR_INIT;
	json_t *result = NULL;
	int r = check_args(args, cmd->args, &err);

	/* Set before: the answer of an asynchronous command may come from within run(). */
	cl->busy = true;
	if (r == 0)
		r = cmd->run(opaque, &origin, args, &result, &err);
	json_decref(args);
	if (r == COMMAND_ASYNC)
		return;
	cl->busy = false;
	if (r < 0) {
		json_decref(result);
		control_client_send_error(cl, GENERIC_ERROR, sentence(&err, -r), req->id);
	} else {
		control_client_send(cl, control_return(result, req->id));
	}
}

void control_dispatch(struct control_client *cl, json_t *msg, const struct error *why)
{
	struct error err = ERROR_INIT;
	struct request req = { 0 };
	const char *class = GENERIC_ERROR;
	const struct command *cmd = NULL;
	void *opaque = NULL;

	if (!msg) {
		control_client_send_error(cl, GENERIC_ERROR, why->text, NULL);
		return;
	}
	if (check_request(msg, &req, &err) == 0) {
		cmd = find_command(cl->control, req.execute, &opaque);
		class = check_mode(cl, cmd, req.execute, &err);
	}
	if (class)
		control_client_send_error(cl, class, err.text, req.id);
	else
		run_command(cl, cmd, opaque, &req);
}
