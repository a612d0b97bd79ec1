/* SPDX-License-Identifier: MIT */
/*
 * --user. Names are looked up in the files alone: other name services need libraries that are
 * loaded at run time, which a static program had better not do.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/sandbox/sandbox.h>

#include "internal.h"

static bool parse_id(const char *text, unsigned int *id)
{
	char *end;
	unsigned long value;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	/* The last one means "none" to the kernel. */
	if (errno || *end || value >= UINT32_MAX)
		return false;
	*id = (unsigned int)value;
	return true;
}

/* By name, or by number for the sake of the group. */
static bool find_in_passwd(const char *name, struct sandbox_user *user)
{
	FILE *file = fopen("/etc/passwd", "re");
	struct passwd *pw = NULL;
	bool found = false;

	while (file && !found && (pw = fgetpwent(file)))
		found = name ? strcmp(pw->pw_name, name) == 0 : pw->pw_uid == user->uid;
	if (found)
		*user = (struct sandbox_user){ .uid = pw->pw_uid, .gid = pw->pw_gid };
	if (file)
		fclose(file);
	return found;
}

/* Also in a container without that file. */
static bool is_root(const char *name, struct sandbox_user *user)
{
	*user = (struct sandbox_user){ 0 };
	return strcmp(name, "root") == 0;
}

static bool find_group(const char *name, gid_t *gid)
{
	FILE *file = fopen("/etc/group", "re");
	struct group *gr = NULL;
	bool found = false;

	while (file && !found && (gr = fgetgrent(file)))
		found = strcmp(gr->gr_name, name) == 0;
	if (found)
		*gid = gr->gr_gid;
	if (file)
		fclose(file);
	return found;
}

int sandbox_find_user(const char *text, struct sandbox_user *user, struct error *err)
{
	_cleanup_free_ char *name = strdup(text);
	char *group = name ? strchr(name, ':') : NULL;

	if (!name)
		return err_set(err, ENOMEM, "no memory for --user");
	if (group)
		*group++ = '\0';
	if (!name[0] || (group && !group[0]))
		return err_set(err, EINVAL,
			       "--user '%s': it is NAME or UID, and :GROUP or :GID may "
			       "follow",
			       text);
	if (parse_id(name, &user->uid)) {
		user->gid = (gid_t)user->uid;
		find_in_passwd(NULL, user);
	} else if (!find_in_passwd(name, user) && !is_root(name, user)) {
		return err_set(err, ENOENT,
			       "--user '%s': there is no user '%s' in /etc/passwd; give "
			       "the number",
			       text, name);
	}
	if (group && !parse_id(group, &user->gid) && !find_group(group, &user->gid))
		return err_set(err, ENOENT,
			       "--user '%s': there is no group '%s' in /etc/group; give "
			       "the number",
			       text, group);
	return 0;
}

static bool is_already(const struct sandbox_user *user)
{
	uid_t r, e, s;
	gid_t rg, eg, sg;

	return getresuid(&r, &e, &s) == 0 && getresgid(&rg, &eg, &sg) == 0 && r == user->uid &&
	       e == user->uid && s == user->uid && rg == user->gid && eg == user->gid &&
	       sg == user->gid;
}

int sandbox_may_become(const struct sandbox_user *user, struct error *err)
{
	if (is_already(user) || geteuid() == 0)
		return 0;
	return err_set(err, EPERM,
		       "--user: only root can become another user, and this is user %u; "
		       "start molt as that user instead",
		       (unsigned int)geteuid());
}

int sandbox_become(const struct sandbox_user *user, struct error *err)
{
	if (is_already(user))
		return 0;
	capabilities_drop_bounding();
	/* glibc does it for all threads. */
	if (setgroups(0, NULL) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
	    setresuid(user->uid, user->uid, user->uid) < 0)
		return err_sys(err, errno, "--user: becoming user %u, group %u",
			       (unsigned int)user->uid, (unsigned int)user->gid);
	return 0;
}
