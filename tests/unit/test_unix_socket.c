/* SPDX-License-Identifier: MIT */
/* Listening Unix sockets: whose they are, and that nobody loses one by another's start or end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/unix_socket.h>

#define STARTERS 6
#define ROUNDS 100

struct place {
	char dir[64];
	char path[96];
	struct unix_socket_id id;
	struct error err;
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	strcpy(p->dir, "/tmp/molt-unix-socket-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->path, sizeof(p->path), "%s/socket", p->dir);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	unlink(p->path);
	chmod(p->dir, 0700);
	assert_int_equal(rmdir(p->dir), 0);
	free(p);
	return 0;
}

static int start(struct place *p)
{
	return unix_socket_listen("test socket", p->path, 4, &p->id, &p->err);
}

static int bound(const struct place *p, int type)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

	strcpy(sun.sun_path, p->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static void leave_stale(const struct place *p)
{
	close(bound(p, SOCK_STREAM));
}

static int dial(const struct place *p)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(sun.sun_path, p->path);
	if (connect(fd, (struct sockaddr *)&sun, sizeof(sun)) == 0)
		return fd;
	close(fd);
	return -1;
}

static ino_t inode_at(const struct place *p)
{
	struct stat st;

	return lstat(p->path, &st) < 0 ? 0 : st.st_ino;
}

static void is_ours_alone(void **state)
{
	mode_t mask = umask(0);
	struct place *p = *state;
	struct stat st;
	int fd = start(p);

	umask(mask);
	assert_true(fd >= 0);
	assert_int_equal(stat(p->path, &st), 0);
	assert_int_equal(st.st_mode, S_IFSOCK | 0600);
	assert_true(p->id.dev == st.st_dev && p->id.ino == st.st_ino);
	assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
	assert_true(fcntl(fd, F_GETFL) & O_NONBLOCK);
	unix_socket_close(&fd, &p->id, true);
	assert_int_equal(fd, -1);
	assert_int_equal(inode_at(p), 0);
}

static void a_stale_one_is_replaced(void **state)
{
	struct place *p = *state;
	int fd, peer;

	leave_stale(p);
	fd = start(p);
	assert_true(fd >= 0);
	peer = dial(p);
	assert_true(peer >= 0);
	close(peer);
	unix_socket_close(&fd, &p->id, true);
}

/* The question whether somebody is there takes no place in the backlog and wakes nobody. */
static void asking_takes_nothing_from_who_listens(void **state)
{
	struct place *p = *state, other = *p;
	int fd = start(p), before = (int)inode_at(p);

	for (int i = 0; i < 20; i++) {
		assert_int_equal(start(&other), -EADDRINUSE);
		assert_non_null(strstr(other.err.text, "another process listens there"));
	}
	assert_int_equal(accept4(fd, NULL, NULL, 0), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(inode_at(p), before);
	unix_socket_close(&fd, &p->id, true);
}

/* A full backlog, a socket that does not listen yet, one of another kind: none of them is stale. */
static void what_somebody_has_is_never_stale(void **state)
{
	struct place *p = *state;
	int peers[16], n = 0, fd;

	fd = bound(p, SOCK_STREAM);
	assert_int_equal(start(p), -EADDRINUSE);
	assert_int_equal(listen(fd, 1), 0);
	while (n < 16 && (peers[n] = dial(p)) >= 0)
		n++;
	assert_in_range(n, 1, 15);
	assert_int_equal(start(p), -EADDRINUSE);
	while (n)
		close(peers[--n]);
	close(fd);
	unlink(p->path);
	for (int type = SOCK_DGRAM; type; type = type == SOCK_DGRAM ? SOCK_SEQPACKET : 0) {
		fd = bound(p, type);
		assert_int_equal(start(p), -EADDRINUSE);
		close(fd);
		unlink(p->path);
	}
}

static void other_files_are_not_touched(void **state)
{
	struct place *p = *state;
	char target[100];

	close(open(p->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	assert_int_equal(start(p), -EEXIST);
	assert_int_equal(unlink(p->path), 0);
	snprintf(target, sizeof(target), "%s2", p->path);
	assert_int_equal(symlink(target, p->path), 0);
	assert_int_equal(start(p), -EEXIST);
	assert_int_equal(unlink(p->path), 0);
}

static void impossible_paths(void **state)
{
	struct place *p = *state;
	char path[200];

	memset(path, 'p', sizeof(path));
	path[108] = '\0';
	assert_int_equal(unix_socket_check_path("it", path, &p->err), -ENAMETOOLONG);
	assert_non_null(strstr(p->err.text, "107"));
	path[107] = '\0';
	assert_int_equal(unix_socket_check_path("it", path, &p->err), 0);
	assert_int_equal(unix_socket_listen("it", "", 1, &p->id, &p->err), -EINVAL);
	assert_int_equal(unix_socket_listen("it", "/no/such/dir/s", 1, &p->id, &p->err), -ENOENT);
}

/* Only the file that it made is removed: neither another's socket nor a file of any other kind. */
static void the_end_removes_its_own_file_alone(void **state)
{
	struct place *p = *state, other = *p;
	int first = start(p), second;

	assert_int_equal(unlink(p->path), 0);
	second = start(&other);
	assert_true(second >= 0);
	unix_socket_close(&first, &p->id, true);
	assert_int_equal(inode_at(p), other.id.ino);
	unix_socket_close(&second, &other.id, false);
	assert_int_equal(inode_at(p), other.id.ino);
}

/* As from a molt that did not save which file is its own. */
static void the_end_of_an_unknown_one(void **state)
{
	const struct unix_socket_id unknown = { 0 };
	struct unix_socket_id found = { 0 };
	struct place *p = *state, other = *p;
	int first = start(p), second;

	unix_socket_close(&first, &unknown, true);
	assert_int_equal(inode_at(p), 0);

	first = start(p);
	assert_int_equal(unlink(p->path), 0);
	second = start(&other);
	unix_socket_close(&first, &unknown, true);
	assert_int_equal(inode_at(p), other.id.ino);
	unix_socket_close(&second, &other.id, true);

	first = start(p);
	assert_int_equal(unlink(p->path), 0);
	close(open(p->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	unix_socket_close(&first, &unknown, true);
	assert_int_not_equal(inode_at(p), 0);

	assert_int_equal(unlink(p->path), 0);
	first = start(p);
	unix_socket_recognise(first, &found);
	assert_int_equal(found.ino, p->id.ino);
	unix_socket_close(&first, &found, true);
	assert_int_equal(inode_at(p), 0);

	first = socket(AF_UNIX, SOCK_STREAM, 0); /* never bound */
	unix_socket_close(&first, &unknown, true);
}

/*
 * Whoever was left behind by an update has the socket open for a while, too, and does not count;
 * and others can start in the directory meanwhile.
 */
static void the_end_waits_for_those_left_behind(void **state)
{
	const struct unix_socket_id unknown = { 0 };
	struct place *p = *state;
	int fd = start(p), status;
	pid_t pid = fork();

	if (pid == 0) {
		int dir = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), got = 0;

		for (int i = 0; i < 300; i++) {
			usleep(1000);
			if (flock(dir, LOCK_EX | LOCK_NB) == 0 && flock(dir, LOCK_UN) == 0)
				got++;
		}
		_exit(got > 150 ? 0 : 1);
	}
	unix_socket_close(&fd, &unknown, true);
	assert_int_equal(inode_at(p), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* What a starter saw; it stays, with its socket, until the other end of `stay` is closed. */
struct outcome {
	int result; /* 0 or -errno */
	uint64_t ino;
};

struct starters {
	int go[2], stay[2], out[2];
	pid_t pids[STARTERS];
};

static _Noreturn void be_starter(struct place *p, struct starters *s)
{
	struct outcome o = { 0 };
	char byte;
	int fd;

	close(s->go[1]);
	close(s->stay[1]);
	(void)!read(s->go[0], &byte, 1);
	fd = start(p);
	o.result = fd < 0 ? fd : 0;
	o.ino = p->id.ino;
	(void)!write(s->out[1], &o, sizeof(o));
	(void)!read(s->stay[0], &byte, 1);
	_exit(0);
}

static void start_all(struct place *p, struct starters *s)
{
	assert_int_equal(pipe2(s->go, O_CLOEXEC), 0);
	assert_int_equal(pipe2(s->stay, O_CLOEXEC), 0);
	assert_int_equal(pipe2(s->out, O_CLOEXEC), 0);
	for (int i = 0; i < STARTERS; i++) {
		s->pids[i] = fork();
		if (s->pids[i] == 0)
			be_starter(p, s);
	}
	close(s->go[1]); /* now */
}

static void end_all(struct starters *s)
{
	close(s->go[0]);
	close(s->stay[0]);
	close(s->stay[1]);
	close(s->out[0]);
	close(s->out[1]);
	for (int i = 0; i < STARTERS; i++)
		waitpid(s->pids[i], NULL, 0);
}

/* Several start at once on one stale file: one gets it, and nobody else believes so. */
static void of_many_starts_at_once_one_succeeds(void **state)
{
	struct place *p = *state;
	struct starters s;

	for (int round = 0; round < ROUNDS; round++) {
		uint64_t ino = 0;
		int won = 0;

		leave_stale(p);
		start_all(p, &s);
		for (int i = 0; i < STARTERS; i++) {
			struct outcome o;

			assert_int_equal(read(s.out[0], &o, sizeof(o)), sizeof(o));
			if (o.result == 0) {
				won++;
				ino = o.ino;
			} else {
				assert_int_equal(o.result, -EADDRINUSE);
			}
		}
		assert_int_equal(won, 1);
		assert_int_equal(inode_at(p), ino);
		end_all(&s);
		unlink(p->path);
	}
}

/* Killed at any point of it, a start keeps nobody from the next one. */
static void a_start_may_be_killed(void **state)
{
	struct place *p = *state;
	struct starters s;
	int fd;

	for (int round = 0; round < ROUNDS; round++) {
		leave_stale(p);
		start_all(p, &s);
		for (volatile int wait = round * 2000; wait > 0; wait--)
			;
		for (int i = 0; i < STARTERS; i++)
			kill(s.pids[i], SIGKILL);
		end_all(&s);
		fd = start(p);
		assert_true(fd >= 0);
		unix_socket_close(&fd, &p->id, true);
	}
}

static void without_the_lock_nothing_is_replaced(void **state)
{
	struct place *p = *state;
	int fd, dir = open(p->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ino_t stale;

	assert_int_equal(flock(dir, LOCK_EX), 0);
	fd = start(p); /* a free path needs none */
	assert_true(fd >= 0);
	unix_socket_close(&fd, &p->id, true);
	leave_stale(p);
	stale = inode_at(p);
	assert_int_equal(start(p), -EWOULDBLOCK);
	assert_non_null(strstr(p->err.text, "remove it yourself"));
	assert_int_equal(inode_at(p), stale);
	close(dir);
	fd = start(p);
	assert_true(fd >= 0);
	unix_socket_close(&fd, &p->id, true);
}

/* In a directory of another user's, which may be written and not read; or whose files stick. */
static void in_anothers_directory(void **state)
{
	struct place *p = *state;
	int status;
	pid_t pid;

	if (geteuid() != 0)
		skip();
	leave_stale(p);
	assert_int_equal(chmod(p->path, 0666), 0);
	pid = fork();
	if (pid == 0) {
		chmod(p->dir, 0733);
		if (setresuid(65534, 65534, 65534) != 0)
			_exit(99);
		_exit(start(p) == -EACCES && strstr(p->err.text, "remove it yourself") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(chmod(p->dir, 01777), 0);
	pid = fork();
	if (pid == 0) {
		if (setresuid(65534, 65534, 65534) != 0)
			_exit(99);
		_exit(start(p) == -EPERM && strstr(p->err.text, "cannot remove") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static pid_t peer_of(const struct place *p)
{
	struct ucred peer = { 0 };
	socklen_t len = sizeof(peer);
	int fd = dial(p);

	assert_true(fd >= 0);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len), 0);
	close(fd);
	return peer.pid;
}

/*
 * Another process than the one that made it serves it: peers see which, and who waits is not lost.
 */
static void listening_again_tells_who_listens(void **state)
{
	struct place *p = *state;
	int fd = start(p), early = dial(p), status;
	pid_t pid;

	assert_true(early >= 0);
	assert_int_equal(write(early, "x", 1), 1);
	assert_int_equal(peer_of(p), getpid());
	pid = fork();
	if (pid == 0)
		_exit(-unix_socket_listen_again(fd, 4));
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(peer_of(p), pid);
	assert_int_equal(unix_socket_listen_again(fd, 4), 0);
	assert_int_equal(peer_of(p), getpid());
	status = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
	assert_int_equal(read(status, &(char){ 0 }, 1), 1);
	close(status);
	close(early);
	unix_socket_close(&fd, &p->id, true);
	assert_int_equal(unix_socket_listen_again(fd, 4), -EBADF);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(is_ours_alone),
		TEST(a_stale_one_is_replaced),
		TEST(asking_takes_nothing_from_who_listens),
		TEST(what_somebody_has_is_never_stale),
		TEST(other_files_are_not_touched),
		TEST(impossible_paths),
		TEST(the_end_removes_its_own_file_alone),
		TEST(the_end_of_an_unknown_one),
		TEST(the_end_waits_for_those_left_behind),
		TEST(of_many_starts_at_once_one_succeeds),
		TEST(a_start_may_be_killed),
		TEST(without_the_lock_nothing_is_replaced),
		TEST(in_anothers_directory),
		TEST(listening_again_tells_who_listens),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests_name("unix_socket", tests, NULL, NULL);
}
