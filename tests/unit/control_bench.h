/* SPDX-License-Identifier: MIT */
/* A control server in a directory of its own, and clients that drive its event loop. */
#ifndef MOLT_TESTS_CONTROL_BENCH_H
#define MOLT_TESTS_CONTROL_BENCH_H

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/control/control.h>

#define NEGOTIATE "{\"execute\":\"qmp_capabilities\"}"
#define DONE "{\"return\": {}}"
#define GENERIC(desc) "{\"error\": {\"class\": \"GenericError\", \"desc\": \"" desc "\"}}"
#define NOT_FOUND(desc) "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"" desc "\"}}"

struct bench {
	struct loop *loop;
	struct control *control;
	char dir[32];
	char path[64];
	struct command_origin async; /* of the last "later" command */
};

/* ---- fake commands ---- */

static int run_echo(void *opaque, const struct command_origin *origin, json_t *args,
		    json_t **result, struct error *err)
{
	(void)opaque;
	(void)origin;
	(void)err;
	*result = json_incref(json_object_get(args, "value"));
	return 0;
}

static int run_fail(void *opaque, const struct command_origin *origin, json_t *args,
		    json_t **result, struct error *err)
{
	(void)opaque;
	(void)origin;
	(void)args;
	(void)result;
	return err_set(err, ENOENT, "no such thing: 'caf\303'");
}

static int run_later(void *opaque, const struct command_origin *origin, json_t *args,
		     json_t **result, struct error *err)
{
	struct bench *b = opaque;

	(void)args;
	(void)result;
	(void)err;
	b->async = *origin;
	return COMMAND_ASYNC;
}

static int run_from_within(void *opaque, const struct command_origin *origin, json_t *args,
			   json_t **result, struct error *err)
{
	struct bench *b = opaque;

	(void)args;
	(void)result;
	(void)err;
	control_event(b->control, "FIRST", NULL);
	control_reply(b->control, origin->client, origin->id, json_true(), NULL);
	return COMMAND_ASYNC;
}

static const struct command_member echo_args[] = {
	{ .name = "value", .type = &command_any, .optional = true },
	{ 0 }
};

static const struct command bench_commands[] = {
	{ .name = "echo", .args = echo_args, .run = run_echo },
	{ .name = "fail", .run = run_fail },
	{ .name = "later", .run = run_later },
	{ .name = "from-within", .run = run_from_within },
};

/* ---- server ---- */

static inline void bench_init(struct bench *b)
{
	struct error err = ERROR_INIT;

	*b = (struct bench){ 0 };
	strcpy(b->dir, "/tmp/molt-control-XXXXXX");
	assert_non_null(mkdtemp(b->dir));
	snprintf(b->path, sizeof(b->path), "%s/sock", b->dir);
	assert_int_equal(loop_create(&b->loop, &err), 0);
	assert_int_equal(control_create(&b->control, b->path, b->loop, NULL, NULL, &err), 0);
	control_add_commands(b->control, bench_commands, ARRAY_SIZE(bench_commands), b);
	control_start(b->control);
}

static inline void bench_fini(struct bench *b)
{
	control_destroy(b->control);
	loop_destroy(b->loop);
	unlink(b->path);
	assert_int_equal(rmdir(b->dir), 0);
}

/* Lets the server do what it can do now. */
static inline void bench_pump(struct bench *b)
{
	for (unsigned int i = 0; i < 50; i++)
		assert_int_equal(loop_turn(b->loop, 0), 0);
}

/* ---- clients ---- */

static inline int bench_connect(struct bench *b)
{
	struct sockaddr_un sun = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_true(fd >= 0);
	strcpy(sun.sun_path, b->path);
	assert_int_equal(connect(fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	return fd;
}

static inline void bench_send(int fd, const char *text, size_t len)
{
	assert_int_equal(send(fd, text, len, MSG_NOSIGNAL), (ssize_t)len);
}

static inline void bench_say(int fd, const char *text)
{
	bench_send(fd, text, strlen(text));
}

/* Reads a line, which must end with CRLF; false where the server hung up instead. */
static inline bool bench_line(struct bench *b, int fd, char *line, size_t size)
{
	size_t n = 0;

	for (unsigned int idle = 0; idle < 1000;) {
		ssize_t got = recv(fd, line + n, 1, MSG_DONTWAIT);

		if (got < 0 && errno == EAGAIN) {
			assert_int_equal(loop_turn(b->loop, 1), 0);
			idle++;
			continue;
		}
		if (got == 0 || (got < 0 && errno == ECONNRESET)) {
			assert_int_equal(n, 0);
			return false;
		}
		assert_int_equal(got, 1);
		n++;
		assert_true(n < size);
		if (line[n - 1] != '\n')
			continue;
		assert_true(n >= 2 && line[n - 2] == '\r');
		line[n - 2] = '\0';
		return true;
	}
	fail_msg("no answer");
	return false;
}

static inline void bench_expect(struct bench *b, int fd, const char *expected)
{
	static char line[200000];

	assert_true(bench_line(b, fd, line, sizeof(line)));
	assert_string_equal(line, expected);
}

static inline void bench_expect_hangup(struct bench *b, int fd)
{
	char line[1024];

	assert_false(bench_line(b, fd, line, sizeof(line)));
}

/* Nothing has been sent to the client. */
static inline void bench_expect_nothing(struct bench *b, int fd)
{
	char ch;

	bench_pump(b);
	assert_int_equal(recv(fd, &ch, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

/* A client that has read its greeting. */
static inline int bench_greeted(struct bench *b)
{
	int fd = bench_connect(b);
	char line[1024];

	assert_true(bench_line(b, fd, line, sizeof(line)));
	assert_non_null(strstr(line, "QMP"));
	return fd;
}

/* A client that has negotiated. */
static inline int bench_client(struct bench *b)
{
	int fd = bench_greeted(b);

	bench_say(fd, NEGOTIATE);
	bench_expect(b, fd, DONE);
	return fd;
}

#endif
