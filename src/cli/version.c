/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>

#include <jansson.h>

#include <molt/control/control.h>
#include <molt/state/stream.h>
#include <molt/vm/machine.h>
#include "molt_version.h"

#include "cli.h"

static const struct option_def version_options[] = {
	{ .name = "json", .help = "print all that is versioned, as JSON" },
	{ .name = NULL }
};

const struct cli_command version_command = {
	.name = "version",
	.usage = "[--json]",
	.summary = "Print molt's version",
	.options = version_options,
};

static void print_json(void)
{
	char qmp[32];
	json_t *json;

	snprintf(qmp, sizeof(qmp), "%d.%d.%d", CONTROL_QMP_MAJOR, CONTROL_QMP_MINOR,
		 CONTROL_QMP_MICRO);
	json = json_pack("{s:s,s:i,s:i,s:s}", "version", MOLT_VERSION, "machine-version",
			 (json_int_t)machine_model.newest, "state-format", STREAM_FORMAT, "qmp",
			 qmp);
	json_dumpf(json, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(json);
}

int cmd_version(int argc, char **argv)
{
	struct cli_args args;
	int status;

	if (cli_begin(&args, &version_command, argc, argv, &status)) {
		status = 0;
		if (args.nwords)
			status = cli_usage_error(&version_command, "'%s' is one argument too many",
						 args.words[0]);
		else if (cli_given(&args, "json"))
			print_json();
		else
			puts("molt " MOLT_VERSION);
	}
	cli_args_fini(&args);
	return status;
}
