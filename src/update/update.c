/* SPDX-License-Identifier: MIT */
/* The update server: takes requests, runs them one at a time, knows how the last one ended. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>
#include <molt/base/log.h>

#include "internal.h"
#include "steps.h"

static const struct vmstate_field update_fields[] = {
	VMSTATE_STRING(struct update_wire, id), VMSTATE_STRING(struct update_wire, version),
	VMSTATE_U64(struct update_wire, updates), VMSTATE_U32(struct update_wire, client),
	VMSTATE_U32(struct update_wire, kind),
	/* Who does not know it has no I/O processes, or replaces them. */
	VMSTATE_SCALAR_(struct update_wire, keep_io, bool, FIELD_BOOL,
			VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, false),
	VMSTATE_SCALAR_(struct update_wire, lazily, bool, FIELD_BOOL,
			VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, false),
	VMSTATE_UNSAVED(struct update_wire, reserved, "padding"),
	VMSTATE_U8_VAR(struct update_wire, argv, argv_len),
	VMSTATE_U8_VAR_NEW(struct update_wire, command, command_len),
	VMSTATE_U8_VAR_NEW(struct update_wire, wrapper, wrapper_len),
	VMSTATE_U32_VAR_NEW(struct update_wire, guardians, nguardians), VMSTATE_END
};

const struct vmstate update_vmstate = {
	.name = "update",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct update_wire),
	.fields = update_fields,
};

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

static void forget_request(struct update_request *req)
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
	forget_request(&u->request);
}

/* The answer to an update that was only to be checked: none was tried, so none has failed. */
static void only_checked(struct update *u, const struct error *err)
{
	json_t *result = err ? NULL : json_pack("{s:s}", "check", "passed");

	u->status = u->status_before;
	u->ops.reply(u->ops.opaque, u->request.client, u->request.id, result, err);
	forget_request(&u->request);
}

/* r: of the steps, which have come to their end here. */
static void ended(struct update *u, int r, const struct error *err)
{
	if (r == STEP_WAITS)
		return;
	if (u->request.check_only)
		only_checked(u, r < 0 ? err : NULL);
	else
		update_failed(u, err);
}

void update_checked(struct update *u, const struct error *err)
{
	struct error why = err ? *err : (struct error)ERROR_INIT;
	int r = update_step_over(u, err ? -err->code : 0, &why);

	if (r == 0 && u->request.check_only)
		update_undo(u);
	else if (r == 0)
		r = update_go_on(u, &why);
	ended(u, r, &why);
}

static void start(void *opaque)
{
	struct update *u = opaque;
	struct error err = ERROR_INIT;

	if (u->status == UPDATE_STATUS_RUNNING)
		ended(u, update_run_steps(u, &err), &err);
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
		forget_request(&u->request);
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

/* The descriptor that the argument names: *fd, -1 where there is no such argument. */
static int take_fd(struct update *u, const struct command_origin *origin, json_t *args,
		   const char *name, int *fd, struct error *err)
{
	json_t *value = json_object_get(args, name);

	*fd = -1;
	if (!value)
		return 0;
	*fd = u->ops.take_fd(u->ops.opaque, origin->client, json_string_value(value), err);
	if (*fd < 0)
		err_prefix(err, "'%s'", name);
	return *fd < 0 ? *fd : 0;
}

static int run_update(void *opaque, const struct command_origin *origin, json_t *args,
		      json_t **result, struct error *err)
{
	json_t *path = json_object_get(args, "state-file");
	json_t *timeout = json_object_get(args, "timeout");
	_cleanup_close_ int command_fd = -1, state_fd = -1;
	struct update *u = opaque;
	struct update_request *req = &u->request;
	int r;

	(void)result;
	if (timeout && (json_integer_value(timeout) < 1 ||
			json_integer_value(timeout) > UPDATE_TIMEOUT_MAX_MS))
		return err_set(err, EINVAL, "'timeout' must be 1 to %d milliseconds",
			       UPDATE_TIMEOUT_MAX_MS);
	r = take_fd(u, origin, args, "command-fd", &command_fd, err);
	if (r == 0)
		r = take_fd(u, origin, args, "state-fd", &state_fd, err);
	if (r == 0)
		r = update_request(u, origin, UPDATE_KIND_UPDATE, json_string_value(path),
				   json_object_get(args, "command"), err);
	if (r < 0)
		return r;
	req->command_fd = command_fd;
	req->given_state_fd = state_fd;
	command_fd = state_fd = -1;
	if (timeout)
		req->timeout_ms = (uint32_t)json_integer_value(timeout);
	req->timeout_given = timeout != NULL;
	req->no_check = json_is_true(json_object_get(args, "no-check"));
	req->check_only = json_is_true(json_object_get(args, "check-only"));
	req->keep_io = json_is_true(json_object_get(args, "no-io"));
	return COMMAND_ASYNC;
}

static int run_query_update(void *opaque, const struct command_origin *origin, json_t *args,
			    json_t **result, struct error *err)
{
	static const char *const names[] = {
		[UPDATE_STATUS_NONE] = "none",
		[UPDATE_STATUS_RUNNING] = "running",
		[UPDATE_STATUS_COMPLETED] = "completed",
		[UPDATE_STATUS_FAILED] = "failed",
	};
	const struct update *u = opaque;
	const char *path = u->self->wrapper ? u->self->wrapper[0] : u->self->path;

	(void)origin;
	(void)args;
	(void)err;
	*result = json_pack("{s:s,s:I,s:o}", "status", names[u->status], "updates",
			    (json_int_t)u->updates, "path", json_any_string(path));
	if (u->status == UPDATE_STATUS_FAILED)
		json_object_set_new(*result, "error", json_any_string(u->last_error.text));
	if (u->last)
		json_object_set(*result, "last", u->last);
	return 0;
}

void update_save(const struct update *u, struct stream_writer *w)
{
	vmstate_save(w, &update_vmstate, 0, u->hand_over.wire);
}

void update_takeover_kinds(struct takeover_kinds *kinds)
{
	static const char *const fds[] = { "state",      "predecessor", "guard-page",
					   "guard-wake", "final",       NULL };

	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &update_vmstate,
							   .required = true,
							   .fds = fds });
}

const struct command update_commands[] = {
	{ .name = "update",
	  .help = "replace the running molt, the guest runs on",
	  .args = update_args,
	  .returns = &update_result_type,
	  .run = run_update },
	{ .name = "query-update",
	  .help = "how the last update went",
	  .returns = &update_info_type,
	  .run = run_query_update },
};
const size_t update_commands_count = ARRAY_SIZE(update_commands);

int update_create(struct update **out, struct machine *m, const struct update_self *self,
		  const struct update_ops *ops, struct error *err)
{
	struct update *u = calloc(1, sizeof(*u));
	int r;

	if (!u)
		return err_set(err, ENOMEM, "no memory for the update server");
	u->machine = m;
	u->self = self;
	u->ops = *ops;
	u->request = UPDATE_REQUEST_NONE;
	u->hand_over = HAND_OVER_NONE;
	u->check = UPDATE_CHECK_NONE;
	for (size_t i = 0; i < UPDATE_STAND_INS_MAX; i++)
		u->old_stand_ins[i].child = CHILD_NONE;
	r = loop_wake_init(m->loop, &u->start, start, u, err);
	if (r < 0) {
		free(u);
		return r;
	}
	*out = u;
	return 0;
}

void update_destroy(struct update *u)
{
	if (!u)
		return;
	loop_wake_fini(&u->start);
	if (u->check.child.pid) /* the guest ended meanwhile */
		update_undo(u);
	update_forget_stand_ins(u);
	forget_request(&u->request);
	json_decref(u->last);
	json_decref(u->migrate.command);
	free(u);
}
