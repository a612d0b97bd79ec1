/* SPDX-License-Identifier: MIT */
/* The signals that end molt. Its threads have them blocked: a signalfd reads them. */
#ifndef MOLT_BASE_END_SIGNALS_H
#define MOLT_BASE_END_SIGNALS_H

#include <signal.h>
#include <stdbool.h>

/* Makes set these: SIGINT, SIGTERM and SIGHUP. */
void end_signals(sigset_t *set);

/* Whether one waits for this process, or for this thread, to be read. sigpending(2) */
bool end_signals_pending(void);

/*
 * A descriptor by which another process can see those that wait for this one, over an exec, too;
 * -1 where there is no /proc. Who looks for it there himself may find that it is hidden: molt is
 * not dumpable, and hidepid= then leaves its directory to itself alone. proc(5)
 */
int end_signals_open(void);

/*
 * Those that wait for the process that has opened status_fd; also for one that has ended, until
 * somebody has waited for it. Empty where that cannot be found out.
 */
void end_signals_of(int status_fd, sigset_t *set);

#endif
