/* SPDX-License-Identifier: MIT */
/* The subcommands: main.c's table and what they share. */
#ifndef MOLT_CLI_CLI_H
#define MOLT_CLI_CLI_H

#include "options.h"

extern const struct cli_command run_command; /* run_options.c */
extern const struct cli_command update_command;
extern const struct cli_command ctl_command;
extern const struct cli_command state_command;
extern const struct cli_command stats_command;
extern const struct cli_command version_command;
extern const struct cli_command io_command;

/* Each takes its own name in argv[0] and returns the exit status. */
int cmd_run(int argc, char **argv);
/*
 * run_values.c: whether the values of `molt run`'s options can be right anywhere. 0, or -errno with
 * a sentence that names option and value.
 */
int cli_check_run_values(const struct cli_args *args, struct error *err);
/* The level that --log-level names, or -EINVAL. */
int cli_parse_log_level(const struct cli_args *args, struct error *err);

/*
 * `molt run` when a predecessor only asks (update_is_check()): the same arguments, the exit status.
 */
int cli_answer_check(int argc, char **argv);

int cmd_update(int argc, char **argv);
int cmd_ctl(int argc, char **argv);
int cmd_state(int argc, char **argv);
int cmd_stats(int argc, char **argv);
int cmd_version(int argc, char **argv);
int cmd_io(int argc, char **argv);

#endif
