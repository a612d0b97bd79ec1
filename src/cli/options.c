/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/printable.h>

#include "options.h"

const struct option_def *cli_option_at(const struct cli_command *cmd, size_t index)
{
	size_t own = 0;

	while (cmd->options[own].name) {
		if (own == index)
			return &cmd->options[own];
		own++;
	}
	return cmd->more ? cmd->more(index - own) : NULL;
}

static const char *nearest_option(const struct cli_command *cmd, const char *typed)
{
	const char *names[256];
	const struct option_def *o;
	size_t n = 0;

	while (n < ARRAY_SIZE(names) - 1 && (o = cli_option_at(cmd, n)))
		names[n++] = o->name;
	names[n++] = "help";
	return nearest_word(typed, names, n);
}

/* ---- parsing ---- */

/* getopt_long()'s code of the first option in a table; below are characters. */
#define CODE_OPTIONS 256
#define CODE_WORD 1 /* no option: what '-' at the head of the option characters asks for */

/* Words in their order; ':' instead of '?' for a missing value, and nothing printed. */
#define SHORT_OPTIONS "-:h"

static const struct option_def help_option = { .name = "help" };

static const struct option_def *find_option(const struct cli_command *cmd, const char *name)
{
	const struct option_def *o;

	for (size_t i = 0; (o = cli_option_at(cmd, i)); i++)
		if (strcmp(o->name, name) == 0)
			return o->alias_of ? find_option(cmd, o->alias_of) : o;
	return NULL;
}

/* The table as getopt_long() wants it, --help last; the caller frees it. */
static struct option *long_options(const struct cli_command *cmd)
{
	struct option *list;
	int n = 0;

	while (cli_option_at(cmd, (size_t)n))
		n++;
	list = calloc((size_t)n + 2, sizeof(*list));
	if (!list)
		return NULL;
	for (int i = 0; i < n; i++) {
		const char *name = cli_option_at(cmd, (size_t)i)->name;

		list[i].name = name;
		list[i].has_arg = find_option(cmd, name)->arg ? required_argument : no_argument;
		list[i].val = CODE_OPTIONS + i;
	}
	list[n].name = help_option.name;
	list[n].val = CODE_OPTIONS + n;
	return list;
}

/* Whether arg is the name and not the abbreviation that getopt_long() also takes. */
static bool typed_in_full(const char *arg, const char *name)
{
	size_t len = strlen(name);

	return strncmp(arg, "--", 2) == 0 && strncmp(arg + 2, name, len) == 0 &&
	       (arg[2 + len] == '\0' || arg[2 + len] == '=');
}

/* The option that getopt_long() found in arg, a result and optopt being given; NULL for none. */
static const struct option_def *found_option(const struct cli_command *cmd,
					     const struct option *list, int result, const char *arg)
{
	int code = result == '?' || result == ':' ? optopt : result;
	const char *name;

	if (code == 'h' && strcmp(arg, "-h") == 0)
		return &help_option;
	if (code < CODE_OPTIONS)
		return NULL;
	name = list[code - CODE_OPTIONS].name;
	if (!typed_in_full(arg, name))
		return NULL;
	return name == help_option.name ? &help_option : find_option(cmd, name);
}

static int unknown_option(const struct cli_command *cmd, const char *arg, struct error *err)
{
	const char *name = arg + strspn(arg, "-"), *nearest;
	char typed[NEAREST_WORD_MAX + 1];

	snprintf(typed, sizeof(typed), "%.*s", (int)strcspn(name, "="), name);
	nearest = nearest_option(cmd, typed);
	if (nearest)
		return err_set(err, EINVAL, "unknown option '%.*s'; did you mean '--%s'?",
			       (int)strcspn(arg, "="), arg, nearest);
	return err_set(err, EINVAL, "unknown option '%.*s'", (int)strcspn(arg, "="), arg);
}

/* Takes what getopt_long() made of arg. */
static int take_option(struct cli_args *args, const struct option *list, int result,
		       const char *arg, struct error *err)
{
	const struct option_def *opt = found_option(args->command, list, result, arg);

	if (!opt)
		return unknown_option(args->command, arg, err);
	if (result == ':')
		return err_set(err, EINVAL, "option '%s' needs a value: %s %s", arg, arg, opt->arg);
	if (result == '?')
		return err_set(err, EINVAL, "option '--%s' takes no value", opt->name);
	if (opt == &help_option)
		return CLI_HELP_WANTED;
	args->given[args->ngiven].option = opt;
	args->given[args->ngiven++].value = optarg;
	return 0;
}

static int take_all(struct cli_args *args, const struct option *list, int argc, char **argv,
		    struct error *err)
{
	const char *value = NULL;

	opterr = 0;
	optind = 0; /* and not 1: getopt_long() is to forget what it read before */
	for (;;) {
		int at = optind ? optind : 1;
		int result = getopt_long(argc, argv, SHORT_OPTIONS, list, NULL);
		int r = 0;

		if (result == -1)
			break;
		value = optarg;
		if (result == CODE_WORD)
			args->words[args->nwords++] = optarg;
		else
			r = take_option(args, list, result, argv[at], err);
		if (r != 0)
			return r;
	}
	args->dashes = args->nwords;
	args->ends_in_dashes = argc > 1 && optind == argc && argv[argc - 1] != value &&
			       strcmp(argv[argc - 1], "--") == 0;
	while (optind < argc)
		args->words[args->nwords++] = argv[optind++];
	return 0;
}

int cli_args_parse(struct cli_args *args, const struct cli_command *cmd, int argc, char **argv,
		   struct error *err)
{
	size_t room = argc > 0 ? (size_t)argc : 1;
	_cleanup_free_ struct option *list = long_options(cmd);

	*args = (struct cli_args){ .command = cmd };
	args->given = calloc(room, sizeof(*args->given));
	args->words = calloc(room, sizeof(*args->words));
	if (!list || !args->given || !args->words)
		return err_set(err, ENOMEM, "no memory for the command line");
	return take_all(args, list, argc, argv, err);
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
	const struct option_def *opt = find_option(args->command, name);
	size_t n = 0;

	for (size_t i = 0; i < args->ngiven; i++)
		if (args->given[i].option == opt && n++ == index)
			return args->given[i].value;
	return opt && n == 0 && index == 0 ? opt->def : NULL;
}

const char *cli_value(const struct cli_args *args, const char *name)
{
	const struct option_def *opt = find_option(args->command, name);

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
	char text[ERROR_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printable_printf(stderr, "molt %s: %s", cmd->name, text);
	fprintf(stderr, "try 'molt %s --help'\n", cmd->name);
	return EXIT_USAGE;
}

int cli_failure(const struct cli_command *cmd, const struct error *err)
{
	printable_printf(stderr, "molt %s: %s", cmd->name, err->text);
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

static void print_option(const struct cli_command *cmd, const struct option_def *opt)
{
	int column = printf("  --%s%s%s", opt->name, opt->arg ? " " : "", opt->arg ? opt->arg : "");
	const struct option_def *o;
	char text[512];
	size_t n = (size_t)snprintf(text, sizeof(text), "%s", opt->help);

	for (size_t i = 0; (o = cli_option_at(cmd, i)); i++)
		if (o->alias_of && strcmp(o->alias_of, opt->name) == 0 && n < sizeof(text))
			n += (size_t)snprintf(text + n, sizeof(text) - n, " (also --%s)", o->name);
	if (opt->def && n < sizeof(text))
		snprintf(text + n, sizeof(text) - n, " (default: %s)", opt->def);
	print_wrapped(text, column);
}

void cli_print_help(const struct cli_command *cmd)
{
	const struct option_def *o;

	printf("usage: molt %s %s\n\n%s.\n\noptions:\n", cmd->name, cmd->usage, cmd->summary);
	for (size_t i = 0; (o = cli_option_at(cmd, i)); i++)
		if (!o->alias_of)
			print_option(cmd, o);
	print_wrapped("print this text (also -h)", printf("  --help"));
	if (cmd->details)
		printf("\n%s", cmd->details);
}
