/* SPDX-License-Identifier: MIT */
/* How this molt was started: the default successor is started the same way. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <stdio.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

/*
 * The path given to execve, not /proc/self/exe: that one has its symbolic links resolved, and would
 * name the old version after a link was turned to the new one. Who was executed as a descriptor has
 * "/dev/fd/N" there: its predecessor put the path that the user knows into argv[0].
 */
static char *own_path(void)
{
	const char *given = (const char *)getauxval(AT_EXECFN);
	char buf[PATH_MAX], *path = NULL;
	ssize_t n;

	if (given && strncmp(given, "/dev/fd/", 8) == 0 && program_invocation_name[0] == '/') {
		/* The kernel has named the process after the descriptor. */
		prctl(PR_SET_NAME, program_invocation_short_name);
		return strdup(program_invocation_name);
	}
	if (given && given[0] == '/' && strncmp(given, "/dev/fd/", 8) != 0)
		return strdup(given);
	if (given && strchr(given, '/') && given[0] != '/' && getcwd(buf, sizeof(buf)))
		return asprintf(&path, "%s/%s", buf, given) < 0 ? NULL : path;
	n = readlink("/proc/self/exe", buf, sizeof(buf) - 1);
	/* On a way back without /proc it is not known here, but will come with the stream. */
	if (n < 0)
		return getenv(UPDATE_ERROR_ENV) ? strdup(given ? given : "molt") : NULL;
	buf[n] = '\0';
	return strdup(buf);
}

/*
 * Where there is no /proc an image cannot open its own binary for the next update's way back. A cold
 * start opens its path; a successor finds what it was executed from under the number in its name, if the
 * predecessor left it open (which it does only then). On a way back that number is in the fd table, and
 * keep_own_binary() copies it.
 */
static int own_binary(const char *path)
{
	const char *given = (const char *)getauxval(AT_EXECFN);
	struct stat st;
	int fd = -1;

	if (getenv(UPDATE_ERROR_ENV))
		return -1;
	if (update_is_successor()) {
		if (!given || sscanf(given, "/dev/fd/%d", &fd) != 1 || fstat(fd, &st) < 0 ||
		    !S_ISREG(st.st_mode))
			return -1;
		return fd_set_cloexec(fd, true) == 0 ? fd : -1;
	}
	return access("/proc/self/exe", F_OK) < 0 ? open(path, O_RDONLY | O_CLOEXEC) : -1;
}

int update_self_open(const struct update_self *self, bool *by_kept_fd, struct error *err)
{
	int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	int code = errno;

	*by_kept_fd = fd < 0 && self->exe_fd >= 0;
	if (*by_kept_fd)
		fd = fcntl(self->exe_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	return fd < 0 ? err_sys(err, code, "molt's own binary, /proc/self/exe") : fd;
}

int update_self_init(struct update_self *self, int argc, char **argv, const char *version,
		     struct error *err)
{
	int n = 2;

	self->version = version;
	self->path = own_path();
	self->exe_fd = self->path ? own_binary(self->path) : -1;
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

static void free_words(struct update_self *self)
{
	for (size_t i = 0; self->argv && self->argv[i]; i++)
		free(self->argv[i]);
	free(self->argv);
	free(self->path);
	self->argv = NULL;
	self->path = NULL;
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
	free_words(self);
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

/* On a way back it is a descriptor that the failed successor had got, and another way to it may be missing. */
static int keep_own_binary(struct update_self *self, struct incoming *in, struct error *err)
{
	int fd;

	if (access("/proc/self/exe", F_OK) == 0)
		return 0;
	fd = fdtable_take(in->spare, "predecessor", 0, 0, err);
	if (fd < 0)
		return fd;
	fd_close(&self->exe_fd);
	self->exe_fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	return self->exe_fd < 0 ? err_sys(err, errno, "copying descriptor 'predecessor'") : 0;
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
	if (r == 0)
		r = unpack(self, wire, err);
	return r < 0 ? r : keep_own_binary(self, in, err);
}

void update_self_fini(struct update_self *self)
{
	free_words(self);
	fd_close(&self->exe_fd);
}
