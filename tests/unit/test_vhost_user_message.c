/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/virtio/vhost_user.h>

#include "vhost_user_bench.h"

struct pair {
	struct vhost_user_conn front, back;
	unsigned int fds_before;
};

static void pair_open(struct pair *p)
{
	int fd[2];

	p->fds_before = open_descriptors();
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
	vhost_user_conn_init(&p->front, VHOST_USER_FRONT_END, fd[0]);
	vhost_user_conn_init(&p->back, VHOST_USER_BACK_END, fd[1]);
}

/* Nothing that came may be left open. */
static void pair_close(struct pair *p)
{
	vhost_user_conn_close(&p->front);
	vhost_user_conn_close(&p->back);
	assert_int_equal(open_descriptors(), p->fds_before);
}

static void must_refuse(struct pair *p, struct vhost_user_conn *at, const char *words)
{
	struct vhost_user_message msg;
	struct error err = ERROR_INIT;

	assert_int_equal(vhost_user_receive(at, &msg, &err), -EPROTO);
	if (!strstr(err.text, words))
		fail_msg("'%s' is not in '%s'", words, err.text);
	pair_close(p);
}

static void a_message_and_its_descriptors(void **state)
{
	struct vhost_user_message msg = vhost_user_request_u64(VHOST_USER_SET_VRING_KICK, 3), got;
	struct error err = ERROR_INIT;
	struct pair p;
	uint64_t count = 0;

	(void)state;
	pair_open(&p);
	assert_int_equal(vhost_user_receive(&p.back, &got, &err), 0);
	msg.fds[msg.nfds++] = eventfd(7, EFD_CLOEXEC);
	assert_int_equal(vhost_user_send(&p.front, &msg), 0);
	vhost_user_close_fds(&msg);
	assert_int_equal(vhost_user_receive(&p.back, &got, &err), 1);
	assert_int_equal(got.hdr.request, VHOST_USER_SET_VRING_KICK);
	assert_int_equal(got.payload.u64, 3);
	assert_int_equal(got.nfds, 1);
	assert_true(fcntl(got.fds[0], F_GETFD) & FD_CLOEXEC);
	assert_int_equal(read(got.fds[0], &count, sizeof(count)), sizeof(count));
	assert_int_equal(count, 7);
	vhost_user_close_fds(&got);
	assert_int_equal(vhost_user_receive(&p.back, &got, &err), 0);
	pair_close(&p);
}

static void byte_by_byte(void **state)
{
	struct vhost_user_message got;
	struct error err = ERROR_INIT;
	struct wire w = wire(VHOST_USER_SET_VRING_NUM, VHOST_USER_VERSION, 8);
	struct pair p;

	(void)state;
	w.payload.state = (struct vhost_user_vring_state){ 1, 256 };
	pair_open(&p);
	for (size_t i = 0; i < 12 + 8; i++) {
		assert_int_equal(vhost_user_receive(&p.back, &got, &err), 0);
		assert_int_equal(write(p.front.fd, (char *)&w + i, 1), 1);
	}
	assert_int_equal(vhost_user_receive(&p.back, &got, &err), 1);
	assert_int_equal(got.payload.state.num, 256);
	pair_close(&p);
}

static void closed_in_the_middle(void **state)
{
	struct wire w = wire(VHOST_USER_SET_MEM_TABLE, VHOST_USER_VERSION, 40);

	(void)state;
	for (size_t n = 0; n < 12 + 40; n += 4) {
		struct vhost_user_message got;
		struct error err = ERROR_INIT;
		struct pair p;
		int fd;

		pair_open(&p);
		fd = eventfd(0, EFD_CLOEXEC);
		if (n)
			send_wire(p.front.fd, &w, n, &fd, 1);
		close(fd);
		assert_int_equal(vhost_user_receive(&p.back, &got, &err), 0);
		fd_close(&p.front.fd);
		assert_int_equal(vhost_user_receive(&p.back, &got, &err), -ECONNRESET);
		pair_close(&p);
	}
}

static const struct {
	uint32_t request, flags, size, fds;
	bool to_front;
	const char *words;
} wrong[] = {
	{ VHOST_USER_SET_OWNER, 0, 0, 0, false, "version 0" },
	{ VHOST_USER_SET_OWNER, 3, 0, 0, false, "version 3" },
	{ VHOST_USER_SET_OWNER, 5, 0, 0, false, "reply where a request belongs" },
	{ VHOST_USER_GET_FEATURES, 1, 8, 0, true, "request where a reply belongs" },
	{ VHOST_USER_GET_FEATURES, 5, 4, 0, true, "payload of 4 bytes" },
	{ VHOST_USER_GET_FEATURES, 5, 8, 1, true, "1 descriptors" },
	{ VHOST_USER_GET_FEATURES, 5, UINT32_MAX, 0, true, "payload of 4294967295" },
	{ VHOST_USER_GET_INFLIGHT_FD, 5, 24, 2, true, "2 descriptors" },
	{ VHOST_USER_GET_CONFIG, 5, 269, 0, true, "payload of 269" },
	{ VHOST_USER_GET_CONFIG, 5, 20, 0, true, "counts" },
	{ VHOST_USER_SET_FEATURES, 5, 0, 0, true, "SET_FEATURES: a payload of 0" },
	{ 77, 5, 280, 0, true, "request 77: a payload of 280" },
	{ 77, 1, 281, 0, false, "request 77: a payload of 281" },
	{ VHOST_USER_SET_OWNER, 1, 1, 0, false, "payload of 1 bytes" },
	{ VHOST_USER_SET_OWNER, 1, 0, 1, false, "1 descriptors" },
	{ VHOST_USER_SET_VRING_CALL, 1, 8, 2, false, "2 descriptors" },
	{ VHOST_USER_SET_LOG_FD, 1, 0, 0, false, "0 descriptors" },
	{ VHOST_USER_SET_VRING_CALL, 1, 8, 9, false, "more than 8 descriptors" },
	{ VHOST_USER_SET_MEM_TABLE, 1, 40, 1, false, "counts" },
	{ VHOST_USER_SET_MEM_TABLE, 1, 40, 2, false, "counts" },
	{ VHOST_USER_SET_CONFIG, 1, 100, 0, false, "counts" },
	{ VHOST_USER_ADD_MEM_REG, 1, 40, 0, false, "0 descriptors" },
};

/* Each of them, and all of its descriptors are closed. */
static void malformed(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(wrong); i++) {
		struct wire w = wire(wrong[i].request, wrong[i].flags, wrong[i].size);
		int fds[9];
		struct pair p;

		pair_open(&p);
		for (uint32_t k = 0; k < wrong[i].fds; k++)
			fds[k] = eventfd(0, EFD_CLOEXEC);
		send_wire(wrong[i].to_front ? p.back.fd : p.front.fd, &w,
			  wrong[i].size < sizeof(w.payload) ? 12 + wrong[i].size : 12, fds,
			  wrong[i].fds);
		for (uint32_t k = 0; k < wrong[i].fds; k++)
			close(fds[k]);
		must_refuse(&p, wrong[i].to_front ? &p.front : &p.back, wrong[i].words);
	}
}

static void a_config_that_lies_about_its_size(void **state)
{
	static const uint32_t
		sizes[][2] = { { 0, 9 }, { 0, UINT32_MAX }, { UINT32_MAX, 8 }, { 250, 8 } };

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		struct wire w = wire(VHOST_USER_GET_CONFIG, 5, 20);
		struct pair p;

		w.payload.config.offset = sizes[i][0];
		w.payload.config.size = sizes[i][1];
		pair_open(&p);
		send_wire(p.back.fd, &w, 32, NULL, 0);
		must_refuse(&p, &p.front, "counts");
	}
}

static void an_unknown_request_comes_without_its_descriptors(void **state)
{
	struct wire w = wire(99, VHOST_USER_VERSION | VHOST_USER_FLAG_NEED_REPLY, 280);
	struct vhost_user_message got;
	struct error err = ERROR_INIT;
	struct pair p;
	int fd;

	(void)state;
	pair_open(&p);
	fd = eventfd(0, EFD_CLOEXEC);
	send_wire(p.front.fd, &w, sizeof(w), &fd, 1);
	close(fd);
	assert_int_equal(vhost_user_receive(&p.back, &got, &err), 1);
	assert_int_equal(got.hdr.request, 99);
	assert_int_equal(got.nfds, 0);
	pair_close(&p);
}

/* Fills the socket and the queue, then everything comes out in its order. */
static void a_full_socket(void **state)
{
	struct vhost_user_message msg, got;
	struct error err = ERROR_INIT;
	uint32_t sent = 0, received = 0;
	struct pair p;
	int fd, r;

	(void)state;
	pair_open(&p);
	fd = eventfd(0, EFD_CLOEXEC);
	do {
		msg = vhost_user_request_u64(VHOST_USER_SET_VRING_KICK, sent);
		msg.fds[msg.nfds++] = fd;
		r = vhost_user_send(&p.front, &msg);
		if (vhost_user_sending(&p.front))
			assert_int_equal(vhost_user_try_send(&p.front, &msg), -EAGAIN);
		sent += r == 0;
	} while (r == 0);
	assert_int_equal(r, -ENOBUFS);
	close(fd);
	while (received < sent) {
		if (vhost_user_receive(&p.back, &got, &err) == 0) {
			assert_true(vhost_user_flush(&p.front) >= 0);
			continue;
		}
		assert_int_equal(got.payload.u64, received++);
		assert_int_equal(got.nfds, 1);
		vhost_user_close_fds(&got);
	}
	assert_false(vhost_user_sending(&p.front));
	pair_close(&p);
}

static void closed_with_a_full_queue(void **state)
{
	struct vhost_user_message msg = vhost_user_request_u64(VHOST_USER_SET_VRING_KICK, 0);
	struct pair p;

	(void)state;
	pair_open(&p);
	msg.fds[msg.nfds++] = eventfd(0, EFD_CLOEXEC);
	while (vhost_user_send(&p.front, &msg) == 0)
		;
	vhost_user_close_fds(&msg);
	pair_close(&p);
}

static void nobody_is_there(void **state)
{
	struct vhost_user_message msg = vhost_user_request(VHOST_USER_SET_OWNER);
	struct pair p;

	(void)state;
	pair_open(&p);
	fd_close(&p.back.fd);
	assert_int_equal(vhost_user_send(&p.front, &msg), -EPIPE);
	pair_close(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_message_and_its_descriptors),
		cmocka_unit_test(byte_by_byte),
		cmocka_unit_test(closed_in_the_middle),
		cmocka_unit_test(malformed),
		cmocka_unit_test(a_config_that_lies_about_its_size),
		cmocka_unit_test(an_unknown_request_comes_without_its_descriptors),
		cmocka_unit_test(a_full_socket),
		cmocka_unit_test(closed_with_a_full_queue),
		cmocka_unit_test(nobody_is_there),
	};

	return cmocka_run_group_tests_name("vhost_user_message", tests, NULL, NULL);
}
