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

#endif
