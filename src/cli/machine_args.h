/* SPDX-License-Identifier: MIT */
/*
 * What a command line says about the machine, on a cold start and against a machine that is there.
 */
#ifndef MOLT_CLI_MACHINE_ARGS_H
#define MOLT_CLI_MACHINE_ARGS_H

#include <molt/base/error.h>
#include <molt/vm/machine.h>

#include "memory_option.h"
#include "options.h"

/*
 * What the guest sees (RAM's size, vCPUs, machine version) into cfg, and what its RAM is made of
 * into memory and cfg. -EINVAL or -ERANGE with a sentence that names option and value.
 */
int cli_parse_machine(const struct cli_args *args, struct machine_config *cfg,
		      struct memory_arg *memory, struct error *err);

/* What options ask for, in their order. */
struct device_requests {
	struct device_request *list; /* the owner frees it */
	size_t count;
};

/* -ENOMEM. The texts are those of args. */
int cli_device_requests(const struct cli_args *args, struct device_requests *requests,
			struct error *err);

/*
 * In a successor: what the guest sees comes from the stream. A command line that says otherwise
 * changes nothing, and the log tells.
 */
void cli_warn_of_differences(const struct cli_args *args, const struct machine *m);

#endif
