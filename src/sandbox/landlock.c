/* SPDX-License-Identifier: MIT */
/*
 * Landlock: what a thread may do to files, by rules that the kernel keeps for it and its children.
 * There is no library for it; three system calls do. The constants are here because the headers of
 * a build host are often older than the kernel that runs the program.
 *
 * Each ABI version adds rights that can be taken away. What the kernel does not know is left out.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

#define FS_TRUNCATE (1ull << 14)  /* ABI 3 */
#define FS_IOCTL_DEV (1ull << 15) /* ABI 5 */
#define NET_TCP 3ull              /* ABI 4: bind and connect */
#define SCOPE_ABSTRACT 1ull       /* ABI 6: abstract Unix sockets of others */
#define SCOPE_SIGNAL 2ull         /* ABI 6: signals to others */
#define GET_ERRATA 2u
#define ERRATUM_SIGNAL_THREADS 2 /* bit 1: threads of one process may signal each other */

#define FS_FILE \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_WRITE_FILE | \
	 LANDLOCK_ACCESS_FS_READ_FILE | FS_TRUNCATE | FS_IOCTL_DEV)
#define FS_READ \
	(LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR)
#define FS_ALL_1 ((1ull << 13) - 1) /* ABI 1 */

struct ruleset {
	uint64_t fs;
	uint64_t net;
	uint64_t scoped;
};

int landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	return abi < 0 ? 0 : (int)abi;
}

/*
 * Before that erratum was mended main could not kick a vCPU thread that is in another domain, and
 * the stand-in could not end a successor. Where it is not mended signals stay free.
 */
static bool signals_are_sane(void)
{
	long errata = syscall(SYS_landlock_create_ruleset, NULL, 0, GET_ERRATA);

	return errata > 0 && (errata & ERRATUM_SIGNAL_THREADS);
}

/* All that this kernel can take away. */
static struct ruleset everything(void)
{
	int abi = landlock_abi();
	struct ruleset r = { .fs = FS_ALL_1 };

	if (abi >= 2)
		r.fs |= LANDLOCK_ACCESS_FS_REFER;
	if (abi >= 3)
		r.fs |= FS_TRUNCATE;
	if (abi >= 4)
		r.net = NET_TCP;
	if (abi >= 5)
		r.fs |= FS_IOCTL_DEV;
	if (abi >= 6)
		r.scoped = SCOPE_ABSTRACT | (signals_are_sane() ? SCOPE_SIGNAL : 0);
	return r;
}

/*
 * Reading and executing stay free: who may say what tomorrow's binary and its wrappers need?
 * Signals are landlock_scope_signals()'s.
 */
static struct ruleset everything_to_change(void)
{
	struct ruleset r = everything();

	r.fs &= ~FS_READ;
	r.scoped &= ~SCOPE_SIGNAL;
	return r;
}

static int create(const struct ruleset *r, struct error *err)
{
	/* The kernel takes a longer struct than it knows if the rest is zero, and it is. */
	long fd = syscall(SYS_landlock_create_ruleset, r, sizeof(*r), 0);

	return fd < 0 ? err_sys(err, errno, "landlock_create_ruleset") : (int)fd;
}

int landlock_restrict_self(int ruleset, struct error *err)
{
	if (syscall(SYS_landlock_restrict_self, ruleset, 0) < 0)
		return err_sys(err, errno, "landlock_restrict_self");
	return 0;
}

/* A directory or file that is not there needs no rule. */
static int allow(int ruleset, const char *path, int flags, uint64_t rights, struct error *err)
{
	struct landlock_path_beneath_attr rule = { .allowed_access = rights };
	_cleanup_close_ int fd = open(path, O_PATH | O_CLOEXEC | flags);

	if (fd < 0)
		return errno == ENOENT ? 0 : err_sys(err, errno, "%s", path);
	rule.parent_fd = fd;
	if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) < 0)
		return err_sys(err, errno, "landlock_add_rule for %s", path);
	return 0;
}

/* Without a rule there is less that may be done, which is no reason to be without all the others. */
static void allow_if_possible(int ruleset, const char *path, int flags, uint64_t rights)
{
	struct error err = ERROR_INIT;

	if (allow(ruleset, path, flags, rights, &err) < 0)
		log_warn("sandbox: nothing can be changed there: %s", err.text);
}

/* Devices need a capability besides, which is gone. */
static uint64_t rights_for(enum sandbox_dir_use use, uint64_t all)
{
	if (use == SANDBOX_DIR_SOCKET)
		return LANDLOCK_ACCESS_FS_REMOVE_FILE;
	if (use == SANDBOX_DIR_LOG)
		return LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_WRITE_FILE;
	return all & ~(FS_IOCTL_DEV | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK);
}

int landlock_make_rules(struct error *err)
{
	/* What a wrapper script writes to without a second thought. */
	static const char *const harmless[] = { "/dev/null", "/dev/zero", "/dev/full", "/dev/tty",
						NULL };
	const struct ruleset all = everything_to_change();
	int fd = create(&all, err);

	for (const char *const *path = harmless; *path && fd >= 0; path++)
		allow_if_possible(fd, *path, 0, all.fs & FS_FILE);
	return fd;
}

int landlock_allow_dirs(int ruleset, const struct sandbox_dir *dirs, struct error *err)
{
	const uint64_t all = everything_to_change().fs;
	int r = 0;

	for (const struct sandbox_dir *d = dirs; d->path && r == 0; d++)
		if (d->must)
			r = allow(ruleset, d->path, O_DIRECTORY, rights_for(d->use, all), err);
		else
			allow_if_possible(ruleset, d->path, O_DIRECTORY, rights_for(d->use, all));
	if (r < 0)
		err_prefix(err, "a directory of write=");
	return r;
}

int landlock_scope_signals(struct error *err)
{
	const struct ruleset signals = { .scoped = everything().scoped & SCOPE_SIGNAL };
	_cleanup_close_ int fd = signals.scoped ? create(&signals, err) : -1;

	if (!signals.scoped)
		return 0;
	return fd < 0 ? fd : landlock_restrict_self(fd, err);
}

int landlock_confine_thread(struct error *err)
{
	const struct ruleset all = everything();
	_cleanup_close_ int fd = create(&all, err);

	return fd < 0 ? fd : landlock_restrict_self(fd, err);
}
