/* SPDX-License-Identifier: MIT */
/* A molt whose `molt io` ends as soon as it is started: it takes a guest over, and serves no disk. */
#include "../../src/cli/cli.h"

const struct cli_command io_command = {
	.name = "io",
	.usage = "",
	.summary = "End",
};

int cmd_io(int argc, char **argv)
{
	(void)argc;
	(void)argv;
	return 1;
}
