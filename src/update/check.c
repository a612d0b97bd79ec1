/* SPDX-License-Identifier: MIT */
/*
 * The check before the pause. Theory of operation.
 *
 * The predecessor writes a description of the machine while the guest runs: a stream with every
 * section, version and field that the update will send (the values in it are whatever was in
 * memory, nobody uses them), and the fd table's names and kinds. It runs the successor's command on
 * it, with the same arguments, as a child that has MOLT_CHECK in its environment. That one holds
 * the description against what it could take over, writes every reason against it, not only the
 * first, and ends. No pause has happened, and nothing was handed over.
 *
 * A program that knows no check mode gives no answer, and its exit status is no substitute for one:
 * then the update is refused, with the way out (no-check) in the sentence. One that hangs is ended
 * after the update's time-out, with its process group.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>
#include <molt/base/log.h>

#include "internal.h"
#include "room.h"

#define CHECK_ENV UPDATE_CHECK_ENV
#define ANSWER_MAX_BYTES 65536u
#define KILL_WAIT_MS 1000

/* ---- the predecessor's side ---- */

static int make_memfd(const char *name, struct error *err)
{
	int fd = fd_memfd(name, 0);

	return fd < 0 ? err_sys(err, -fd, "memfd_create for the check") : fd;
}

static int describe(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	struct stream_header header = { .machine_version = u->machine->machine_version };
	struct fdtable *fds = u->check.fds;
	int r;

	memcpy(header.producer, u->self->version,
	       strnlen(u->self->version, sizeof(header.producer) - 1));
	stream_begin(&h->w, &header);
	r = u->ops.save(u->ops.opaque, &h->w, fds, true, err);
	if (r == 0)
		r = room_descriptors(fds->count, u->machine->guest.cpus, err);
	if (r == 0)
		r = stream_end(&h->w, err);
	if (r < 0)
		return r;
	r = fd_write_all(u->check.stream_fd, h->w.data, h->w.len);
	return r < 0 ? err_sys(err, -r, "writing the description of the machine")
		     : fdtable_write(fds, u->check.table_fd, err);
}

static int spawn(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	const int shared[] = { u->check.stream_fd, u->check.table_fd, u->check.answer_fd };
	_cleanup_free_ char **envp = NULL;
	struct program program = {
		.fd = h->program_fd,
		.argv = h->argv,
		.shared = shared,
		.nshared = ARRAY_SIZE(shared),
		.standard_error = -1,
	};
	int empty[2], code;
	char text[64];

	snprintf(text, sizeof(text), "%s=%d:%d:%d", CHECK_ENV, shared[0], shared[1], shared[2]);
	envp = handover_environ(text, err);
	if (!envp)
		return -ENOMEM;
	program.envp = envp;
	/* The guest's keyboard is not for a checker to read. */
	if (pipe2(empty, O_CLOEXEC) < 0)
		return err_sys(err, errno, "pipe for the check");
	close(empty[1]);
	program.standard_input = empty[0];
	code = program_spawn(&program, &u->check.child);
	close(empty[0]);
	return code ? program_not_executed(code, h->argv[0], err) : 0;
}

static void add_reasons(json_t *reasons, struct error *err)
{
	size_t i, len = 0;
	json_t *reason;

	err_set(err, EPROTO, "the successor cannot take over: ");
	len = strlen(err->text);
	json_array_foreach (reasons, i, reason)
		if (len < sizeof(err->text))
			len += (size_t)snprintf(err->text + len, sizeof(err->text) - len, "%s%s",
						i ? "; " : "", json_string_value(reason));
}

static bool are_strings(json_t *list)
{
	size_t i;
	json_t *value;

	json_array_foreach (list, i, value)
		if (!json_is_string(value))
			return false;
	return json_is_array(list);
}

/* 0 where the successor said yes. */
static int read_answer(struct update *u, struct error *err)
{
	struct hand_over *h = &u->hand_over;
	_cleanup_free_ void *text = NULL;
	size_t len = 0;
	json_t *answer, *reasons, *pid;
	int r = fd_read_file(u->check.answer_fd, "the successor's answer", ANSWER_MAX_BYTES, &text,
			     &len, err);

	if (r < 0)
		return r;
	answer = json_loadb(text, len, 0, NULL);
	reasons = json_object_get(answer, "reasons");
	pid = json_object_get(answer, "pid");
	if (!are_strings(reasons))
		r = err_set(err, ENOTSUP,
			    "'%s' gave no answer in check mode: it is no molt, or an old "
			    "one, or a wrapper that does not pass environment and arguments on; "
			    "no-check updates without asking it",
			    h->argv[0]);
	else if (json_array_size(reasons))
		add_reasons(reasons, err), r = -EPROTO;
	else if (json_is_integer(pid) && json_integer_value(pid) != u->check.child.pid)
		r = err_set(
			err, ECHILD,
			"'%s' starts molt as a child instead of becoming it: the guest "
			"would run in another process; a wrapper has to end in 'exec molt run \"$@\"'",
			h->argv[0]);
	/* 0.1.0 knows none. */
	h->stops_guest = h->stops_guest || !json_is_true(json_object_get(answer, "stand-in"));
	json_decref(answer);
	return r;
}

/*
 * With all that it has started. One that cannot be killed (a file system that hangs) is waited for
 * as old stand-ins are.
 */
static void end_child(struct update *u)
{
	struct child *child = &u->check.child;

	if (!child->pid)
		return;
	child_kill(child, true);
	if (!child_wait(child, KILL_WAIT_MS))
		log_warn("process %d, which was asked in check mode, does not end",
			 (int)child->pid);
	update_keep_stand_in(u, child);
	*child = CHILD_NONE;
}

void check_end(struct update *u)
{
	loop_del(&u->check.exited);
	loop_del(&u->check.expired);
	end_child(u);
	fd_close(&u->check.timer_fd);
	fd_close(&u->check.stream_fd);
	fd_close(&u->check.table_fd);
	fd_close(&u->check.answer_fd);
	free(u->check.fds);
	u->check.fds = NULL;
}

static void child_exited(void *opaque, uint32_t events)
{
	struct error err = ERROR_INIT;
	struct update *u = opaque;
	int r = read_answer(u, &err);

	(void)events;
	check_end(u);
	u->server->waited(u, r < 0 ? &err : NULL);
}

static void child_expired(void *opaque, uint32_t events)
{
	struct error err = ERROR_INIT;
	struct update *u = opaque;

	(void)events;
	check_end(u);
	err_set(&err, ETIMEDOUT, "'%s' did not answer in check mode within %u ms",
		u->hand_over.argv[0], u->request.timeout_ms);
	u->server->waited(u, &err);
}

static int watch_child(struct update *u, struct error *err)
{
	const struct itimerspec its = {
		.it_value = { .tv_sec = u->request.timeout_ms / 1000,
			      .tv_nsec = (long)(u->request.timeout_ms % 1000) * 1000000 + 1 },
	};
	int r;

	u->check.timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (u->check.timer_fd < 0 || timerfd_settime(u->check.timer_fd, 0, &its, NULL) < 0)
		return err_sys(err, errno, "waiting for the check");
	r = loop_add(u->machine->loop, &u->check.exited, u->check.child.fd, EPOLLIN, child_exited,
		     u);
	if (r == 0)
		r = loop_add(u->machine->loop, &u->check.expired, u->check.timer_fd, EPOLLIN,
			     child_expired, u);
	return r < 0 ? err_sys(err, -r, "waiting for the check") : 0;
}

int check_start(struct update *u, struct error *err)
{
	int r = 0;

	u->check = UPDATE_CHECK_NONE;
	u->check.fds = calloc(1, sizeof(*u->check.fds));
	if (!u->check.fds)
		return err_set(err, ENOMEM, "no memory for the check");
	u->check.stream_fd = make_memfd("molt-check", err);
	u->check.table_fd = make_memfd("molt-check-fds", err);
	u->check.answer_fd = make_memfd("molt-check-answer", err);
	if (u->check.stream_fd < 0 || u->check.table_fd < 0 || u->check.answer_fd < 0)
		r = -(err->code);
	if (r == 0)
		r = describe(u, err);
	if (r == 0)
		r = spawn(u, err);
	if (r == 0)
		r = watch_child(u, err);
	if (r < 0)
		check_end(u);
	return r;
}

/* ---- the successor's side ---- */

bool update_is_check(void)
{
	return getenv(CHECK_ENV) != NULL;
}

void update_check_reason(json_t *reasons, const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	json_array_append_new(reasons, json_any_string(text));
}

static void check_sections(struct stream *s, const struct takeover_kinds *kinds, json_t *reasons)
{
	for (size_t i = 0; i < s->nsections; i++) {
		struct stream_section *sec = &s->sections[i];
		const struct takeover_kind *kind = takeover_kinds_section(kinds, sec->name);
		struct error err = ERROR_INIT;

		if (kind && kind->vms && !strchr(sec->name, '/') &&
		    vmstate_try(s, kind->vms, kind->section, sec->instance, &err) < 0)
			update_check_reason(reasons, "%s", err.text);
	}
	/* Subsections are claimed by their sections, so these are the ones nobody knows. */
	for (size_t i = 0; i < s->nsections; i++)
		if (!s->sections[i].claimed && !(s->sections[i].flags & SECTION_IGNORABLE))
			update_check_reason(reasons, "no device for section '%s' %u",
					    s->sections[i].name, s->sections[i].instance);
	for (size_t i = 0; i < kinds->count; i++)
		if (kinds->kind[i].required && !stream_find(s, kinds->kind[i].section, 0))
			update_check_reason(reasons, "section '%s' would be missing",
					    kinds->kind[i].section);
}

static void check_fds(int fd, const struct takeover_kinds *kinds, json_t *reasons)
{
	struct fdtable *t = calloc(1, sizeof(*t));
	struct error err = ERROR_INIT;

	if (!t || fdtable_describe_read(t, fd, &err) < 0)
		update_check_reason(reasons, "fd table: %s", t ? err.text : "no memory");
	for (uint32_t i = 0; t && i < t->count; i++)
		if (!takeover_kinds_has_fd(kinds, t->entries[i].name))
			update_check_reason(reasons, "no owner for descriptor '%s' %u",
					    t->entries[i].name, t->entries[i].id);
	free(t);
}

/* For the update after this one, and for the disks' I/O processes: neither could be any more. */
static void check_own_binary(json_t *reasons)
{
	struct error err = ERROR_INIT;
	_cleanup_close_ int fd = program_open_self(&err);

	if (fd == -EACCES)
		update_check_reason(reasons, "%s", err.text);
}

static int read_description(int fd, struct stream *s, void **buf, json_t *reasons)
{
	struct error err = ERROR_INIT;
	size_t len;
	int r = fd_read_file(fd, "description", STREAM_MAX_BYTES, buf, &len, &err);

	if (r == 0)
		r = stream_parse(s, *buf, len, &err);
	if (r < 0)
		update_check_reason(reasons, "%s", err.text);
	return r;
}

int update_check_answer(const struct takeover_kinds *kinds,
			void (*check_options)(void *opaque, struct stream *s, json_t *reasons),
			void *opaque, struct error *err)
{
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ void *buf = NULL;
	int stream_fd, table_fd, answer_fd, r;
	json_t *reasons = json_array(), *answer;
	const char *env = getenv(CHECK_ENV);
	struct takeover_kinds here = *kinds;
	struct stream s = { 0 };

	if (!env || sscanf(env, "%d:%d:%d", &stream_fd, &table_fd, &answer_fd) != 3)
		return err_set(err, EINVAL, "%s='%s' does not name three descriptors", CHECK_ENV,
			       env ? env : "");
	check_own_binary(reasons);
	if (read_description(stream_fd, &s, &buf, reasons) == 0) {
		takeover_kinds_limit(&here, s.header.machine_version);
		check_options(opaque, &s, reasons);
		check_sections(&s, &here, reasons);
		check_fds(table_fd, &here, reasons);
	}
	answer = json_pack("{s:o,s:i,s:b}", "reasons", reasons, "pid", (int)getpid(), "stand-in",
			   true);
	text = json_dumps(answer, JSON_COMPACT);
	r = text ? fd_write_all(answer_fd, text, strlen(text)) : -ENOMEM;
	json_decref(answer);
	stream_fini(&s);
	return r < 0 ? err_sys(err, -r, "answering the check") : 0;
}
