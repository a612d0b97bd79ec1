/* SPDX-License-Identifier: MIT */
/* What a command line of `molt run` says, as the VMM takes it. */
#ifndef MOLT_CLI_RUN_CONFIG_H
#define MOLT_CLI_RUN_CONFIG_H

#include <molt/vmm/vmm.h>

#include "machine_args.h"
#include "sandbox_option.h"

/* A command line and what its values were parsed into: all that a configuration points to. */
struct run_config {
	struct cli_args args;
	struct sandbox_arg sandbox;
	struct device_requests devices;
};

/*
 * What rc->args, which are parsed, say into cfg; its part "of the process" stays. successor: this
 * one's own --memory counts where it is right, what it says of the guest does not. An error for a
 * value that is wrong; cfg is complete then, with the usual value in its place.
 */
int run_config(struct run_config *rc, bool successor, struct vmm_config *cfg, struct error *err);

/* All zeroes are fine. */
void run_config_fini(struct run_config *rc);

#endif
