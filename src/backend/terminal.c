/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "terminal.h"

static struct termios raw_of(const struct termios *original)
{
	struct termios t = *original;

	cfmakeraw(&t);
	t.c_oflag |= OPOST;
	return t;
}

/* Control flags and speeds are the driver's to bend. */
static bool same_settings(const struct termios *a, const struct termios *b)
{
	return a->c_iflag == b->c_iflag && a->c_oflag == b->c_oflag && a->c_lflag == b->c_lflag &&
	       memcmp(a->c_cc, b->c_cc, sizeof(a->c_cc)) == 0;
}

bool terminal_is_ours(int fd)
{
	pid_t foreground = tcgetpgrp(fd);

	return foreground < 0 || foreground == getpgrp();
}

bool terminal_has_lost_its_shell(void)
{
	pid_t session = getsid(0);

	return session != getpid() && getsid(getppid()) != session;
}

int terminal_make_raw(int fd, struct termios *original)
{
	struct termios now, raw = raw_of(original);

	if (tcgetattr(fd, &now) < 0)
		return -errno;
	if (same_settings(&now, &raw))
		return 0;
	raw = raw_of(&now);
	if (tcsetattr(fd, TCSANOW, &raw) < 0)
		return -errno;
	*original = now;
	return 0;
}

/*
 * A shell that takes the terminal back may find it raw: one that does not set its own mode (dash),
 * after its job was stopped by SIGSTOP, or was killed in an update and lives on in the stand-in.
 */
static bool is_left_raw(int fd, const struct termios *original)
{
	const struct termios raw = raw_of(original);
	struct termios now;

	return tcgetattr(fd, &now) == 0 && same_settings(&now, &raw);
}

int terminal_put_right(int fd, const struct termios *original)
{
	if (!terminal_is_ours(fd) && !is_left_raw(fd, original))
		return 0;
	return tcsetattr(fd, TCSANOW, original) < 0 ? -errno : 0;
}
