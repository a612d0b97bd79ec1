/* SPDX-License-Identifier: MIT */
/* How this molt was started: the default successor is started the same way. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <unistd.h>

#include <molt/update/update.h>

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

void update_self_fini(struct update_self *self)
{
	for (size_t i = 0; self->argv && self->argv[i]; i++)
		free(self->argv[i]);
	free(self->argv);
	free(self->path);
}
