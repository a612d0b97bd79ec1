/* SPDX-License-Identifier: MIT */
/*
 * What a VMM's configuration has to do with the sandbox.
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

#define OWN_DIRS_MAX (2 + VMM_SERIALS)
#define DIRS_MAX (VMM_WRITE_DIRS_MAX + OWN_DIRS_MAX)

/* What main may go on changing. The paths that are not the configuration's are owned. */
struct dirs {
	struct sandbox_dir list[DIRS_MAX + 1];
	size_t count;
	size_t configured;
};

/* What is wrong with write= is for who starts a guest; a guest that runs is not lost for it. */
static void begin_dirs(struct dirs *d, const struct vmm_config *cfg, bool cold)
{
	*d = (struct dirs){ 0 };
	for (; cfg->write_dirs[d->count].path; d->count++) {
		d->list[d->count] = cfg->write_dirs[d->count];
		d->list[d->count].must = cold;
	}
	d->configured = d->count;
}

static void forget_dirs(struct dirs *d)
{
	for (size_t i = d->configured; i < d->count; i++)
		free((char *)d->list[i].path);
}

/* ---- molt's own directories ---- */

struct own_files {
	char *control, *log, *serial[VMM_SERIALS]; /* NULL: none */
};

static void find_own_files(struct own_files *own, const struct vmm_config *cfg, const char *control)
{
	const char *serial;

	*own = (struct own_files){
		.control = control ? path_absolute(control) : NULL,
		.log = cfg->log_file ? path_absolute(cfg->log_file) : NULL,
	};
	for (size_t i = 0; i < VMM_SERIALS; i++) {
		serial = cfg->serial[i] ? strchr(cfg->serial[i], '=') : NULL;
		own->serial[i] = serial ? path_absolute(serial + 1) : NULL;
	}
}

static void forget_own_files(struct own_files *own)
{
	free(own->control);
	free(own->log);
	for (size_t i = 0; i < VMM_SERIALS; i++)
		free(own->serial[i]);
}

static const char *last_part(const char *path)
{
	const char *slash = path ? strrchr(path, '/') : NULL;

	return slash ? slash + 1 : path;
}

static bool is_named(const char *name, const char *path)
{
	return path && strcmp(name, last_part(path)) == 0;
}

/* What a rotation puts behind a name: ".1", "-20240131", ".2.gz", ".old"; not ".img" or "-key". */
static bool is_rotation(const char *end)
{
	static const char *const words[] = { "gz", "bz2", "xz", "zst", "old" };
	size_t len = strspn(end, ".-0123456789");
	bool known = !end[len];

	for (size_t i = 0; i < ARRAY_SIZE(words) && len; i++)
		known = known || (end[len - 1] == '.' && strcmp(end + len, words[i]) == 0);
	return known && (end[0] == '.' || end[0] == '-');
}

static bool is_log(const char *name, const char *path)
{
	const char *own = last_part(path);
	size_t len = own ? strlen(own) : 0;

	return is_named(name, path) ||
	       (len && strncmp(name, own, len) == 0 && is_rotation(name + len));
}

/* A name's beginning says nothing: beside the socket "web" may be "web.img", which is no part of
 * it. */
static bool is_own_file(const struct dirent *entry, const struct own_files *own)
{
	const char *name = entry->d_name;
	bool is_serial = false;

	for (size_t i = 0; i < VMM_SERIALS; i++)
		is_serial = is_serial || is_named(name, own->serial[i]);
	return entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN &&
	       (is_named(name, own->control) || is_log(name, own->log) || is_serial);
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

static void add_if_own(struct dirs *d, const char *path, enum sandbox_dir_use use,
		       const struct own_files *own)
{
	_cleanup_free_ char *dir = path ? strdup(path) : NULL;
	char *slash = dir ? strrchr(dir, '/') : NULL;
	struct stat st;

	if (!slash)
		return;
	slash[slash == dir] = '\0';
	if (stat(dir, &st) == 0 && st.st_uid == geteuid() && !(st.st_mode & 022) &&
	    holds_own_files_only(dir, own)) {
		d->list[d->count++] = (struct sandbox_dir){ .path = dir, .use = use };
		dir = NULL;
		return;
	}
	log_info("sandbox: %s is not molt's alone, so %s there; --control name=NAME makes a directory",
		 dir, use == SANDBOX_DIR_SOCKET ? "a socket will be left" : "log-reopen will fail");
}

static void add_own_dirs(struct dirs *d, const struct vmm_config *cfg, const char *control)
{
	struct own_files own;

	find_own_files(&own, cfg, control);
	add_if_own(d, own.control, SANDBOX_DIR_SOCKET, &own);
	add_if_own(d, own.log, SANDBOX_DIR_LOG, &own);
	for (size_t i = 0; i < VMM_SERIALS; i++)
		if (cfg->serial[i] && strncmp(cfg->serial[i], "socket=", 7) == 0)
			add_if_own(d, own.serial[i], SANDBOX_DIR_SOCKET, &own);
	forget_own_files(&own);
}

/* ---- the sandbox ---- */

static int enter(const struct vmm_config *cfg, bool cold, const char *control, bool back_ends,
		 struct error *err)
{
	struct dirs d;
	int r;

	begin_dirs(&d, cfg, cold);
	if (cold || !sandbox_in_force())
		add_own_dirs(&d, cfg, control);
	r = sandbox_enter(d.list, back_ends, err);
	forget_dirs(&d);
	return r;
}

int confine_cold(const struct vmm_config *cfg, const char *control, bool back_ends,
		 struct error *err)
{
	int r = cfg->sandbox ? enter(cfg, true, control, back_ends, err) : 0;

	if (r < 0)
		err_prefix(err, "the sandbox cannot be had here (--sandbox off runs without)");
	return r;
}

void confine_successor(const struct vmm_config *cfg, const char *control, bool back_ends)
{
	unsigned int level = sandbox_level();
	struct error err = ERROR_INIT;

	if (cfg->sandbox && enter(cfg, false, control, back_ends, &err) < 0)
		log_error("sandbox: not in force as it should be: %s", err.text);
	else if (!cfg->sandbox && level)
		log_warn("--sandbox off: level %u is in force since before, and cannot be lifted; only "
			 "the vCPU threads run without",
			 level);
}

int (*confine_thread(const struct vmm_config *cfg))(struct error *err)
{
	return cfg->sandbox ? sandbox_enter_thread : NULL;
}
