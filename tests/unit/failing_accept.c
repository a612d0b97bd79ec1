/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "failing_accept.h"

static int fails_with;
static unsigned int failed;

int accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags)
{
	if (!fails_with)
		return (int)syscall(SYS_accept4, fd, addr, len, flags);
	failed++;
	errno = fails_with;
	return -1;
}

void fail_accept(int code)
{
	fails_with = code;
	failed = 0;
}

unsigned int accepts_failed(void)
{
	return failed;
}
