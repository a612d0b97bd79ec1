/* SPDX-License-Identifier: MIT */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "chardev_bench.h"

#define QUIET_TURNS 3
#define PATIENCE_NS 2000000000ull

static size_t sink_room(void *opaque)
{
	const struct sink *s = opaque;

	return s->room;
}

static void sink_input(void *opaque, const uint8_t *data, size_t len)
{
	struct sink *s = opaque;

	assert_true(len > 0 && len <= s->room);
	assert_true(s->len + len <= INPUT_MAX);
	memcpy(s->input + s->len, data, len);
	s->len += len;
	s->room -= len;
}

static void sink_connected(void *opaque, bool connected)
{
	struct sink *s = opaque;

	assert_true(!s->cd || chardev_connected(s->cd) == connected);
	if (connected)
		s->connects++;
	else
		s->disconnects++;
}

static void sink_quit(void *opaque)
{
	struct sink *s = opaque;

	s->quits++;
}

static struct chardev_ops sink_ops(struct sink *s)
{
	return (struct chardev_ops){
		.room = sink_room,
		.input = sink_input,
		.connected = sink_connected,
		.quit = sink_quit,
		.opaque = s,
	};
}

int bench_setup(void **state)
{
	struct sink *s = calloc(1, sizeof(*s));
	struct error err = ERROR_INIT;

	assert_non_null(s);
	assert_int_equal(loop_create(&s->loop, &err), 0);
	strcpy(s->dir, "/tmp/molt-chardev-XXXXXX");
	assert_non_null(mkdtemp(s->dir));
	snprintf(s->path, sizeof(s->path), "%s/end", s->dir);
	s->room = INPUT_MAX;
	s->log_fd = memfd_create("log", MFD_CLOEXEC);
	log_set_fd(s->log_fd);
	*state = s;
	return 0;
}

static void restore_std(struct sink *s)
{
	if (!s->replaced)
		return;
	for (int fd = 0; fd < 2; fd++) {
		dup2(s->std[fd], fd);
		close(s->std[fd]);
	}
	s->replaced = false;
}

int bench_teardown(void **state)
{
	struct sink *s = *state;

	chardev_close(s->cd);
	for (size_t i = 0; i < ARRAY_SIZE(s->old); i++)
		chardev_close(s->old[i]);
	restore_std(s);
	log_set_fd(2);
	close(s->log_fd);
	loop_destroy(s->loop);
	loop_destroy(s->next_loop);
	for (size_t i = 0; i < ARRAY_SIZE(s->old_loops); i++)
		loop_destroy(s->old_loops[i]);
	unlink(s->path);
	rmdir(s->dir);
	free(s->saved);
	free(s);
	return 0;
}

void replace_std(struct sink *s, int in, int out)
{
	fflush(stdout);
	for (int fd = 0; fd < 2; fd++) {
		s->std[fd] = fcntl(fd, F_DUPFD_CLOEXEC, 10);
		assert_true(s->std[fd] >= 0);
	}
	s->replaced = true;
	assert_int_equal(dup2(in, 0), 0);
	assert_int_equal(dup2(out, 1), 1);
}

void open_chardev(struct sink *s, const char *spec)
{
	struct chardev_ops ops = sink_ops(s);
	struct error err = ERROR_INIT;

	assert_int_equal(chardev_open(&s->cd, "test", 0, spec, s->loop, &ops, NULL, NULL, &err), 0);
}

void open_path(struct sink *s, const char *kind)
{
	snprintf(s->spec, sizeof(s->spec), "%s=%s", kind, s->path);
	open_chardev(s, s->spec);
}

int open_fails(struct sink *s, const char *spec, const char *words)
{
	struct chardev_ops ops = sink_ops(s);
	struct error err = ERROR_INIT;
	int rc = chardev_open(&s->cd, "test", 0, spec, s->loop, &ops, NULL, NULL, &err);

	assert_true(rc < 0);
	assert_null(s->cd);
	assert_non_null(strstr(err.text, words));
	return rc;
}

void settle(struct sink *s)
{
	for (int turns = 0, quiet = 0; quiet < QUIET_TURNS; turns++) {
		uint64_t start = now_ns();

		assert_int_equal(loop_turn(s->loop, 1), 0);
		quiet = now_ns() - start >= 1000000 ? quiet + 1 : 0;
		assert_true(turns < 100000);
	}
}

void assert_idle(struct sink *s)
{
	uint64_t end = now_ns() + 50000000;

	settle(s);
	for (int turns = 0; now_ns() < end; turns++) {
		assert_int_equal(loop_turn(s->loop, 10), 0);
		assert_true(turns < 20);
	}
}

void put_text(struct sink *s, const char *text)
{
	chardev_write(s->cd, (const uint8_t *)text, strlen(text));
}

void assert_input(struct sink *s, const char *text)
{
	uint64_t end = now_ns() + PATIENCE_NS;

	do
		settle(s);
	while (s->len < strlen(text) && now_ns() < end);
	assert_int_equal(s->len, strlen(text));
	assert_memory_equal(s->input, text, s->len);
	s->len = 0;
	s->room = INPUT_MAX;
}

void assert_read(struct sink *s, int fd, const char *text)
{
	uint64_t end = now_ns() + PATIENCE_NS;
	char buf[512] = "";
	size_t len = 0;

	fd_set_nonblock(fd, true);
	do {
		ssize_t n;

		settle(s);
		n = read(fd, buf + len, sizeof(buf) - 1 - len);
		len += n > 0 ? (size_t)n : 0;
	} while (len < strlen(text) && now_ns() < end);
	assert_string_equal(buf, text);
}

void assert_file(const char *path, const char *text)
{
	uint64_t end = now_ns() + PATIENCE_NS;
	char buf[512];
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	/* A thread writes it. */
	do {
		memset(buf, 0, sizeof(buf));
		assert_true(pread(fd, buf, sizeof(buf) - 1, 0) >= 0);
	} while (strcmp(buf, text) != 0 && now_ns() < end && usleep(1000) == 0);
	assert_string_equal(buf, text);
	close(fd);
}

unsigned int log_count(struct sink *s, const char *words)
{
	char buf[8192] = "";
	unsigned int n = 0;

	assert_true(pread(s->log_fd, buf, sizeof(buf) - 1, 0) >= 0);
	for (const char *p = buf; (p = strstr(p, words)); p++)
		n++;
	return n;
}

int dial(const char *path)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	memcpy(addr.sun_path, path, strlen(path));
	assert_int_equal(connect(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
	return fd;
}

void save_state(struct sink *s)
{
	struct stream_header header = { .format = STREAM_FORMAT,
					.machine_version = 1,
					.producer = "test" };
	struct error err = ERROR_INIT;
	struct stream_writer w;

	assert_int_equal(chardev_quiesce(s->cd, &err), 0);
	memset(&s->fds, 0, sizeof(s->fds));
	assert_int_equal(stream_writer_init(&w, 1 << 17, &err), 0);
	stream_begin(&w, &header);
	assert_int_equal(chardev_save(s->cd, &w, &s->fds, &err), 0);
	assert_int_equal(stream_end(&w, &err), 0);
	free(s->saved);
	s->saved = malloc(w.len);
	s->saved_len = w.len;
	assert_non_null(s->saved);
	memcpy(s->saved, w.data, w.len);
	stream_writer_fini(&w);
}

int load_saved(struct sink *s, struct chardev **cd, struct error *err)
{
	struct chardev_ops ops = sink_ops(s);
	struct stream stream;
	int rc;

	for (uint32_t i = 0; i < s->fds.count; i++)
		if (s->fds.entries[i].fd > 1)
			s->fds.entries[i].fd = fcntl(s->fds.entries[i].fd, F_DUPFD_CLOEXEC, 3);
	assert_int_equal(stream_parse(&stream, s->saved, s->saved_len, err), 0);
	if (!s->next_loop)
		assert_int_equal(loop_create(&s->next_loop, err), 0);
	rc = chardev_open(cd, "test", 0, "null", s->next_loop, &ops, &s->fds, &stream, err);
	if (!rc) {
		assert_int_equal(stream_check_claimed(&stream, err), 0);
		assert_int_equal(fdtable_check_taken(&s->fds, err), 0);
	}
	stream_fini(&stream);
	return rc;
}

void update(struct sink *s)
{
	struct error err = ERROR_INIT;
	struct chardev *successor;
	size_t first_len, i = 0;
	void *first;

	save_state(s);
	assert_int_equal(load_saved(s, &successor, &err), 0);
	while (s->old[i])
		i++;
	assert_true(i < ARRAY_SIZE(s->old));
	s->old[i] = s->cd;
	s->old_loops[i] = s->loop;
	s->cd = successor;
	s->loop = s->next_loop;
	s->next_loop = NULL;
	first = s->saved;
	first_len = s->saved_len;
	s->saved = NULL;
	save_state(s);
	assert_int_equal(s->saved_len, first_len);
	assert_memory_equal(s->saved, first, first_len);
	free(first);
	chardev_resume(s->cd);
}

void failed_update(struct sink *s)
{
	struct error err = ERROR_INIT;
	struct chardev *successor;

	save_state(s);
	assert_int_equal(load_saved(s, &successor, &err), 0);
	chardev_close(successor);
	chardev_resume(s->cd);
}

size_t numbered(char *buf, size_t size)
{
	size_t len = 0;

	for (unsigned int i = 0; len + 9 <= size; i++)
		len += (size_t)sprintf(buf + len, "%07u\n", i);
	return len;
}

/* All that is there to be read, without the CRs of a terminal. */
static size_t read_all(struct sink *s, int fd, char *buf, size_t size)
{
	size_t len = 0, kept = 0;
	ssize_t n;

	fd_set_nonblock(fd, true);
	for (;;) {
		settle(s);
		n = read(fd, buf + len, size - len);
		if (n <= 0)
			break;
		len += (size_t)n;
	}
	for (size_t i = 0; i < len; i++)
		if (buf[i] != '\r')
			buf[kept++] = buf[i];
	return kept;
}

size_t drain_newest(struct sink *s, int fd, size_t said, unsigned int max_gaps)
{
	static char buf[1 << 20];
	size_t len = read_all(s, fd, buf, sizeof(buf));
	unsigned int gaps = 0, next = 0;

	assert_int_equal(len % 8, 0);
	for (size_t i = 0; i < len; i += 8) {
		unsigned int number;

		assert_int_equal(buf[i + 7], '\n');
		assert_int_equal(sscanf(buf + i, "%7u", &number), 1);
		assert_true(number >= next);
		gaps += number > next;
		next = number + 1;
	}
	assert_int_equal(next, said / 8);
	assert_in_range(gaps, 0, max_gaps);
	return len;
}
