/* SPDX-License-Identifier: MIT */
/*
 * What of a command line concerns the sandbox. Main may change files beneath the directories of
 * those that it was told to make: control socket, log, serial backend; so the socket's path can be
 * removed in the end and a log put aside. What else a wrapper or a state file needs is in write=.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "confine.h"

static int add_dir(struct confinement *c, const char *dir, size_t len, struct error *err)
{
	size_t n = 0;

	while (c->write[n])
		n++;
	if (n == CONFINE_DIRS_MAX)
		return err_set(err, E2BIG, "--sandbox: more than %d directories", CONFINE_DIRS_MAX);
	c->write[n] = strndup(dir, len);
	return c->write[n] ? 0 : err_set(err, ENOMEM, "no memory for --sandbox");
}

/* The directory of a path; that of "name" is the working one. */
static int add_parent(struct confinement *c, const char *path, struct error *err)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	if (!path)
		return 0;
	if (!slash)
		return add_dir(c, ".", 1, err);
	return add_dir(c, path, slash == path ? 1 : (size_t)(slash - path), err);
}

/* NULL where the backend has no path. */
static const char *serial_path(const struct cli_args *args)
{
	const char *spec = cli_value(args, "serial"), *path = strchr(spec, '=');

	return path ? path + 1 : NULL;
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
		r = add_dir(c, dirs, len, err);
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
	r = cli_list_parse(&c->options, "--sandbox", cli_value(args, "sandbox"), keys, err);
	if (r < 0)
		return r;
	mode = cli_list_get(&c->options, "mode");
	c->on = !mode || strcmp(mode, "on") == 0;
	if (!c->on && strcmp(mode, "off") != 0)
		r = err_set(err, EINVAL, "--sandbox '%s': it must be on or off", mode);
	if (r == 0)
		r = add_list(c, cli_list_get(&c->options, "write"), err);
	if (r == 0)
		r = add_parent(c, cli_value(args, "control"), err);
	if (r == 0)
		r = add_parent(c, cli_value(args, "log-file"), err);
	if (r == 0)
		r = add_parent(c, serial_path(args), err);
	if (r < 0)
		confine_fini(c);
	return r;
}

void confine_fini(struct confinement *c)
{
	for (size_t i = 0; c->write[i]; i++)
		free(c->write[i]);
	cli_list_fini(&c->options);
	*c = (struct confinement){ 0 };
}

int confine_find_user(struct confinement *c, const struct cli_args *args, struct error *err)
{
	int r;

	c->other_user = cli_given(args, "user");
	if (!c->other_user)
		return 0;
	r = sandbox_find_user(cli_value(args, "user"), &c->user, err);
	return r < 0 ? r : sandbox_may_become(&c->user, err);
}

static int become_user(const struct confinement *c, const struct cli_args *args, struct error *err)
{
	const char *spec = cli_value(args, "serial"), *paths[3] = { NULL };
	size_t n = 0;

	if (!c->other_user)
		return 0;
	if (cli_value(args, "control"))
		paths[n++] = cli_value(args, "control");
	if (strncmp(spec, "socket=", 7) == 0)
		paths[n++] = serial_path(args);
	return sandbox_become(&c->user, paths, err);
}

int confine_cold(const struct confinement *c, const struct cli_args *args, struct error *err)
{
	int r = become_user(c, args, err);

	if (r < 0 || !c->on)
		return r;
	r = sandbox_enter((const char *const *)c->write, err);
	if (r < 0)
		err_prefix(err, "the sandbox cannot be had here (--sandbox off runs without)");
	return r;
}

void confine_successor(const struct confinement *c)
{
	unsigned int level = sandbox_level();
	struct error err = ERROR_INIT;

	if (c->on && sandbox_enter((const char *const *)c->write, &err) < 0)
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
