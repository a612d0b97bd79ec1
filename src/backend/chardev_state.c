/* SPDX-License-Identifier: MIT */
/*
 * What of a character backend crosses an update besides its descriptors: what it is, output not yet
 * written, how far an escape sequence came, what the terminal's settings were before molt, which
 * file is the listening socket's.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/state/vmstate.h>

#include "chardev_impl.h"

struct chardev_state {
	char kind[CHARDEV_KIND_MAX];
	char describe[CHARDEV_DESCRIBE_MAX];
	bool in_eof;
	bool out_dead;
	bool escape;
	bool raw;
	uint64_t dropped;
	uint64_t socket_dev;
	uint64_t socket_ino;
	uint32_t out_begun;
	uint32_t iflag;
	uint32_t oflag;
	uint32_t cflag;
	uint32_t lflag;
	uint32_t ispeed;
	uint32_t ospeed;
	uint8_t line;
	uint8_t cc[NCCS];
	uint32_t out_len;
	uint8_t out[CHARDEV_QUEUE_BYTES];
};

/* A molt that does not know them, as 0.1.0, takes over without. */
#define OPTIONAL (VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE)

static const struct vmstate_field fields[] = {
	VMSTATE_STRING(struct chardev_state, kind),
	VMSTATE_STRING(struct chardev_state, describe),
	VMSTATE_BOOL(struct chardev_state, in_eof),
	VMSTATE_BOOL(struct chardev_state, out_dead),
	VMSTATE_BOOL(struct chardev_state, escape),
	VMSTATE_BOOL(struct chardev_state, raw),
	VMSTATE_U64(struct chardev_state, dropped),
	VMSTATE_SCALAR_(struct chardev_state, socket_dev, uint64_t, FIELD_U64, OPTIONAL, 0),
	VMSTATE_SCALAR_(struct chardev_state, socket_ino, uint64_t, FIELD_U64, OPTIONAL, 0),
	VMSTATE_SCALAR_(struct chardev_state, out_begun, uint32_t, FIELD_U32, OPTIONAL,
			CHARDEV_BEGUN_UNKNOWN),
	VMSTATE_U32(struct chardev_state, iflag),
	VMSTATE_U32(struct chardev_state, oflag),
	VMSTATE_U32(struct chardev_state, cflag),
	VMSTATE_U32(struct chardev_state, lflag),
	VMSTATE_U32(struct chardev_state, ispeed),
	VMSTATE_U32(struct chardev_state, ospeed),
	VMSTATE_U8(struct chardev_state, line),
	VMSTATE_U8_ARRAY(struct chardev_state, cc),
	VMSTATE_U8_VAR(struct chardev_state, out, out_len),
	VMSTATE_END
};

const struct vmstate chardev_vmstate = {
	.name = "chardev",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct chardev_state),
	.fields = fields,
};

/* The section's name has the backend's tag in it, so the description is made for each. */
static struct vmstate describe_state(const struct chardev *cd, char *name)
{
	struct vmstate vms = chardev_vmstate;

	snprintf(name, STREAM_NAME_MAX + 1, "%s-chardev", cd->tag);
	vms.name = name;
	return vms;
}

static void save_terminal(const struct termios *t, struct chardev_state *st)
{
	st->iflag = t->c_iflag;
	st->oflag = t->c_oflag;
	st->cflag = t->c_cflag;
	st->lflag = t->c_lflag;
	st->ispeed = t->c_ispeed;
	st->ospeed = t->c_ospeed;
	st->line = t->c_line;
	memcpy(st->cc, t->c_cc, sizeof(st->cc));
}

static void load_terminal(struct termios *t, const struct chardev_state *st)
{
	t->c_iflag = st->iflag;
	t->c_oflag = st->oflag;
	t->c_cflag = st->cflag;
	t->c_lflag = st->lflag;
	t->c_ispeed = st->ispeed;
	t->c_ospeed = st->ospeed;
	t->c_line = st->line;
	memcpy(t->c_cc, st->cc, sizeof(st->cc));
}

static void save_queue(struct chardev *cd, struct chardev_state *st)
{
	pthread_mutex_lock(&cd->lock);
	st->out_dead = cd->out_dead;
	st->dropped = cd->dropped;
	pthread_mutex_unlock(&cd->lock);
	chardev_queue_save(cd, st->out, &st->out_len, &st->out_begun);
}

struct chardev_state *chardev_new_state(void)
{
	return calloc(1, sizeof(struct chardev_state));
}

int chardev_save_state(struct chardev *cd, struct stream_writer *w, struct error *err)
{
	struct chardev_state *st = cd->saved;
	char name[STREAM_NAME_MAX + 1];
	struct vmstate vms = describe_state(cd, name);

	(void)err;
	snprintf(st->kind, sizeof(st->kind), "%s", cd->kind->name);
	snprintf(st->describe, sizeof(st->describe), "%s", cd->describe);
	st->in_eof = cd->in_eof;
	st->escape = cd->escape;
	st->raw = cd->raw;
	st->socket_dev = cd->aux_id.dev;
	st->socket_ino = cd->aux_id.ino;
	save_terminal(&cd->original, st);
	save_queue(cd, st);
	vmstate_save(w, &vms, cd->instance, st);
	return 0;
}

int chardev_load_state(struct chardev *cd, char *kind, struct stream *stream, struct error *err)
{
	struct chardev_state *st = cd->saved;
	char name[STREAM_NAME_MAX + 1];
	struct vmstate vms = describe_state(cd, name);
	int rc;

	if (!st)
		return err_set(err, ENOMEM, "no memory to load the character backend");
	rc = vmstate_load(stream, &vms, cd->instance, st, err);
	if (rc)
		return rc;
	strcpy(kind, st->kind);
	snprintf(cd->describe, sizeof(cd->describe), "%s", st->describe);
	cd->in_eof = st->in_eof;
	cd->escape = st->escape;
	cd->raw = st->raw;
	cd->aux_id = (struct unix_socket_id){ .dev = st->socket_dev, .ino = st->socket_ino };
	load_terminal(&cd->original, st);
	cd->out_dead = st->out_dead;
	cd->dropped = st->dropped;
	cd->dropped_logged = st->dropped;
	chardev_queue_load(cd, st->out, st->out_len, st->out_begun);
	return 0;
}

int chardev_load_again(struct chardev *cd, struct stream *stream, struct error *err)
{
	char kind[CHARDEV_KIND_MAX];
	int rc = chardev_load_state(cd, kind, stream, err);

	if (rc == 0 && strcmp(kind, cd->kind->name) != 0)
		rc = err_set(err, EINVAL, "serial backend '%s' has become '%s'", cd->kind->name,
			     kind);
	return rc;
}
