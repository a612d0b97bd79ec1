/* SPDX-License-Identifier: MIT */
/* The update server: takes requests, runs them one at a time, knows how the last one ended. */
#include <errno.h>
#include <stdlib.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>

#include "internal.h"
#include "steps.h"

/* r: of the steps, which have come to their end here. */
static void ended(struct update *u, int r, const struct error *err)
{
	if (r == STEP_WAITS)
		return;
	if (u->request.check_only)
		update_only_checked(u, r < 0 ? err : NULL);
	else
		update_failed(u, err);
}

static void waited(struct update *u, const struct error *err)
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

static const struct update_server_ops server_ops = {
	.waited = waited,
	.take_back = update_take_back,
};

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
	u->server = &server_ops;
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
	if (u->check.child.pid || u->hand_over.rest.loop) /* the guest ended meanwhile */
		update_undo(u);
	if (!way_back_is_forgotten(u))
		pthread_detach(u->closer);
	update_forget_stand_ins(u);
	update_forget_request(&u->request);
	json_decref(u->last);
	json_decref(u->migrate.command);
	free(u);
}
