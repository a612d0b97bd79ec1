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
 * "file:/proc/self/fd/N"): the successor uses the descriptor in the fd table when the URI is the one
 * recorded there.
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

size_t update_state_estimate(const struct update *u)
{
	return STATE_BASE_BYTES + (size_t)u->machine->guest.cpus * STATE_VCPU_BYTES;
}

/* Two a vCPU and a few clients, and more devices than there are. */
static size_t sections_estimate(const struct update *u)
{
	return 128 + (size_t)u->machine->guest.cpus * 2;
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

char *const *handover_command(const struct update *u)
{
	return u->command ? u->command : u->self->wrapper;
}

static int build_argv(struct update *u, struct error *err)
{
	char *const *command = handover_command(u);
	char *const *from = command ? command : u->self->argv;
	const char *program = command ? command[0] : u->self->path;
	size_t n = 0;
	int r;

	while (from[n])
		n++;
	u->argv = calloc(n + 3, sizeof(*u->argv));
	if (!u->argv)
		return err_set(err, ENOMEM, "no memory for the successor's arguments");
	if (u->command_fd >= 0 && program[0] != '/') {
		r = err_set(err, EINVAL,
			    "successor '%s': with command-fd the command's first word must "
			    "be an absolute path",
			    program);
	} else if (u->command_fd >= 0) {
		/* What it is called, and where the update after this one looks for it. */
		u->argv[0] = strdup(program);
		r = u->argv[0] ? 0
			       : err_set(err, ENOMEM, "no memory for the successor's arguments");
	} else {
		r = resolve(program, &u->argv[0], err);
	}
	for (size_t i = 1; i < n && r == 0; i++) {
		u->argv[i] = strdup(from[i]);
		if (!u->argv[i])
			r = err_set(err, ENOMEM, "no memory for the successor's arguments");
	}
	if (r == 0 && !names_incoming(u->argv)) {
		u->argv[n] = strdup("--incoming");
		u->argv[n + 1] = strdup(u->fds->state_uri);
		if (!u->argv[n] || !u->argv[n + 1])
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
static int check_given_fd(const struct update *u, struct error *err)
{
	int fd = u->given_state_fd, flags = fcntl(fd, F_GETFL);
	struct stat st;

	if (flags < 0 || (flags & O_PATH) || (flags & O_ACCMODE) != O_RDWR)
		return err_set(err, EBADF,
			       "state file: the descriptor is not open for reading and "
			       "writing");
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "state file as a descriptor: not a regular file");
	return 0;
}

static int open_state_file(struct update *u, struct error *err)
{
	int r = new_file_open(&u->state_file, u->state_path, (off_t)update_state_estimate(u), err);

	if (r == -EACCES || (r == -EPERM && access(u->state_path, F_OK) < 0))
		return err_set(err, -r,
			       "state file: %s: %s; it may be the sandbox: have it made by "
			       "'molt update --state', or start molt with --sandbox write=DIR",
			       u->state_path, strerror(-r));
	if (r < 0)
		err_prefix(err, "state file");
	return r;
}

static int open_state_memfd(struct update *u, struct error *err)
{
	u->state_fd = fd_memfd("molt-state", 0);
	if (u->state_fd < 0)
		return err_sys(err, -u->state_fd, "memfd_create for the state");
	if (fallocate(u->state_fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)update_state_estimate(u)) < 0)
		return err_sys(err, errno, "no room for %zu bytes of state in memory",
			       update_state_estimate(u));
	return 0;
}

static int open_state(struct update *u, struct error *err)
{
	int r = 0, n;

	if (u->given_state_fd >= 0)
		r = check_given_fd(u, err);
	else if (u->state_path)
		r = open_state_file(u, err);
	if (r == 0)
		r = open_state_memfd(u, err);
	if (r < 0)
		return r;
	if (u->state_path)
		n = snprintf(u->fds->state_uri, sizeof(u->fds->state_uri), "file:%s",
			     u->state_path);
	else
		n = snprintf(u->fds->state_uri, sizeof(u->fds->state_uri), "file:/proc/self/fd/%d",
			     u->state_fd);
	if (n >= (int)sizeof(u->fds->state_uri))
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

int handover_prepare(struct update *u, struct error *err)
{
	int r;

	u->fds = calloc(1, sizeof(*u->fds));
	if (!u->fds)
		return err_set(err, ENOMEM, "no memory for the fd table");
	if (getrandom(u->fds->nonce, sizeof(u->fds->nonce), 0) != (ssize_t)sizeof(u->fds->nonce))
		return err_sys(err, errno, "getrandom");
	u->table_fd = fd_memfd("molt-fdtable", 0);
	if (u->table_fd < 0)
		return err_sys(err, -u->table_fd, "memfd_create for the fd table");
	u->exe_fd = update_self_open(u->self, &u->leave_program, err);
	if (u->exe_fd < 0)
		return u->exe_fd;
	snprintf(u->table_env, sizeof(u->table_env), "%s=%d", FDTABLE_ENV, u->table_fd);
	u->envp = handover_environ(u->table_env, err);
	if (!u->envp)
		return -ENOMEM;
	r = open_state(u, err);
	if (r == 0)
		r = build_argv(u, err);
	if (r == 0 && u->command_fd < 0)
		u->program_fd = open_program(u->argv[0]);
	else if (r == 0) {
		u->program_fd = program_copy(u->command_fd, u->argv[0], err);
		r = u->program_fd < 0 ? u->program_fd : 0;
		fd_close(&u->command_fd);
	}
	if (r == 0)
		r = stream_writer_init(&u->w, update_state_estimate(u), err);
	if (r == 0)
		r = stream_reserve(&u->verified, sections_estimate(u), err);
	if (r == 0) {
		memset(u->w.data, 0, u->w.capacity); /* so that no page is missing in the pause */
		u->ops.flush(u->ops.opaque);
	}
	return r;
}

void handover_fini(struct update *u)
{
	for (size_t i = 0; u->argv && u->argv[i]; i++)
		free(u->argv[i]);
	free(u->argv);
	u->argv = NULL;
	free(u->envp);
	u->envp = NULL;
	stream_writer_fini(&u->w);
	stream_fini(&u->verified);
	new_file_drop(&u->state_file);
	fd_close(&u->table_fd);
	fd_close(&u->exe_fd);
	fd_close(&u->program_fd);
	fd_close(&u->state_fd);
	final_state_drop(&u->final);
	free(u->fds);
	u->fds = NULL;
}

int handover_write(struct update *u, struct error *err)
{
	int r = fdtable_add(u->fds, "state", 0, u->state_fd, err);

	if (r == 0)
		r = fdtable_add(u->fds, "predecessor", 0, u->exe_fd, err);
	if (r == 0)
		r = stand_in_save_fds(&u->stand_in, u->fds, err);
	if (r == 0 && !u->stops_guest)
		r = fdtable_add(u->fds, "final", 0, u->final.fd, err);
	if (r == 0)
		r = fdtable_set_cloexec(u->fds, false, err);
	if (r == 0 && fd_set_cloexec(u->table_fd, false) < 0)
		r = err_sys(err, errno, "close-on-exec of the fd table");
	if (r == 0 && u->leave_program && u->program_fd >= 0)
		fd_set_cloexec(u->program_fd, false);
	return r;
}

void handover_undo(struct update *u)
{
	struct error err = ERROR_INIT;

	if (fdtable_set_cloexec(u->fds, true, &err) < 0)
		log_error("%s", err.text);
	fd_set_cloexec(u->table_fd, true);
	fd_set_cloexec(u->program_fd, true);
}

int handover_exec(struct update *u, struct error *err)
{
	int r;

	/*
	 * The table is written last: it carries the time stamps of all stages before. Through the
	 * state's buffer, which is in the file by now: nothing is allocated here.
	 */
	u->fds->exec_ns = now_ns();
	r = fdtable_write_by(u->fds, &u->w, u->table_fd, err);
	if (r < 0)
		return r;
	if (u->handed_over && stand_in_wait_serving(&u->stand_in, err) < 0)
		return -ECHILD;
	u->stand_in.page->has_free = machine_spare_cpus(u->machine, &u->stand_in.page->free);
	stand_in_arm(&u->stand_in, true);
	r = program_exec(u->program_fd, u->argv, u->envp);
	return err_sys(err, -r, "successor '%s'", u->argv[0]);
}
