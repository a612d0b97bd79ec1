/* SPDX-License-Identifier: MIT */
/*
 * The files a machine boots from, kept open for its whole life: a guest reset loads them again,
 * also after updates and where their paths are gone or out of reach.
 */
#ifndef MOLT_BOOT_BOOT_FILES_H
#define MOLT_BOOT_BOOT_FILES_H

#include <stdint.h>

#include <molt/base/error.h>
#include <molt/state/fdtable.h>
#include <molt/state/kinds.h>
#include <molt/state/stream.h>

#define BOOT_CMDLINE_MAX 4096
#define BOOT_PATH_MAX 4096

struct boot_files {
	int kernel_fd;    /* -1: the built-in demo guest */
	int initramfs_fd; /* -1: none */
	char kernel_name[BOOT_PATH_MAX];
	char initramfs_name[BOOT_PATH_MAX];
	char cmdline[BOOT_CMDLINE_MAX];
};

/* Opens what is not NULL. -ENAMETOOLONG, -E2BIG, or what open(2) says, with the path. */
int boot_files_open(struct boot_files *f, const char *kernel, const char *initramfs,
		    const char *cmdline, struct error *err);
void boot_files_close(struct boot_files *f);

/* Section "boot", descriptors "boot-kernel" and "boot-initramfs". */
int boot_files_save(const struct boot_files *f, struct stream_writer *w, struct fdtable *fds,
		    struct error *err);
int boot_files_load(struct boot_files *f, struct stream *s, struct fdtable *fds, struct error *err);

/* What these two save and load. */
extern const struct takeover_kind boot_files_kind;

#endif
