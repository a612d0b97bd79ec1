/* SPDX-License-Identifier: MIT */
/*
 * `molt run` in check mode: whether this molt, with this command line, could take a machine over.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/log.h>
#include <molt/update/update.h>
#include <molt/vm/machine.h>
#include <molt/vmm/vmm.h>

#include "cli.h"
#include "machine_args.h"
#include "sandbox_option.h"

/*
 * What the guest sees may not change: a command line that asks for it is refused in the check. So
 * is one that is wrong, in the answer too: a release that lacks an option which the predecessor was
 * started with is to say so.
 */
struct command_line {
	struct cli_args args;
	struct error wrong; /* no text: it is right */
};

/* A device is made at a guest's start, and not by an update. */
static void check_devices(const struct cli_args *args, struct stream *s, json_t *reasons)
{
	struct device_requests requests = { 0 };
	struct error err = ERROR_INIT;

	if (cli_device_requests(args, &requests, &err) < 0)
		update_check_reason(reasons, "%s", err.text);
	for (size_t i = 0; i < requests.count; i++) {
		const struct device_request *req = &requests.list[i];
		uint32_t asked = 0;

		if (req->cls->board && !req->more)
			continue;
		for (size_t k = 0; k <= i; k++)
			asked += requests.list[k].cls == req->cls &&
				 requests.list[k].more == req->more;
		if (asked > machine_peek_devices(s, req->cls))
			update_check_reason(reasons,
					    "--%s %s: the guest has no such device, and an update "
					    "adds none",
					    (req->more ? req->cls->more : req->cls->option)
						    ->def.name,
					    req->args);
	}
	free(requests.list);
}

static void check_options(void *opaque, struct stream *s, json_t *reasons)
{
	const struct command_line *cl = opaque;
	const struct cli_args *args = &cl->args;
	struct machine_config asked = { 0 };
	struct machine_guest guest = { 0 };
	struct sandbox_arg sandbox;
	struct error err = ERROR_INIT;
	struct memory_arg memory;

	if (cl->wrong.text[0]) {
		update_check_reason(reasons, "%s", cl->wrong.text);
		return;
	}
	if (cli_parse_sandbox(cli_value(args, "sandbox"), &sandbox, &err) < 0)
		update_check_reason(reasons, "%s", err.text);
	cli_free_sandbox(&sandbox);
	if (cli_parse_log_level(args, &err) < 0)
		update_check_reason(reasons, "%s", err.text);
	if (machine_peek_config(&guest, &machine_model, s, &err) < 0 ||
	    cli_parse_machine(args, &asked, &memory, &err) < 0) {
		update_check_reason(reasons, "%s", err.text);
		return;
	}
	if (cli_given(args, "cpus") && asked.cpus != guest.cpus)
		update_check_reason(reasons, "--cpus %u, but the guest has %u", asked.cpus,
				    guest.cpus);
	if (cli_given(args, "cpu") && strcmp(asked.cpu_model, guest.cpu_model) != 0)
		update_check_reason(reasons, "--cpu %s, but the guest has %s", asked.cpu_model,
				    guest.cpu_model);
	if (cli_given(args, "memory") && asked.ram_size != guest.ram_size)
		update_check_reason(reasons, "--memory %llu, but the guest has %llu bytes",
				    (unsigned long long)asked.ram_size,
				    (unsigned long long)guest.ram_size);
	check_devices(args, s, reasons);
	if (cli_given(args, "machine") && asked.machine_version != s->header.machine_version)
		update_check_reason(reasons, "--machine %u, but the guest has machine version %u",
				    asked.machine_version, s->header.machine_version);
}

static int answer_check(struct command_line *cl)
{
	struct takeover_kinds kinds = { 0 };
	struct error err = ERROR_INIT;

	vmm_takeover_kinds(&kinds);
	if (update_check_answer(&kinds, check_options, cl, &err) == 0)
		return MACHINE_EXIT_OK;
	log_error("%s", err.text);
	return MACHINE_EXIT_FAILURE;
}

int cli_answer_check(int argc, char **argv)
{
	struct command_line cl = { .wrong = ERROR_INIT };
	int status, r = cli_args_parse(&cl.args, &run_command, argc, argv, &cl.wrong);

	if (r == 0 && cl.args.nwords)
		err_set(&cl.wrong, EINVAL, "unexpected argument '%s'", cl.args.words[0]);
	if (r == CLI_HELP_WANTED)
		err_set(&cl.wrong, EINVAL, "--help would end it");
	status = answer_check(&cl);
	cli_args_fini(&cl.args);
	return status;
}
