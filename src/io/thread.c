/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <signal.h>

#include "internal.h"

/* Signals are main's: none may interrupt a thread in a call. */
int io_thread_create(pthread_t *thread, void *(*fn)(void *), void *arg, struct error *err)
{
	sigset_t all, old;
	pthread_attr_t attr;
	int r;

	sigfillset(&all);
	sigdelset(&all, SIGSYS);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, IO_STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(thread, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return r ? err_sys(err, r, "making a thread") : 0;
}
