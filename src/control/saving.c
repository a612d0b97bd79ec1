/* SPDX-License-Identifier: MIT */
/* The control server in the state stream and the fd table. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/state/vmstate.h>

#include "internal.h"

#define LISTENER "control"
#define CLIENT "control-client"
#define DESCRIPTOR "control-fd"

static const struct vmstate_field listener_fields[] = {
	VMSTATE_STRING(struct control_listener, path),
	VMSTATE_U64(struct control_listener, dev),
	VMSTATE_U64(struct control_listener, ino),
	VMSTATE_U32(struct control_listener, next_number),
	VMSTATE_U32_VAR(struct control_listener, numbers, nnumbers),
	VMSTATE_END
};

static int listener_post_load(void *data, uint32_t version, struct error *err)
{
	const struct control_listener *l = data;

	(void)version;
	for (uint32_t i = 0; i < l->nnumbers; i++) {
		if (l->numbers[i] == CONTROL_NO_CLIENT)
			return err_set(err, EBADMSG, "%u is no client's number", l->numbers[i]);
		for (uint32_t j = 0; j < i; j++)
			if (l->numbers[i] == l->numbers[j])
				return err_set(err, EBADMSG, "client %u is there twice",
					       l->numbers[i]);
	}
	return 0;
}

static const struct vmstate listener_state = {
	.name = LISTENER,
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct control_listener),
	.fields = listener_fields,
	.post_load = listener_post_load,
};

static const struct vmstate_field client_fields[] = {
	VMSTATE_BOOL(struct control_client, negotiated),
	VMSTATE_BOOL(struct control_client, busy),
	VMSTATE_BOOL(struct control_client, eof),
	VMSTATE_U8_VAR(struct control_client, in, in_len),
	VMSTATE_U8_VAR(struct control_client, out, out_len),
	VMSTATE_UNSAVED(struct control_client, fds, "in the fd table"),
	VMSTATE_UNSAVED(struct control_client, number, "it is the section's instance"),
	VMSTATE_UNSAVED(struct control_client, framer, "follows from the bytes in `in`"),
	VMSTATE_UNSAVED(struct control_client, waiting, "follows from the bytes in `in`"),
	VMSTATE_END
};

static const struct vmstate *const client_subsections[] = { &control_fds_state, NULL };

static const struct vmstate client_state = {
	.name = CLIENT,
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct control_client),
	.fields = client_fields,
	.subsections = client_subsections,
};

void control_takeover_kinds(struct takeover_kinds *kinds)
{
	static const char *const fds[] = { LISTENER, CLIENT, DESCRIPTOR, NULL };

	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &listener_state, .fds = fds });
	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &client_state });
	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &control_resize_state });
}

int control_save(struct control *c, struct stream_writer *w, struct fdtable *fds, struct error *err)
{
	struct control_listener listener;
	uint32_t id = 0;
	int r;

	if (!c)
		return 0;
	control_hand_on_held(c);
	r = fdtable_add(fds, LISTENER, 0, c->fd, err);
	if (r < 0)
		return r;
	listener = c->guest;
	listener.nnumbers = 0;
	for (unsigned int i = 0; i < c->nclients; i++)
		if (!c->clients[i]->dead)
			listener.numbers[listener.nnumbers++] = c->clients[i]->number;
	vmstate_save(w, &listener_state, 0, &listener);
	for (unsigned int i = 0; i < c->nclients; i++) {
		const struct control_client *cl = c->clients[i];

		if (cl->dead)
			continue;
		r = fdtable_add(fds, CLIENT, cl->number, cl->fd, err);
		if (r < 0)
			return r;
		vmstate_save(w, &client_state, cl->number, cl);
		for (uint32_t n = 0; n < cl->nfds && r == 0; n++)
			r = fdtable_add(fds, DESCRIPTOR, id++, cl->fds[n], err);
		if (r < 0)
			return r;
	}
	control_save_resizes(c, w);
	return 0;
}

/* next_id: of the first descriptor that belongs to this client or a later one. */
static int load_fds(struct control_client *cl, struct fdtable *fds, uint32_t *next_id,
		    struct error *err)
{
	uint32_t n = cl->nfds;

	for (cl->nfds = 0; cl->nfds < n; cl->nfds++) {
		int fd = fdtable_take(fds, DESCRIPTOR, (*next_id)++, 0, err);

		if (fd < 0)
			return fd;
		cl->fds[cl->nfds] = fd;
	}
	return 0;
}

static int load_client(struct control *c, uint32_t number, struct fdtable *fds, uint32_t *next_id,
		       struct stream *stream, struct error *err)
{
	_cleanup_close_ int fd = fdtable_take(fds, CLIENT, number, FD_KIND_STREAM, err);
	struct control_client *cl;
	int r;

	if (fd < 0)
		return fd;
	cl = control_client_add(c, fd, number);
	if (!cl)
		return err_set(err, ENOMEM, "no memory for control client %u", number);
	fd = -1;
	r = control_client_watch(cl, err);
	if (r < 0)
		return r;
	r = vmstate_load(stream, &client_state, number, cl, err);
	cl->waiting = cl->in_len > 0;
	if (r < 0) {
		cl->nfds = 0;
		return r;
	}
	return load_fds(cl, fds, next_id, err);
}

int control_load(struct control *c, struct fdtable *fds, struct stream *stream, struct error *err)
{
	int r = vmstate_load(stream, &listener_state, 0, &c->guest, err);
	uint32_t next_id = 0;

	if (r < 0)
		return r;
	c->fd = fdtable_take(fds, LISTENER, 0, FD_KIND_LISTEN, err);
	if (c->fd < 0)
		return c->fd;
	for (uint32_t i = 0; r == 0 && i < c->guest.nnumbers; i++)
		r = load_client(c, c->guest.numbers[i], fds, &next_id, stream, err);
	return r < 0 ? r : control_load_resizes(c, stream, err);
}
