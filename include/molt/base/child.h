/* SPDX-License-Identifier: MIT */
/*
 * Processes that molt has started. Each is held by a pidfd: a process number may be somebody else's
 * as soon as its process was waited for, a pidfd never is. Nothing in molt waits for "any" child,
 * so one that was not waited for here keeps its number.
 */
#ifndef MOLT_BASE_CHILD_H
#define MOLT_BASE_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include <molt/base/error.h>

struct child {
	pid_t pid; /* 0: none */
	int fd;    /* its pidfd; -1 where there is none yet */
};

#define CHILD_NONE ((struct child){ .fd = -1 })

/*
 * clone() by the name that ThreadSanitizer does not intercept: its wrapper hands the child a
 * pointer into the frame it was called with, which the parent, sharing the memory, has long left.
 * With CLONE_PIDFD the child and the pidfd, in the fifth argument, come to be together.
 */
int __clone(int (*fn)(void *), void *stack, int flags, void *arg, ...);

/* A program to be started as a child. */
struct program {
	int fd; /* its file; -1: argv[0] names it */
	char *const *argv;
	char *const *envp;
	const int *shared; /* descriptors that it gets under their numbers */
	size_t nshared;
	int standard_input; /* what becomes its standard input; -1: ours */
	int standard_error;
};

/*
 * Starts it, in a process group of its own, with signals as a program expects them. 0, or why it
 * did not become the program, as a positive errno; *child is to be waited for where there is one
 * all the same.
 */
int program_spawn(const struct program *program, struct child *child);

/* Executes a program: by fd, or argv[0] where that is -1. Returns only -errno. */
int program_exec(int fd, char *const *argv, char *const *envp);

/*
 * Our own binary, whatever is at its path by now, to be executed again. Who may execute a file need
 * not be allowed to read it: -EACCES, and the sentence says so.
 */
int program_open_self(struct error *err);

/*
 * Gets the pidfd of c->pid, a child of ours that nobody has waited for, unless it is there. False
 * where it cannot be had now (try again), or it is no child of ours, which then is forgotten.
 */
bool child_hold(struct child *c);

/*
 * Waits until it has ended, for timeout_ms at most (0: not at all), and takes its end. True where
 * there is no such child any more; c is CHILD_NONE then.
 */
bool child_wait(struct child *c, int timeout_ms);

/* SIGKILL. With group also for the process group that it leads. */
void child_kill(const struct child *c, bool group);

#endif
