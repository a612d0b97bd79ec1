/* SPDX-License-Identifier: MIT */
/* Character backends: opening, files, the queue, saving and loading. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "chardev_bench.h"
#include "hanging_file.h"

/* ---- opening ---- */

static void unknown_backends_are_refused(void **state)
{
	static const char *const specs[] = { "",     "modem", "tt",     "ttyx",    "tty=", "null=x",
					     "file", "file=", "socket", "socket=", "=x" };
	struct sink *s = *state;

	for (size_t i = 0; i < ARRAY_SIZE(specs); i++)
		assert_int_equal(open_fails(s, specs[i], "socket=PATH"), -EINVAL);
}

static void null_swallows(void **state)
{
	struct sink *s = *state;

	open_chardev(s, "null");
	assert_false(chardev_connected(s->cd));
	assert_string_equal(chardev_describe(s->cd), "null");
	for (int i = 0; i < 1000; i++)
		put_text(s, "nobody hears a thing of what is said here, and nothing is logged");
	update(s);
	assert_idle(s);
	assert_int_equal(log_count(s, "dropped"), 0);
}

/* ---- file ---- */

static void file_appends_and_is_private(void **state)
{
	struct sink *s = *state;
	struct stat st;
	int fd = open(s->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, "old ", 4), 4);
	close(fd);
	open_path(s, "file");
	assert_true(chardev_connected(s->cd));
	put_text(s, "new");
	settle(s);
	assert_file(s->path, "old new");
	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void file_is_created_private(void **state)
{
	struct sink *s = *state;
	mode_t mask = umask(0);
	struct stat st;

	open_path(s, "file");
	umask(mask);
	assert_int_equal(stat(s->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void file_that_cannot_be_is_named(void **state)
{
	struct sink *s = *state;

	assert_int_equal(open_fails(s, "file=/no/such/place", "/no/such/place"), -ENOENT);
	assert_int_equal(open_fails(s, "file=/tmp", "/tmp"), -EISDIR);
}

static void full_disk_is_logged_once(void **state)
{
	struct sink *s = *state;

	open_chardev(s, "file=/dev/full");
	for (int i = 0; i < 10; i++) {
		put_text(s, "lost");
		settle(s);
	}
	assert_idle(s);
	assert_int_equal(log_count(s, "No space left"), 1);
}

/* ---- a file system that hangs ---- */

static off_t file_size(const char *path)
{
	struct stat st;

	return stat(path, &st) < 0 ? 0 : st.st_size;
}

static void a_file_that_hangs_blocks_nobody(void **state)
{
	static char text[300000];
	struct sink *s = *state;
	size_t len = numbered(text, sizeof(text));
	struct error err = ERROR_INIT;
	int fd;

	open_path(s, "file");
	hang_file(s->path);
	put_text(s, "0000000\n");
	settle(s);
	hang_wait();
	for (size_t i = 8; i < len; i += 1000) {
		chardev_write(s->cd, (const uint8_t *)text + i, len - i < 1000 ? len - i : 1000);
		settle(s);
	}
	assert_idle(s);
	assert_int_equal(log_count(s, "dropped so far"), 1);
	/* No exec while a thread is in that: the update is refused, and nothing has changed. */
	assert_int_equal(chardev_quiesce(s->cd, &err), -EBUSY);
	assert_non_null(strstr(err.text, s->path));
	assert_non_null(strstr(err.text, "hangs"));
	hang_file(NULL);
	settle(s);
	chardev_close(s->cd);
	s->cd = NULL;
	fd = open(s->path, O_RDONLY | O_CLOEXEC);
	assert_in_range(drain_newest(s, fd, len, 1), QUEUE_BYTES - 512, len - 1);
	close(fd);
}

/* An update that is refused for it, or gets no further, does not cost the guest its output. */
static void output_goes_on_after_a_rest(void **state)
{
	struct sink *s = *state;

	open_path(s, "file");
	for (int in_time = 0; in_time < 2; in_time++) {
		struct error err = ERROR_INIT;

		hang_file(s->path);
		put_text(s, "a");
		settle(s);
		hang_wait();
		/* No call waits for the write, and the guest may go on writing. */
		assert_int_equal(chardev_rest(s->cd, &err), -EBUSY);
		put_text(s, "b");
		settle(s);
		hang_file(NULL);
		for (int i = 0; in_time && i < 1000 && chardev_rest(s->cd, &err) < 0; i++)
			usleep(1000);
		if (in_time)
			assert_int_equal(chardev_rest(s->cd, &err), 0);
		chardev_go_on(s->cd);
		for (int i = 0; i < 200 && file_size(s->path) < 2 * (in_time + 1); i++)
			settle(s);
		assert_file(s->path, in_time ? "abab" : "ab");
	}
}

static void the_end_does_not_wait_for_a_file_that_hangs(void **state)
{
	static struct chardev *left; /* for good: a thread is in it */
	struct sink *s = *state;
	uint64_t before;
	char label[16];

	open_path(s, "file");
	hang_file(s->path);
	put_text(s, "late");
	settle(s);
	hang_wait();
	before = now_ns();
	left = s->cd;
	chardev_close(s->cd);
	s->cd = NULL;
	assert_in_range(now_ns() - before, 1000000000ull, 4000000000ull);
	chardev_label(left, label, sizeof(label));
	assert_string_equal(label, "test0");
	assert_int_equal(log_count(s, "the last 4 bytes of the guest's output are lost"), 1);
	hang_file(NULL);
	assert_file(s->path, "late");
}

/* ---- the end ---- */

static int pipe_as_output(struct sink *s)
{
	int out[2];

	assert_int_equal(pipe(out), 0);
	fcntl(out[1], F_SETPIPE_SZ, 4096);
	replace_std(s, open("/dev/null", O_RDONLY), out[1]);
	close(out[1]);
	open_chardev(s, "tty");
	return out[0];
}

static void *read_late(void *opaque)
{
	const int *fd = opaque;
	char buf[1000];
	size_t total = 0;
	ssize_t n;

	usleep(300000);
	while (total < 30000 && (n = read(*fd, buf, sizeof(buf))) > 0) {
		total += (size_t)n;
		usleep(10000);
	}
	return (void *)total;
}

static void the_end_waits_for_a_reader_that_is_behind(void **state)
{
	static char text[30001];
	struct sink *s = *state;
	int fd = pipe_as_output(s);
	size_t len = numbered(text, sizeof(text));
	pthread_t thread;
	void *total;

	assert_int_equal(len, 30000);
	chardev_write(s->cd, (const uint8_t *)text, len);
	settle(s);
	assert_int_equal(pthread_create(&thread, NULL, read_late, &fd), 0);
	chardev_close(s->cd);
	s->cd = NULL;
	pthread_join(thread, &total);
	assert_int_equal((size_t)total, len);
	assert_int_equal(log_count(s, "lost"), 0);
	close(fd);
}

static void the_end_tells_what_is_lost(void **state)
{
	static char text[30000];
	struct sink *s = *state;
	int fd = pipe_as_output(s);
	uint64_t before = now_ns();

	numbered(text, sizeof(text));
	chardev_write(s->cd, (const uint8_t *)text, sizeof(text));
	settle(s);
	chardev_close(s->cd);
	s->cd = NULL;
	assert_in_range(now_ns() - before, 1000000000ull, 4000000000ull);
	assert_int_equal(log_count(s, "bytes of the guest's output are lost"), 1);
	close(fd);
}

static void a_signal_ends_the_end(void **state)
{
	static char text[30000];
	struct sink *s = *state;
	int fd = pipe_as_output(s);
	uint64_t before;
	sigset_t set, old;
	int got;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	assert_int_equal(sigprocmask(SIG_BLOCK, &set, &old), 0);
	numbered(text, sizeof(text));
	chardev_write(s->cd, (const uint8_t *)text, sizeof(text));
	settle(s);
	raise(SIGTERM);
	before = now_ns();
	chardev_close(s->cd);
	s->cd = NULL;
	assert_true(now_ns() - before < 900000000);
	assert_int_equal(log_count(s, "bytes of the guest's output are lost"), 1);
	assert_int_equal(sigwait(&set, &got), 0);
	assert_int_equal(sigprocmask(SIG_SETMASK, &old, NULL), 0);
	close(fd);
}

static void a_socket_is_no_file(void **state)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct sink *s = *state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	strcpy(addr.sun_path, s->path);
	assert_int_equal(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	snprintf(s->spec, sizeof(s->spec), "file=%s", s->path);
	assert_int_equal(open_fails(s, s->spec, "(it is a socket)"), -ENXIO);
	close(fd);
}

static void fifo_gets_its_reader_back(void **state)
{
	struct sink *s = *state;
	int fd;

	assert_int_equal(mkfifo(s->path, 0600), 0);
	snprintf(s->spec, sizeof(s->spec), "file=%s", s->path);
	assert_int_equal(open_fails(s, s->spec, "reader"), -ENXIO);
	fd = open(s->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	open_chardev(s, s->spec);
	put_text(s, "one");
	assert_read(s, fd, "one");
	close(fd);
	put_text(s, "lost");
	assert_idle(s);
	fd = open(s->path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	put_text(s, "two");
	assert_read(s, fd, "two");
	assert_int_equal(log_count(s, "Broken pipe"), 1);
	assert_int_equal(log_count(s, "again"), 2);
	close(fd);
}

static void file_goes_on_after_an_update(void **state)
{
	struct sink *s = *state;

	open_path(s, "file");
	put_text(s, "before ");
	update(s);
	put_text(s, "after");
	update(s);
	put_text(s, " again");
	settle(s);
	assert_file(s->path, "before after again");
}

/* ---- the pause, and loading ---- */

static void quiesced_it_reads_nothing_and_accepts_nobody(void **state)
{
	struct sink *s = *state;
	struct error err = ERROR_INIT;
	int fd, second;
	char byte;

	open_path(s, "socket");
	fd = dial(s->path);
	settle(s);
	put_text(s, "said before");
	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	assert_int_equal(write(fd, "later", 5), 5);
	assert_idle(s);
	assert_int_equal(s->len, 0);
	/* Nor does it write: the guest has stopped for whatever that takes. */
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	chardev_resume(s->cd);
	assert_read(s, fd, "said before");
	assert_input(s, "later");
	close(fd);
	settle(s);
	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	second = dial(s->path);
	assert_idle(s);
	assert_int_equal(s->connects, 1);
	chardev_resume(s->cd);
	settle(s);
	assert_int_equal(s->connects, 2);
	close(second);
}

/* The guest does not run yet: what a write takes, or who it wakes, would be its loss. */
static void it_writes_nothing_while_it_resumes(void **state)
{
	struct sink *s = *state;
	struct error err = ERROR_INIT;
	char byte;
	int fd;

	open_path(s, "socket");
	fd = dial(s->path);
	settle(s);
	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	put_text(s, "said meanwhile");
	chardev_resume(s->cd);
	assert_int_equal(recv(fd, &byte, 1, MSG_DONTWAIT), -1);
	assert_read(s, fd, "said meanwhile");
	close(fd);
}

static void queued_output_crosses_the_update(void **state)
{
	struct sink *s = *state;
	int fd;

	open_path(s, "socket");
	put_text(s, "said before anyone listened");
	update(s);
	update(s);
	fd = dial(s->path);
	assert_read(s, fd, "said before anyone listened");
	close(fd);
}

static void a_missing_descriptor_is_an_error(void **state)
{
	struct sink *s = *state;
	struct error err = ERROR_INIT;
	struct chardev *cd;

	open_path(s, "file");
	save_state(s);
	s->fds.count = 0;
	assert_true(load_saved(s, &cd, &err) < 0);
	assert_null(cd);
	assert_non_null(strstr(err.text, "test-chardev-file"));
}

/* The saved section again, with another kind in it. */
static void rewrite_kind(struct sink *s, const char *kind)
{
	struct error err = ERROR_INIT;
	struct stream_field field;
	struct stream_writer w;
	struct stream stream;
	size_t pos = 0;

	assert_int_equal(stream_parse(&stream, s->saved, s->saved_len, &err), 0);
	assert_int_equal(stream_writer_init(&w, 1 << 17, &err), 0);
	stream_begin(&w, &stream.header);
	stream_section_begin(&w, "test-chardev", 0, 1, 0);
	while (stream_next_field(&stream.sections[0], &pos, &field) > 0) {
		if (strcmp(field.name, "kind") == 0) {
			field.data = (const uint8_t *)kind;
			field.count = (uint32_t)strlen(kind);
		}
		stream_field(&w, field.name, field.type, field.flags, field.data, field.count);
	}
	stream_section_end(&w);
	assert_int_equal(stream_end(&w, &err), 0);
	stream_fini(&stream);
	free(s->saved);
	s->saved = malloc(w.len);
	s->saved_len = w.len;
	memcpy(s->saved, w.data, w.len);
	stream_writer_fini(&w);
}

static void an_unknown_kind_is_an_error(void **state)
{
	struct sink *s = *state;
	struct error err = ERROR_INIT;
	struct chardev *cd;

	open_chardev(s, "null");
	save_state(s);
	rewrite_kind(s, "modem");
	assert_true(load_saved(s, &cd, &err) < 0);
	assert_null(cd);
	assert_non_null(strstr(err.text, "modem"));
}

/* ---- threads ---- */

#define THREAD_BYTES 2000000

struct writer {
	struct sink *s;
	const char *text;
	atomic_bool done;
};

/* As a vCPU does: byte by byte, and never waiting for main but for this test's sake. */
static void *write_all(void *opaque)
{
	struct writer *w = opaque;

	for (size_t i = 0; i < THREAD_BYTES; i++) {
		chardev_write(w->s->cd, (const uint8_t *)w->text + i, 1);
		if (i % 10000 == 0)
			usleep(500);
	}
	atomic_store(&w->done, true);
	return NULL;
}

/* Either all of it comes in order, or the log says how much did not. */
static void another_thread_writes(void **state)
{
	struct sink *s = *state;
	char *text = malloc(THREAD_BYTES + 16);
	struct writer w = { .s = s, .text = text };
	pthread_t thread;
	char *got = malloc(THREAD_BYTES);
	size_t len;
	int fd;

	assert_non_null(text);
	assert_non_null(got);
	len = numbered(text, THREAD_BYTES + 16);
	assert_true(len >= THREAD_BYTES);
	open_path(s, "file");
	assert_int_equal(pthread_create(&thread, NULL, write_all, &w), 0);
	while (!atomic_load(&w.done))
		assert_int_equal(loop_turn(s->loop, 10), 0);
	pthread_join(thread, NULL);
	settle(s);
	chardev_close(s->cd);
	s->cd = NULL;
	fd = open(s->path, O_RDONLY | O_CLOEXEC);
	len = (size_t)read(fd, got, THREAD_BYTES);
	close(fd);
	if (!log_count(s, "dropped so far")) {
		assert_int_equal(len, THREAD_BYTES);
		assert_memory_equal(got, text, len);
	} else {
		assert_true(len < THREAD_BYTES);
	}
	free(text);
	free(got);
}

static void *make_room(void *opaque)
{
	struct sink *s = opaque;

	usleep(20000);
	chardev_input_ready(s->cd);
	return NULL;
}

static void another_thread_makes_room(void **state)
{
	struct sink *s = *state;
	pthread_t thread;
	int fd;

	open_path(s, "socket");
	fd = dial(s->path);
	s->room = 0;
	assert_int_equal(write(fd, "x", 1), 1);
	settle(s);
	s->room = 1;
	assert_int_equal(pthread_create(&thread, NULL, make_room, s), 0);
	assert_int_equal(s->len, 0);
	for (int i = 0; i < 100 && !s->len; i++)
		assert_int_equal(loop_turn(s->loop, 50), 0);
	pthread_join(thread, NULL);
	assert_input(s, "x");
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(unknown_backends_are_refused),
		T(null_swallows),
		T(file_appends_and_is_private),
		T(file_is_created_private),
		T(file_that_cannot_be_is_named),
		T(full_disk_is_logged_once),
		T(a_file_that_hangs_blocks_nobody),
		T(output_goes_on_after_a_rest),
		T(the_end_does_not_wait_for_a_file_that_hangs),
		T(the_end_waits_for_a_reader_that_is_behind),
		T(the_end_tells_what_is_lost),
		T(a_signal_ends_the_end),
		T(a_socket_is_no_file),
		T(fifo_gets_its_reader_back),
		T(file_goes_on_after_an_update),
		T(quiesced_it_reads_nothing_and_accepts_nobody),
		T(it_writes_nothing_while_it_resumes),
		T(queued_output_crosses_the_update),
		T(a_missing_descriptor_is_an_error),
		T(an_unknown_kind_is_an_error),
		T(another_thread_writes),
		T(another_thread_makes_room),
	};

	/* As main() does. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
