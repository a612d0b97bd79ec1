/* SPDX-License-Identifier: MIT */
/*
 * A request: what a client asked for, from its command to its answer. What is done about it, by the
 * steps, is not known here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>
#include <molt/base/log.h>

#include "internal.h"

static void free_command(char **command)
{
	for (size_t i = 0; command && command[i]; i++)
		free(command[i]);
	free(command);
}

/* The schema has seen to the types: what is left is a list that names no program. */
static int copy_command(json_t *list, char ***out, struct error *err)
{
	size_t n = json_array_size(list);

	if (!list)
		return 0;
	if (!n || !json_string_length(json_array_get(list, 0)))
		return err_set(err, EINVAL,
			       "the command must be a list of strings, a program first");
	*out = calloc(n + 1, sizeof(**out));
	for (size_t i = 0; *out && i < n; i++) {
		(*out)[i] = strdup(json_string_value(json_array_get(list, i)));
		if (!(*out)[i])
			return err_set(err, ENOMEM, "no memory for the command");
	}
	return *out ? 0 : err_set(err, ENOMEM, "no memory for the command");
}

void update_forget_request(struct update_request *req)
{
	free_command(req->command);
	req->command = NULL;
	free(req->state_path);
	req->state_path = NULL;
	fd_close(&req->command_fd);
	fd_close(&req->given_state_fd);
	free(req->id);
	req->id = NULL;
}

void update_failed(struct update *u, const struct error *err)
{
	struct update_request *req = &u->request;
	void *opaque = u->ops.opaque;

	u->status = UPDATE_STATUS_FAILED;
	u->last_error = *err;
	log_error("update failed, the guest runs on: %s", err->text);
	if (req->kind == UPDATE_KIND_UPDATE) {
		u->ops.reply(opaque, req->client, req->id, NULL, err);
	} else {
		u->ops.event(opaque, "MIGRATION", json_pack("{s:s}", "status", "failed"));
		if (req->told_stop && u->machine->guest.run_state == RUN_STATE_RUNNING)
			u->ops.event(opaque, "RESUME", NULL);
	}
	u->ops.event(opaque, "UPDATE_FAILED",
		     json_pack("{s:o,s:i}", "error", json_any_string(err->text), "pid",
			       (int)getpid()));
	update_forget_request(&u->request);
}

void update_only_checked(struct update *u, const struct error *err)
{
	json_t *result = err ? NULL : json_pack("{s:s}", "check", "passed");

	u->status = u->status_before;
	u->ops.reply(u->ops.opaque, u->request.client, u->request.id, result, err);
	update_forget_request(&u->request);
}

/* It travels in the stream, in a field that has an end. `migrate` was answered long before that. */
static int take_id(struct update_request *req, const char *id, enum update_kind kind,
		   struct error *err)
{
	if (!id || kind != UPDATE_KIND_UPDATE)
		return 0;
	if (strlen(id) >= UPDATE_ID_MAX)
		return err_set(err, E2BIG,
			       "an 'id' of %zu bytes is too long for update: it can "
			       "have up to %d",
			       strlen(id), UPDATE_ID_MAX - 1);
	req->id = strdup(id);
	return req->id ? 0 : err_set(err, ENOMEM, "no memory for the command's id");
}

int update_request(struct update *u, const struct command_origin *origin, enum update_kind kind,
		   const char *state_path, json_t *command, struct error *err)
{
	struct update_request *req = &u->request;
	int r;

	if (u->status == UPDATE_STATUS_RUNNING)
		return err_set(err, EBUSY, "busy: an update is under way already");
	if (u->machine->guest.run_state >= RUN_STATE_SHUTDOWN)
		return err_set(err, EBUSY, "the machine is in state '%s': nothing to keep running",
			       run_state_name((enum run_state)u->machine->guest.run_state));
	r = copy_command(command, &req->command, err);
	/* QEMU's users name a file in the working directory, which the successor will have, too. */
	if (r == 0 && state_path && state_path[0] != '/' && kind == UPDATE_KIND_UPDATE)
		r = err_set(err, EINVAL, "state file '%s': the path must be absolute", state_path);
	if (r == 0 && state_path) {
		req->state_path = strdup(state_path);
		r = req->state_path ? 0 : err_set(err, ENOMEM, "no memory for the state's path");
	}
	if (r == 0)
		r = take_id(req, origin->id, kind, err);
	if (r < 0) {
		update_forget_request(&u->request);
		return r;
	}
	req->timeout_ms = STAND_IN_DEADLINE_MS;
	req->timeout_given = false;
	req->no_check = req->check_only = req->keep_io = u->hand_over.stops_guest = false;
	req->client = origin->client;
	req->kind = kind;
	req->told_stop = false;
	u->status_before = u->status;
	u->status = UPDATE_STATUS_RUNNING;
	/* Not from here: the control server stands in the middle of a client's input. */
	loop_wake_signal(&u->start);
	return 0;
}
