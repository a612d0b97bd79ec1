/* SPDX-License-Identifier: MIT */
/*
 * Command lines. One const table of options for each subcommand feeds the parser, --help and the
 * check that the manual page is complete (tests/check-docs.py).
 *
 * Options are long ones: `--name VALUE`, `--name=VALUE`, `--flag`, and -h for --help, which every
 * subcommand has. Options and other arguments may come in any order; after `--` everything is an
 * argument. getopt_long(3) takes them apart; what is added here is that names are not abbreviated,
 * so that a new option never changes what an old script means, and that an unknown one's sentence
 * names the nearest match.
 */
#ifndef MOLT_CLI_OPTIONS_H
#define MOLT_CLI_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/option.h>
#include <molt/base/values.h>

#define EXIT_USAGE 2

struct cli_command {
	const char *name;
	const char *usage;   /* what follows "molt <name>" */
	const char *summary; /* one line */
	const char *details; /* further text for --help, ends with a newline; or NULL */
	const struct option_def *options; /* ends with { .name = NULL } */
	/* The index-th of what other rooms add, NULL after the last; or NULL: nothing. */
	const struct option_def *(*more)(size_t index);
};

/* The index-th option of a command, from wherever; NULL after the last. */
const struct option_def *cli_option_at(const struct cli_command *cmd, size_t index);

/* A command line, taken apart. Strings are argv's or the table's and live as long as these. */
struct cli_args {
	const struct cli_command *command;
	struct {
		const struct option_def *option; /* never an alias */
		const char *value;               /* NULL for a flag */
	} * given;                               /* in order */
	size_t ngiven;
	const char **words; /* the arguments that are not options */
	size_t nwords;
	size_t dashes; /* index in words of what came after `--`; nwords if there was nothing */
	bool ends_in_dashes; /* there was a `--`, with nothing after it */
};

#define CLI_HELP_WANTED 1

/*
 * Takes argv[1..] apart and leaves it as it is. 0; CLI_HELP_WANTED where --help or -h was given;
 * -EINVAL for an unknown option (the sentence names the nearest one), a missing value or one too
 * many; -ENOMEM. For the main thread: getopt_long() has statics.
 */
int cli_args_parse(struct cli_args *args, const struct cli_command *cmd, int argc, char **argv,
		   struct error *err);
void cli_args_fini(struct cli_args *args);

/*
 * cli_args_parse() for a subcommand's main function: prints help or the error. True to go on;
 * false with the exit status. args needs cli_args_fini() either way.
 */
bool cli_begin(struct cli_args *args, const struct cli_command *cmd, int argc, char **argv,
	       int *status);

/*
 * The option's value: the last one given, else its default, else NULL. name must be in the table.
 */
const char *cli_value(const struct cli_args *args, const char *name);

/*
 * The index-th value given for an option that may be repeated, or index 0's default; NULL when
 * there are no more.
 */
const char *cli_value_at(const struct cli_args *args, const char *name, size_t index);

/* Whether the option or flag was given. */
bool cli_given(const struct cli_args *args, const char *name);

/*
 * Prints "molt <command>: <sentence>" and a hint at --help to standard error; returns EXIT_USAGE.
 */
int cli_usage_error(const struct cli_command *cmd, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* Prints "molt <command>: <sentence>" to standard error; returns 1. */
int cli_failure(const struct cli_command *cmd, const struct error *err);

/* Prints the help text to standard output. */
void cli_print_help(const struct cli_command *cmd);

#endif
