/* SPDX-License-Identifier: MIT */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "update_bench.h"
#include "../../src/control/internal.h"

#define WAIT_NS 20000000000ull

static void say(struct update_bench *t, const char *what, const char *text)
{
	size_t len = strlen(t->said);

	snprintf(t->said + len, sizeof(t->said) - len, "%s %s\n", what, text);
}

static int save(void *opaque, struct stream_writer *w, struct fdtable *fds, bool describe,
		struct error *err)
{
	struct update_bench *t = opaque;
	int r = describe ? machine_describe(&t->b.m, w, fds, err)
			 : machine_save(&t->b.m, w, fds, err);

	if (r < 0)
		return r;
	update_save(t->u, w);
	return t->save_error ? err_set(err, t->save_error, "the bench cannot save") : 0;
}

static void flush(void *opaque)
{
	(void)opaque;
}

static void reply(void *opaque, uint32_t client, const char *id, json_t *result,
		  const struct error *err)
{
	struct update_bench *t = opaque;
	char *text = result ? json_dumps(result, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;
	char failure[ERROR_TEXT_MAX + 1];

	(void)client;
	(void)id;
	t->replies++;
	if (err) {
		snprintf(failure, sizeof(failure), "!%.1000s", err->text);
		say(t, "reply", failure);
	} else {
		say(t, "reply", text ? text : "{}");
	}
	free(text);
	json_decref(result);
}

/* The client has sent descriptors under their numbers. */
static int take_fd(void *opaque, uint32_t client, const char *name, struct error *err)
{
	(void)opaque;
	(void)client;
	return name[0] == 'n' ? fcntl(atoi(name + 1), F_DUPFD_CLOEXEC, 3)
			      : err_set(err, ENOENT, "no descriptor '%s'", name);
}

static void event(void *opaque, const char *name, json_t *data)
{
	char *text = data ? json_dumps(data, JSON_COMPACT | JSON_ENCODE_ANY) : NULL;

	say(opaque, name, text ? text : "{}");
	free(text);
	json_decref(data);
}

/* Only where an update takes half a second. */
static void passing_event(void *opaque, const char *name, json_t *data)
{
	(void)opaque;
	(void)name;
	json_decref(data);
}

static int main_pid(void *opaque, pid_t pid, unsigned int wait_ms)
{
	const struct update_bench *t = opaque;

	(void)pid;
	(void)wait_ms;
	return t->manager;
}

static bool can_tell_main_pid(void *opaque)
{
	const struct update_bench *t = opaque;

	return t->manager != -EAGAIN;
}

/* Only a stand-in comes here, and no test lets one take over. */
static int reborn(void *opaque, struct error *err)
{
	(void)opaque;
	(void)err;
	abort();
}

static void run_on(void *opaque)
{
	(void)opaque;
	abort();
}

void update_bench_init(struct update_bench *t, uint32_t cpus)
{
	const struct update_ops ops = {
		.save = save,
		.flush = flush,
		.reply = reply,
		.event = event,
		.passing_event = passing_event,
		.take_fd = take_fd,
		.reborn = reborn,
		.main_pid = main_pid,
		.can_tell_main_pid = can_tell_main_pid,
		.run_on = run_on,
		.opaque = t,
	};
	struct error err = ERROR_INIT;

	memset(t, 0, sizeof(*t));
	strcpy(t->dir, "/tmp/molt-update-XXXXXX");
	assert_non_null(mkdtemp(t->dir));
	bench_init(&t->b, cpus);
	/* May be executed, but nobody knows how: no test must vanish into it by mistake. */
	snprintf(t->self_path, sizeof(t->self_path), "%s",
		 update_bench_file(t, "self", "\1\2\3 no program\n", 0700));
	t->self_argv[0] = t->self_path;
	t->self_argv[1] = (char *)"run";
	t->self_argv[2] = (char *)"--pause";
	t->self = (struct update_self){
		.path = t->self_path,
		.argv = t->self_argv,
		.version = "1.2.3",
		.exe_fd = -1,
	};
	if (update_create(&t->u, &t->b.m, &t->self, &ops, &err) < 0)
		fail_msg("%s", err.text);
}

static void remove_dir(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *e;

	while (dir && (e = readdir(dir)))
		unlinkat(dirfd(dir), e->d_name, 0);
	if (dir)
		closedir(dir);
	rmdir(path);
}

void update_bench_fini(struct update_bench *t)
{
	update_destroy(t->u);
	bench_fini(&t->b);
	remove_dir(t->dir);
}

const char *update_bench_file(struct update_bench *t, const char *name, const char *text, int mode)
{
	static char path[128];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", t->dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fd_write_all(fd, text, strlen(text)), 0);
	assert_int_equal(fchmod(fd, (mode_t)mode), 0);
	close(fd);
	return path;
}

int update_bench_run(struct update_bench *t, const struct command *table, size_t count,
		     const char *name, const char *json, json_t **result, struct error *err)
{
	const struct command_origin origin = { .client = 7 };
	json_t *args = json[0] ? json_loads(json, 0, NULL) : json_object();
	json_t *ignored = NULL;
	int r = -ENOENT;

	assert_non_null(args);
	*err = ERROR_INIT;
	if (result)
		*result = NULL;
	for (size_t i = 0; i < count; i++)
		if (strcmp(table[i].name, name) == 0) {
			r = control_check_args(table[i].args, args, err);
			if (r == 0)
				r = table[i].run(t->u, &origin, args, result ? result : &ignored,
						 err);
		}
	json_decref(ignored);
	json_decref(args);
	return r;
}

void update_bench_wait(struct update_bench *t, const char *text)
{
	uint64_t end = now_ns() + WAIT_NS;

	while (!strstr(t->said, text) && now_ns() < end)
		assert_int_equal(loop_turn(t->b.loop, 10), 0);
	if (!strstr(t->said, text))
		fail_msg("'%s' was never said, only:\n%s", text, t->said);
}

int update_bench_update(struct update_bench *t, const char *json, struct error *err)
{
	return update_bench_run(t, update_commands, update_commands_count, "update", json, NULL,
				err);
}

void update_bench_must_fail(struct update_bench *t, const char *json, const char *words)
{
	struct error err;

	t->said[0] = '\0';
	assert_int_equal(update_bench_update(t, json, &err), COMMAND_ASYNC);
	update_bench_wait(t, "UPDATE_FAILED");
	if (strncmp(t->said, "reply !", 7) != 0 || !strstr(t->said, words))
		fail_msg("no reply that says '%s':\n%s", words, t->said);
}

void update_bench_refused(struct update_bench *t, const char *json, int code, const char *words)
{
	struct error err;

	assert_int_equal(update_bench_update(t, json, &err), -code);
	if (!strstr(err.text, words))
		fail_msg("'%s' does not say '%s'", err.text, words);
}

#if defined(__SANITIZE_THREAD__)
#define THREAD_SANITIZER true
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREAD_SANITIZER true
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
#define ADDRESS_SANITIZER true
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZER true
#endif
#endif
#ifndef ADDRESS_SANITIZER
#define ADDRESS_SANITIZER false
#endif
#ifndef THREAD_SANITIZER
#define THREAD_SANITIZER false
#endif

/*
 * ThreadSanitizer takes the stand-in's clone(CLONE_VM) for a fork, and from then on believes that
 * the parent, whose memory it is, were the child.
 */
void update_bench_skip_under_tsan(void)
{
	if (!THREAD_SANITIZER)
		return;
	print_message("# ThreadSanitizer cannot follow a stand-in or a fork\n");
	skip();
}

void update_bench_skip_under_asan(void)
{
	if (!ADDRESS_SANITIZER)
		return;
	print_message("# AddressSanitizer does not have a thread made on a dead one's stack\n");
	skip();
}

int update_bench_prepare(struct update_bench *t, char **command, struct error *err)
{
	t->u->request.command = command;
	return handover_prepare(&t->u->hand_over, &t->u->request, &t->self, t->b.m.guest.cpus, err);
}

void update_bench_unprepare(struct update_bench *t)
{
	handover_fini(&t->u->hand_over);
	t->u->request.command = NULL;
}
