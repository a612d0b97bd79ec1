/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/path.h>

char *path_absolute(const char *path)
{
	_cleanup_free_ char *cwd = NULL;
	char *absolute = NULL;

	if (path[0] == '/')
		return strdup(path);
	while (strncmp(path, "./", 2) == 0)
		path += 2 + strspn(path + 2, "/");
	cwd = getcwd(NULL, 0);
	if (!cwd || asprintf(&absolute, "%s/%s", cwd, path) < 0)
		return NULL;
	return absolute;
}

/* A directory may be "executed" as well. */
static bool is_program(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

char *path_search(const char *name)
{
	const char *dirs = getenv("PATH");

	for (const char *dir = dirs ? dirs : "/usr/bin:/bin"; *dir;) {
		size_t len = strcspn(dir, ":");
		_cleanup_free_ char *path = NULL;

		if (len && asprintf(&path, "%.*s/%s", (int)len, dir, name) < 0)
			path = NULL;
		if (path && is_program(path))
			return path_absolute(path);
		dir += len + (dir[len] == ':');
	}
	return NULL;
}
