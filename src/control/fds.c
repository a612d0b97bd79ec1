/* SPDX-License-Identifier: MIT */
/*
 * Descriptors that clients send. They come with bytes of the stream (SCM_RIGHTS) and wait in their
 * order until `getfd` gives the oldest a name, by which other commands of the same client then mean
 * it: QEMU's commands, in QEMU's words. Both kinds count against one limit, survive an update, and
 * are closed when the client goes.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

static bool fds_needed(const void *data)
{
	return ((const struct control_client *)data)->nfds > 0;
}

static int fds_post_load(void *data, uint32_t version, struct error *err)
{
	const struct control_client *cl = data;

	(void)version;
	if (cl->nfds > CONTROL_MAX_FDS)
		return err_set(err, EBADMSG, "%u descriptors of a client are too many", cl->nfds);
	for (uint32_t i = 0; i < CONTROL_MAX_FDS; i++)
		if (!memchr(cl->fd_names[i], '\0', sizeof(cl->fd_names[i])))
			return err_set(err, EBADMSG, "a descriptor's name has no end");
	return 0;
}

static const struct vmstate_field fds_fields[] = {
	VMSTATE_U32_DEF(struct control_client, nfds, 0),
	VMSTATE_RAW(struct control_client, fd_names), VMSTATE_END
};

const struct vmstate control_fds_state = {
	.name = "fds",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct control_client),
	.fields = fds_fields,
	.needed = fds_needed,
	.post_load = fds_post_load,
};

void control_fds_add(struct control_client *cl, int fd)
{
	int flags = fcntl(fd, F_GETFL);

	/* Nobody can use it, and an update could not find out what it is. */
	if (flags >= 0 && (flags & O_PATH)) {
		log_warn("control: client %u sends a descriptor that was opened with O_PATH, closed it",
			 cl->number);
		fd_close(&fd);
		return;
	}
	if (cl->nfds == CONTROL_MAX_FDS) {
		log_warn("control: client %u sends more than %d descriptors, closed one",
			 cl->number, CONTROL_MAX_FDS);
		fd_close(&fd);
		return;
	}
	cl->fds[cl->nfds] = fd;
	memset(cl->fd_names[cl->nfds++], 0, sizeof(cl->fd_names[0]));
}

void control_fds_close(struct control_client *cl)
{
	while (cl->nfds)
		fd_close(&cl->fds[--cl->nfds]);
}

/* The first with that name; cl->nfds if there is none. "" finds the oldest without a name. */
static uint32_t find(const struct control_client *cl, const char *name)
{
	uint32_t i = 0;

	while (i < cl->nfds && strcmp(cl->fd_names[i], name) != 0)
		i++;
	return i;
}

static int take(struct control_client *cl, uint32_t i)
{
	int fd = cl->fds[i];
	uint32_t behind = --cl->nfds - i;

	memmove(&cl->fds[i], &cl->fds[i + 1], behind * sizeof(cl->fds[0]));
	memmove(&cl->fd_names[i], &cl->fd_names[i + 1], behind * sizeof(cl->fd_names[0]));
	return fd;
}

static struct control_client *client_of(struct control *c, uint32_t number)
{
	for (unsigned int i = 0; c && i < c->nclients; i++)
		if (!c->clients[i]->dead && c->clients[i]->number == number)
			return c->clients[i];
	return NULL;
}

int control_take_fd(struct control *c, uint32_t client, const char *name, struct error *err)
{
	struct control_client *cl = client_of(c, client);
	uint32_t i = cl && name[0] ? find(cl, name) : 0;

	if (!cl || !name[0] || i == cl->nfds)
		return err_set(err, ENOENT, "File descriptor named '%s' has not been found", name);
	return take(cl, i);
}

/* The client and the name that getfd and closefd are about; NULL with the reason. */
static struct control_client *named(struct control *c, const struct command_origin *origin,
				    json_t *args, const char **name, struct error *err)
{
	struct control_client *cl = client_of(c, origin->client);

	*name = json_string_value(json_object_get(args, "fdname"));
	if (!(*name)[0])
		err_set(err, EINVAL, "Parameter 'fdname' expects a name");
	else if (strlen(*name) > CONTROL_FDNAME_MAX)
		err_set(err, EINVAL, "Parameter 'fdname' is longer than %d bytes",
			CONTROL_FDNAME_MAX);
	else if (isdigit((unsigned char)(*name)[0]))
		err_set(err, EINVAL, "Parameter 'fdname' expects a name not starting with a digit");
	else
		return cl;
	return NULL;
}

static int run_getfd(void *opaque, const struct command_origin *origin, json_t *args,
		     json_t **result, struct error *err)
{
	const char *name;
	struct control_client *cl = named(opaque, origin, args, &name, err);
	uint32_t old, new;

	(void)result;
	if (!cl)
		return -EINVAL;
	if (find(cl, "") == cl->nfds)
		return err_set(err, ENOENT, "No file descriptor supplied via SCM_RIGHTS");
	old = find(cl, name);
	if (old < cl->nfds) {
		int fd = take(cl, old);

		fd_close(&fd);
	}
	new = find(cl, "");
	strcpy(cl->fd_names[new], name);
	return 0;
}

static int run_closefd(void *opaque, const struct command_origin *origin, json_t *args,
		       json_t **result, struct error *err)
{
	const char *name;
	struct control_client *cl = named(opaque, origin, args, &name, err);
	int fd;

	(void)result;
	if (!cl)
		return -EINVAL;
	fd = control_take_fd(opaque, cl->number, name, err);
	if (fd < 0)
		return fd;
	fd_close(&fd);
	return 0;
}

static const struct command_member fdname_args[] = { { .name = "fdname", .type = &command_string },
						     { 0 } };

static const struct command fd_commands[] = {
	{ .name = "getfd",
	  .help = "give a descriptor that was sent along a name",
	  .args = fdname_args,
	  .run = run_getfd },
	{ .name = "closefd",
	  .help = "close a descriptor named by getfd",
	  .args = fdname_args,
	  .run = run_closefd },
};

void control_add_fd_commands(struct control *c)
{
	control_add_commands(c, fd_commands, ARRAY_SIZE(fd_commands), c);
}
