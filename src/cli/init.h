/* SPDX-License-Identifier: MIT */
/* Process 1 of a pid name space; see init.c. */
#ifndef MOLT_CLI_INIT_H
#define MOLT_CLI_INIT_H

#include <molt/base/error.h>

/*
 * In process 1: makes a child and returns 0 in that alone, with *tell, a socket on which it tells
 * which process runs the guest (notify_main_pid()). Process 1 stays behind as the name space's
 * init, and ends with the exit status of that process. -errno where no child could be made.
 *
 * In any other process, and in a successor, which has to stay the process that it is: does nothing.
 */
int init_stay_behind(int *tell, struct error *err);

#endif
