/* SPDX-License-Identifier: MIT */
/*
 * Errors: every function that can fail returns 0 (or a positive result) or a negative errno, and
 * fills an error object with the sentence a user will read. The sentence names the thing (the file,
 * the option, the section), its value and, where there is one, the way out.
 */
#ifndef MOLT_BASE_ERROR_H
#define MOLT_BASE_ERROR_H

#include <stdarg.h>
#include <stddef.h>

#define ERROR_TEXT_MAX 1024

struct error {
	int code; /* positive errno, 0 while no error was set */
	char text[ERROR_TEXT_MAX];
};

#define ERROR_INIT ((struct error){ 0 })

/*
 * Sets the sentence and returns -code, so that a caller can `return err_set(err, EINVAL, "...")`.
 * err may be NULL. code is a positive errno; 0 becomes EIO, so that a failure never reads as
 * success.
 */
int err_set(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/*
 * What a positive errno means, in English. In place of strerror(3), whose lock for translations
 * goes by the C library's thread id: that of the stand-in's main is 0 once the predecessor is gone,
 * which the lock takes for "nobody", and never gives back (src/update/stand_in.c).
 */
const char *error_text(int code);

/* As err_set(), with ": " and the text of the errno appended. code is usually errno itself. */
int err_sys(struct error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Puts "<text>: " before the sentence that is already there. Does nothing where none was set. */
void err_prefix(struct error *err, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
