/* SPDX-License-Identifier: MIT */
/*
 * A file that is there as a whole or not at all, and that nobody else has a hand in. It is made
 * under another name beside its own (O_EXCL, mode 0600), and gets its own by rename(2), which puts
 * it in the place of a file of the same user's and of nothing else.
 */
#ifndef MOLT_BASE_NEW_FILE_H
#define MOLT_BASE_NEW_FILE_H

#include <stddef.h>
#include <sys/types.h>

#include <molt/base/error.h>

struct new_file {
	int fd; /* -1: none */
	char *path;
	char *temp;
};

#define NEW_FILE_NONE \
	(struct new_file) \
	{ \
		.fd = -1 \
	}

/*
 * Makes it, with room for so many bytes where the file system can promise that. -errno with the
 * sentence: besides the directory's errors, where path is something else than a regular file of
 * this user's with one link. *f is to be dropped in any case.
 */
int new_file_open(struct new_file *f, const char *path, off_t room, struct error *err);

/* Writes all of it, cuts what was reserved beyond, and gives it its name. */
int new_file_keep(struct new_file *f, const void *data, size_t len, struct error *err);

/* Closes it; what was not kept is removed. */
void new_file_drop(struct new_file *f);

#endif
