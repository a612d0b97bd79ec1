/* SPDX-License-Identifier: MIT */
/* `molt stats`: what a running molt's disks do, asked over its control socket. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/printable.h>

#include "cli.h"
#include "client.h"
#include "stats.h"

#define TIMEOUT_MAX_MS 86400000
#define NS_PER_S 1000000000ull

static const struct option_def stats_options[] = {
	{ .name = "prometheus", .help = "print Prometheus' text format" },
	{ .name = "json", .help = "print all that was asked, as JSON" },
	{ .name = "watch",
	  .help = "print what happens in each second, until interrupted or the guest ends" },
	{ .name = "timeout",
	  .arg = "SECONDS",
	  .help = "wait so long for all answers; 0: for ever",
	  .def = "10" },
	{ .name = NULL }
};

const struct cli_command stats_command = {
	.name = "stats",
	.usage = "[--prometheus|--json|--watch] [OPTION...] SOCKET",
	.summary = "Show what a running molt's disks do",
	.details = "Without an option it prints what the disks have done since the guest's start.\n",
	.options = stats_options,
};

const struct stats_kind stats_kinds[] = {
	{ "rd", "read" },
	{ "wr", "write" },
	{ "flush", "flush" },
	{ "unmap", "discard" },
	{ 0 }
};

uint64_t stats_of_kind(const json_t *stats, const struct stats_kind *kind, const char *suffix)
{
	char key[64];

	snprintf(key, sizeof(key), "%s_%s", kind->prefix, suffix);
	return stats_number(stats, key);
}

uint64_t stats_errors(const json_t *stats, const struct stats_kind *kind)
{
	char key[64];

	snprintf(key, sizeof(key), "failed_%s_operations", kind->prefix);
	return stats_number(stats, key);
}

json_t *stats_histogram(const json_t *stats, const struct stats_kind *kind)
{
	char key[64];

	snprintf(key, sizeof(key), "%s_latency_histogram", kind->prefix);
	return json_object_get(stats, key);
}

json_t *stats_find(const json_t *list, const json_t *other)
{
	const char *id = json_string_value(json_object_get(other, "device")), *is;
	json_t *entry;
	size_t i;

	json_array_foreach (list, i, entry) {
		is = json_string_value(json_object_get(entry, "device"));
		if (id && is && strcmp(id, is) == 0)
			return entry;
	}
	return NULL;
}

/* ---- asking ---- */

static void forget(struct stats_sample *s)
{
	json_decref(s->status);
	json_decref(s->update);
	json_decref(s->blocks);
	json_decref(s->stats);
	*s = (struct stats_sample){ 0 };
}

/* The first objects of what should be a list; the reference is taken over. */
static json_t *objects(json_t *list, size_t most)
{
	json_t *kept = json_array(), *entry;
	size_t i;

	json_array_foreach (list, i, entry) {
		if (json_array_size(kept) == most)
			break;
		if (json_is_object(entry))
			json_array_append(kept, entry);
	}
	json_decref(list);
	return kept;
}

static int ask(struct client *c, const char *command, json_t **answer, struct error *err)
{
	return client_call(c, json_pack("{s:s}", "execute", command), answer, err);
}

/* Each disk with its queues, one after the other: all at once would be more than one answer holds. */
static int ask_queues(struct client *c, struct stats_sample *s, struct error *err)
{
	json_t *all = json_array(), *disk;
	int r = all ? 0 : err_set(err, ENOMEM, "no memory for answers");
	size_t i;

	json_array_foreach (s->stats, i, disk) {
		const char *id = json_string_value(json_object_get(disk, "device"));
		json_t *one = NULL;

		if (r < 0 || !id)
			continue;
		r = client_call(c,
				json_pack("{s:s,s:{s:s,s:b}}", "execute", "query-blockstats",
					  "arguments", "device", id, "queues", 1),
				&one, err);
		one = objects(one, 1);
		json_array_extend(all, one);
		json_decref(one);
	}
	json_decref(s->stats);
	s->stats = all;
	return r;
}

static int take_sample(struct client *c, struct stats_sample *s, bool queues, struct error *err)
{
	int r = ask(c, "query-status", &s->status, err);

	if (r == 0)
		r = ask(c, "query-update", &s->update, err);
	if (r == 0)
		r = ask(c, "query-block", &s->blocks, err);
	if (r == 0)
		r = ask(c, "query-blockstats", &s->stats, err);
	s->blocks = objects(s->blocks, STATS_DISKS_MAX);
	s->stats = objects(s->stats, STATS_DISKS_MAX);
	s->at_ns = now_ns();
	return r == 0 && queues ? ask_queues(c, s, err) : r;
}

/* ---- showing ---- */

static void print_json(const struct stats_sample *s)
{
	json_t *all = json_pack("{s:O,s:O,s:O,s:O}", "status", s->status, "update", s->update,
				"block", s->blocks, "blockstats", s->stats);

	printable_print_json(stdout, all, JSON_INDENT(2));
	json_decref(all);
}

static int show_once(const struct cli_args *args, struct client *c, struct error *err)
{
	bool json = cli_given(args, "json"), prometheus = cli_given(args, "prometheus");
	struct stats_sample s = { 0 };
	int r = take_sample(c, &s, json || prometheus, err);

	if (r == 0 && json)
		print_json(&s);
	else if (r == 0 && prometheus)
		stats_print_prometheus(stdout, &s);
	else if (r == 0)
		stats_print_table(stdout, &s, NULL);
	forget(&s);
	return r;
}

/* A second after the last one; false: interrupted. */
static bool wait_for_next(const struct client *c, uint64_t last_ns)
{
	struct pollfd pfd = { .fd = c->cancel_fd, .events = POLLIN };
	uint64_t now = now_ns(), at = last_ns + NS_PER_S;
	int n;

	while (now < at) {
		n = poll(&pfd, 1, (int)((at - now + 999999) / 1000000));
		if (n > 0)
			return false;
		now = now_ns();
	}
	return true;
}

/* Nothing about the terminal is changed, so nothing has to be put right in the end. */
static int watch(struct client *c, uint64_t timeout, struct error *err)
{
	const char *begin = isatty(STDOUT_FILENO) ? "\033[H\033[J" : "";
	struct stats_sample before = { 0 }, s = { 0 };
	int r = take_sample(c, &before, false, err);

	while (r == 0 && !ferror(stdout) && wait_for_next(c, before.at_ns)) {
		client_set_timeout(c, timeout);
		r = take_sample(c, &s, false, err);
		if (r < 0)
			break;
		fputs(begin, stdout);
		stats_print_table(stdout, &s, &before);
		if (!*begin)
			putchar('\n');
		fflush(stdout);
		forget(&before);
		before = s;
		s = (struct stats_sample){ 0 };
	}
	forget(&before);
	forget(&s);
	/* As good an end as any: the guest's, or the user's wish. */
	return r == -ECONNRESET || r == -ECANCELED ? 0 : r;
}

static int catch_signals(struct client *c, struct error *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigprocmask(SIG_BLOCK, &set, NULL);
	c->cancel_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	return c->cancel_fd < 0 ? err_sys(err, errno, "signalfd") : 0;
}

static int run_stats(const struct cli_args *args, uint64_t timeout)
{
	bool watching = cli_given(args, "watch");
	struct error err = ERROR_INIT;
	struct client c = { .fd = -1 };
	int r = watching ? catch_signals(&c, &err) : 0;

	client_set_timeout(&c, timeout);
	if (r == 0)
		r = client_connect(&c, args->words[0], &err);
	if (r == -ECANCELED)
		r = 0;
	else if (r == 0)
		r = watching ? watch(&c, timeout, &err) : show_once(args, &c, &err);
	client_close(&c);
	if (c.cancel_fd > 0)
		close(c.cancel_fd);
	return r < 0 ? cli_failure(args->command, &err) : 0;
}

static int check_and_run(const struct cli_args *args)
{
	const struct cli_command *cmd = args->command;
	struct error err = ERROR_INIT;
	uint64_t timeout;

	if (args->nwords == 0)
		return cli_usage_error(cmd, "which control socket?");
	if (args->nwords > 1)
		return cli_usage_error(cmd, "'%s' is one argument too many", args->words[1]);
	if (cli_given(args, "prometheus") + cli_given(args, "json") + cli_given(args, "watch") > 1)
		return cli_usage_error(cmd, "--prometheus, --json and --watch: one of them");
	if (value_seconds("--timeout", cli_value(args, "timeout"), 0, TIMEOUT_MAX_MS, &timeout,
			  &err) < 0)
		return cli_usage_error(cmd, "%s", err.text);
	return run_stats(args, timeout);
}

int cmd_stats(int argc, char **argv)
{
	struct cli_args args;
	int status;

	if (cli_begin(&args, &stats_command, argc, argv, &status))
		status = check_and_run(&args);
	cli_args_fini(&args);
	return status;
}
