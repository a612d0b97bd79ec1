/* SPDX-License-Identifier: MIT */
/* The kinds of character backends, and the life of one: opened, saved, closed. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <molt/base/fd.h>

#include "chardev_impl.h"

static const struct chardev_kind *const kinds[] = {
	&chardev_null, &chardev_tty, &chardev_pty, &chardev_file, &chardev_socket,
};

static const struct chardev_kind *kind_find(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
		if (strlen(kinds[i]->name) == len && memcmp(kinds[i]->name, name, len) == 0)
			return kinds[i];
	return NULL;
}

static struct chardev *chardev_new(const char *tag, uint32_t instance, struct loop *loop,
				   const struct chardev_ops *ops)
{
	struct chardev *cd = calloc(1, sizeof(*cd));

	if (!cd)
		return NULL;
	cd->saved = chardev_new_state();
	if (!cd->saved) {
		free(cd);
		return NULL;
	}
	snprintf(cd->tag, sizeof(cd->tag), "%s", tag);
	cd->instance = instance;
	if (instance)
		snprintf(cd->name, sizeof(cd->name), "%s%u", cd->tag, instance);
	else
		snprintf(cd->name, sizeof(cd->name), "%s", cd->tag);
	cd->loop = loop;
	cd->ops = *ops;
	cd->in_fd = -1;
	cd->out_fd = -1;
	cd->aux_fd = -1;
	cd->out_chunk = CHARDEV_CHUNK;
	writer_init(&cd->writer, NULL, cd);
	pthread_mutex_init(&cd->lock, NULL);
	return cd;
}

/* What the command line's text names; *path is NULL where there is none. 0 or -EINVAL. */
static int parse_spec(const char *spec, const struct chardev_kind **kind, const char **path,
		      struct error *err)
{
	const char *equals = strchr(spec, '=');
	size_t len = equals ? (size_t)(equals - spec) : strlen(spec);

	*kind = kind_find(spec, len);
	*path = equals ? equals + 1 : NULL;
	if (!*kind || (*kind)->takes_path != (equals != NULL) || (equals && !equals[1]))
		return err_set(err, EINVAL,
			       "no character backend \"%s\"; there are null, tty, "
			       "pty, file=PATH and socket=PATH",
			       spec);
	return 0;
}

int chardev_check_spec(const char *what, const char *spec, struct error *err)
{
	const struct chardev_kind *kind;
	const char *path;
	int rc = parse_spec(spec, &kind, &path, err);

	if (rc == 0 && kind == &chardev_socket)
		return unix_socket_check_path(what, path, err);
	err_prefix(err, "%s", what);
	return rc;
}

static int open_spec(struct chardev *cd, const char *spec, struct error *err)
{
	const char *path;
	int rc = parse_spec(spec, &cd->kind, &path, err);

	if (rc)
		return rc;
	cd->owner = true;
	cd->running = true;
	return cd->kind->open(cd, path, err);
}

static int open_incoming(struct chardev *cd, struct fdtable *fds, struct stream *stream,
			 struct error *err)
{
	char kind[CHARDEV_KIND_MAX];
	int rc = chardev_load_state(cd, kind, stream, err);

	if (rc)
		return rc;
	cd->kind = kind_find(kind, strlen(kind));
	if (!cd->kind)
		return err_set(err, EINVAL,
			       "section %s-chardev: this molt has no character backend \"%s\"",
			       cd->tag, kind);
	return cd->kind->adopt(cd, fds, err);
}

static void chardev_seen_full(void *opaque)
{
	(void)opaque;
}

int chardev_open(struct chardev **out, const char *tag, uint32_t instance, const char *spec,
		 struct loop *loop, const struct chardev_ops *ops, struct fdtable *fds,
		 struct stream *stream, struct error *err)
{
	struct chardev *cd;
	bool had_input;
	int rc;

	*out = NULL;
	if (strlen(tag) > CHARDEV_TAG_MAX)
		return err_set(err, EINVAL, "the name \"%s\" is too long for a character backend",
			       tag);
	cd = chardev_new(tag, instance, loop, ops);
	if (!cd)
		return err_set(err, ENOMEM, "no memory for the character backend");
	rc = loop_wake_init_going_on(loop, &cd->wake, chardev_woken, cd, err);
	if (rc == 0)
		rc = loop_wake_init(loop, &cd->full, chardev_seen_full, cd, err);
	if (rc) {
		loop_wake_fini(&cd->wake);
		pthread_mutex_destroy(&cd->lock);
		free(cd->saved);
		free(cd);
		return rc;
	}
	rc = fds && stream ? open_incoming(cd, fds, stream, err) : open_spec(cd, spec, err);
	if (rc) {
		chardev_close(cd);
		return rc;
	}
	chardev_output_init(cd);
	had_input = !cd->in_eof;
	chardev_arm(cd);
	if (had_input && cd->in_eof) {
		chardev_close(cd);
		return err_set(err, ENOMEM, "cannot wait for input from %s", spec);
	}
	*out = cd;
	return 0;
}

void chardev_close(struct chardev *cd)
{
	bool ended;

	if (!cd)
		return;
	ended = chardev_output_end(cd, cd->running && cd->owner && cd->kind);
	loop_del(&cd->in_src);
	loop_del(&cd->out_src);
	loop_del(&cd->aux_src);
	/* Until molt's end, which is near, the file and what is queued for it stay. */
	if (!ended)
		return;
	loop_wake_fini(&cd->wake);
	loop_wake_fini(&cd->full);
	if (cd->kind && cd->kind->close)
		cd->kind->close(cd, cd->owner);
	pthread_mutex_destroy(&cd->lock);
	free(cd->saved);
	free(cd);
}

int chardev_save(struct chardev *cd, struct stream_writer *w, struct fdtable *fds,
		 struct error *err)
{
	int rc = chardev_save_state(cd, w, err);

	return rc ? rc : cd->kind->save_fds(cd, fds, err);
}
