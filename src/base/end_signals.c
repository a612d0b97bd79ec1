/* SPDX-License-Identifier: MIT */
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
