/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/child.h>
#include <molt/base/fd.h>

#ifndef P_PIDFD
#define P_PIDFD 3 /* Linux 5.4, waitid(2) */
#endif
#define PAUSE_US 1000
#define SIGNAL_PROCESS_GROUP 4u /* PIDFD_SIGNAL_PROCESS_GROUP: Linux 6.9, pidfd_send_signal(2) */

static void forget(struct child *c)
{
	fd_close(&c->fd);
	*c = CHILD_NONE;
}

/*
 * 1 if it has ended, 0 if not, -errno; -ECHILD is no child of ours. take: its end is taken note of.
 */
static int has_ended(const struct child *c, bool take)
{
	siginfo_t info = { .si_pid = 0 };
	/* __WALL: a stand-in sends no signal when it ends, and is looked for only with that. */
	int flags = WEXITED | WNOHANG | __WALL | (take ? 0 : WNOWAIT);

	if (waitid((idtype_t)P_PIDFD, (id_t)c->fd, &info, flags) < 0)
		return -errno;
	return info.si_pid != 0;
}

bool child_hold(struct child *c)
{
	if (c->fd >= 0)
		return true;
	if (c->pid <= 0)
		return false;
	c->fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	if (c->fd < 0 && errno != ESRCH)
		return false;
	if (c->fd < 0 || has_ended(c, false) == -ECHILD)
		forget(c);
	return c->fd >= 0;
}

bool child_wait(struct child *c, int timeout_ms)
{
	const uint64_t until = now_ns() + (uint64_t)timeout_ms * 1000000u;
	struct pollfd pfd = { .events = POLLIN };
	int r;

	if (!child_hold(c))
		return c->pid <= 0;
	pfd.fd = c->fd;
	while ((r = has_ended(c, true)) <= 0 && r != -ECHILD) {
		uint64_t now = now_ns();

		if (now >= until)
			return false;
		/* Either may fail for want of memory, which is no reason not to wait. */
		if (r < 0 || poll(&pfd, 1, (int)((until - now) / 1000000u) + 1) < 0)
			usleep(PAUSE_US);
	}
	forget(c);
	return true;
}

void child_kill(const struct child *c, bool group)
{
	if (c->fd < 0)
		return;
	/*
	 * Nobody has waited for the leader, so on an older kernel the group's number is still its
	 * own.
	 */
	if (group &&
	    syscall(SYS_pidfd_send_signal, c->fd, SIGKILL, NULL, SIGNAL_PROCESS_GROUP) < 0 &&
	    errno == EINVAL)
		kill(-c->pid, SIGKILL);
	syscall(SYS_pidfd_send_signal, c->fd, SIGKILL, NULL, 0);
}
