/* SPDX-License-Identifier: MIT */
/*
 * Text from strangers (servers, clients, state files) on its way to a terminal or the log. A
 * terminal obeys control characters, and shows what has been turned round by Unicode's marks for
 * the direction of writing as something else.
 */
#ifndef MOLT_BASE_PRINTABLE_H
#define MOLT_BASE_PRINTABLE_H

#include <stddef.h>
#include <stdio.h>

#include <jansson.h>

#define PRINTABLE_MAX 4096 /* bytes of one text that are shown */

/*
 * Prints a text with what is not harmless written as \xNN, byte by byte: control characters (ASCII
 * and U+0080 to U+009F), marks of direction, and what is no UTF-8. Of a longer one than
 * PRINTABLE_MAX bytes the rest is left out, and its length told.
 */
void printable_print(FILE *out, const char *text);

/* The same for what a format makes, as a line. */
void printable_printf(FILE *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/*
 * Prints JSON with the same characters as \uNNNN, which changes nothing for a reader of JSON, and a
 * line break at the end. flags as for json_dumps().
 */
void printable_print_json(FILE *out, const json_t *value, size_t flags);

/* In place, for a line of len bytes: harmful bytes become '?', white space a blank. */
void printable_line(char *line, size_t len);

#endif
