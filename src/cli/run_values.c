/* SPDX-License-Identifier: MIT */
/*
 * What of `molt run`'s options is wrong whatever the host is like. It is found before anything is
 * opened or made, and is wrong usage (exit status 2); what only the host can say no to is a failure
 * (1). A successor does not come here: it answers the check instead, and what its options say of
 * the guest counts for nothing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/unix_socket.h>
#include <molt/boot/boot_files.h>
#include <molt/control/control_path.h>
#include <molt/sandbox/sandbox.h>

#include "cli.h"
#include "machine_args.h"
#include "sandbox_option.h"

int cli_parse_log_level(const struct cli_args *args, struct error *err)
{
	const char *name = cli_value(args, "log-level");
	int level = log_level_parse(name);

	if (level < 0)
		return err_set(err, EINVAL,
			       "--log-level '%s': it must be error, warn, info or "
			       "debug",
			       name);
	return level;
}

static int check_machine(const struct cli_args *args, struct machine_config *cfg, struct error *err)
{
	struct memory_arg memory = { 0 };
	int r = cli_parse_machine(args, cfg, &memory, err);

	if (r < 0)
		return r;
	r = memory_check_size(cfg->ram_size, err);
	/* Whether the host has such pages, and what its default is, only the host can tell. */
	if (r == 0 && cfg->memory.hugepages > MEMORY_HUGE_DEFAULT &&
	    cfg->ram_size % cfg->memory.hugepages)
		r = err_set(err, EINVAL,
			    "guest RAM of %llu KiB is no multiple of the huge pages' "
			    "size, %llu MiB",
			    (unsigned long long)(cfg->ram_size >> 10),
			    (unsigned long long)(cfg->memory.hugepages >> 20));
	err_prefix(err, "--memory");
	return r;
}

static int check_files(const struct cli_args *args, struct error *err)
{
	static const char *const options[] = { "kernel", "initramfs", "log-file" };

	for (size_t i = 0; i < ARRAY_SIZE(options); i++)
		if (cli_given(args, options[i]) && !*cli_value(args, options[i]))
			return err_set(err, EINVAL, "--%s: the file's path is empty", options[i]);
	return 0;
}

static int check_boot(const struct cli_args *args, struct error *err)
{
	const char *cmdline = cli_value(args, "cmdline");

	if (cli_given(args, "initramfs") && !cli_given(args, "kernel"))
		return err_set(err, EINVAL, "--initramfs needs a --kernel");
	if (cmdline && strlen(cmdline) >= BOOT_CMDLINE_MAX)
		return err_set(err, EINVAL, "--cmdline: it has %zu bytes, at most %d are possible",
			       strlen(cmdline), BOOT_CMDLINE_MAX - 1);
	return 0;
}

static int check_control(const char *control, struct error *err)
{
	_cleanup_free_ char *path = NULL;

	path = control_path_of(control, err);
	return path ? unix_socket_check_path("control socket", path, err) : -err->code;
}

static int check_names(const struct cli_args *args, struct error *err)
{
	const char *name = cli_value(args, "name"), *control = cli_value(args, "control");
	const char *user = cli_value(args, "user");
	struct sandbox_user found;
	int r = control ? check_control(control, err) : 0;

	if (r == 0 && name && strlen(name) > MACHINE_NAME_MAX)
		r = err_set(err, EINVAL, "--name '%s' is longer than %d bytes", name,
			    MACHINE_NAME_MAX);
	if (r == 0 && user && strcmp(user, "auto") != 0)
		r = sandbox_find_user(user, &found, err);
	else if (r == 0 && user && (!name || !name[0]))
		r = err_set(err, EINVAL,
			    "--user auto: each guest's user belongs to its --name, and there "
			    "is none");
	return r;
}

/* COM1 has it where nothing else is said. */
static int check_terminal(const struct cli_args *args, struct error *err)
{
	const char *com1 = cli_value(args, "serial"), *com2 = cli_value(args, "serial2");

	if (com2 && strcmp(com1, "tty") == 0 && strcmp(com2, "tty") == 0)
		return err_set(err, EINVAL,
			       "--serial2 tty: the terminal is COM1's; give that another --serial");
	return 0;
}

static int check_devices(const struct cli_args *args, struct machine_config cfg, struct error *err)
{
	struct device_requests requests = { 0 };
	int r = cli_device_requests(args, &requests, err);

	for (size_t i = 0; i < requests.count && r == 0; i++) {
		const struct device_request *req = &requests.list[i];

		r = device_option_check(req->more ? req->cls->more : req->cls->option, req->args,
					err);
	}
	cfg.model = &machine_model;
	cfg.devices = requests.list;
	cfg.ndevices = requests.count;
	if (r == 0)
		r = machine_check_devices(&cfg, err);
	free(requests.list);
	return r;
}

int cli_check_run_values(const struct cli_args *args, struct error *err)
{
	struct machine_config cfg = { 0 };
	struct sandbox_arg sandbox = { 0 };
	int r = cli_parse_log_level(args, err);

	r = r < 0 ? r : check_machine(args, &cfg, err);
	if (r == 0)
		r = check_files(args, err);
	if (r == 0)
		r = check_boot(args, err);
	if (r == 0)
		r = check_names(args, err);
	if (r == 0)
		r = check_terminal(args, err);
	if (r == 0)
		r = check_devices(args, cfg, err);
	if (r == 0)
		r = cli_parse_sandbox(cli_value(args, "sandbox"), &sandbox, err);
	cli_free_sandbox(&sandbox);
	return r;
}
