/* SPDX-License-Identifier: MIT */
/* Starting programs, from a process with threads and much memory. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/child.h>
#include <molt/base/fd.h>

#define SPAWN_STACK_BYTES (64u << 10)

int program_exec(int fd, char *const *argv, char *const *envp)
{
	if (fd < 0)
		syscall(SYS_execve, argv[0], argv, envp);
	else
		syscall(SYS_execveat, fd, "", argv, envp, AT_EMPTY_PATH);
	return -errno;
}

int program_open_self(struct error *err)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC), code = errno;
	char path[256];
	ssize_t n;

	if (fd >= 0)
		return fd;
	if (code != EACCES)
		return err_sys(err, code, "molt's own binary, /proc/self/exe");
	n = readlink("/proc/self/exe", path, sizeof(path));
	return err_set(err, EACCES,
		       "molt's own binary, %.*s: permission denied for user %u, who may execute it "
		       "and must read it, too (chmod a+r)",
		       n > 0 ? (int)n : 0, path, (unsigned int)geteuid());
}

/*
 * What molt blocks and ignores for itself a program that it starts is not to inherit: a script's
 * timeout(1) could not end anything. What was ignored before molt was started (SIGHUP under nohup)
 * stays so.
 */
static void default_signals(void)
{
	static const int ours[] = { SIGPIPE, SIGXFSZ, SIGCHLD };
	const struct sigaction act = { .sa_handler = SIG_DFL };
	sigset_t none;

	for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
		sigaction(ours[i], &act, NULL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

struct spawn {
	const struct program *program;
	int code; /* why the child has not become the program */
};

/* In the child, which shares our memory: system calls and nothing else. */
static int become(const struct program *p)
{
	setpgid(0, 0);
	if (p->standard_input >= 0 && dup2(p->standard_input, STDIN_FILENO) < 0)
		return errno;
	if (p->standard_error >= 0 && p->standard_error != STDERR_FILENO &&
	    dup2(p->standard_error, STDERR_FILENO) < 0)
		return errno;
	for (size_t i = 0; i < p->nshared; i++)
		if (fcntl(p->shared[i], F_SETFD, 0) < 0)
			return errno;
	default_signals();
	return -program_exec(p->fd, p->argv, p->envp);
}

static int spawned(void *opaque)
{
	struct spawn *s = opaque;

	s->code = become(s->program);
	_exit(127);
}

int program_spawn(const struct program *program, struct child *child)
{
	struct spawn s = { .program = program };
	_Alignas(16) char stack[SPAWN_STACK_BYTES];
	sigset_t all, old;
	int failed;

	*child = CHILD_NONE;
	/* A handler that ran in the child would run in our memory. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &old);
	/*
	 * As vfork(), but with its pidfd, or not at all: one that nobody can wait for or kill must
	 * not come to be.
	 */
	child->pid = __clone(spawned, stack + sizeof(stack),
			     CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &s, &child->fd);
	failed = errno;
	sigprocmask(SIG_SETMASK, &old, NULL);
	if (child->pid >= 0)
		return s.code;
	*child = CHILD_NONE;
	return failed;
}
