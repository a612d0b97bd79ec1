/* SPDX-License-Identifier: MIT */
/* `molt run`: what the command line says, handed to the VMM. */
#include <stdlib.h>

#include <molt/base/fd.h>
#include <molt/base/thread.h>
#include <molt/update/update.h>

#include "cli.h"
#include "init.h"
#include "run_config.h"

#define MAIN_STACK_BYTES (512u << 10)

struct run {
	struct run_config given; /* this process's own command line */
	struct run_config kept;  /* after a way back: what the guest was started with */
	bool is_back;
	bool successor;
};

static int configure(void *opaque, int argc, char **argv, struct vmm_config *cfg, struct error *err)
{
	struct run *run = opaque;
	int r = cli_args_parse(&run->kept.args, &run_command, argc, argv, err);

	if (r < 0)
		return r;
	run->is_back = true;
	return run_config(&run->kept, true, cfg, err);
}

static void compare(void *opaque, const struct machine *m)
{
	const struct run *run = opaque;

	cli_warn_of_differences(run->is_back ? &run->kept.args : &run->given.args, m);
}

/* What is wrong with a successor's options is for its predecessor; else it is wrong usage. */
static int check(const struct run *run)
{
	const struct cli_args *args = &run->given.args;
	struct error wrong = ERROR_INIT;

	if (args->nwords)
		return cli_usage_error(&run_command, "unexpected argument '%s'", args->words[0]);
	if (!run->successor && cli_check_run_values(args, &wrong) < 0)
		return cli_usage_error(&run_command, "%s", wrong.text);
	return 0;
}

static int run_vmm(struct run *run, int argc, char **argv, uint64_t main_ns)
{
	const struct vmm_ops ops = { .configure = configure, .compare = compare, .opaque = run };
	struct vmm_config cfg = {
		.argc = argc,
		.argv = argv,
		.main_ns = main_ns,
		.notify_fd = -1,
		.successor = run->successor,
	};
	struct error err = ERROR_INIT;
	int r = run_config(&run->given, run->successor, &cfg, &cfg.wrong);

	/* A guest with many disks has hundreds, and an update needs each of them twice. */
	fd_raise_limit();
	if (r < 0 && !run->successor)
		return cli_failure(&run_command, &cfg.wrong);
	/* A successor has a guest by now, and its stack from who started the first molt. */
	r = thread_main_stack(MAIN_STACK_BYTES, &err);
	if (r == 0 || run->successor)
		r = init_stay_behind(&cfg.notify_fd, &err);
	if (r == 0)
		return vmm_run(&cfg, &ops);
	log_error("%s", err.text);
	return MACHINE_EXIT_FAILURE;
}

int cmd_run(int argc, char **argv)
{
	uint64_t main_ns = now_ns();
	struct run run = { 0 };
	int status;

	sandbox_hide(true);
	if (update_is_check())
		return cli_answer_check(argc, argv);
	if (cli_begin(&run.given.args, &run_command, argc, argv, &status)) {
		run.successor = update_is_successor() || cli_given(&run.given.args, "incoming");
		status = check(&run);
		if (!status)
			status = run_vmm(&run, argc, argv, main_ns);
	}
	run_config_fini(&run.given);
	run_config_fini(&run.kept);
	return status;
}
