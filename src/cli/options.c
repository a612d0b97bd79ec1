/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>

#include "options.h"

/* ---- the nearest match ---- */

#define NEAR_MAX 32 /* longer words are cut: they are no option's name */

/* Levenshtein's distance. */
static unsigned int distance(const char *a, const char *b)
{
	size_t la = strnlen(a, NEAR_MAX), lb = strnlen(b, NEAR_MAX);
	unsigned int row[NEAR_MAX + 1];

	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned int diagonal = row[0];

		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned int best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[lb];
}

const char *cli_nearest(const char *typed, const char *const *words, size_t n)
{
	unsigned int limit = 1 + (unsigned int)strnlen(typed, NEAR_MAX) / 3;
	const char *nearest = NULL;

	for (size_t i = 0; i < n; i++) {
		unsigned int d = words[i] ? distance(typed, words[i]) : limit + 1;

		/* A word cut short is what many mean. */
		if (words[i] && strlen(typed) >= 3 && strncmp(words[i], typed, strlen(typed)) == 0)
			d = 1;
		if (d > limit)
			continue;
		if (d == 0)
			return words[i];
		limit = d - 1;
		nearest = words[i];
	}
	return nearest;
}

static const char *nearest_option(const struct cli_command *cmd, const char *typed)
{
	const char *names[256];
	size_t n = 0;

	for (const struct cli_option *o = cmd->options; o->name && n < ARRAY_SIZE(names) - 1; o++)
		names[n++] = o->name;
	names[n++] = "help";
	return cli_nearest(typed, names, n);
}

/* ---- parsing ---- */

static const struct cli_option *find_option(const struct cli_command *cmd, const char *name,
					    size_t len)
{
	for (const struct cli_option *o = cmd->options; o->name; o++) {
		if (strlen(o->name) != len || memcmp(o->name, name, len) != 0)
			continue;
		return o->alias_of ? find_option(cmd, o->alias_of, strlen(o->alias_of)) : o;
	}
	return NULL;
}

static int unknown_option(const struct cli_command *cmd, const char *arg, struct error *err)
{
	const char *name = arg + strspn(arg, "-"), *nearest;
	char typed[NEAR_MAX + 1];

	snprintf(typed, sizeof(typed), "%.*s", (int)strcspn(name, "="), name);
	nearest = nearest_option(cmd, typed);
	if (nearest)
		return err_set(err, EINVAL, "unknown option '%.*s'; did you mean '--%s'?",
			       (int)strcspn(arg, "="), arg, nearest);
	return err_set(err, EINVAL, "unknown option '%.*s'", (int)strcspn(arg, "="), arg);
}

/* Takes argv[*i], an option, and its value; leaves *i at the last one used. */
static int take_option(struct cli_args *args, int argc, char **argv, int *i, struct error *err)
{
	const char *arg = argv[*i], *name = arg + 2, *value = NULL;
	size_t len = strcspn(name, "=");
	const struct cli_option *opt = NULL;

	if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0)
		return CLI_HELP_WANTED;
	if (arg[1] == '-')
		opt = find_option(args->command, name, len);
	if (!opt)
		return unknown_option(args->command, arg, err);
	if (name[len] == '=')
		value = name + len + 1;
	if (!opt->arg && value)
		return err_set(err, EINVAL, "option '--%s' takes no value", opt->name);
	if (opt->arg && !value) {
		if (*i + 1 >= argc)
			return err_set(err, EINVAL, "option '%s' needs a value: %s %s", arg, arg,
				       opt->arg);
		value = argv[++*i];
	}
	args->given[args->ngiven].option = opt;
	args->given[args->ngiven++].value = value;
	return 0;
}

int cli_args_parse(struct cli_args *args, const struct cli_command *cmd, int argc, char **argv,
		   struct error *err)
{
	size_t room = argc > 0 ? (size_t)argc : 1;
	bool dashes = false;

	*args = (struct cli_args){ .command = cmd };
	args->given = calloc(room, sizeof(*args->given));
	args->words = calloc(room, sizeof(*args->words));
	if (!args->given || !args->words)
		return err_set(err, ENOMEM, "no memory for the command line");
	for (int i = 1; i < argc; i++) {
		int r = 0;

		if (!dashes && strcmp(argv[i], "--") == 0) {
			dashes = true;
			args->dashes = args->nwords;
		} else if (!dashes && argv[i][0] == '-' && argv[i][1]) {
			r = take_option(args, argc, argv, &i, err);
		} else {
			args->words[args->nwords++] = argv[i];
		}
		if (r != 0)
			return r;
	}
	if (!dashes)
		args->dashes = args->nwords;
	return 0;
}

void cli_args_fini(struct cli_args *args)
{
	free(args->given);
	free(args->words);
	args->given = NULL;
	args->words = NULL;
}

bool cli_begin(struct cli_args *args, const struct cli_command *cmd, int argc, char **argv,
	       int *status)
{
	struct error err = ERROR_INIT;
	int r = cli_args_parse(args, cmd, argc, argv, &err);

	if (r == 0)
		return true;
	*status = 0;
	if (r == CLI_HELP_WANTED)
		cli_print_help(cmd);
	else
		*status = cli_usage_error(cmd, "%s", err.text);
	return false;
}

const char *cli_value_at(const struct cli_args *args, const char *name, size_t index)
{
	for (size_t i = 0; i < args->ngiven; i++)
		if (strcmp(args->given[i].option->name, name) == 0 && index-- == 0)
			return args->given[i].value;
	return NULL;
}

const char *cli_value(const struct cli_args *args, const char *name)
{
	const struct cli_option *opt = find_option(args->command, name, strlen(name));

	for (size_t i = args->ngiven; i > 0; i--)
		if (args->given[i - 1].option == opt)
			return args->given[i - 1].value;
	return opt ? opt->def : NULL;
}

bool cli_given(const struct cli_args *args, const char *name)
{
	for (size_t i = 0; i < args->ngiven; i++)
		if (strcmp(args->given[i].option->name, name) == 0)
			return true;
	return false;
}

/* ---- messages ---- */

int cli_usage_error(const struct cli_command *cmd, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "molt %s: ", cmd->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\ntry 'molt %s --help'\n", cmd->name);
	return EXIT_USAGE;
}

int cli_failure(const struct cli_command *cmd, const struct error *err)
{
	fprintf(stderr, "molt %s: %s\n", cmd->name, err->text);
	return EXIT_FAILURE;
}

#define HELP_COLUMN 26
#define HELP_WIDTH 79

/* Prints text from column HELP_COLUMN on, broken at blanks; the cursor is at column. */
static void print_wrapped(const char *text, int column)
{
	if (column >= HELP_COLUMN) {
		putchar('\n');
		column = 0;
	}
	printf("%*s", HELP_COLUMN - column, "");
	column = HELP_COLUMN;
	while (*text) {
		int len = (int)strcspn(text, " ");

		if (column > HELP_COLUMN && column + 1 + len > HELP_WIDTH) {
			printf("\n%*s", HELP_COLUMN, "");
			column = HELP_COLUMN;
		}
		column += printf("%s%.*s", column > HELP_COLUMN ? " " : "", len, text);
		text += len + (text[len] == ' ');
	}
	putchar('\n');
}

static void print_option(const struct cli_command *cmd, const struct cli_option *opt)
{
	int column = printf("  --%s%s%s", opt->name, opt->arg ? " " : "", opt->arg ? opt->arg : "");
	char text[512];
	size_t n = (size_t)snprintf(text, sizeof(text), "%s", opt->help);

	for (const struct cli_option *o = cmd->options; o->name; o++)
		if (o->alias_of && strcmp(o->alias_of, opt->name) == 0 && n < sizeof(text))
			n += (size_t)snprintf(text + n, sizeof(text) - n, " (also --%s)", o->name);
	if (opt->def && n < sizeof(text))
		snprintf(text + n, sizeof(text) - n, " (default: %s)", opt->def);
	print_wrapped(text, column);
}

void cli_print_help(const struct cli_command *cmd)
{
	printf("usage: molt %s %s\n\n%s.\n\noptions:\n", cmd->name, cmd->usage, cmd->summary);
	for (const struct cli_option *o = cmd->options; o->name; o++)
		if (!o->alias_of)
			print_option(cmd, o);
	print_wrapped("print this text (also -h)", printf("  --help"));
	if (cmd->details)
		printf("\n%s", cmd->details);
}
