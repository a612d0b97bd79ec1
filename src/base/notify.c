/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/notify.h>

#define READY "READY=1\n"
#define READY_MS 5000
#define LOOK_MS 10

/* It is a number of the manager's name space. Process 1 of another one has another one there. */
static bool is_meant_for_us(void)
{
	const char *pid = getenv("SYSTEMD_EXEC_PID");

	return !pid || getpid() == 1 || atol(pid) == (long)getpid();
}

int notify_open(int *out, struct error *err)
{
	const char *name = getenv("NOTIFY_SOCKET");
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	socklen_t len;
	int fd;

	*out = -1;
	if (!name || !name[0] || !is_meant_for_us())
		return 0;
	if ((name[0] != '/' && name[0] != '@') || strlen(name) >= sizeof(addr.sun_path))
		return err_set(err, EINVAL, "NOTIFY_SOCKET='%s' is no address of a service manager",
			       name);
	strcpy(addr.sun_path, name);
	if (name[0] == '@')
		addr.sun_path[0] = '\0';
	len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_sys(err, errno, "socket for the service manager");
	if (connect(fd, (const struct sockaddr *)&addr, len) < 0) {
		int code = errno;

		close(fd);
		return err_sys(err, code, "NOTIFY_SOCKET='%s'", name);
	}
	*out = fd;
	return 0;
}

/* Its queue is full while it is busy, with a few messages or some hundred: unix(7). */
static int tell(int fd, const char *text, unsigned int wait_ms)
{
	const uint64_t until = now_ns() + wait_ms * 1000000ull;
	struct pollfd pfd = { .fd = fd, .events = POLLOUT };

	while (send(fd, text, strlen(text), MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		if (errno != EAGAIN || now_ns() >= until)
			return -errno;
		poll(&pfd, 1, LOOK_MS);
	}
	return 0;
}

static int tell_pid(int fd, pid_t pid, const char *more, unsigned int wait_ms)
{
	char text[64];

	snprintf(text, sizeof(text), "MAINPID=%d\n%s", (int)pid, more);
	return tell(fd, text, wait_ms);
}

bool notify_can_tell(int fd)
{
	return fd < 0 || fd_ready(fd, POLLOUT);
}

int notify_main_pid(int fd, pid_t pid, unsigned int wait_ms)
{
	return fd < 0 ? 0 : tell_pid(fd, pid, "", wait_ms);
}

void notify_ready(int fd, pid_t pid)
{
	int r;

	if (fd < 0)
		return;
	r = pid ? tell_pid(fd, pid, READY, READY_MS) : tell(fd, READY, READY_MS);
	if (r < 0)
		log_warn("the service manager was not told that the guest runs: %s",
			 error_text(-r));
}
