/* SPDX-License-Identifier: MIT */
/* The control socket's file; see base/unix_socket.c. */
#include <string.h>

#include <molt/base/log.h>
#include <molt/base/unix_socket.h>

#include "internal.h"

int control_listen(struct control *c, const char *path, struct error *err)
{
	struct unix_socket_id id;

	c->fd = unix_socket_listen("control socket", path, CONTROL_MAX_CLIENTS, &id, err);
	if (c->fd < 0)
		return c->fd;
	memcpy(c->guest.path, path, strlen(path) + 1);
	c->guest.dev = id.dev;
	c->guest.ino = id.ino;
	c->owner = true;
	return 0;
}

void control_listen_again(struct control *c)
{
	int r = c ? unix_socket_listen_again(c->fd, CONTROL_MAX_CLIENTS) : 0;

	if (r < 0)
		log_warn("control: listening again: %s", error_text(-r));
}

const char *control_path(const struct control *c)
{
	return c ? c->guest.path : NULL;
}

void control_unlisten(struct control *c)
{
	const struct unix_socket_id id = { .dev = c->guest.dev, .ino = c->guest.ino };

	unix_socket_close(&c->fd, &id, c->owner);
}
