/* SPDX-License-Identifier: MIT */
/*
 * Who the successor is, and the step into it. program.c tells how it is executed.
 *
 * The successor's command is the one asked for or, by default, the wrapper by which this molt was
 * executed, or what it was started with. Its path is found and checked before the pause.
 * "--incoming URI" is appended unless it is there.
 *
 * The state goes to a memfd: no disk can be full or slow in the pause, and nobody but us and the
 * successor has a hand in what is loaded. A file that was asked for is a copy, which the stand-in
 * makes when the guest runs again (update_committed()). It is opened before the pause, with room
 * for the state, so that what is wrong with it is known in time; and it gets its name when it is
 * whole. The URI in the successor's command line names it all the same ("file:PATH", otherwise
 * "file:/proc/self/fd/N"): the successor uses the descriptor in the fd table when the URI is the
 * one recorded there.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/new_file.h>
#include <molt/base/path.h>

#include "internal.h"

/* More than the state of the devices ever was, and of one vCPU; only a first reservation. */
#define STATE_BASE_BYTES 65536u
#define STATE_VCPU_BYTES 24576u

static size_t state_estimate(unsigned int cpus)
{
	return STATE_BASE_BYTES + (size_t)cpus * STATE_VCPU_BYTES;
}

/* Two a vCPU and a few clients, and more devices than there are. */
static size_t sections_estimate(unsigned int cpus)
{
	return 128 + (size_t)cpus * 2;
}

static int check_executable(const char *path, struct error *err)
{
	struct stat st;

	int r = stat(path, &st);

	if (r < 0 && errno == EACCES)
		return err_set(err, EACCES,
			       "successor '%s': Permission denied for user %u; named to 'molt "
			       "update' (-- FILE run) it is handed over open",
			       path, (unsigned int)geteuid());
	if (r < 0)
		return err_sys(err, errno, "successor '%s'", path);
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "successor '%s' is a directory", path);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EACCES, "successor '%s' is not a regular file", path);
	if (access(path, X_OK) < 0)
		return err_sys(err, errno, "successor '%s' cannot be executed", path);
	return 0;
}

static int resolve(const char *name, char **path, struct error *err)
{
	if (strchr(name, '/'))
		*path = strdup(name);
	else
		*path = path_search(name);
	if (!*path)
		return err_set(err, ENOENT, "successor '%s' is not in PATH", name);
	return check_executable(*path, err);
}

static bool names_incoming(char *const *argv)
{
	for (; *argv; argv++)
		if (strcmp(*argv, "--incoming") == 0 || strncmp(*argv, "--incoming=", 11) == 0)
			return true;
	return false;
}

char *const *handover_command(const struct update_request *req, const struct update_self *self)
{
	return req->command ? req->command : self->wrapper;
}

static int build_argv(struct hand_over *h, const struct update_request *req,
		      const struct update_self *self, struct error *err)
{
	char *const *command = handover_command(req, self);
	char *const *from = command ? command : self->argv;
	const char *program = command ? command[0] : self->path;
	size_t n = 0;
	int r;

	while (from[n])
		n++;
	h->argv = calloc(n + 3, sizeof(*h->argv));
	if (!h->argv)
		return err_set(err, ENOMEM, "no memory for the successor's arguments");
	if (req->command_fd >= 0 && program[0] != '/') {
		r = err_set(err, EINVAL,
			    "successor '%s': with command-fd the command's first word must "
			    "be an absolute path",
			    program);
	} else if (req->command_fd >= 0) {
		/* What it is called, and where the update after this one looks for it. */
		h->argv[0] = strdup(program);
		r = h->argv[0] ? 0
			       : err_set(err, ENOMEM, "no memory for the successor's arguments");
	} else {
		r = resolve(program, &h->argv[0], err);
	}
	for (size_t i = 1; i < n && r == 0; i++) {
		h->argv[i] = strdup(from[i]);
		if (!h->argv[i])
			r = err_set(err, ENOMEM, "no memory for the successor's arguments");
	}
	if (r == 0 && !names_incoming(h->argv)) {
		h->argv[n] = strdup("--incoming");
		h->argv[n + 1] = strdup(h->fds->state_uri);
		if (!h->argv[n] || !h->argv[n + 1])
			r = err_set(err, ENOMEM, "no memory for the successor's arguments");
	}
	return r;
}

/*
 * An environment of its own for each program that is executed, rather than setenv() in ours: that
 * may run out of memory half way, and would have to be undone.
 */
char **handover_environ(char *variable, struct error *err)
{
	static const char *const ours[] = { FDTABLE_ENV "=", UPDATE_CHECK_ENV "=",
					    UPDATE_ERROR_ENV "=" };
	char **envp, **next;
	size_t n = 0;

	while (environ[n])
		n++;
	next = envp = calloc(n + 2, sizeof(*envp));
	if (!envp) {
		err_set(err, ENOMEM, "no memory for the successor's environment");
		return NULL;
	}
	for (char **from = environ; *from; from++) {
		bool is_ours = false;

		for (size_t i = 0; i < ARRAY_SIZE(ours); i++)
			is_ours = is_ours || strncmp(*from, ours[i], strlen(ours[i])) == 0;
		if (!is_ours)
			*next++ = *from;
	}
	*next = variable;
	return envp;
}

/* The state is copied there when the guest runs again. */
static int check_given_fd(int fd, struct error *err)
{
	int flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) != O_RDWR)
		return err_set(err, EBADF,
			       "state file: the descriptor is not open for reading and "
			       "writing");
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "state file as a descriptor: not a regular file");
	return 0;
}

static int open_state_file(struct hand_over *h, const char *path, struct error *err)
{
	int r = new_file_open(&h->state_file, path, (off_t)h->state_room, err);

	if (r == -EACCES || (r == -EPERM && access(path, F_OK) < 0))
		return err_set(err, -r,
			       "state file: %s: %s; it may be the sandbox: have it made by "
			       "'molt update --state', or start molt with --sandbox write=DIR",
			       path, error_text(-r));
	if (r < 0)
		err_prefix(err, "state file");
	return r;
}

static int open_state_memfd(struct hand_over *h, struct error *err)
{
	h->state_fd = fd_memfd("molt-state", 0);
	if (h->state_fd < 0)
		return err_sys(err, -h->state_fd, "memfd_create for the state");
	if (fallocate(h->state_fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)h->state_room) < 0)
		return err_sys(err, errno, "no room for %zu bytes of state in memory",
			       h->state_room);
	return 0;
}

static int open_state(struct hand_over *h, const struct update_request *req, struct error *err)
{
	int r = 0, n;

	if (req->given_state_fd >= 0)
		r = check_given_fd(req->given_state_fd, err);
	else if (req->state_path)
		r = open_state_file(h, req->state_path, err);
	if (r == 0)
		r = open_state_memfd(h, err);
	if (r < 0)
		return r;
	if (req->state_path)
		n = snprintf(h->fds->state_uri, sizeof(h->fds->state_uri), "file:%s",
			     req->state_path);
	else
		n = snprintf(h->fds->state_uri, sizeof(h->fds->state_uri), "file:/proc/self/fd/%d",
			     h->state_fd);
	if (n >= (int)sizeof(h->fds->state_uri))
		return err_set(err, ENAMETOOLONG, "state file: the path is too long");
	return 0;
}

/*
 * Once, so that what is checked is what is executed. -1 where that cannot be: a script, or one that
 * may be executed and not read.
 */
static int open_program(const char *path)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd >= 0 && !fd_is_elf(fd))
		fd_close(&fd);
	return fd;
}

int handover_prepare(struct hand_over *h, struct update_request *req,
		     const struct update_self *self, unsigned int cpus, struct error *err)
{
	int r;

	h->state_room = state_estimate(cpus);
	h->fds = calloc(1, sizeof(*h->fds));
	if (!h->fds)
		return err_set(err, ENOMEM, "no memory for the fd table");
	if (getrandom(h->fds->nonce, sizeof(h->fds->nonce), 0) != (ssize_t)sizeof(h->fds->nonce))
		return err_sys(err, errno, "getrandom");
	h->table_fd = fd_memfd("molt-fdtable", 0);
	if (h->table_fd < 0)
		return err_sys(err, -h->table_fd, "memfd_create for the fd table");
	h->exe_fd = update_self_open(self, &h->leave_program, err);
	if (h->exe_fd < 0)
		return h->exe_fd;
	snprintf(h->table_env, sizeof(h->table_env), "%s=%d", FDTABLE_ENV, h->table_fd);
	h->envp = handover_environ(h->table_env, err);
	if (!h->envp)
		return -ENOMEM;
	r = open_state(h, req, err);
	if (r == 0)
		r = build_argv(h, req, self, err);
	if (r == 0 && req->command_fd < 0)
		h->program_fd = open_program(h->argv[0]);
	else if (r == 0) {
		h->program_fd = program_copy(req->command_fd, h->argv[0], err);
		r = h->program_fd < 0 ? h->program_fd : 0;
		fd_close(&req->command_fd);
	}
	if (r == 0)
		r = stream_writer_init(&h->w, h->state_room, err);
	if (r == 0)
		r = stream_reserve(&h->verified, sections_estimate(cpus), err);
	if (r == 0)
		memset(h->w.data, 0, h->w.capacity); /* so that no page is missing in the pause */
	return r;
}

void handover_fini(struct hand_over *h)
{
	for (size_t i = 0; h->argv && h->argv[i]; i++)
		free(h->argv[i]);
	free(h->argv);
	h->argv = NULL;
	free(h->envp);
	h->envp = NULL;
	stream_writer_fini(&h->w);
	stream_fini(&h->verified);
	new_file_drop(&h->state_file);
	fd_close(&h->table_fd);
	fd_close(&h->exe_fd);
	fd_close(&h->program_fd);
	fd_close(&h->state_fd);
	final_state_drop(&h->final);
	free(h->fds);
	h->fds = NULL;
}

int handover_write(struct hand_over *h, struct error *err)
{
	int r = fdtable_add(h->fds, "state", 0, h->state_fd, err);

	if (r == 0)
		r = fdtable_add(h->fds, "predecessor", 0, h->exe_fd, err);
	if (r == 0)
		r = stand_in_save_fds(&h->stand_in, h->fds, err);
	if (r == 0 && !h->stops_guest)
		r = fdtable_add(h->fds, "final", 0, h->final.fd, err);
	if (r == 0)
		r = fdtable_set_cloexec(h->fds, false, err);
	if (r == 0 && fd_set_cloexec(h->table_fd, false) < 0)
		r = err_sys(err, errno, "close-on-exec of the fd table");
	if (r == 0 && h->leave_program && h->program_fd >= 0)
		fd_set_cloexec(h->program_fd, false);
	return r;
}

void handover_undo(struct hand_over *h)
{
	struct error err = ERROR_INIT;

	if (fdtable_set_cloexec(h->fds, true, &err) < 0)
		log_error("%s", err.text);
	fd_set_cloexec(h->table_fd, true);
	fd_set_cloexec(h->program_fd, true);
}

bool handover_keep_off(struct hand_over *h, struct machine *m)
{
	struct stand_in_page *page = h->stand_in.page;

	if (!machine_spare_cpus(m, &page->free))
		return false;
	keep_off_begin(&h->keep_off, &page->free);
	page->usual = h->keep_off.usual;
	atomic_store(&page->has_free, h->keep_off.on);
	return h->keep_off.on;
}

int handover_exec(struct hand_over *h, struct machine *m, struct error *err)
{
	int r;

	/*
	 * The table is written last: it carries the time stamps of all steps before. Through the
	 * state's buffer, which is in the file by now: nothing is allocated here.
	 */
	h->fds->exec_ns = now_ns();
	r = fdtable_write_by(h->fds, &h->w, h->table_fd, err);
	if (r < 0)
		return r;
	if (h->handed_over)
		r = stand_in_wait_serving(&h->stand_in, err);
	if (r < 0)
		return r;
	if (h->handed_over && !h->keep_off.on)
		handover_keep_off(h, m);
	stand_in_arm(&h->stand_in, true);
	r = program_exec(h->program_fd, h->argv, h->envp);
	return program_not_executed(-r, h->argv[0], err);
}
