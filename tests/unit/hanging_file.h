/* SPDX-License-Identifier: MIT */
/* A file whose file system hangs: write(2), in whose place this is, does not come back. */
#ifndef MOLT_TESTS_HANGING_FILE_H
#define MOLT_TESTS_HANGING_FILE_H

/* From here on writes to this file wait; NULL: they all go on. */
void hang_file(const char *path);

/* Waits until one does. */
void hang_wait(void);

#endif
