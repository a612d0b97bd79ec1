/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/values.h>

#include "sandbox_option.h"

static int add_dir(struct sandbox_arg *arg, const char *dir, size_t len, struct error *err)
{
	size_t n = 0;
	char *path;

	while (arg->dirs[n].path)
		n++;
	if (n == VMM_WRITE_DIRS_MAX)
		return err_set(err, E2BIG, "--sandbox: more than %d directories",
			       VMM_WRITE_DIRS_MAX);
	path = strndup(dir, len);
	if (!path)
		return err_set(err, ENOMEM, "no memory for --sandbox");
	arg->dirs[n] = (struct sandbox_dir){ .path = path, .use = SANDBOX_DIR_WRITE };
	return 0;
}

static int add_list(struct sandbox_arg *arg, const char *dirs, struct error *err)
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
		r = add_dir(arg, dirs, len, err);
		dirs += len + (dirs[len] == ':');
	}
	return r;
}

int cli_parse_sandbox(const char *text, struct sandbox_arg *arg, struct error *err)
{
	static const char *const keys[] = { "mode", "write", NULL };
	struct value_list list = { 0 };
	const char *mode;
	int r = value_list_parse(&list, "--sandbox", text, keys, err);

	*arg = (struct sandbox_arg){ .on = true };
	mode = r == 0 ? value_list_get(&list, "mode") : NULL;
	if (mode && strcmp(mode, "off") == 0)
		arg->on = false;
	else if (mode && strcmp(mode, "on") != 0)
		r = err_set(err, EINVAL, "--sandbox '%s': it must be on or off", mode);
	if (r == 0)
		r = add_list(arg, value_list_get(&list, "write"), err);
	value_list_fini(&list);
	return r;
}

void cli_free_sandbox(struct sandbox_arg *arg)
{
	for (size_t i = 0; arg->dirs[i].path; i++)
		free((char *)arg->dirs[i].path);
	*arg = (struct sandbox_arg){ 0 };
}
