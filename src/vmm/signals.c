/* SPDX-License-Identifier: MIT */
/*
 * Signals of a VMM. Theory of operation.
 *
 * Those that end the machine and those of job control are blocked from before the first thread on
 * and read from a signalfd by the event loop. What is blocked stays pending over an exec, so none
 * is lost in an update.
 *
 * A signal that is ignored when molt starts is left alone, as a shell's `trap '' HUP`, nohup(1)
 * and the jobs that a script starts with & expect. Such a signal must not be blocked: Linux drops
 * an ignored one when it is sent, but queues it where it is blocked, and a signalfd would read
 * it. What is ignored stays so over an exec and in a clone, so a successor and the stand-in find
 * out in the same way; a predecessor may have blocked them nevertheless.
 *
 * Job control. To stop is the default action of SIGTSTP, and the kernel knows better than we when
 * not to: nobody could continue a process group that is orphaned. So when the guest and the
 * terminals are ready for it, the signal is sent once more and let through. After SIGSTOP, which
 * nobody can catch, the SIGCONT is all there is to see: vCPUs have run for a moment by then.
 * SIGTTIN and SIGTTOU are blocked and never read: output from the background is written even with
 * `stty tostop`, and whether to read or to set a terminal is for its backend to decide.
 */
#include <errno.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "signals.h"

static const int ending[] = { SIGINT, SIGTERM, SIGHUP };

static bool is_ignored(int sig)
{
	struct sigaction now;

	return sigaction(sig, NULL, &now) == 0 && now.sa_handler == SIG_IGN;
}

/*
 * A SIGCONT that is pending came after the SIGTSTP, for that takes back what came before; and it
 * would be taken back by ours. Where the process group is orphaned the kernel drops the signal, and
 * this does nothing.
 */
static void let_stop(void)
{
	sigset_t stop, pending;

	if (sigpending(&pending) == 0 && sigismember(&pending, SIGCONT))
		return;
	sigemptyset(&stop);
	sigaddset(&stop, SIGTSTP);
	kill(getpid(), SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &stop, NULL);
	sigprocmask(SIG_BLOCK, &stop, NULL);
}

/* stop: be stopped here, and go on when somebody continues us; else that has just happened. */
static void job_control(struct machine *m, bool stop)
{
	bool running = m->guest.run_state == RUN_STATE_RUNNING;

	if (running)
		machine_park_vcpus(m);
	if (stop) {
		machine_job_control(m, true);
		let_stop();
	}
	machine_job_control(m, false);
	machine_tell_paused(m);
	if (running)
		machine_unpark_vcpus(m);
}

static bool next_signal(const struct signals *s, int *sig)
{
	struct signalfd_siginfo info;

	if (read(s->fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
		return false;
	*sig = (int)info.ssi_signo;
	return true;
}

static void on_signal(void *opaque, uint32_t events)
{
	struct signals *s = opaque;
	int sig;

	(void)events;
	if (!next_signal(s, &sig))
		return;
	if (sig == SIGTSTP || sig == SIGCONT) {
		job_control(s->machine, sig == SIGTSTP);
		return;
	}
	log_info("ended by signal %d", sig);
	machine_exit(s->machine, 128 + sig, "host-signal");
}

int signals_exit_status(struct signals *s)
{
	int sig;

	while (next_signal(s, &sig))
		if (sig != SIGTSTP && sig != SIGCONT)
			return 128 + sig;
	return -EINTR;
}

/* Which to read, and which to let pass: they are ignored. */
static void choose(sigset_t *wanted, sigset_t *ignored)
{
	sigemptyset(ignored);
	sigemptyset(wanted);
	for (size_t i = 0; i < ARRAY_SIZE(ending); i++)
		sigaddset(is_ignored(ending[i]) ? ignored : wanted, ending[i]);
	sigaddset(is_ignored(SIGTSTP) ? ignored : wanted, SIGTSTP);
	/* A process goes on even if it ignores this. */
	sigaddset(wanted, SIGCONT);
}

static int set_dispositions(void)
{
	const struct sigaction ignore = { .sa_handler = SIG_IGN };
	const struct sigaction usual = { .sa_handler = SIG_DFL };

	/*
	 * A peer that is gone or a file that may not grow is an error of that write, not our end.
	 */
	if (sigaction(SIGPIPE, &ignore, NULL) < 0 || sigaction(SIGXFSZ, &ignore, NULL) < 0)
		return -errno;
	/* Ignored, it would make the kernel reap our children before we can. */
	return is_ignored(SIGCHLD) && sigaction(SIGCHLD, &usual, NULL) < 0 ? -errno : 0;
}

int signals_open(struct signals *s, struct loop *loop, struct machine *m, struct error *err)
{
	sigset_t wanted, blocked, ignored;
	int r;

	choose(&wanted, &ignored);
	blocked = wanted;
	sigaddset(&blocked, SIGTTIN);
	sigaddset(&blocked, SIGTTOU);
	sigaddset(&blocked, CREW_KICK_SIGNAL); /* from outside: it would interrupt main's calls */
	r = set_dispositions();
	if (r < 0 || sigprocmask(SIG_BLOCK, &blocked, NULL) < 0 ||
	    sigprocmask(SIG_UNBLOCK, &ignored, NULL) < 0)
		return err_sys(err, r < 0 ? -r : errno, "blocking signals");
	s->machine = m;
	s->fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
	if (s->fd < 0)
		return err_sys(err, errno, "signalfd");
	r = loop_add_signals(loop, &s->source, s->fd, on_signal, s);
	if (r < 0) {
		fd_close(&s->fd);
		return err_sys(err, -r, "epoll on the signalfd");
	}
	return 0;
}

void signals_close(struct signals *s)
{
	loop_del(&s->source);
	fd_close(&s->fd);
}
