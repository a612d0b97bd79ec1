/* SPDX-License-Identifier: MIT */
/*
 * Command lines and the values of options. The first byte chooses what is parsed; the rest is the
 * text, for command lines one argument a line.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>

#include "../../src/cli/cli.h"
#include "fuzz.h"

#define ARGS_MAX 64

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	return 0;
}

static void check_args(const struct cli_args *args, int argc, char **argv)
{
	const struct option_def *o;
	size_t values = 0;

	for (size_t i = 0; i < args->ngiven; i++) {
		const struct option_def *opt = args->given[i].option;

		fuzz_must(!opt->alias_of && !opt->arg == !args->given[i].value);
		fuzz_must(cli_given(args, opt->name));
		values += args->given[i].value != NULL;
	}
	fuzz_must(args->dashes <= args->nwords);
	/*
	 * Nothing is lost and nothing invented: `--` and a value's own argument are all that may
	 * go.
	 */
	fuzz_must(args->ngiven + args->nwords < (size_t)argc);
	fuzz_must(args->ngiven + args->nwords + values + 2 >= (size_t)argc);
	for (size_t i = 0; i < args->nwords; i++) {
		int at = 1;

		while (at < argc && argv[at] != args->words[i])
			at++;
		fuzz_must(at < argc);
	}
	for (size_t i = 0; (o = cli_option_at(args->command, i)); i++)
		if (!o->alias_of && o->arg)
			fuzz_must(!cli_given(args, o->name) || cli_value(args, o->name));
}

static void parse_args(const struct cli_command *cmd, char *text)
{
	char *argv[ARGS_MAX + 2] = { (char *)(uintptr_t)cmd->name }, *before[ARGS_MAX + 2];
	struct error err = ERROR_INIT;
	struct cli_args args;
	int argc = 1, r;

	while (text && argc <= ARGS_MAX)
		argv[argc++] = strsep(&text, "\n");
	memcpy(before, argv, sizeof(argv));
	r = cli_args_parse(&args, cmd, argc, argv, &err);
	fuzz_must(memcmp(before, argv, sizeof(argv)) == 0);
	if (r < 0)
		fuzz_must_explain(r, &err);
	else if (r != CLI_HELP_WANTED)
		check_args(&args, argc, argv);
	cli_args_fini(&args);
}

static void parse_numbers(const char *text)
{
	struct error err = ERROR_INIT;
	uint64_t value, again;
	char out[32];
	int r;

	r = value_size("size", text, &value, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
	else
		fuzz_must(snprintf(out, sizeof(out), "%" PRIu64, value) > 0 &&
			  value_size("size", out, &again, &err) == 0 && again == value);
	r = value_number("number", text, 3, 1000000, &value, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
	else
		fuzz_must(value >= 3 && value <= 1000000);
	r = value_seconds("seconds", text, 1, 600000, &value, &err);
	if (r < 0)
		fuzz_must_explain(r, &err);
	else
		fuzz_must(value >= 1 && value <= 600000);
}

static void parse_list(const char *text)
{
	static const char *const keys[] = { "size", "hugepages", "thp", "prefault", NULL };
	struct error err = ERROR_INIT;
	struct value_list list;
	int r = value_list_parse(&list, "--memory", text, keys, &err);

	if (r < 0) {
		fuzz_must_explain(r, &err);
		return;
	}
	fuzz_must(list.count >= 1 && list.count <= VALUE_LIST_MAX);
	for (size_t i = 0; i < list.count; i++) {
		fuzz_must(list.pairs[i].value[0] != '\0');
		fuzz_must(value_list_get(&list, list.pairs[i].key) == list.pairs[i].value);
	}
	value_list_fini(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct cli_command *const commands[] = {
		&run_command, &update_command, &ctl_command, &state_command, &version_command,
	};
	char *text;
	size_t what;

	if (!size)
		return 0;
	text = malloc(size);
	fuzz_must(text);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	what = data[0] % (ARRAY_SIZE(commands) + 2);
	if (what < ARRAY_SIZE(commands))
		parse_args(commands[what], text);
	else if (what == ARRAY_SIZE(commands))
		parse_numbers(text);
	else
		parse_list(text);
	free(text);
	return 0;
}
