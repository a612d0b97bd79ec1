/* SPDX-License-Identifier: MIT */
/*
 * Finding the control groups of this process. Theory of operation.
 *
 * /proc/self/cgroup has the process's group in each hierarchy, /proc/self/mountinfo where the
 * hierarchies are mounted, and which part of one: a container often sees but its own group, at the
 * mount point. A controller is in a hierarchy of version 1 that names it, or else in that of version
 * 2; many hosts have both. Limits hold from each ancestor, so all that can be seen are asked.
 *
 * A chroot, a container or a name space may hide any of it. What cannot be read sets no limit: an
 * update that would work must not fail for want of a file.
 */
#include <string.h>

#include "cgroup.h"

#define ROOT_FIELD 3 /* of a line of mountinfo: proc(5) */
#define MOUNT_POINT_FIELD 4

/* The last of the fields is the rest of the line. */
struct mount {
	char *root, *point, *type, *options;
};

FILE *cgroup_open(const char *root, const char *path)
{
	char full[PATH_MAX];
	int n = snprintf(full, sizeof(full), "%s%s", root, path);

	return n < 0 || (size_t)n >= sizeof(full) ? NULL : fopen(full, "re");
}

bool cgroup_read_key(const char *root, const char *path, const char *key, uint64_t *value)
{
	_cleanup_file_ FILE *f = cgroup_open(root, path);
	size_t len = strlen(key);
	unsigned long long n;
	char line[256];

	while (f && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, len) == 0 && sscanf(line + len, " %llu", &n) == 1) {
			*value = n;
			return true;
		}
	}
	return false;
}

/* A list of words with commas. */
static bool has_word(const char *list, const char *word)
{
	size_t len = strlen(word);

	for (const char *at = list; (at = strstr(at, word)); at += len) {
		bool begins = at == list || at[-1] == ',';

		if (begins && (at[len] == ',' || at[len] == '\0'))
			return true;
	}
	return false;
}

/* Spaces and the like in a path are written as \040 in mountinfo. In place. */
static void unescape(char *text)
{
	char *to = text;

	for (char *from = text; *from; to++) {
		unsigned int code;

		if (*from == '\\' && sscanf(from + 1, "%3o", &code) == 1 && code && code < 256) {
			*to = (char)code;
			from += 4;
		} else {
			*to = *from++;
		}
	}
	*to = '\0';
}

static bool parse_mount(char *line, struct mount *m)
{
	char *rest = NULL, *field = strtok_r(line, " \n", &rest);

	for (int i = 0; field && strcmp(field, "-") != 0; i++) {
		if (i == ROOT_FIELD)
			m->root = field;
		else if (i == MOUNT_POINT_FIELD)
			m->point = field;
		field = strtok_r(NULL, " \n", &rest);
	}
	m->type = strtok_r(NULL, " \n", &rest);
	strtok_r(NULL, " \n", &rest); /* what is mounted */
	m->options = strtok_r(NULL, " \n", &rest);
	if (!m->point || !m->options)
		return false;
	unescape(m->root);
	unescape(m->point);
	return true;
}

/* What of path is beneath top; NULL if it is not. */
static const char *beneath(const char *path, const char *top)
{
	size_t len = strcmp(top, "/") == 0 ? 0 : strlen(top);

	if (strncmp(path, top, len) != 0 || (path[len] != '/' && path[len] != '\0'))
		return NULL;
	return strcmp(path + len, "/") == 0 ? "" : path + len;
}

static bool fits(const struct mount *m, const char *controller, bool v2)
{
	if (v2)
		return strcmp(m->type, "cgroup2") == 0;
	return strcmp(m->type, "cgroup") == 0 && has_word(m->options, controller);
}

/* Where the hierarchy is mounted; of several places the one that shows most ancestors. */
static bool find_mount(const char *root, const char *controller, const char *path, struct cgroup *g)
{
	_cleanup_file_ FILE *f = cgroup_open(root, "/proc/self/mountinfo");
	_cleanup_free_ char *line = NULL;
	size_t size = 0, most = 0;
	bool found = false;

	while (f && getline(&line, &size, f) > 0) {
		struct mount m = { 0 };
		const char *rest;

		if (!parse_mount(line, &m) || !fits(&m, controller, g->v2))
			continue;
		rest = beneath(path, m.root);
		if (!rest || (found && strlen(rest) <= most) || strlen(rest) >= sizeof(g->path) ||
		    strlen(m.point) >= sizeof(g->mount))
			continue;
		found = true;
		most = strlen(rest);
		strcpy(g->path, rest);
		strcpy(g->mount, m.point);
	}
	return found;
}

/* Whether a path leads out of what this name space shows. */
static bool leads_out(const char *path)
{
	return strncmp(path, "/../", 4) == 0 || strcmp(path, "/..") == 0;
}

/* A line of /proc/self/cgroup is number:controllers:path, and version 2 names no controllers. */
static bool parse_group(char *line, char **controllers, char **path)
{
	*controllers = strchr(line, ':');
	*path = *controllers ? strchr(++*controllers, ':') : NULL;
	if (!*path)
		return false;
	*(*path)++ = '\0';
	(*path)[strcspn(*path, "\n")] = '\0';
	return true;
}

bool cgroup_find(const char *root, const char *controller, struct cgroup *g)
{
	_cleanup_file_ FILE *f = cgroup_open(root, "/proc/self/cgroup");
	_cleanup_free_ char *line = NULL;
	char path[PATH_MAX] = "", *list, *at;
	size_t size = 0;

	g->v2 = true;
	/* A hierarchy of version 1 that has the controller is its only one. */
	while (f && g->v2 && getline(&line, &size, f) > 0) {
		if (!parse_group(line, &list, &at) || strlen(at) >= sizeof(path) ||
		    (*list && !has_word(list, controller)))
			continue;
		g->v2 = !*list;
		strcpy(path, at);
	}
	return path[0] && !leads_out(path) && find_mount(root, controller, path, g);
}
