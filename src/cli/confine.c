/* SPDX-License-Identifier: MIT */
/*
 * What of a command line concerns the sandbox.
 *
 * That what molt made can be removed in the end, and a log put aside, takes rights on the
 * *directory*. They are taken only where it is molt's own: its user's, writable for nobody else,
 * and with nothing in it but what the options name. Else main could remove others' files, and
 * leaves its socket behind instead. What a wrapper or a state file needs is in write=.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/path.h>

#include "confine.h"

static int add_dir(struct confinement *c, const char *dir, size_t len, enum sandbox_dir_use use,
		   struct error *err)
{
	size_t n = 0;
	char *path;

	while (c->dirs[n].path)
		n++;
	if (n == CONFINE_DIRS_MAX)
		return err_set(err, E2BIG, "--sandbox: more than %d directories", CONFINE_DIRS_MAX);
	path = strndup(dir, len);
	if (!path)
		return err_set(err, ENOMEM, "no memory for --sandbox");
	c->dirs[n] = (struct sandbox_dir){ .path = path, .use = use };
	return 0;
}

static int add_list(struct confinement *c, const char *dirs, struct error *err)
{
	int r = 0;

	while (r == 0 && dirs && *dirs) {
		size_t len = strcspn(dirs, ":");

		if (len == 0)
			return err_set(err, EINVAL,
				       "--sandbox: write= has an empty directory in it");
		if (dirs[0] != '/')
			return err_set(err, EINVAL,
				       "--sandbox: write=%s: the path must be absolute", dirs);
		r = add_dir(c, dirs, len, SANDBOX_DIR_WRITE, err);
		dirs += len + (dirs[len] == ':');
	}
	return r;
}

int confine_parse(struct confinement *c, const struct cli_args *args, struct error *err)
{
	static const char *const keys[] = { "mode", "write", NULL };
	const char *mode;
	int r;

	*c = (struct confinement){ 0 };
	r = value_list_parse(&c->options, "--sandbox", cli_value(args, "sandbox"), keys, err);
	if (r < 0)
		return r;
	mode = value_list_get(&c->options, "mode");
	c->on = !mode || strcmp(mode, "on") == 0;
	if (!c->on && strcmp(mode, "off") != 0)
		r = err_set(err, EINVAL, "--sandbox '%s': it must be on or off", mode);
	if (r == 0)
		r = add_list(c, value_list_get(&c->options, "write"), err);
	if (r < 0)
		confine_fini(c);
	return r;
}

void confine_fini(struct confinement *c)
{
	for (size_t i = 0; c->dirs[i].path; i++)
		free((char *)c->dirs[i].path);
	value_list_fini(&c->options);
	*c = (struct confinement){ 0 };
}

/* ---- the directories ---- */

#define SERIALS 2

static const char *const serials[SERIALS] = { "serial", "serial2" };

struct own_files {
	char *control, *log, *serial[SERIALS]; /* NULL: none */
};

static void find_own_files(struct own_files *own, const struct cli_args *args, const char *control)
{
	const char *log = cli_value(args, "log-file"), *serial;

	*own = (struct own_files){
		.control = control ? path_absolute(control) : NULL,
		.log = log ? path_absolute(log) : NULL,
	};
	for (size_t i = 0; i < SERIALS; i++) {
		serial = cli_value(args, serials[i]);
		serial = serial ? strchr(serial, '=') : NULL;
		own->serial[i] = serial ? path_absolute(serial + 1) : NULL;
	}
}

static void forget_own_files(struct own_files *own)
{
	free(own->control);
	free(own->log);
	for (size_t i = 0; i < SERIALS; i++)
		free(own->serial[i]);
}

static const char *last_part(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	return slash ? slash + 1 : path;
}

/* A rotated log has something behind its name. */
static bool begins_with(const char *name, const char *path)
{
	const char *own = last_part(path);

	return own && own[0] && strncmp(name, own, strlen(own)) == 0;
}

static bool is_own_file(const struct dirent *entry, const struct own_files *own)
{
	const char *name = entry->d_name;
	bool is_serial = false;

	for (size_t i = 0; i < SERIALS; i++)
		is_serial = is_serial || begins_with(name, own->serial[i]);
	return entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN &&
	       (begins_with(name, own->control) || begins_with(name, own->log) || is_serial);
}

static bool holds_own_files_only(const char *dir, const struct own_files *own)
{
	DIR *list = opendir(dir);
	struct dirent *entry;
	bool only = list != NULL;

	while (only && (entry = readdir(list)))
		only = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		       is_own_file(entry, own);
	if (list)
		closedir(list);
	return only;
}

static void add_if_own(struct confinement *c, const char *path, enum sandbox_dir_use use,
		       const struct own_files *own)
{
	_cleanup_free_ char *dir = path ? strdup(path) : NULL;
	char *slash = dir ? strrchr(dir, '/') : NULL;
	struct error err = ERROR_INIT;
	struct stat st;

	if (!slash)
		return;
	slash[slash == dir] = '\0';
	if (stat(dir, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 022) &&
	    holds_own_files_only(dir, own) && add_dir(c, dir, strlen(dir), use, &err) == 0)
		return;
	log_info("sandbox: %s is not molt's alone, so %s there; --control name=NAME makes a directory",
		 dir, use == SANDBOX_DIR_SOCKET ? "a socket will be left" : "log-reopen will fail");
}

static void add_own_dirs(struct confinement *c, const struct cli_args *args, const char *control)
{
	struct own_files own;
	const char *serial;

	find_own_files(&own, args, control);
	add_if_own(c, own.control, SANDBOX_DIR_SOCKET, &own);
	add_if_own(c, own.log, SANDBOX_DIR_LOG, &own);
	for (size_t i = 0; i < SERIALS; i++) {
		serial = cli_value(args, serials[i]);
		if (serial && strncmp(serial, "socket=", 7) == 0)
			add_if_own(c, own.serial[i], SANDBOX_DIR_SOCKET, &own);
	}
	forget_own_files(&own);
}

/* ---- the sandbox ---- */

int confine_cold(struct confinement *c, const struct cli_args *args, const char *control,
		 bool back_ends, struct error *err)
{
	int r;

	if (!c->on)
		return 0;
	add_own_dirs(c, args, control);
	r = sandbox_enter(c->dirs, back_ends, err);
	if (r < 0)
		err_prefix(err, "the sandbox cannot be had here (--sandbox off runs without)");
	return r;
}

void confine_successor(struct confinement *c, const struct cli_args *args, const char *control,
		       bool back_ends)
{
	unsigned int level = sandbox_level();
	struct error err = ERROR_INIT;

	if (c->on && !sandbox_in_force())
		add_own_dirs(c, args, control);
	if (c->on && sandbox_enter(c->dirs, back_ends, &err) < 0)
		log_error("sandbox: not in force as it should be: %s", err.text);
	else if (!c->on && level)
		log_warn("--sandbox off: level %u is in force since before, and cannot be lifted; only "
			 "the vCPU threads run without",
			 level);
}

int (*confine_thread(const struct confinement *c))(struct error *err)
{
	return c->on ? sandbox_enter_thread : NULL;
}
