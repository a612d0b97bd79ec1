/* SPDX-License-Identifier: MIT */
/* Character backends on standard descriptors of all kinds, and on a new pseudo-terminal. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "chardev_bench.h"

/* ---- standard input and output ---- */

static void pipes_carry_bytes_as_they_are(void **state)
{
	struct sink *s = *state;
	int in[2], out[2];

	assert_int_equal(pipe(in), 0);
	assert_int_equal(pipe(out), 0);
	replace_std(s, in[0], out[1]);
	open_chardev(s, "tty");
	assert_int_equal(write(in[1], "a\001x\003", 4), 4);
	assert_input(s, "a\001x\003");
	assert_int_equal(s->quits, 0);
	put_text(s, "out");
	assert_read(s, out[0], "out");
	/* Whoever shares these with us must not find them changed. */
	assert_int_equal(fcntl(0, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal(fcntl(1, F_GETFL) & O_NONBLOCK, 0);
	for (int i = 0; i < 2; i++) {
		close(in[i]);
		close(out[i]);
	}
}

static void input_stops_without_room(void **state)
{
	struct sink *s = *state;
	int in[2];

	assert_int_equal(pipe(in), 0);
	replace_std(s, in[0], 1);
	open_chardev(s, "tty");
	s->room = 3;
	assert_int_equal(write(in[1], "abcdef", 6), 6);
	settle(s);
	assert_int_equal(s->len, 3);
	assert_idle(s);
	s->room = 2;
	chardev_input_ready(s->cd);
	settle(s);
	assert_int_equal(s->len, 5);
	s->room = 10;
	chardev_input_ready(s->cd);
	assert_input(s, "abcdef");
	close(in[0]);
	close(in[1]);
}

static void end_of_input_is_quiet(void **state)
{
	struct sink *s = *state;
	int in[2];

	assert_int_equal(pipe(in), 0);
	replace_std(s, in[0], 1);
	close(in[0]);
	open_chardev(s, "tty");
	assert_int_equal(write(in[1], "last", 4), 4);
	close(in[1]);
	assert_input(s, "last");
	assert_idle(s);
	chardev_input_ready(s->cd);
	assert_idle(s);
}

static void end_of_input_without_room_is_quiet_and_keeps_the_rest(void **state)
{
	struct sink *s = *state;
	int in[2];

	assert_int_equal(pipe(in), 0);
	replace_std(s, in[0], 1);
	close(in[0]);
	open_chardev(s, "tty");
	s->room = 1;
	assert_int_equal(write(in[1], "last", 4), 4);
	close(in[1]);
	assert_idle(s);
	assert_int_equal(s->len, 1);
	s->room = 100;
	chardev_input_ready(s->cd);
	assert_input(s, "last");
	assert_idle(s);
}

static void dev_null_is_quiet(void **state)
{
	struct sink *s = *state;
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	replace_std(s, fd, fd);
	close(fd);
	open_chardev(s, "tty");
	put_text(s, "x");
	assert_idle(s);
	assert_int_equal(s->len, 0);
	update(s);
	assert_idle(s);
}

static void a_file_as_input_is_read_to_its_end(void **state)
{
	struct sink *s = *state;
	int fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	for (int i = 0; i < 10000; i++)
		assert_int_equal(write(fd, "0123456789", 10), 10);
	lseek(fd, 0, SEEK_SET);
	replace_std(s, fd, 1);
	close(fd);
	open_chardev(s, "tty");
	for (size_t want = 16; want < 1600; want += 16) {
		s->room = 16;
		chardev_input_ready(s->cd);
		settle(s);
		assert_int_equal(s->len, want);
	}
	update(s);
	s->room = INPUT_MAX - s->len;
	chardev_input_ready(s->cd);
	assert_idle(s);
	assert_int_equal(s->len, 100000);
	for (size_t i = 0; i < s->len; i++)
		assert_int_equal(s->input[i], '0' + i % 10);
}

static void sockets_as_standard_descriptors(void **state)
{
	struct sink *s = *state;
	int sv[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
	replace_std(s, sv[0], sv[0]);
	close(sv[0]);
	open_chardev(s, "tty");
	assert_int_equal(send(sv[1], "in", 2, 0), 2);
	assert_input(s, "in");
	put_text(s, "out");
	assert_read(s, sv[1], "out");
	close(sv[1]);
	assert_idle(s);
	put_text(s, "gone");
	assert_idle(s);
}

static void a_reader_that_leaves_ends_output_for_good(void **state)
{
	struct sink *s = *state;
	int out[2];

	assert_int_equal(pipe(out), 0);
	replace_std(s, open("/dev/null", O_RDONLY), out[1]);
	close(out[1]);
	open_chardev(s, "tty");
	close(out[0]);
	for (int i = 0; i < 10; i++) {
		put_text(s, "lost");
		settle(s);
	}
	assert_idle(s);
	assert_int_equal(log_count(s, "Broken pipe"), 1);
	update(s);
	put_text(s, "lost");
	assert_idle(s);
	assert_int_equal(log_count(s, "Broken pipe"), 1);
}

static void a_slow_reader_blocks_nobody(void **state)
{
	static char text[300000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text));
	int out[2];

	assert_int_equal(pipe(out), 0);
	replace_std(s, open("/dev/null", O_RDONLY), out[1]);
	close(out[1]);
	open_chardev(s, "tty");
	for (size_t i = 0; i < len; i += 100) {
		chardev_write(s->cd, (const uint8_t *)text + i, len - i < 100 ? len - i : 100);
		if (i % 10000 == 0)
			settle(s);
	}
	assert_idle(s);
	assert_int_equal(log_count(s, "dropped so far"), 1);
	/*
	 * What the pipe has taken and the piece after that are the oldest, the queue has the
	 * newest.
	 */
	assert_in_range(drain_newest(s, out[0], len, 1), QUEUE_BYTES + 45000, 2 * 65536 + 4096);
	put_text(s, "and on it goes");
	assert_read(s, out[0], "and on it goes");
	close(out[0]);
}

static void nobody(void *opaque)
{
	(void)opaque;
}

/* All that there is, of which `len` bytes of text came before; how many came by now. */
static size_t read_on(int fd, const char *text, size_t len)
{
	char buf[4096];
	ssize_t n;

	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		assert_memory_equal(buf, text + len, (size_t)n);
		len += (size_t)n;
	}
	return len;
}

/* Nobody waits there until the reader has room again: the guest's next output is what asks. */
static void a_stand_in_loses_nothing_to_a_reader_that_was_behind(void **state)
{
	static char text[400000];
	size_t len = numbered(text, sizeof(text)), got = 0;
	struct error err = ERROR_INIT;
	struct sink *s = *state;
	int out[2];

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_true(fcntl(out[1], F_SETPIPE_SZ, 8192) > 0);
	fd_set_nonblock(out[0], true);
	replace_std(s, open("/dev/null", O_RDONLY | O_CLOEXEC), out[1]);
	close(out[1]);
	open_chardev(s, "tty");
	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	loop_hold(s->loop, nobody, s);
	chardev_serve(s->cd);
	for (size_t i = 0; i < len; i += 4000) {
		chardev_write(s->cd, (const uint8_t *)text + i, len - i < 4000 ? len - i : 4000);
		settle(s);
		if (i >= 20000)
			got = read_on(out[0], text, got);
	}
	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	loop_release(s->loop);
	chardev_resume(s->cd);
	while (got < len) {
		size_t before = got;

		settle(s);
		got = read_on(out[0], text, got);
		assert_true(got > before);
	}
	assert_int_equal(log_count(s, "dropped"), 0);
	close(out[0]);
}

/* ---- a terminal ---- */

struct terminal {
	int master;
	int slave;
	pid_t other; /* a job of the session's that may have the foreground */
	struct termios before;
};

static void make_pty(struct terminal *t)
{
	char name[64];

	/* There is padding in it, and it is compared. */
	memset(&t->before, 0, sizeof(t->before));
	t->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	assert_true(t->master >= 0);
	assert_int_equal(unlockpt(t->master), 0);
	assert_int_equal(ptsname_r(t->master, name, sizeof(name)), 0);
	t->slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(t->slave >= 0);
	assert_int_equal(tcgetattr(t->slave, &t->before), 0);
}

static void make_terminal(struct sink *s, struct terminal *t)
{
	make_pty(t);
	replace_std(s, t->slave, t->slave);
	open_chardev(s, "tty");
}

static void end_terminal(struct terminal *t)
{
	close(t->master);
	close(t->slave);
}

static void type(struct terminal *t, const char *keys)
{
	assert_int_equal(write(t->master, keys, strlen(keys)), (ssize_t)strlen(keys));
}

static void terminal_is_raw_until_close(void **state)
{
	struct sink *s = *state;
	struct terminal t;
	struct termios now = { 0 };

	make_terminal(s, &t);
	tcgetattr(t.slave, &now);
	assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), 0);
	assert_true(now.c_oflag & OPOST);
	assert_int_equal(fcntl(0, F_GETFL) & O_NONBLOCK, 0);
	type(&t, "\003\r");
	assert_input(s, "\003\r");
	chardev_close(s->cd);
	s->cd = NULL;
	tcgetattr(t.slave, &now);
	assert_memory_equal(&now, &t.before, sizeof(now));
	end_terminal(&t);
}

static void ctrl_a_x_quits(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	make_terminal(s, &t);
	type(&t, "ab\001xc");
	assert_input(s, "abc");
	assert_int_equal(s->quits, 1);
	end_terminal(&t);
}

/* By who waits for molt, which waits for a disk. */
static void ctrl_a_x_again_quits_once(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	make_terminal(s, &t);
	type(&t, "\001x\001x\001x");
	settle(s);
	assert_int_equal(s->quits, 1);
	end_terminal(&t);
}

static void ctrl_a_twice_sends_one(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	make_terminal(s, &t);
	type(&t, "\001");
	settle(s);
	assert_int_equal(s->len, 0);
	type(&t, "\001x");
	assert_input(s, "\001x");
	type(&t, "\001qz");
	assert_input(s, "z");
	assert_int_equal(s->quits, 0);
	end_terminal(&t);
}

static void terminal_survives_an_update(void **state)
{
	struct sink *s = *state;
	struct terminal t;
	struct termios raw = { 0 }, now = { 0 };

	make_terminal(s, &t);
	tcgetattr(t.slave, &raw);
	type(&t, "\001");
	settle(s);
	update(s);
	tcgetattr(t.slave, &now);
	assert_memory_equal(&now, &raw, sizeof(now));
	type(&t, "x");
	settle(s);
	assert_int_equal(s->quits, 1);
	put_text(s, "on");
	assert_read(s, t.master, "on");
	/* The successor gives the user the settings back that its predecessor found. */
	chardev_close(s->cd);
	s->cd = NULL;
	tcgetattr(t.slave, &now);
	assert_memory_equal(&now, &t.before, sizeof(now));
	end_terminal(&t);
}

static void a_failed_update_leaves_the_terminal_raw(void **state)
{
	struct sink *s = *state;
	struct terminal t;
	struct termios raw = { 0 }, now = { 0 };

	make_terminal(s, &t);
	tcgetattr(t.slave, &raw);
	failed_update(s);
	tcgetattr(t.slave, &now);
	assert_memory_equal(&now, &raw, sizeof(now));
	type(&t, "k");
	assert_input(s, "k");
	end_terminal(&t);
}

static void a_terminal_that_goes_away_is_quiet(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	make_terminal(s, &t);
	end_terminal(&t);
	assert_idle(s);
	put_text(s, "lost");
	assert_idle(s);
	put_text(s, "lost");
	assert_idle(s);
	assert_int_equal(log_count(s, "cannot write"), 1);
}

static void set_settings(const struct terminal *t, const struct termios *settings)
{
	assert_int_equal(tcsetattr(t->slave, TCSANOW, settings), 0);
}

/* Somebody who has it open, too, sets it: "stty sane </dev/pts/N". */
static void ctrl_d_is_not_the_end_of_a_terminal(void **state)
{
	struct sink *s = *state;
	struct terminal t;
	struct termios now = { 0 };

	make_terminal(s, &t);
	set_settings(&t, &t.before);
	type(&t, "\004");
	assert_idle(s);
	assert_int_equal(s->len, 0);
	tcgetattr(t.slave, &now);
	assert_int_equal(now.c_lflag & (ICANON | ECHO | ISIG), 0);
	type(&t, "\004k");
	assert_input(s, "\004k");
	end_terminal(&t);
	assert_idle(s);
}

static void a_stopped_terminal_blocks_nobody(void **state)
{
	static char text[300000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text));
	struct terminal t;

	make_terminal(s, &t);
	for (size_t i = 0; i < len; i += 1000) {
		chardev_write(s->cd, (const uint8_t *)text + i, len - i < 1000 ? len - i : 1000);
		settle(s);
	}
	assert_idle(s);
	assert_in_range(drain_newest(s, t.master, len, 1), QUEUE_BYTES - 512, len - 1);
	end_terminal(&t);
}

/* ---- a terminal that is shared with a shell, whose part is played here, too ---- */

static void give_to(const struct terminal *t, pid_t group)
{
	assert_int_equal(tcsetpgrp(t->slave, group), 0);
}

static void share_terminal(struct sink *s, struct terminal *t, bool foreground)
{
	int last = open("/dev/tty", O_RDWR | O_CLOEXEC);

	if (last >= 0) { /* of a case that failed */
		ioctl(last, TIOCNOTTY);
		close(last);
	}
	make_pty(t);
	assert_int_equal(ioctl(t->slave, TIOCSCTTY, 0), 0);
	t->other = fork();
	assert_true(t->other >= 0);
	if (t->other == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (;;)
			pause();
	}
	assert_int_equal(setpgid(t->other, 0), 0);
	give_to(t, foreground ? getpgrp() : t->other);
	replace_std(s, t->slave, t->slave);
	open_chardev(s, "tty");
}

static void end_shared(struct terminal *t)
{
	kill(t->other, SIGKILL);
	waitpid(t->other, NULL, 0);
	end_terminal(t);
}

static void assert_settings(const struct terminal *t, const struct termios *want)
{
	struct termios now = { 0 };

	tcgetattr(t->slave, &now);
	assert_memory_equal(&now, want, sizeof(now));
}

static bool is_raw(const struct terminal *t)
{
	struct termios now = { 0 };

	tcgetattr(t->slave, &now);
	return !(now.c_lflag & (ICANON | ECHO | ISIG));
}

static void wait_raw(struct sink *s, const struct terminal *t, bool raw)
{
	uint64_t end = now_ns() + 5000000000ull;

	while (is_raw(t) != raw && now_ns() < end)
		assert_int_equal(loop_turn(s->loop, 10), 0);
	assert_true(is_raw(t) == raw);
}

static void close_and_expect(struct sink *s, struct terminal *t, const struct termios *want)
{
	chardev_close(s->cd);
	s->cd = NULL;
	assert_settings(t, want);
	end_shared(t);
}

static void in_the_background_it_neither_reads_nor_sets(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	share_terminal(s, &t, false);
	assert_settings(&t, &t.before);
	type(&t, "x\n");
	assert_idle(s);
	assert_int_equal(s->len, 0);
	put_text(s, "out");
	assert_idle(s);
	assert_settings(&t, &t.before);
	/* A shell that brings a running job to the foreground sends no signal. */
	give_to(&t, getpgrp());
	wait_raw(s, &t, true);
	assert_input(s, "x\n");
	close_and_expect(s, &t, &t.before);
}

static void a_foreground_that_is_lost_is_noticed_before_a_read(void **state)
{
	struct sink *s = *state;
	struct termios others;
	struct terminal t;

	share_terminal(s, &t, true);
	assert_true(is_raw(&t));
	others = t.before;
	others.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
	give_to(&t, t.other);
	set_settings(&t, &others);
	type(&t, "x");
	assert_idle(s);
	assert_int_equal(s->len, 0);
	assert_settings(&t, &others);
	update(s);
	assert_settings(&t, &others);
	give_to(&t, getpgrp());
	wait_raw(s, &t, true);
	assert_input(s, "x");
	close_and_expect(s, &t, &others);
}

/* The shell takes it when we have asked whose it is, and have not read yet. */
static pid_t taker;

pid_t tcgetpgrp(int fd)
{
	pid_t group = 0, next = taker;

	if (ioctl(fd, TIOCGPGRP, &group) < 0)
		return -1;
	taker = 0;
	if (next)
		ioctl(fd, TIOCSPGRP, &next);
	return group;
}

static void a_foreground_that_is_lost_before_a_read_comes_back(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	share_terminal(s, &t, true);
	type(&t, "x");
	taker = t.other;
	assert_idle(s);
	assert_int_equal(taker, 0);
	assert_int_equal(s->len, 0);
	assert_settings(&t, &t.before);
	assert_int_equal(log_count(s, "no more input"), 0);
	give_to(&t, getpgrp());
	wait_raw(s, &t, true);
	assert_input(s, "x");
	close_and_expect(s, &t, &t.before);
}

static void it_is_right_while_stopped(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	share_terminal(s, &t, true);
	for (int i = 0; i < 2; i++) {
		chardev_job_control(s->cd, true);
		assert_settings(&t, &t.before);
		chardev_job_control(s->cd, false);
		assert_true(is_raw(&t));
		type(&t, "k");
		assert_input(s, "k");
	}
	close_and_expect(s, &t, &t.before);
}

static void what_was_set_while_stopped_comes_back(void **state)
{
	struct sink *s = *state;
	struct termios others;
	struct terminal t;

	share_terminal(s, &t, true);
	others = t.before;
	others.c_lflag |= NOFLSH;
	chardev_job_control(s->cd, true);
	set_settings(&t, &others);
	chardev_job_control(s->cd, false);
	assert_true(is_raw(&t));
	update(s);
	close_and_expect(s, &t, &others);
}

/* After SIGSTOP, under a shell that leaves settings alone. */
static void its_own_raw_mode_is_not_taken_for_the_shells(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	share_terminal(s, &t, true);
	chardev_job_control(s->cd, false);
	assert_true(is_raw(&t));
	update(s);
	chardev_job_control(s->cd, false);
	assert_true(is_raw(&t));
	close_and_expect(s, &t, &t.before);
}

static void left_raw_it_is_put_right_in_the_background(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	share_terminal(s, &t, true);
	give_to(&t, t.other);
	chardev_job_control(s->cd, false);
	assert_settings(&t, &t.before);
	give_to(&t, getpgrp());
	chardev_job_control(s->cd, false);
	assert_true(is_raw(&t));
	give_to(&t, t.other);
	update(s);
	assert_settings(&t, &t.before);
	close_and_expect(s, &t, &t.before);
}

static void raw_mode_of_another_is_left_alone(void **state)
{
	struct sink *s = *state;
	struct termios raw = { 0 };
	struct terminal t;

	share_terminal(s, &t, true);
	tcgetattr(t.slave, &raw);
	chardev_job_control(s->cd, true);
	give_to(&t, t.other);
	chardev_job_control(s->cd, false);
	set_settings(&t, &raw);
	assert_idle(s);
	chardev_job_control(s->cd, false);
	assert_settings(&t, &raw);
	close_and_expect(s, &t, &raw);
}

static void an_update_in_the_background(void **state)
{
	struct sink *s = *state;
	struct termios others;
	struct terminal t;

	share_terminal(s, &t, false);
	failed_update(s);
	update(s);
	assert_settings(&t, &t.before);
	others = t.before;
	others.c_lflag |= NOFLSH;
	set_settings(&t, &others);
	give_to(&t, getpgrp());
	wait_raw(s, &t, true);
	type(&t, "k");
	assert_input(s, "k");
	close_and_expect(s, &t, &others);
}

static void count(void *opaque)
{
	++*(unsigned int *)opaque;
}

/* Who waits makes the successor hurry, and a look now and then is nobody. */
static void an_update_in_the_background_is_not_hurried(void **state)
{
	const uint64_t until = now_ns() + 400000000;
	unsigned int waits = 0;
	struct sink *s = *state;
	struct error err = ERROR_INIT;
	struct terminal t;

	share_terminal(s, &t, false);
	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	loop_hold(s->loop, count, &waits);
	while (now_ns() < until)
		assert_int_equal(loop_turn(s->loop, 10), 0);
	assert_int_equal(waits, 0);
	loop_release(s->loop);
	chardev_resume(s->cd);
	give_to(&t, getpgrp());
	wait_raw(s, &t, true);
	close_and_expect(s, &t, &t.before);
}

static void a_stand_in_puts_it_right_first(void **state)
{
	struct sink *s = *state;
	struct error err = ERROR_INIT;
	struct terminal t;

	share_terminal(s, &t, true);
	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	chardev_revive(s->cd, false);
	assert_settings(&t, &t.before);
	chardev_resume(s->cd);
	assert_true(is_raw(&t));
	type(&t, "k");
	assert_input(s, "k");
	close_and_expect(s, &t, &t.before);
}

static void a_hangup_in_the_background_is_quiet(void **state)
{
	struct sink *s = *state;
	struct terminal t;

	share_terminal(s, &t, false);
	close(t.master);
	assert_idle(s);
	chardev_job_control(s->cd, false);
	assert_idle(s);
	assert_int_equal(log_count(s, "terminal"), 0);
	kill(t.other, SIGKILL);
	waitpid(t.other, NULL, 0);
	close(t.slave);
}

/* ---- pty ---- */

static int open_slave(struct sink *s)
{
	const char *where = chardev_describe(s->cd);
	int fd;

	assert_memory_equal(where, "pty /dev/", 9);
	fd = open(where + 4, O_RDWR | O_NOCTTY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void pty_carries_both_ways(void **state)
{
	struct sink *s = *state;
	int fd;

	open_chardev(s, "pty");
	assert_int_equal(log_count(s, chardev_describe(s->cd)), 1);
	fd = open_slave(s);
	put_text(s, "login: \r\n");
	assert_read(s, fd, "login: \r\n");
	assert_int_equal(write(fd, "root\003\r", 6), 6);
	assert_input(s, "root\003\r");
	/* The line discipline does not echo. */
	assert_read(s, fd, "");
	close(fd);
}

static void pty_without_a_user_is_quiet(void **state)
{
	struct sink *s = *state;
	int fd;

	open_chardev(s, "pty");
	assert_idle(s);
	put_text(s, "hello");
	assert_idle(s);
	fd = open_slave(s);
	assert_read(s, fd, "hello");
	close(fd);
	assert_idle(s);
	put_text(s, "again");
	fd = open_slave(s);
	assert_read(s, fd, "again");
	close(fd);
}

static void pty_overflow_keeps_the_end(void **state)
{
	static char text[300000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text));
	int fd;

	open_chardev(s, "pty");
	for (size_t i = 0; i < len; i += 1000)
		chardev_write(s->cd, (const uint8_t *)text + i, len - i < 1000 ? len - i : 1000);
	assert_idle(s);
	fd = open_slave(s);
	assert_in_range(drain_newest(s, fd, len, 1), QUEUE_BYTES - 512, len - 1);
	close(fd);
}

static void pty_survives_an_update(void **state)
{
	struct sink *s = *state;
	char where[64];
	int fd;

	open_chardev(s, "pty");
	snprintf(where, sizeof(where), "%s", chardev_describe(s->cd));
	fd = open_slave(s);
	put_text(s, "one ");
	update(s);
	assert_string_equal(chardev_describe(s->cd), where);
	put_text(s, "two");
	assert_read(s, fd, "one two");
	assert_int_equal(write(fd, "x", 1), 1);
	assert_input(s, "x");
	close(fd);
	assert_idle(s);
}

static void pty_goes_on_after_a_hangup(void **state)
{
	struct sink *s = *state;
	struct termios t;
	int fd;

	open_chardev(s, "pty");
	fd = open_slave(s);
	if (ioctl(fd, TIOCVHANGUP) < 0) {
		print_message("hanging up a terminal needs CAP_SYS_ADMIN: %s\n", strerror(errno));
		close(fd);
		skip();
	}
	close(fd);
	assert_idle(s);
	/* The hang-up reset the settings; the next user makes their own. */
	fd = open_slave(s);
	assert_int_equal(tcgetattr(fd, &t), 0);
	cfmakeraw(&t);
	assert_int_equal(tcsetattr(fd, TCSANOW, &t), 0);
	put_text(s, "still here");
	assert_read(s, fd, "still here");
	update(s);
	assert_int_equal(write(fd, "me too", 6), 6);
	assert_input(s, "me too");
	close(fd);
}

/* Goes on in a child that has no terminal yet; its exit status is ours. */
static void lead_a_session(void)
{
	pid_t child = fork();
	int status = 0;

	if (child == 0 && setsid() >= 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		return;
	}
	if (child <= 0 || waitpid(child, &status, 0) < 0)
		_exit(1);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

int main(void)
{
	sigset_t background;
	const struct CMUnitTest tests[] = {
		T(pipes_carry_bytes_as_they_are),
		T(input_stops_without_room),
		T(end_of_input_is_quiet),
		T(end_of_input_without_room_is_quiet_and_keeps_the_rest),
		T(dev_null_is_quiet),
		T(a_file_as_input_is_read_to_its_end),
		T(sockets_as_standard_descriptors),
		T(a_reader_that_leaves_ends_output_for_good),
		T(a_slow_reader_blocks_nobody),
		T(a_stand_in_loses_nothing_to_a_reader_that_was_behind),
		T(terminal_is_raw_until_close),
		T(ctrl_a_x_quits),
		T(ctrl_a_x_again_quits_once),
		T(ctrl_a_twice_sends_one),
		T(terminal_survives_an_update),
		T(a_failed_update_leaves_the_terminal_raw),
		T(a_terminal_that_goes_away_is_quiet),
		T(ctrl_d_is_not_the_end_of_a_terminal),
		T(a_stopped_terminal_blocks_nobody),
		T(in_the_background_it_neither_reads_nor_sets),
		T(a_foreground_that_is_lost_is_noticed_before_a_read),
		T(a_foreground_that_is_lost_before_a_read_comes_back),
		T(it_is_right_while_stopped),
		T(what_was_set_while_stopped_comes_back),
		T(its_own_raw_mode_is_not_taken_for_the_shells),
		T(left_raw_it_is_put_right_in_the_background),
		T(raw_mode_of_another_is_left_alone),
		T(an_update_in_the_background),
		T(an_update_in_the_background_is_not_hurried),
		T(a_stand_in_puts_it_right_first),
		T(a_hangup_in_the_background_is_quiet),
		T(pty_carries_both_ways),
		T(pty_without_a_user_is_quiet),
		T(pty_overflow_keeps_the_end),
		T(pty_survives_an_update),
		T(pty_goes_on_after_a_hangup),
	};

	lead_a_session();
	/* As molt does. */
	signal(SIGPIPE, SIG_IGN);
	sigemptyset(&background);
	sigaddset(&background, SIGTTIN);
	sigaddset(&background, SIGTTOU);
	sigprocmask(SIG_BLOCK, &background, NULL);
	/* Comes when a terminal is given up. */
	signal(SIGHUP, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
