/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/path.h>

char *path_search(const char *name)
{
	const char *dirs = getenv("PATH");
	char *path = NULL;

	for (const char *dir = dirs ? dirs : "/usr/bin:/bin"; *dir;) {
		size_t len = strcspn(dir, ":");

		if (len && asprintf(&path, "%.*s/%s", (int)len, dir, name) >= 0) {
			if (access(path, X_OK) == 0)
				return path;
			free(path);
		}
		dir += len + (dir[len] == ':');
	}
	return NULL;
}
