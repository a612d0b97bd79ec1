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
 * "/dev/fd/N" there: its predecessor put the path that the user knows into argv[0]. A way back has
 * none, it comes with the stream.
 */
static char *own_path(void)
{
	const char *given = (const char *)getauxval(AT_EXECFN);
	bool by_number = given && strncmp(given, "/dev/fd/", 8) == 0;
	char buf[PATH_MAX], *path = NULL;
	ssize_t n;

	/* The kernel has named the process after the descriptor, or the memfd. */
	if (by_number)
		prctl(PR_SET_NAME, program_invocation_short_name);
	if (by_number && program_invocation_name[0] == '/')
		return strdup(program_invocation_name);
	if (given && given[0] == '/' && !by_number)
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
 * Where there is no /proc an image cannot open its own binary for the next update's way back. A
 * cold start opens its path; a successor finds what it was executed from under the number in its
 * name, if the predecessor left it open (which it does only then). On a way back that number is in
 * the fd table, and keep_own_binary() copies it.
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
	struct error why = ERROR_INIT;
	int fd = program_open_self(&why);

	*by_kept_fd = fd < 0 && self->exe_fd >= 0;
	if (!*by_kept_fd)
		return fd < 0 ? err_set(err, why.code, "%s", why.text) : fd;
	fd = fcntl(self->exe_fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	return fd < 0 ? err_sys(err, errno, "molt's own binary") : fd;
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

/* Appends a word, with its NUL, to what was packed into UPDATE_ARGV_MAX bytes. */
static int pack_word(uint8_t *bytes, uint32_t *len, const char *word, struct error *err)
{
	size_t size = strlen(word) + 1;

	if (size > UPDATE_ARGV_MAX - *len)
		return err_set(err, E2BIG, "a command line is over %u bytes", UPDATE_ARGV_MAX);
	memcpy(bytes + *len, word, size);
	*len += (uint32_t)size;
	return 0;
}

static int pack_words(uint8_t *bytes, uint32_t *len, const char *first, char *const *rest,
		      struct error *err)
{
	int r;

	*len = 0;
	r = pack_word(bytes, len, first, err);
	for (; r == 0 && *rest; rest++)
		r = pack_word(bytes, len, *rest, err);
	return r;
}

int update_self_pack(const struct update_self *self, struct update_wire *wire, struct error *err)
{
	int r = pack_words(wire->argv, &wire->argv_len, self->path, self->argv, err);

	if (r == 0 && self->wrapper)
		r = pack_words(wire->wrapper, &wire->wrapper_len, self->wrapper[0],
			       self->wrapper + 1, err);
	return r;
}

int update_pack_command(const char *program, char *const *argv, struct update_wire *wire,
			struct error *err)
{
	return pack_words(wire->command, &wire->command_len, program, argv + 1, err);
}

static void free_words(char **words)
{
	for (size_t i = 0; words && words[i]; i++)
		free(words[i]);
	free(words);
}

/* *words becomes NULL where nothing was packed; at least `least` are wanted where something was. */
static int unpack_words(const uint8_t *bytes, uint32_t len, size_t least, char ***words,
			struct error *err)
{
	const char *word = (const char *)bytes;
	size_t n = 0;

	*words = NULL;
	for (uint32_t i = 0; i < len; i++)
		n += bytes[i] == '\0';
	if (!len)
		return 0;
	if (n < least || bytes[len - 1] != '\0')
		return err_set(err, EBADMSG, "section 'update': no command line in it");
	*words = calloc(n + 1, sizeof(**words));
	for (size_t i = 0; *words && i < n; i++, word += strlen(word) + 1) {
		(*words)[i] = strdup(word);
		if ((*words)[i])
			continue;
		free_words(*words);
		*words = NULL;
	}
	return *words ? 0 : err_set(err, ENOMEM, "no memory for a command line");
}

/* What the predecessor was started with: its path, and its arguments behind it. */
static int unpack(struct update_self *self, const struct update_wire *wire, struct error *err)
{
	char **words;
	int r = unpack_words(wire->argv, wire->argv_len, 3, &words, err);

	if (r < 0)
		return r;
	if (!words)
		return err_set(err, EBADMSG, "section 'update': no command line in it");
	free(self->path);
	free_words(self->argv);
	self->path = words[0];
	self->argv = words;
	for (size_t i = 0; words[i]; i++)
		words[i] = words[i + 1];
	return unpack_words(wire->wrapper, wire->wrapper_len, 1, &self->wrapper, err);
}

/*
 * On a way back it is a descriptor that the failed successor had got, and another way to it may be
 * missing. Copies of what came there are none by then (way_back_keep()): it is in the table itself,
 * and whoever checks that wants it there.
 */
static int keep_own_binary(struct update_self *self, const struct incoming *in, struct error *err)
{
	int fd;

	if (access("/proc/self/exe", F_OK) == 0 || errno != ENOENT)
		return 0;
	fd = fdtable_look(in->fds, "predecessor", 0);
	fd_close(&self->exe_fd);
	self->exe_fd = fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
	return self->exe_fd < 0 ? err_sys(err, errno, "copying descriptor 'predecessor'") : 0;
}

/* What was executed is not our own path: it has executed us, and is a wrapper. */
static int find_wrapper(struct update_self *self, const struct update_wire *wire, struct error *err)
{
	int r = unpack_words(wire->command, wire->command_len, 1, &self->wrapper, err);

	if (r == 0 && self->wrapper && strcmp(self->wrapper[0], self->path) == 0) {
		free_words(self->wrapper);
		self->wrapper = NULL;
	}
	return r;
}

int update_self_load(struct update_self *self, struct incoming *in, struct error *err)
{
	int r = incoming_load_wire(in, err);

	if (r == 0 && !in->failure)
		return find_wrapper(self, in->wire, err);
	if (r == 0)
		r = unpack(self, in->wire, err);
	return r < 0 ? r : keep_own_binary(self, in, err);
}

void update_self_fini(struct update_self *self)
{
	free(self->path);
	free_words(self->argv);
	free_words(self->wrapper);
	fd_close(&self->exe_fd);
}
