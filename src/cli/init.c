/* SPDX-License-Identifier: MIT */
/*
 * molt as process 1 of a pid name space: a container's only program. Theory of operation.
 *
 * When process 1 ends the kernel ends all others of its name space, and from within it cannot be
 * killed. So it cannot be the VMM: a successor that died would take the stand-in and the guest
 * along, and one that hangs could not be ended. The VMM is a child of a small init, which does what
 * process 1 has to do (it takes the end of every orphan), passes signals on, and ends as the VMM
 * ends.
 *
 * Which process that is changes where a stand-in takes the guest back. molt tells a service manager
 * of such changes anyway (base/notify.h); here it tells init, over a socket pair in the place of
 * the manager's socket, in that protocol's words. It does so before the old process can end, so
 * whatever init reads when it sees a process end was said before. A manager outside of the name
 * space knows the container by its process 1, and is told by init that the guest runs.
 *
 * A signal from the kernel, such as a Ctrl-C at the terminal, went to the whole foreground group,
 * and so to the VMM, too: those are not passed on, but for the terminal's hang-up, which goes to
 * the session's leader alone.
 *
 * Where the VMM became another user init does so, too, when it is told that the guest runs, for
 * whom the kernel names with that message. A container's root may be without CAP_KILL, and could
 * not pass a signal on; and nobody needs an init that is root.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/notify.h>
#include <molt/sandbox/sandbox.h>
#include <molt/update/update.h>

#include "init.h"

struct init {
	pid_t main;  /* the process that runs the guest */
	int main_fd; /* its pidfd, or -1 */
	int told_fd; /* what it says */
	int signal_fd;
	int notify_fd; /* service manager, -1: none */
};

static void watch_main(struct init *in, pid_t pid)
{
	fd_close(&in->main_fd);
	in->main = pid;
	in->main_fd = (int)syscall(SYS_pidfd_open, pid, 0);
}

static void become_user_of_main(const struct ucred *who)
{
	const struct sandbox_user user = { .uid = who->uid, .gid = who->gid };
	struct error err = ERROR_INIT;

	if (geteuid() == 0 && who->uid != 0 && sandbox_become(&user, &err) < 0)
		log_warn("process 1 stays root, and may not be able to pass signals on: %s",
			 err.text);
}

/* One message, as text, and who sent it. */
static ssize_t hear(int fd, char *text, size_t size, struct ucred *who)
{
	union {
		struct cmsghdr align;
		char bytes[CMSG_SPACE(sizeof(*who))];
	} control;
	struct iovec iov = { .iov_base = text, .iov_len = size - 1 };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;

	*who = (struct ucred){ 0 };
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_CREDENTIALS)
		memcpy(who, CMSG_DATA(c), sizeof(*who));
	text[n > 0 ? n : 0] = '\0';
	return n;
}

/* Everything that was said so far. */
static void listen_to_main(struct init *in)
{
	struct ucred who;
	char text[256];

	while (hear(in->told_fd, text, sizeof(text), &who) > 0) {
		const char *pid = strstr(text, "MAINPID=");

		if (pid && atoi(pid + 8) > 0)
			watch_main(in, (pid_t)atoi(pid + 8));
		if (strstr(text, "READY=1")) {
			become_user_of_main(&who);
			notify_ready(in->notify_fd, 0);
		}
	}
}

/*
 * Takes the end of all that have ended; the exit status where the guest's process is among them,
 * else -1.
 */
static int reap(struct init *in)
{
	for (;;) {
		siginfo_t info = { .si_pid = 0 };

		if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | __WALL) < 0)
			return errno == ECHILD ? EXIT_FAILURE : -1;
		if (info.si_pid == 0)
			return -1;
		listen_to_main(in);
		if (info.si_pid == in->main)
			return info.si_code == CLD_EXITED ? info.si_status : 128 + info.si_status;
	}
}

static int take_signal(struct init *in)
{
	struct signalfd_siginfo info;

	if (read(in->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return -1;
	if (info.ssi_signo == SIGCHLD)
		return reap(in);
	listen_to_main(in);
	if ((info.ssi_code != SI_KERNEL || info.ssi_signo == SIGHUP) && in->main_fd >= 0 &&
	    syscall(SYS_pidfd_send_signal, in->main_fd, (int)info.ssi_signo, NULL, 0) < 0)
		log_warn("signal %u could not be passed on: %s", info.ssi_signo, error_text(errno));
	return -1;
}

static int serve(struct init *in)
{
	int status = -1;

	while (status < 0) {
		struct pollfd fds[] = {
			{ .fd = in->signal_fd, .events = POLLIN },
			{ .fd = in->told_fd, .events = POLLIN },
		};

		if (poll(fds, ARRAY_SIZE(fds), -1) < 0)
			continue;
		if (fds[1].revents)
			listen_to_main(in);
		if (fds[0].revents)
			status = take_signal(in);
	}
	return status;
}

/* Nothing here may fail any more: the child runs. */
static int be_init(pid_t child, int told_fd, int signal_fd)
{
	struct init in = { .main_fd = -1, .told_fd = told_fd, .signal_fd = signal_fd };
	struct error err = ERROR_INIT;

	prctl(PR_SET_NAME, "molt-init");
	if (notify_open(&in.notify_fd, &err) < 0)
		log_warn("%s", err.text);
	watch_main(&in, child);
	return serve(&in);
}

static int make_descriptors(int told[2], int *signal_fd, const sigset_t *all, struct error *err)
{
	const int on = 1;

	if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, told) < 0 ||
	    setsockopt(told[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return err_sys(err, errno, "socketpair for process 1");
	*signal_fd = signalfd(-1, all, SFD_CLOEXEC | SFD_NONBLOCK);
	return *signal_fd < 0 ? err_sys(err, errno, "signalfd for process 1") : 0;
}

int init_stay_behind(int *tell, struct error *err)
{
	const struct sigaction reapable = { .sa_handler = SIG_DFL };
	int told[2], signal_fd = -1, r;
	sigset_t all, old;
	pid_t child;

	if (getpid() != 1)
		return 0;
	if (update_is_successor()) {
		log_warn(
			"molt is process 1 of a pid name space, and was not started so by this version: a "
			"successor that dies takes the guest with it");
		return 0;
	}
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	/* Ignored, the kernel would take the ends of our children itself. */
	sigaction(SIGCHLD, &reapable, NULL);
	r = make_descriptors(told, &signal_fd, &all, err);
	if (r < 0)
		return r;
	child = fork();
	if (child < 0)
		return err_sys(err, errno, "fork: molt as process 1 runs the guest in a child");
	if (child > 0) {
		close(told[1]);
		_exit(be_init(child, told[0], signal_fd));
	}
	close(told[0]);
	close(signal_fd);
	sigprocmask(SIG_SETMASK, &old, NULL);
	*tell = told[1];
	return 0;
}
