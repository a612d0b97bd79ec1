/* SPDX-License-Identifier: MIT */
/* How this molt was started: the default successor is started the same way. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

/*
 * The path given to execve, not /proc/self/exe: that one has its symbolic links resolved, and would
 * name the old version after a link was turned to the new one.
 */
static char *own_path(void)
{
	const char *given = (const char *)getauxval(AT_EXECFN);
	char buf[PATH_MAX], *path = NULL;
	ssize_t n;

	if (given && given[0] == '/' && strncmp(given, "/dev/fd/", 8) != 0)
		return strdup(given);
	if (given && strchr(given, '/') && given[0] != '/' && getcwd(buf, sizeof(buf)))
		return asprintf(&path, "%s/%s", buf, given) < 0 ? NULL : path;
	n = readlink("/proc/self/exe", buf, sizeof(buf) - 1);
	if (n < 0)
		return NULL;
	buf[n] = '\0';
	return strdup(buf);
}

int update_self_init(struct update_self *self, int argc, char **argv, const char *version,
		     struct error *err)
{
	int n = 2;

	self->version = version;
	self->path = own_path();
	self->argv = calloc((size_t)argc + 2, sizeof(*self->argv));
	if (!self->path || !self->argv)
		return err_set(err, ENOMEM, "cannot tell how molt was started");
	self->argv[0] = strdup(self->path);
	self->argv[1] = strdup("run");
	for (int i = 1; i < argc; i++) {
		if (i + 1 < argc && strcmp(argv[i], "--incoming") == 0)
			i++;
		else if (strncmp(argv[i], "--incoming=", 11) != 0)
			self->argv[n++] = strdup(argv[i]);
	}
	for (int i = 0; i < n; i++)
		if (!self->argv[i])
			return err_set(err, ENOMEM, "no memory for the arguments");
	return 0;
}

int update_self_pack(const struct update_self *self, struct update_wire *wire, struct error *err)
{
	const char *word = self->path;

	wire->argv_len = 0;
	for (size_t i = 0; word; word = self->argv[i++]) {
		size_t size = strlen(word) + 1;

		if (size > sizeof(wire->argv) - wire->argv_len)
			return err_set(err, E2BIG, "molt's own command line is over %zu bytes",
				       sizeof(wire->argv));
		memcpy(wire->argv + wire->argv_len, word, size);
		wire->argv_len += (uint32_t)size;
	}
	return 0;
}

static size_t count_words(const struct update_wire *wire)
{
	size_t n = 0;

	for (uint32_t i = 0; i < wire->argv_len; i++)
		n += wire->argv[i] == '\0';
	return n;
}

static int unpack(struct update_self *self, const struct update_wire *wire, struct error *err)
{
	const char *word = (const char *)wire->argv;
	size_t n = count_words(wire);

	if (n < 3 || wire->argv[wire->argv_len - 1] != '\0')
		return err_set(err, EBADMSG, "section 'update': no command line in it");
	update_self_fini(self);
	self->path = strdup(word);
	self->argv = calloc(n, sizeof(*self->argv));
	if (!self->path || !self->argv)
		return err_set(err, ENOMEM, "no memory for the arguments");
	for (size_t i = 0; i + 1 < n; i++) {
		word += strlen(word) + 1;
		self->argv[i] = strdup(word);
		if (!self->argv[i])
			return err_set(err, ENOMEM, "no memory for the arguments");
	}
	return 0;
}

int update_self_load(struct update_self *self, struct incoming *in, struct error *err)
{
	_cleanup_free_ struct update_wire *wire = NULL;
	int r;

	if (!in->failure)
		return 0;
	wire = calloc(1, sizeof(*wire));
	if (!wire)
		return err_set(err, ENOMEM, "no memory for the arguments");
	r = vmstate_load(&in->stream, &update_vmstate, 0, wire, err);
	return r < 0 ? r : unpack(self, wire, err);
}

void update_self_fini(struct update_self *self)
{
	for (size_t i = 0; self->argv && self->argv[i]; i++)
		free(self->argv[i]);
	free(self->argv);
	free(self->path);
	self->argv = NULL;
	self->path = NULL;
}
