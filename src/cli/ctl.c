/* SPDX-License-Identifier: MIT */
/* `molt ctl`: one command over the control socket. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/printable.h>

#include "cli.h"
#include "client.h"

#define TIMEOUT_MAX_MS 86400000

static const struct option_def ctl_options[] = {
	{ .name = "compact", .help = "print the answer on one line" },
	{ .name = "events",
	  .help = "print events, one a line, until interrupted or the guest ends" },
	{ .name = "timeout",
	  .arg = "SECONDS",
	  .help = "wait so long for the answer; 0: for ever",
	  .def = "60" },
	{ .name = NULL }
};

const struct cli_command ctl_command = {
	.name = "ctl",
	.usage = "[OPTION...] SOCKET COMMAND [KEY=VALUE...]\n"
		 "       molt ctl [OPTION...] SOCKET '{\"execute\": ...}'\n"
		 "       molt ctl --events SOCKET [COMMAND [KEY=VALUE...]]",
	.summary = "Send a command over a control socket and print what it returns",
	.details = "A VALUE that is JSON (a number, true, false, null, an object, ...) is sent as\n"
		   "such, any other as a string. 'molt ctl SOCKET query-commands' lists the\n"
		   "commands.\n",
	.options = ctl_options,
};

/* One KEY=VALUE word into the arguments. */
static int add_argument(json_t *args, const char *word, struct error *err)
{
	const char *equals = strchr(word, '=');
	_cleanup_free_ char *key = NULL;
	json_t *value;

	if (!equals || equals == word)
		return err_set(err, EINVAL, "argument '%s' is not KEY=VALUE", word);
	key = strndup(word, (size_t)(equals - word));
	if (!key)
		return err_set(err, ENOMEM, "no memory for argument '%s'", word);
	if (json_object_get(args, key))
		return err_set(err, EINVAL, "argument '%s' is given twice", key);
	value = json_loads(equals + 1, JSON_DECODE_ANY, NULL);
	if (!value)
		value = json_string(equals + 1);
	if (!value || json_object_set_new(args, key, value) < 0)
		return err_set(err, EINVAL, "argument '%s' is not UTF-8", word);
	return 0;
}

/* The request that words ask for; the caller owns it. */
static int make_request(const char *const *words, size_t n, json_t **request, struct error *err)
{
	json_error_t why;
	json_t *args;
	int r = 0;

	if (words[0][0] == '{') {
		if (n > 1)
			return err_set(err, EINVAL, "a whole request takes no further arguments");
		*request = json_loads(words[0], 0, &why);
		if (!*request)
			return err_set(err, EINVAL, "the request is not JSON: %s", why.text);
		return 0;
	}
	args = json_object();
	for (size_t i = 1; r == 0 && i < n; i++)
		r = add_argument(args, words[i], err);
	if (r == 0) {
		*request = json_pack("{s:s}", "execute", words[0]);
		if (!*request)
			r = err_set(err, EINVAL, "the command's name is not UTF-8");
		else if (n > 1)
			json_object_set(*request, "arguments", args);
	}
	json_decref(args);
	return r;
}

static void print_result(json_t *result, bool compact)
{
	/* {} says no more than that it worked. */
	if (json_is_object(result) && json_object_size(result) == 0)
		return;
	printable_print_json(stdout, result, compact ? 0 : JSON_INDENT(2));
}

static void print_event(void *opaque, json_t *msg)
{
	(void)opaque;
	printable_print_json(stdout, msg, 0);
	fflush(stdout);
}

/* Readable when standard output's reader is gone; 0 where it has none, as a file. */
static int watch_output(void)
{
	struct epoll_event errors_alone = { 0 };
	int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, STDOUT_FILENO, &errors_alone) == 0)
		return fd;
	fd_close(&fd);
	return 0;
}

/*
 * Until the connection ends, which is as good an end as any, or nobody reads what is printed: then
 * as if the next event had come already.
 */
static int follow_events(struct client *c, struct error *err)
{
	json_t *msg;
	int r = 0;

	client_set_timeout(c, 0);
	c->cancel_fd = watch_output();
	while (r == 0 && !ferror(stdout)) {
		r = client_receive(c, &msg, err);
		if (r == 0) {
			if (json_object_get(msg, "event"))
				print_event(NULL, msg);
			json_decref(msg);
		}
	}
	if (c->cancel_fd > 0)
		close(c->cancel_fd);
	if (r == -ECANCELED) {
		raise(SIGPIPE);
		return err_sys(err, EPIPE, "standard output");
	}
	return r == -ECONNRESET ? 0 : r;
}

/* request: NULL only to follow events. The reference is taken over. */
static int run_ctl(const struct cli_args *args, json_t *request, uint64_t timeout)
{
	bool events = cli_given(args, "events");
	struct client c = { .event = events ? print_event : NULL };
	struct error err = ERROR_INIT;
	json_t *result = NULL;
	int r;

	client_set_timeout(&c, timeout);
	r = client_connect(&c, args->words[0], &err);
	if (r == 0 && request)
		r = client_call(&c, json_incref(request), &result, &err);
	if (r == 0 && result)
		print_result(result, cli_given(args, "compact"));
	fflush(stdout);
	if (r == 0 && events)
		r = follow_events(&c, &err);
	json_decref(result);
	json_decref(request);
	client_close(&c);
	return r < 0 ? cli_failure(args->command, &err) : 0;
}

static int check_and_run(const struct cli_args *args)
{
	const struct cli_command *cmd = args->command;
	struct error err = ERROR_INIT;
	json_t *request = NULL;
	uint64_t timeout;

	if (args->nwords == 0)
		return cli_usage_error(cmd, "which control socket?");
	if (args->nwords == 1 && !cli_given(args, "events"))
		return cli_usage_error(cmd, "which command?");
	if (value_seconds("--timeout", cli_value(args, "timeout"), 0, TIMEOUT_MAX_MS, &timeout,
			  &err) < 0)
		return cli_usage_error(cmd, "%s", err.text);
	if (args->nwords > 1 && make_request(args->words + 1, args->nwords - 1, &request, &err) < 0)
		return cli_usage_error(cmd, "%s", err.text);
	return run_ctl(args, request, timeout);
}

int cmd_ctl(int argc, char **argv)
{
	struct cli_args args;
	int status;

	if (cli_begin(&args, &ctl_command, argc, argv, &status))
		status = check_and_run(&args);
	cli_args_fini(&args);
	return status;
}
