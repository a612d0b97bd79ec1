/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/end_signals.h>

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

int end_signals_open(void)
{
	return open("/proc/self/status", O_RDONLY | O_CLOEXEC);
}

/*
 * A line "\nKEY:\tVALUE" of a file in /proc, in pieces: a process may have 65536 groups, all in one
 * line. Nothing is allocated.
 */
static uint64_t value_of(int fd, const char *key)
{
	char text[4096];
	size_t have = 0;
	off_t at = 0;
	ssize_t n;

	while ((n = pread(fd, text + have, sizeof(text) - 1 - have, at)) > 0) {
		const char *line, *last;

		at += n;
		have += (size_t)n;
		text[have] = '\0';
		line = strstr(text, key);
		if (line && strchr(line + 1, '\n'))
			return strtoull(line + strlen(key), NULL, 16);
		/* The last line may go on; one that fills all of this is none that is looked for. */
		last = strrchr(text, '\n');
		have = last && last > text ? (size_t)(text + have - last) : 0;
		if (have)
			memmove(text, last, have);
	}
	return 0;
}

void end_signals_of(int status_fd, sigset_t *set)
{
	uint64_t bits = value_of(status_fd, "\nSigPnd:") | value_of(status_fd, "\nShdPnd:");
	sigset_t ending;

	sigemptyset(set);
	end_signals(&ending);
	for (int sig = 1; sig < 32; sig++)
		if (bits >> (sig - 1) & 1 && sigismember(&ending, sig))
			sigaddset(set, sig);
}
