/* SPDX-License-Identifier: MIT */
/* The value of `molt run --sandbox`. */
#ifndef MOLT_CLI_SANDBOX_OPTION_H
#define MOLT_CLI_SANDBOX_OPTION_H

#include <stdbool.h>

#include <molt/base/error.h>
#include <molt/vmm/vmm.h>

struct sandbox_arg {
	bool on;
	struct sandbox_dir dirs[VMM_WRITE_DIRS_MAX + 1]; /* of write=; paths are owned */
};

/*
 * Takes "on|off[,write=DIR[:DIR...]]" apart; nothing is looked up. -EINVAL or -E2BIG with a
 * sentence that names the value, and then it is on. arg needs cli_free_sandbox() either way.
 */
int cli_parse_sandbox(const char *text, struct sandbox_arg *arg, struct error *err);
void cli_free_sandbox(struct sandbox_arg *arg);

#endif
