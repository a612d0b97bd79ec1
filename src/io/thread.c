/* SPDX-License-Identifier: MIT */
#include <molt/base/thread.h>

#include "internal.h"

int io_thread_create(pthread_t *thread, void *(*fn)(void *), void *arg, struct error *err)
{
	int r = thread_create(thread, IO_STACK, fn, arg);

	if (r)
		return err_sys(err, r, "making a thread");
	pthread_detach(*thread);
	return 0;
}
