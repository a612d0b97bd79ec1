/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "run_config.h"

/* What the guest is made of on a cold start: values that were found right before. */
static int describe_machine(struct run_config *rc, struct vmm_config *cfg, struct error *err)
{
	const struct cli_args *args = &rc->args;
	struct memory_arg memory;
	int r = cli_parse_machine(args, &cfg->machine, &memory, err);

	cfg->refault = memory.refault;
	cfg->refault_limit_ns = memory.refault_limit_ns;
	cfg->machine.name = cli_given(args, "name") ? cli_value(args, "name") : "";
	cfg->machine.no_reboot = cli_given(args, "no-reboot");
	if (r == 0)
		r = cli_device_requests(args, &rc->devices, err);
	cfg->machine.devices = rc->devices.list;
	cfg->machine.ndevices = rc->devices.count;
	return r;
}

/* A bad --memory is told later (cli_warn_of_differences()) and ends nobody. */
static void describe_memory(const struct cli_args *args, struct vmm_config *cfg)
{
	struct memory_arg memory = { 0 };
	struct error wrong = ERROR_INIT;

	if (cli_parse_memory(cli_value(args, "memory"), &memory, &wrong) < 0)
		memory = (struct memory_arg){ 0 };
	cfg->machine.memory = memory.options;
	cfg->refault = memory.refault;
	cfg->refault_limit_ns = memory.refault_limit_ns;
}

static void take_values(const struct cli_args *args, struct vmm_config *cfg)
{
	cfg->incoming = cli_value(args, "incoming");
	cfg->control = cli_value(args, "control");
	cfg->log_file = cli_value(args, "log-file");
	cfg->serial[0] = cli_value(args, "serial");
	cfg->serial[1] = cli_value(args, "serial2");
	cfg->user = cli_value(args, "user");
	cfg->kernel = cli_value(args, "kernel");
	cfg->initramfs = cli_value(args, "initramfs");
	cfg->cmdline = cli_value(args, "cmdline");
	cfg->pause = cli_given(args, "pause");
}

static int take_log_level(const struct cli_args *args, struct vmm_config *cfg, struct error *err)
{
	int level = cli_parse_log_level(args, err);

	cfg->log_level = level < 0 ? LOG_LEVEL_INFO : (enum log_level)level;
	return level < 0 ? level : 0;
}

static int take_sandbox(struct run_config *rc, struct vmm_config *cfg, struct error *err)
{
	int r = cli_parse_sandbox(cli_value(&rc->args, "sandbox"), &rc->sandbox, err);

	cfg->sandbox = rc->sandbox.on;
	memcpy(cfg->write_dirs, rc->sandbox.dirs, sizeof(cfg->write_dirs));
	return r;
}

int run_config(struct run_config *rc, bool successor, struct vmm_config *cfg, struct error *err)
{
	int level, r;

	take_values(&rc->args, cfg);
	level = take_log_level(&rc->args, cfg, err);
	r = take_sandbox(rc, cfg, level < 0 ? NULL : err);
	if (successor)
		describe_memory(&rc->args, cfg);
	else if (level == 0 && r == 0)
		r = describe_machine(rc, cfg, err);
	return level < 0 ? level : r;
}

void run_config_fini(struct run_config *rc)
{
	cli_args_fini(&rc->args);
	cli_free_sandbox(&rc->sandbox);
	free(rc->devices.list);
	*rc = (struct run_config){ 0 };
}
