/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <string.h>
#include <sys/socket.h>

#include "vhost_user_bench.h"

struct wire wire(uint32_t request, uint32_t flags, uint32_t size)
{
	struct wire w = { .hdr = { .request = request, .flags = flags, .size = size } };

	return w;
}

void send_wire_from(int fd, const struct wire *w, size_t from, size_t len, const int *fds,
		    size_t nfds)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (char *)(uintptr_t)w + from, .iov_len = len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (nfds) {
		mh.msg_control = &control;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(&control.align), fds, nfds * sizeof(int));
	}
	assert_int_equal(sendmsg(fd, &mh, MSG_NOSIGNAL), len);
}

void send_wire(int fd, const struct wire *w, size_t len, const int *fds, size_t nfds)
{
	send_wire_from(fd, w, 0, len, fds, nfds);
}

unsigned int open_descriptors(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int n = 0;

	assert_non_null(dir);
	while (readdir(dir))
		n++;
	closedir(dir);
	return n;
}
