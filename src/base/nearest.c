/* SPDX-License-Identifier: MIT */
/* The word that somebody who mistyped one may have meant. */
#include <string.h>

#include <molt/base/values.h>

/* Levenshtein's distance. */
static unsigned int distance(const char *a, const char *b)
{
	size_t la = strnlen(a, NEAREST_WORD_MAX), lb = strnlen(b, NEAREST_WORD_MAX);
	unsigned int row[NEAREST_WORD_MAX + 1];

	for (size_t j = 0; j <= lb; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 1; i <= la; i++) {
		unsigned int diagonal = row[0];

		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= lb; j++) {
			unsigned int best = diagonal + (a[i - 1] != b[j - 1]);

			diagonal = row[j];
			if (row[j] + 1 < best)
				best = row[j] + 1;
			if (row[j - 1] + 1 < best)
				best = row[j - 1] + 1;
			row[j] = best;
		}
	}
	return row[lb];
}

const char *nearest_word(const char *typed, const char *const *words, size_t n)
{
	unsigned int limit = 1 + (unsigned int)strnlen(typed, NEAREST_WORD_MAX) / 3;
	const char *nearest = NULL;

	for (size_t i = 0; i < n; i++) {
		unsigned int d = words[i] ? distance(typed, words[i]) : limit + 1;

		if (d > limit)
			continue;
		if (d == 0)
			return words[i];
		limit = d - 1;
		nearest = words[i];
	}
	/* A word cut short is what many mean. */
	for (size_t i = 0; i < n && strlen(typed) >= 3; i++)
		if (words[i] && strncmp(words[i], typed, strlen(typed)) == 0)
			return words[i];
	return nearest;
}
