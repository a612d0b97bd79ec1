/* SPDX-License-Identifier: MIT */
/* Values as users write them in options: sizes, numbers, lists of key=value. */
#ifndef MOLT_BASE_VALUES_H
#define MOLT_BASE_VALUES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>

#define NEAREST_WORD_MAX 32 /* longer words are cut: they are no option's name */

/* The word of n (NULLs are skipped) that is most like what was typed; NULL if none is near. */
const char *nearest_word(const char *typed, const char *const *words, size_t n);

/*
 * "512M", "4G", "65536", "64KiB" to bytes: K, M, G, T are powers of 1024, in either case, with or
 * without "iB". what names the value in the error. -EINVAL, -ERANGE.
 */
int value_size(const char *what, const char *text, uint64_t *bytes, struct error *err);

/* A decimal or 0x number within min..max. -EINVAL, -ERANGE with the range in the sentence. */
int value_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *value,
		 struct error *err);

/*
 * Seconds, "5" or "0.25" with at most three decimals, to milliseconds within min_ms..max_ms.
 * -EINVAL, -ERANGE with the range in the sentence.
 */
int value_seconds(const char *what, const char *text, uint64_t min_ms, uint64_t max_ms,
		  uint64_t *ms, struct error *err);

#define VALUE_LIST_MAX 16

/* A list of key=value pairs. */
struct value_list {
	char *text; /* owns what keys and values point into */
	struct {
		const char *key;
		const char *value;
	} pairs[VALUE_LIST_MAX];
	size_t count;
};

/*
 * Takes "key=value,key=value" apart. A first element without '=' is the value of keys[0]. A comma
 * in a value is written twice. keys (NULL-terminated) are the allowed ones. -EINVAL for an unknown
 * or doubled key or one without value; what names the option in the sentence.
 */
int value_list_parse(struct value_list *list, const char *what, const char *text,
		     const char *const *keys, struct error *err);
void value_list_fini(struct value_list *list);

/* The value of a key, or NULL. */
const char *value_list_get(const struct value_list *list, const char *key);

/* The value of a key that is on or off; without the key it stays as it is. -EINVAL. */
int value_list_on_off(const struct value_list *list, const char *what, const char *key, bool *value,
		      struct error *err);

#endif
