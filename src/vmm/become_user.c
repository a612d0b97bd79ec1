/* SPDX-License-Identifier: MIT */
/*
 * Which user molt is. Theory of operation.
 *
 * Molt becomes him before it opens anything that an option names, so that whatever may have been
 * put into a directory of his, a link say, opens nothing that he could not open himself. Before
 * that it opens only what nobody but root can have put there: /dev/kvm, the terminal that it was
 * started on, the service manager's socket, and the directories of control_path.c and of --user
 * auto.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <molt/backend/chardev.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/control/control_path.h>

#include "become_user.h"

#define DEFAULT_NAME "molt"

static struct sandbox_user as_started(void)
{
	return (struct sandbox_user){ .uid = geteuid(), .gid = getegid() };
}

static int find_by_name(struct chosen_user *u, const struct vmm_config *cfg, struct error *err)
{
	if (strcmp(u->name, "auto") != 0)
		return sandbox_find_user(u->name, &u->user, err);
	if (geteuid() != 0)
		return err_set(err, EPERM, "--user auto: only root can become another user");
	return sandbox_user_for_name(cfg->machine.name, &u->user, err);
}

static int find(struct chosen_user *u, const struct vmm_config *cfg, struct error *err)
{
	struct error none = ERROR_INIT;

	*u = (struct chosen_user){ .user = as_started(), .name = cfg->user };
	if (u->name)
		return find_by_name(u, cfg, err);
	if (geteuid() != 0)
		return 0;
	u->by_default = sandbox_find_user(DEFAULT_NAME, &u->user, &none) == 0;
	if (u->by_default && !sandbox_can_change_user()) {
		log_warn("molt stays root: without CAP_SETUID, CAP_SETGID and CAP_CHOWN it cannot "
			 "become '" DEFAULT_NAME "' (--user root: this is meant)");
		*u = (struct chosen_user){ .user = as_started() };
	} else if (u->by_default) {
		u->name = DEFAULT_NAME;
	} else {
		log_warn("molt runs as root, and so would whoever takes it over: make a user "
			 "'" DEFAULT_NAME
			 "' for it to become, or name one with --user (--user root: "
			 "this is meant)");
	}
	return 0;
}

int choose_user(struct chosen_user *u, const struct vmm_config *cfg, struct error *err)
{
	int r = find(u, cfg, err);

	return r < 0 ? r : sandbox_may_become(&u->user, err);
}

static int become(const struct chosen_user *u, const char *control, struct error *err)
{
	int r = control ? control_path_make_dir(control, &u->user, err) : 0;

	return r < 0 ? r : sandbox_become(&u->user, err);
}

static bool is_tty(const char *backend)
{
	return backend && strcmp(backend, "tty") == 0;
}

int become_user(struct chosen_user *u, const struct vmm_config *cfg, struct error *err)
{
	int r;

	for (size_t i = 0; i < ARRAY_SIZE(cfg->serial); i++)
		if (is_tty(cfg->serial[i]))
			chardev_keep_terminal();
	r = become(u, cfg->control, err);
	/* His number is not in the name space's map; or groups may not be set there (rootless). */
	if ((r == -EINVAL || r == -EPERM) && u->by_default) {
		log_warn("molt stays root: it cannot become '" DEFAULT_NAME "' here: %s",
			 err->text);
		*u = (struct chosen_user){ .user = as_started() };
		r = become(u, cfg->control, err);
	}
	u->is = r == 0;
	return r;
}

void become_user_explain(const struct chosen_user *u, int code)
{
	if (u->is && u->name && (code == -EACCES || code == -EPERM))
		log_error("files are opened as user %u, group %u (%s%s)", (unsigned int)u->user.uid,
			  (unsigned int)u->user.gid,
			  u->by_default ? "the default; --user " : "--user ", u->name);
}
