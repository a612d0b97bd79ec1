/* SPDX-License-Identifier: MIT */
/*
 * A terminal that molt shares with a shell, another process's most of the time: whose it is, and
 * its settings. No state of its own; nothing here stops the process (SIGTTOU has to be blocked).
 */
#ifndef MOLT_BACKEND_TERMINAL_H
#define MOLT_BACKEND_TERMINAL_H

#include <stdbool.h>
#include <termios.h>

/*
 * Whether this process may read it and make settings: it is in the foreground there, or the
 * terminal is not the one that controls it (or is hung up), and job control has no say.
 * POSIX.1-2017, XBD 11.1.4.
 */
bool terminal_is_ours(int fd);

/*
 * Whether the foreground may be lost without a signal to us: this process is not the child of one
 * in its session. So it is for the stand-in, whose job the shell has seen end.
 */
bool terminal_has_lost_its_shell(void);

/*
 * Puts it into raw mode, but for output processing: molt's own log lines go to the same terminal.
 * *original: what it was, to be kept for terminal_put_right(); it is left alone where the
 * terminal is still in the raw mode made from it. 0 or -errno, and then nothing is changed.
 */
int terminal_make_raw(int fd, struct termios *original);

/* Back from raw mode. A terminal that is not ours keeps what somebody else has set. 0 or -errno. */
int terminal_put_right(int fd, const struct termios *original);

#endif
