/* SPDX-License-Identifier: MIT */
/*
 * QMP: what a request must look like, which command it means, and who gets answers and events. The
 * sentences are QEMU's where QEMU has one (qapi/qmp-dispatch.c,
 * monitor/qmp.c), because people search for them.
 */
#include <errno.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/control/json_message.h>

#include "internal.h"

#define GENERIC_ERROR "GenericError"
#define COMMAND_NOT_FOUND "CommandNotFound"

static const char *sentence(const struct error *err, int code)
{
	return err->text[0] ? err->text : error_text(code);
}

void control_reply(struct control *c, uint32_t client, const char *id, json_t *result,
		   const struct error *err)
{
	/* It may come from a state stream. */
	if (id && !json_text_is_value(id, strlen(id)))
		id = NULL;
	for (unsigned int i = 0; c && i < c->nclients; i++) {
		struct control_client *cl = c->clients[i];

		if (cl->dead || cl->number != client)
			continue;
		cl->busy = false;
		if (err)
			control_client_send_error(cl, GENERIC_ERROR, sentence(err, err->code), id);
		else
			control_client_send(cl, control_return(json_incref(result)), id);
		control_client_update(cl);
		break;
	}
	json_decref(result);
}

/* ---- taking requests ---- */

struct request {
	const char *execute;
	json_t *args;   /* borrowed; NULL if there are none */
	const char *id; /* JSON text, borrowed; NULL if there is none */
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
	json_object_foreach (msg, key, value) {
		int r = check_member(key, value, req, err);

		if (r < 0)
			return r;
	}
	if (!req->execute)
		return err_set(err, EINVAL, "QMP input lacks member 'execute'");
	return 0;
}

/* ---- dispatch ---- */

/* NULL where the request may be run now, else the error's class. */
static const char *check_mode(const struct control_client *cl, const struct command *cmd,
			      const char *name, struct error *err)
{
	bool negotiates = cmd && strcmp(cmd->name, "qmp_capabilities") == 0;

	if (!cl->negotiated && !negotiates)
		err_set(err, ENOENT, "Expecting capabilities negotiation with 'qmp_capabilities'");
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
	int r = control_check_args(cmd->args, args, &err);

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
		control_client_send(cl, control_return(result), req->id);
	}
}

void control_dispatch(struct control_client *cl, json_t *msg, const char *id,
		      const struct error *why)
{
	struct error err = ERROR_INIT;
	struct request req = { .id = id };
	const char *class = GENERIC_ERROR;
	const struct command *cmd = NULL;
	void *opaque = NULL;

	if (!msg) {
		control_client_send_error(cl, GENERIC_ERROR, why->text, id);
		return;
	}
	if (check_request(msg, &req, &err) == 0) {
		cmd = control_find_command(cl->control, req.execute, &opaque);
		class = check_mode(cl, cmd, req.execute, &err);
	}
	if (class)
		control_client_send_error(cl, class, err.text, req.id);
	else
		run_command(cl, cmd, opaque, &req);
}
