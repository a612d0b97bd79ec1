/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>

void end_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, SIGINT);
	sigaddset(set, SIGTERM);
	sigaddset(set, SIGHUP);
}

bool end_signals_pending(void)
{
	sigset_t pending, ending;

	end_signals(&ending);
	return sigpending(&pending) == 0 && sigandset(&pending, &pending, &ending) == 0 &&
	       !sigisemptyset(&pending);
}

/*
 * A line "\nKEY:\tVALUE" of a file in /proc, in pieces: a process may have 65536 groups, all in one
 * line. Nothing is allocated.
 */
static uint64_t value_of(const char *path, const char *key, int base)
{
	char text[4096];
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t have = 0;
	ssize_t n;

	while (fd >= 0 && (n = read(fd, text + have, sizeof(text) - 1 - have)) > 0) {
		const char *line, *last;

		have += (size_t)n;
		text[have] = '\0';
		line = strstr(text, key);
		if (line && strchr(line + 1, '\n'))
			return strtoull(line + strlen(key), NULL, base);
		/* The last line may go on; one that fills all of this is none that is looked for. */
		last = strrchr(text, '\n');
		have = last && last > text ? (size_t)(text + have - last) : 0;
		if (have)
			memmove(text, last, have);
	}
	return 0;
}

void end_signals_of(int pidfd, sigset_t *set)
{
	char path[64];
	sigset_t ending;
	uint64_t pid, bits;

	sigemptyset(set);
	end_signals(&ending);
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", pidfd);
	pid = value_of(path, "\nPid:", 10);
	if (pid == 0 || pid > INT32_MAX) /* -1: somebody has waited for it */
		return;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	bits = value_of(path, "\nSigPnd:", 16) | value_of(path, "\nShdPnd:", 16);
	for (int sig = 1; sig < 32; sig++)
		if (bits >> (sig - 1) & 1 && sigismember(&ending, sig))
			sigaddset(set, sig);
}
