/* SPDX-License-Identifier: MIT */
/*
 * What `molt update` opens itself and hands to the running molt as descriptors. So a path means
 * what it means here, where the user typed it, and is opened with his rights and no others.
 *
 * *The successor.* Only what the user named. Who is at the other end of the socket may be anybody,
 * of another user even: a path that comes from there is opened by nobody here. Without a command it
 * is the running molt that looks at its own path, as the user that it is. What is no ELF file (a
 * script, whose interpreter would have to open it once more) goes as a path.
 *
 * *The state* goes to memory that is made here and sealed by the other side, so that no disk is
 * in the way of the pause, and from there to its file when the update is done. Another server may
 * make it huge, go on writing or cut it off at any moment: so it is never mapped, what is looked at
 * is a copy, and that same copy is what is kept.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/state/stream.h>

#include "given_fds.h"

#define SUCCESSOR "molt-successor"
#define STATE "molt-state"
#define SEAL_WAIT_MS 4096       /* the last of its looks; together twice that */
#define STATE_BYTES (128 << 10) /* of one vCPU; larger ones may find the disk full later */
#define OPEN_FLAGS (O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

/* ---- what is not kept goes, also where a signal ends us while we wait for the other side ---- */

static const int ends[] = { SIGHUP, SIGINT, SIGPIPE, SIGTERM };
static struct sigaction before[ARRAY_SIZE(ends)];
static char *volatile unfinished; /* the file's name for now; NULL: nothing is guarded */

static void remove_unfinished(int signo)
{
	unlink(unfinished);
	raise(signo); /* SA_RESETHAND: it ends us when this returns */
}

static void guard_file(const struct new_file *file)
{
	struct sigaction sa = { .sa_handler = remove_unfinished, .sa_flags = (int)SA_RESETHAND };

	unfinished = strdup(file->temp);
	for (size_t i = 0; unfinished && i < ARRAY_SIZE(ends); i++) {
		sigaction(ends[i], NULL, &before[i]);
		if (before[i].sa_handler == SIG_DFL)
			sigaction(ends[i], &sa, NULL);
	}
}

static void unguard_file(void)
{
	for (size_t i = 0; unfinished && i < ARRAY_SIZE(ends); i++)
		sigaction(ends[i], &before[i], NULL);
	free(unfinished);
	unfinished = NULL;
}

/* Gives it and says so in the arguments. 0 where there is nothing to give or nobody to take it. */
static int give(struct client *c, int fd, const char *name, json_t *arguments, const char *key,
		struct error *err)
{
	int r = client_give_fd(c, name, fd, err);

	if (r == -EREMOTEIO) /* it takes none */
		return 0;
	if (r == 0 && json_object_set_new(arguments, key, json_string(name)) < 0)
		r = err_set(err, ENOMEM, "no memory for a request");
	return r;
}

static int give_command(struct client *c, json_t *arguments, json_t *command, struct error *err)
{
	const char *path = json_string_value(json_array_get(command, 0));
	_cleanup_close_ int fd = path ? open(path, O_RDONLY | OPEN_FLAGS) : -1;

	if (fd < 0 || !fd_is_elf(fd))
		return 0;
	return give(c, fd, SUCCESSOR, arguments, "command-fd", err);
}

static int give_state(struct client *c, json_t *arguments, struct given_state *state,
		      struct error *err)
{
	const char *path = json_string_value(json_object_get(arguments, "state-file"));
	int r;

	if (!path)
		return 0;
	r = new_file_open(&state->file, path, STATE_BYTES, err);
	if (r < 0) {
		err_prefix(err, "state file");
		return r;
	}
	guard_file(&state->file);
	state->fd = fd_memfd(STATE, 0);
	if (state->fd < 0)
		return err_sys(err, -state->fd, "memory for the state");
	r = give(c, state->fd, STATE, arguments, "state-fd", err);
	if (r == 0 && !json_object_get(arguments, "state-fd"))
		r = err_set(err, ENOTSUP, "state file: the running molt takes no descriptors");
	return r;
}

int given_fds_give(struct client *c, json_t *arguments, struct given_state *state,
		   struct error *err)
{
	json_t *command = json_object_get(arguments, "command");
	int r = command ? give_command(c, arguments, command, err) : 0;

	return r < 0 ? r : give_state(c, arguments, state, err);
}

static int check_state(const void *data, size_t len, struct error *err)
{
	struct stream s;
	int r;

	if (len == 0)
		return err_set(err, ENODATA, "the running molt has written none");
	r = stream_parse(&s, data, len, err);
	if (r < 0)
		err_prefix(err, "what the running molt has written is none");
	else
		stream_fini(&s);
	return r;
}

/* It is sealed when all is written, by a process that may still be at it when the answer is there. */
static int wait_until_sealed(int fd, struct error *err)
{
	for (int ms = 1; ms <= SEAL_WAIT_MS; ms *= 2) {
		if (fcntl(fd, F_GET_SEALS) & F_SEAL_WRITE)
			return 0;
		poll(NULL, 0, ms);
	}
	return err_set(err, ETIMEDOUT, "the running molt does not write it");
}

int given_state_keep(struct given_state *state, struct error *err)
{
	_cleanup_free_ void *data = NULL;
	size_t len;
	int r;

	if (state->fd < 0)
		return 0;
	r = wait_until_sealed(state->fd, err);
	if (r == 0)
		r = fd_read_file(state->fd, "the state", STREAM_MAX_BYTES, &data, &len, err);
	if (r == 0)
		r = check_state(data, len, err);
	return r < 0 ? r : new_file_keep(&state->file, data, len, err);
}

void given_state_drop(struct given_state *state)
{
	fd_close(&state->fd);
	new_file_drop(&state->file);
	unguard_file();
}
