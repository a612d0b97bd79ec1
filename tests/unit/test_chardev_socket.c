/* SPDX-License-Identifier: MIT */
/* The character backend that listens on a Unix socket. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "chardev_bench.h"
#include "failing_accept.h"

/* ---- socket ---- */

static void socket_serves_one_peer(void **state)
{
	struct sink *s = *state;
	struct stat st;
	int fd;

	open_path(s, "socket");
	assert_false(chardev_connected(s->cd));
	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	fd = dial(s->path);
	settle(s);
	assert_int_equal(s->connects, 1);
	put_text(s, "out");
	assert_read(s, fd, "out");
	assert_int_equal(write(fd, "\001x", 2), 2);
	assert_input(s, "\001x");
	close(fd);
	settle(s);
	assert_int_equal(s->disconnects, 1);
	assert_idle(s);
	chardev_close(s->cd);
	s->cd = NULL;
	assert_int_equal(stat(s->path, &st), -1);
}

static void a_second_peer_waits(void **state)
{
	struct sink *s = *state;
	int first, second;

	open_path(s, "socket");
	first = dial(s->path);
	settle(s);
	second = dial(s->path);
	assert_int_equal(write(second, "second", 6), 6);
	assert_idle(s);
	assert_int_equal(s->connects, 1);
	assert_int_equal(s->len, 0);
	put_text(s, "for the first");
	assert_read(s, first, "for the first");
	close(first);
	assert_input(s, "second");
	assert_int_equal(s->connects, 2);
	assert_int_equal(s->disconnects, 1);
	put_text(s, "for the second");
	assert_read(s, second, "for the second");
	close(second);
	assert_idle(s);
}

static void input_of_a_peer_that_left_is_not_lost(void **state)
{
	struct sink *s = *state;
	int fd;

	open_path(s, "socket");
	s->room = 2;
	fd = dial(s->path);
	assert_int_equal(write(fd, "command", 7), 7);
	close(fd);
	assert_idle(s);
	assert_int_equal(s->len, 2);
	assert_int_equal(s->disconnects, 0);
	put_text(s, "kept for the next");
	assert_idle(s);
	s->room = 100;
	chardev_input_ready(s->cd);
	assert_input(s, "command");
	assert_int_equal(s->disconnects, 1);
	fd = dial(s->path);
	assert_read(s, fd, "kept for the next");
	close(fd);
}

static void the_next_peer_takes_the_place_of_one_that_left(void **state)
{
	struct sink *s = *state;
	int fd;

	open_path(s, "socket");
	s->room = 0;
	fd = dial(s->path);
	assert_int_equal(write(fd, "never read", 10), 10);
	settle(s);
	close(fd);
	assert_idle(s);
	fd = dial(s->path);
	settle(s);
	assert_int_equal(s->connects, 2);
	assert_int_equal(s->disconnects, 1);
	put_text(s, "hi");
	assert_read(s, fd, "hi");
	s->room = 100;
	chardev_input_ready(s->cd);
	assert_int_equal(write(fd, "new", 3), 3);
	assert_input(s, "new");
	close(fd);
}

static void a_peer_may_end_its_input_and_listen_on(void **state)
{
	struct sink *s = *state;
	int fd;

	open_path(s, "socket");
	fd = dial(s->path);
	assert_int_equal(write(fd, "reboot\n", 7), 7);
	shutdown(fd, SHUT_WR);
	assert_input(s, "reboot\n");
	assert_idle(s);
	assert_int_equal(s->disconnects, 0);
	put_text(s, "ok");
	assert_read(s, fd, "ok");
	update(s);
	put_text(s, "still");
	assert_read(s, fd, "still");
	close(fd);
	settle(s);
	assert_int_equal(s->disconnects, 1);
}

static void a_peer_that_does_not_read_blocks_nobody(void **state)
{
	static char text[1000000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text));
	int fd;

	open_path(s, "socket");
	fd = dial(s->path);
	settle(s);
	for (size_t i = 0; i < len; i += 1000) {
		chardev_write(s->cd, (const uint8_t *)text + i, len - i < 1000 ? len - i : 1000);
		if (i % 10000 == 0)
			settle(s);
	}
	assert_idle(s);
	/* Queue and the piece that is on its way are as much as a stream may carry. */
	update(s);
	assert_in_range(drain_newest(s, fd, len, 1), QUEUE_BYTES - 512, len - 1);
	/* It leaves with output on the way. */
	for (size_t i = 0; i < 500; i++)
		chardev_write(s->cd, (const uint8_t *)text, 1000);
	settle(s);
	close(fd);
	assert_idle(s);
	assert_int_equal(s->disconnects, 1);
}

static void overflow_without_a_peer_keeps_the_end(void **state)
{
	static char text[100000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text));
	int fd;

	open_path(s, "socket");
	for (size_t i = 0; i < len; i += 10)
		chardev_write(s->cd, (const uint8_t *)text + i, len - i < 10 ? len - i : 10);
	assert_idle(s);
	assert_int_equal(log_count(s, "dropped so far"), 1);
	update(s);
	fd = dial(s->path);
	assert_in_range(drain_newest(s, fd, len, 1), QUEUE_BYTES - 512, QUEUE_BYTES);
	close(fd);
}

/* What is dropped after an update is older than all that is kept: there is no gap. */
static void overflow_after_an_update_keeps_the_end(void **state)
{
	static char text[100000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text)), done;
	int fd;

	open_path(s, "socket");
	for (done = 0; done < 60000; done += 10)
		chardev_write(s->cd, (const uint8_t *)text + done, 10);
	update(s);
	for (; done < len; done += 10)
		chardev_write(s->cd, (const uint8_t *)text + done,
			      len - done < 10 ? len - done : 10);
	fd = dial(s->path);
	assert_in_range(drain_newest(s, fd, len, 1), QUEUE_BYTES - 512, QUEUE_BYTES);
	close(fd);
}

/* But what a reader has the beginning of is given to the end, and then the newest. */
static void what_was_begun_is_finished_after_an_update(void **state)
{
	static char text[1000000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text)), done;
	int fd;

	open_path(s, "socket");
	fd = dial(s->path);
	settle(s);
	for (done = 0; done < len / 2; done += 1000) {
		chardev_write(s->cd, (const uint8_t *)text + done, 1000);
		settle(s);
	}
	update(s);
	for (; done < len; done += 1000)
		chardev_write(s->cd, (const uint8_t *)text + done,
			      len - done < 1000 ? len - done : 1000);
	assert_in_range(drain_newest(s, fd, len, 1), QUEUE_BYTES, len - 1);
	close(fd);
}

static void a_peer_that_cannot_be_taken_waits(void **state)
{
	struct sink *s = *state;
	int fd, patience = 10;

	open_path(s, "socket");
	fail_accept(EMFILE);
	fd = dial(s->path);
	assert_idle(s);
	while (accepts_failed() < 3 && patience--)
		assert_int_equal(loop_turn(s->loop, 1000), 0);
	assert_true(accepts_failed() >= 3);
	failed_update(s);
	fail_accept(0);
	put_text(s, "hello");
	assert_read(s, fd, "hello");
	assert_int_equal(s->connects, 1);
	close(fd);
}

static void a_stale_socket_is_replaced(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct sink *s = *state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, s->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	close(fd);
	open_path(s, "socket");
	fd = dial(s->path);
	settle(s);
	assert_int_equal(s->connects, 1);
	close(fd);
}

static void what_is_in_use_is_not_replaced(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct sink *s = *state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, s->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	assert_int_equal(listen(fd, 1), 0);
	snprintf(s->spec, sizeof(s->spec), "socket=%s", s->path);
	assert_int_equal(open_fails(s, s->spec, s->path), -EADDRINUSE);
	assert_int_equal(access(s->path, F_OK), 0);
	close(fd);
	unlink(s->path);
	fd = open(s->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(open_fails(s, s->spec, "another kind of file"), -EEXIST);
	assert_int_equal(access(s->path, F_OK), 0);
}

/* Neither by a second start nor by the end of one whose file somebody has replaced. */
static void a_socket_of_another_stays(void **state)
{
	struct sink *s = *state;
	struct chardev *first;
	int fd;

	open_path(s, "socket");
	first = s->cd;
	assert_int_equal(open_fails(s, s->spec, s->path), -EADDRINUSE);
	s->cd = first;
	put_text(s, "for the first peer");
	fd = dial(s->path);
	assert_read(s, fd, "for the first peer");
	assert_int_equal(s->connects, 1);
	close(fd);
	settle(s);
	assert_int_equal(unlink(s->path), 0);
	first = s->cd;
	open_path(s, "socket");
	chardev_close(first);
	assert_int_equal(access(s->path, F_OK), 0);
	update(s);
	assert_int_equal(unlink(s->path), 0);
	first = s->cd;
	open_path(s, "socket");
	chardev_close(first);
	assert_int_equal(access(s->path, F_OK), 0);
	chardev_close(s->cd);
	s->cd = NULL;
	assert_int_equal(access(s->path, F_OK), -1);
}

/* After a way back in another process. */
static void peers_see_who_serves(void **state)
{
	struct sink *s = *state;
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	pid_t pid;
	int fd;

	open_chardev(s, "null");
	chardev_listen_again(s->cd);
	chardev_close(s->cd);
	open_path(s, "socket");
	pid = fork();
	if (pid == 0) {
		chardev_listen_again(s->cd);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	fd = dial(s->path);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len), 0);
	assert_int_equal(peer.pid, pid);
	close(fd);
}

static void a_long_path_is_refused(void **state)
{
	char spec[200] = "socket=";
	struct sink *s = *state;

	memset(spec + 7, 'x', 108);
	assert_int_equal(open_fails(s, spec, "107"), -ENAMETOOLONG);
}

static void a_connection_survives_updates(void **state)
{
	struct sink *s = *state;
	int fd;

	open_path(s, "socket");
	fd = dial(s->path);
	settle(s);
	put_text(s, "a");
	assert_int_equal(write(fd, "1", 1), 1);
	settle(s);
	update(s);
	assert_true(chardev_connected(s->cd));
	put_text(s, "b");
	assert_int_equal(write(fd, "2", 1), 1);
	settle(s);
	update(s);
	put_text(s, "c");
	assert_int_equal(write(fd, "3", 1), 1);
	assert_input(s, "123");
	assert_read(s, fd, "abc");
	assert_int_equal(s->connects, 1);
	chardev_close(s->cd);
	s->cd = NULL;
	assert_int_equal(access(s->path, F_OK), -1);
	close(fd);
}

static void a_failed_update_leaves_the_socket(void **state)
{
	struct sink *s = *state;
	int fd;

	open_path(s, "socket");
	fd = dial(s->path);
	settle(s);
	failed_update(s);
	assert_int_equal(access(s->path, F_OK), 0);
	put_text(s, "here");
	assert_read(s, fd, "here");
	assert_int_equal(write(fd, "there", 5), 5);
	assert_input(s, "there");
	close(fd);
	settle(s);
	assert_int_equal(s->disconnects, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(socket_serves_one_peer),
		T(a_second_peer_waits),
		T(input_of_a_peer_that_left_is_not_lost),
		T(the_next_peer_takes_the_place_of_one_that_left),
		T(a_peer_may_end_its_input_and_listen_on),
		T(a_peer_that_does_not_read_blocks_nobody),
		T(overflow_without_a_peer_keeps_the_end),
		T(overflow_after_an_update_keeps_the_end),
		T(what_was_begun_is_finished_after_an_update),
		T(a_peer_that_cannot_be_taken_waits),
		T(a_stale_socket_is_replaced),
		T(what_is_in_use_is_not_replaced),
		T(a_socket_of_another_stays),
		T(peers_see_who_serves),
		T(a_long_path_is_refused),
		T(a_connection_survives_updates),
		T(a_failed_update_leaves_the_socket),
	};

	/* As main() does. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
