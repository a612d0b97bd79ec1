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
 * Those that wait for another process, by its pidfd; also for one that has ended, until somebody
 * has waited for it. Empty where that cannot be found out, as without /proc. proc(5)
 */
void end_signals_of(int pidfd, sigset_t *set);

#endif
