/* SPDX-License-Identifier: MIT */
/* `molt update`: asks a running molt to become another binary, and tells how it went. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/path.h>
#include <molt/base/printable.h>

#include "cli.h"
#include "client.h"
#include "given_fds.h"

#define TIMEOUT_MAX_MS 600000
/*
 * The timeout counts once for the check and once for the take-over. This is for what comes before
 * (the state file's disk space, devices' last I/O) and after (the stand-in's way back).
 */
#define MARGIN_MS 10000
#define AFTERWARDS_MS 2000
#define MIB (1 << 20)
#define CLEAR_LINE "\r\033[K" /* ECMA-48: carriage return, erase in line */

static const struct option_def update_options[] = {
	{ .name = "state",
	  .arg = "FILE",
	  .help = "keep the state stream in this file; without it no file is needed" },
	{ .name = "json", .help = "print the whole report as JSON" },
	{ .name = "check",
	  .help = "ask the successor whether it could take the guest over, and leave it at that" },
	{ .name = "no-check",
	  .help = "do not ask it first: for a successor that cannot answer, such as a wrapper" },
	{ .name = "no-io",
	  .help = "leave the I/O processes of disks alone, which are replaced else" },
	{ .name = "timeout",
	  .arg = "SECONDS",
	  .help = "how long the successor may take to get ready; then the guest runs on without it",
	  .def = "30" },
	{ .name = NULL }
};

const struct cli_command update_command = {
	.name = "update",
	.usage = "[OPTION...] SOCKET [-- COMMAND [ARGUMENT...]]",
	.summary = "Replace a running molt's binary under its guest",
	.details = "COMMAND is the new molt, or a program that executes it in the end; without it\n"
		   "the binary that was started is looked up again by its path. A binary is opened\n"
		   "here and handed over as a descriptor, a script by its path. On failure the\n"
		   "guest runs on as before, and the reason is printed, with the id of the process\n"
		   "that runs it: another one if the successor was executed but did not get ready.\n",
	.options = update_options,
};

/* What a path means is decided here, where the user typed it, not in molt's working directory. */
static json_t *absolute_path(const char *path)
{
	_cleanup_free_ char *absolute = path_absolute(path);

	return absolute ? json_string(absolute) : NULL;
}

/* Likewise what a name without a slash means: it is looked up in the user's PATH, as in a shell. */
static json_t *command_list(const char *const *words, size_t n, struct error *err)
{
	_cleanup_free_ char *found = strchr(words[0], '/') ? NULL : path_search(words[0]);
	json_t *list;

	if (!found && !strchr(words[0], '/')) {
		err_set(err, ENOENT,
			"successor '%s' is not in PATH; a file that is elsewhere is "
			"named by its path",
			words[0]);
		return NULL;
	}
	list = json_array();
	for (size_t i = 0; i < n; i++) {
		json_t *word = i ? json_string(words[i]) : absolute_path(found ? found : words[0]);

		if (json_array_append_new(list, word) < 0) {
			json_decref(list);
			err_set(err, EINVAL,
				"successor's command: '%s' is not UTF-8, or the "
				"working directory has no path",
				words[i]);
			return NULL;
		}
	}
	return list;
}

static int set_command(json_t *args, const char *const *words, size_t n, struct error *err)
{
	json_t *list = command_list(words, n, err);

	if (!list)
		return -err->code;
	return json_object_set_new(args, "command", list) == 0
		       ? 0
		       : err_set(err, ENOMEM, "no memory for a request");
}

static int set_argument(json_t *args, const char *name, json_t *value, struct error *err)
{
	if (json_object_set_new(args, name, value) == 0)
		return 0;
	return err_set(err, EINVAL,
		       "argument '%s' cannot be sent: it is not UTF-8, or the working "
		       "directory has no path",
		       name);
}

static int make_arguments(const struct cli_args *args, uint64_t timeout_ms, json_t **out,
			  struct error *err)
{
	const char *state = cli_value(args, "state");
	json_t *arguments = json_object();
	int r = 0;

	if (state)
		r = set_argument(arguments, "state-file", absolute_path(state), err);
	if (r == 0 && args->nwords > 1)
		r = set_command(arguments, args->words + 1, args->nwords - 1, err);
	/* Only what is asked for: a molt that does not know an argument yet refuses it. */
	if (r == 0 && cli_given(args, "check"))
		r = set_argument(arguments, "check-only", json_true(), err);
	if (r == 0 && cli_given(args, "no-check"))
		r = set_argument(arguments, "no-check", json_true(), err);
	if (r == 0 && cli_given(args, "no-io"))
		r = set_argument(arguments, "no-io", json_true(), err);
	if (r == 0 && cli_given(args, "timeout"))
		r = set_argument(arguments, "timeout", json_integer((json_int_t)timeout_ms), err);
	if (r < 0)
		json_decref(arguments);
	else
		*out = arguments;
	return r;
}

static long long number_of(json_t *object, const char *key)
{
	return json_integer_value(json_object_get(object, key));
}

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "?";
}

/* A process id; what can be none, 0 and -1 for instance, should get into nobody's `kill`. */
static long long pid_of(json_t *object, const char *key)
{
	long long pid = number_of(object, key);

	return pid > 0 && pid <= INT_MAX ? pid : 0;
}

static void print_process(json_t *report)
{
	long long pid = pid_of(report, "pid");
	char text[32] = "?";

	if (pid)
		snprintf(text, sizeof(text), "%lld", pid);
	printable_printf(
		stdout,
		"process %s is now molt %s, before it was %s: update %lld, %lld bytes of state",
		text, text_of(report, "version"), text_of(report, "previous-version"),
		number_of(report, "updates"), number_of(report, "state-bytes"));
}

static void print_devices(json_t *devices)
{
	json_t *device;
	size_t i;

	json_array_foreach (devices, i, device)
		printable_printf(stdout,
				 "device %-14s %-12s %8lld bytes of state, %lld descriptors",
				 text_of(device, "id"), text_of(device, "class"),
				 number_of(device, "state-bytes"), number_of(device, "fds"));
}

static void print_report(json_t *report)
{
	json_t *stage;
	size_t i;

	if (json_object_get(report, "check")) {
		printable_printf(stdout, "check %s: the successor can take the guest over",
				 text_of(report, "check"));
		return;
	}
	json_array_foreach (json_object_get(report, "stages"), i, stage)
		printable_printf(stdout, "%-14s %8lld us", text_of(stage, "name"),
				 number_of(stage, "us"));
	if (json_object_get(report, "hand-off-us"))
		printf("guest stopped for %.1f ms + %.1f ms (hand-off, switch)\n",
		       (double)number_of(report, "hand-off-us") / 1000,
		       (double)number_of(report, "blackout-us") / 1000);
	else if (json_object_get(report, "blackout-us"))
		printf("guest stopped for %.1f ms\n",
		       (double)number_of(report, "blackout-us") / 1000);
	else
		puts("the guest was paused before and stays so");
	printf("%-14s %8lld us\n", "total", number_of(report, "total-us"));
	print_devices(json_object_get(report, "devices"));
	print_process(report);
}

/*
 * A wrapper that forgot its `exec` leaves the guest to a child: whoever watches the old id is wrong
 * then.
 */
static void warn_of_another_process(json_t *report)
{
	long long before = pid_of(report, "previous-pid"), now = pid_of(report, "pid");

	if (before && now && before != now)
		fprintf(stderr,
			"molt update: warning: the guest runs in process %lld now, no "
			"longer in %lld, which may end at any time; a wrapper has to 'exec' the "
			"new molt\n",
			now, before);
}

/* On a terminal, while the update takes long: one line, which is written over. */
static void show_progress(void *opaque, json_t *msg)
{
	json_t *data = json_object_get(msg, "data");
	long long total = number_of(data, "total-bytes") / MIB;
	bool *shown = opaque;

	if (strcmp(text_of(msg, "event"), "UPDATE_PROGRESS") != 0)
		return;
	if (total > 0)
		fprintf(stderr, CLEAR_LINE "guest RAM is being mapped: %lld of %lld MiB",
			number_of(data, "mapped-bytes") / MIB, total);
	else
		fprintf(stderr, CLEAR_LINE "the successor is getting ready");
	fputs("; the guest runs", stderr);
	fflush(stderr);
	*shown = true;
}

/* Waits for the answer. */
static int ask(struct client *c, json_t *arguments, json_t **report, struct error *err)
{
	bool shown = false;
	int r;

	if (isatty(STDERR_FILENO))
		c->event = show_progress;
	c->opaque = &shown;
	r = client_call(c, json_pack("{s:s,s:O}", "execute", "update", "arguments", arguments),
			report, err);
	c->event = NULL;
	if (shown)
		fputs(CLEAR_LINE, stderr);
	return r;
}

static void note_event(void *opaque, json_t *msg)
{
	long long *pid = opaque;

	if (strcmp(text_of(msg, "event"), "UPDATE_FAILED") == 0)
		*pid = pid_of(json_object_get(msg, "data"), "pid");
}

/*
 * After the stand-in has taken over it is another process. The event comes behind the answer, so it
 * is here when the next command has its answer; after a mere refusal ("busy") there is none.
 */
static void say_where_it_runs(struct client *c)
{
	struct error err = ERROR_INIT;
	json_t *status = NULL;
	long long pid = 0;

	c->event = note_event;
	c->opaque = &pid;
	client_set_timeout(c, AFTERWARDS_MS);
	client_call(c, json_pack("{s:s}", "execute", "query-status"), &status, &err);
	json_decref(status);
	if (pid)
		fprintf(stderr, "molt update: the guest runs on in process %lld\n", pid);
}

/* No answer: the guest may run in the predecessor, in the successor, or not at all. */
static void say_unknown(const struct client *c, const char *path)
{
	fprintf(stderr, "molt update: how the update ended is not known. Check the guest:\n");
	printable_printf(stderr, "    molt ctl %s query-status", path);
	printable_printf(stderr, "    molt ctl %s query-version", path);
	if (c->peer)
		fprintf(stderr,
			"If nobody answers there, see whether process %d still lives, and read "
			"its log;\n",
			(int)c->peer);
	else /* in another pid name space */
		fprintf(stderr, "If nobody answers there, see whether its process still lives, and "
				"read its log;\n");
	fprintf(stderr, "it tells if another process has taken the guest back.\n");
}

/* The update is done. What is to be kept is so before a reader that is gone (SIGPIPE) ends us. */
static int finish(const struct cli_args *args, json_t *report, struct given_state *state)
{
	struct error err = ERROR_INIT;
	int status = 0;

	if (!cli_given(args, "check") && given_state_keep(state, &err) < 0) {
		err_prefix(&err, "the update is done, but its state is not kept");
		status = cli_failure(args->command, &err);
	}
	if (cli_given(args, "json"))
		printable_print_json(stdout, report, JSON_INDENT(2));
	else
		print_report(report);
	warn_of_another_process(report);
	return status;
}

static int run_update(const struct cli_args *args, json_t *arguments, uint64_t timeout_ms)
{
	const char *path = args->words[0];
	struct error err = ERROR_INIT;
	json_t *report = NULL;
	struct client c = { 0 };
	struct given_state state = GIVEN_STATE_NONE;
	int r, status;

	client_set_timeout(&c, 2 * timeout_ms + MARGIN_MS);
	r = client_connect(&c, path, &err);
	if (r == 0)
		r = given_fds_give(&c, arguments, &state, &err);
	if (r < 0) {
		given_state_drop(&state);
		json_decref(arguments);
		client_close(&c);
		return cli_failure(args->command, &err);
	}
	r = ask(&c, arguments, &report, &err);
	if (r < 0) {
		status = cli_failure(args->command, &err);
		if (r == -EREMOTEIO)
			say_where_it_runs(&c);
		else
			say_unknown(&c, path);
	} else {
		status = finish(args, report, &state);
	}
	given_state_drop(&state);
	json_decref(report);
	json_decref(arguments);
	client_close(&c);
	return status;
}

static int check_and_run(const struct cli_args *args)
{
	const struct cli_command *cmd = args->command;
	struct error err = ERROR_INIT;
	json_t *arguments = NULL;
	uint64_t timeout_ms;

	if (args->nwords == 0 || args->dashes == 0)
		return cli_usage_error(cmd, "which control socket?");
	if (args->dashes > 1)
		return cli_usage_error(cmd,
				       "'%s' is one argument too many; the successor's "
				       "command comes after '--'",
				       args->words[1]);
	if (args->ends_in_dashes)
		return cli_usage_error(cmd,
				       "the successor's command after '--' is empty; without '--' "
				       "it is the binary that was started");
	if (cli_given(args, "state") && !*cli_value(args, "state"))
		return cli_usage_error(cmd, "--state: the file's path is empty");
	if (cli_given(args, "check") && cli_given(args, "no-check"))
		return cli_usage_error(cmd, "--check and --no-check: one or the other");
	if (value_seconds("--timeout", cli_value(args, "timeout"), 1, TIMEOUT_MAX_MS, &timeout_ms,
			  &err) < 0)
		return cli_usage_error(cmd, "%s", err.text);
	if (make_arguments(args, timeout_ms, &arguments, &err) < 0)
		return cli_failure(cmd, &err);
	return run_update(args, arguments, timeout_ms);
}

int cmd_update(int argc, char **argv)
{
	struct cli_args args;
	int status;

	if (cli_begin(&args, &update_command, argc, argv, &status))
		status = check_and_run(&args);
	cli_args_fini(&args);
	return status;
}
