/* SPDX-License-Identifier: MIT */
/* The way in: finds the subcommand, and sees that what was printed has really been written. */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include <molt/base/fd.h>
#include "cli/cli.h"

#define STACK_BYTES (512u << 10) /* of threads that do not say */

static const struct subcommand {
	const struct cli_command *command;
	int (*run)(int argc, char **argv);
} subcommands[] = {
	{ &run_command, cmd_run },     { &update_command, cmd_update },
	{ &ctl_command, cmd_ctl },     { &stats_command, cmd_stats },
	{ &state_command, cmd_state }, { &version_command, cmd_version },
	{ &io_command, cmd_io },
};

static void print_usage(FILE *out)
{
	fprintf(out, "usage: molt COMMAND [ARGUMENT...]\n"
		     "       molt --OPTION...           the same as 'molt run --OPTION...'\n"
		     "\n"
		     "commands:\n");
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		fprintf(out, "  %-10s %s\n", subcommands[i].command->name,
			subcommands[i].command->summary);
	fprintf(out, "  %-10s Print this text, or 'molt help COMMAND' a command's\n", "help");
	fprintf(out, "\n'molt COMMAND --help' lists a command's options; molt(1) explains them.\n");
}

static const struct subcommand *find_subcommand(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++)
		if (strcmp(subcommands[i].command->name, name) == 0)
			return &subcommands[i];
	return NULL;
}

static int unknown_subcommand(const char *name)
{
	const char *names[ARRAY_SIZE(subcommands) + 1];
	const char *nearest;

	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++) /* `molt io` is not for people */
		names[i] = subcommands[i].command == &io_command ? NULL
								 : subcommands[i].command->name;
	names[ARRAY_SIZE(subcommands)] = "help";
	nearest = nearest_word(name, names, ARRAY_SIZE(names));
	fprintf(stderr, "molt: unknown command '%s'", name);
	if (nearest)
		fprintf(stderr, "; did you mean '%s'?", nearest);
	fprintf(stderr, "\ncommands:");
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (names[i])
			fprintf(stderr, " %s", names[i]);
	fprintf(stderr, "\ntry 'molt --help'\n");
	return EXIT_USAGE;
}

static int help(const char *name)
{
	const struct subcommand *sub = name ? find_subcommand(name) : NULL;

	if (name && !sub)
		return unknown_subcommand(name);
	if (sub)
		cli_print_help(sub->command);
	else
		print_usage(stdout);
	return 0;
}

static json_t *dump_option(const struct cli_command *cmd, const struct option_def *opt)
{
	json_t *aliases = json_array();
	const struct option_def *o;

	for (size_t i = 0; (o = cli_option_at(cmd, i)); i++)
		if (o->alias_of && strcmp(o->alias_of, opt->name) == 0)
			json_array_append_new(aliases, json_string(o->name));
	return json_pack("{s:s,s:s,s:s?,s:s?,s:s?,s:o}", "name", opt->name, "help", opt->help,
			 "arg", opt->arg, "default", opt->def, "values", opt->values, "aliases",
			 aliases);
}

/* The option tables, for scripts/make-completion.py and tests. */
static int dump_options(void)
{
	json_t *all = json_object();

	for (size_t i = 0; i < ARRAY_SIZE(subcommands); i++) {
		const struct cli_command *cmd = subcommands[i].command;
		json_t *list = json_array();
		const struct option_def *o;

		for (size_t n = 0; (o = cli_option_at(cmd, n)); n++)
			if (!o->alias_of)
				json_array_append_new(list, dump_option(cmd, o));
		json_object_set_new(all, cmd->name,
				    json_pack("{s:s,s:s,s:o}", "summary", cmd->summary, "usage",
					      cmd->usage, "options", list));
	}
	json_dumpf(all, stdout, JSON_INDENT(1));
	putchar('\n');
	json_decref(all);
	return 0;
}

static bool is_help(const char *word)
{
	return strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0;
}

static int dispatch(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : NULL;
	const struct subcommand *sub;

	if (!word) {
		print_usage(stderr);
		return EXIT_USAGE;
	}
	if (is_help(word))
		return help(argc > 2 && !is_help(argv[2]) ? argv[2] : NULL);
	if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
		return cmd_version(argc - 1, argv + 1);
	if (strcmp(word, "--dump-options") == 0)
		return dump_options();
	if (word[0] == '-')
		return cmd_run(argc, argv);
	sub = find_subcommand(word);
	return sub ? sub->run(argc - 1, argv + 1) : unknown_subcommand(word);
}

/*
 * Whoever starts us with standard descriptors closed must not find a disk or a socket in their
 * place. The wrong access mode keeps it an error to use them.
 */
static void reserve_standard_fds(void)
{
	for (int fd = 0; fd <= 2; fd++) {
		int got;

		if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF)
			continue;
		got = open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY);
		if (got >= 0 && got != fd)
			close(got);
	}
}

/*
 * An update's successor allocates while the guest is paused, and each page that is touched costs
 * it. So large objects, of which little is used, come fresh from mmap (the heap's top being
 * smaller, or calloc() would take them from there and clear them), and what is freed is kept: it
 * has its pages.
 */
static void tune_malloc(void)
{
	mallopt(M_MMAP_THRESHOLD, 32 << 10);
	mallopt(M_TRIM_THRESHOLD, 8 << 20);
	/* Threads seldom allocate, and one that does is not to take 64 MiB of addresses for it. */
	mallopt(M_ARENA_MAX, 1);
	mallopt(M_TOP_PAD, 8 << 10);
}

/*
 * Where the host makes transparent huge pages for everybody, the first touch of a stack of 2 MiB or
 * more may allocate one, and clear it: memory that a small control group does not have twice in an
 * update, and time that the guest waits for.
 */
static void tune_stacks(void)
{
	pthread_attr_t attr;

	if (pthread_attr_init(&attr))
		return;
	if (pthread_attr_setstacksize(&attr, STACK_BYTES) == 0)
		pthread_setattr_default_np(&attr);
	pthread_attr_destroy(&attr);
}

int main(int argc, char **argv)
{
	int status;

	tune_malloc();
	tune_stacks();
	reserve_standard_fds();
	status = dispatch(argc, argv);
	if ((fflush(stdout) != 0 || ferror(stdout)) && status == 0) {
		fprintf(stderr, "molt: cannot write to standard output: %s\n", error_text(errno));
		status = EXIT_FAILURE;
	}
	return status;
}
