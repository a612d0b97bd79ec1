/* SPDX-License-Identifier: MIT */
/* What signals do to a running machine; see signals.c. */
#ifndef MOLT_VMM_SIGNALS_H
#define MOLT_VMM_SIGNALS_H

#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/vm/machine.h>

struct signals {
	struct loop_source source;
	struct machine *machine;
	int fd; /* -1: none */
};

/*
 * Takes hold of the process's signals, before its first thread is made: from here on none is lost,
 * and the loop acts on them. loop and machine, which may still have to be created, are the caller's
 * and outlive s. May be called again after signals_close(), in another process too. On failure s
 * needs no signals_close(), but signals stay blocked. signalfd(2), signal(7).
 */
int signals_open(struct signals *s, struct loop *loop, struct machine *m, struct error *err);

/* Harmless on one that is not open and has fd -1. Signals stay blocked. */
void signals_close(struct signals *s);

/*
 * The exit status for a pending signal that ended a start which took long; -EINTR if there is
 * none.
 */
int signals_exit_status(struct signals *s);

#endif
