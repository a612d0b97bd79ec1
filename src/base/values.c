/* SPDX-License-Identifier: MIT */
/* Values of options: sizes, numbers, lists of key=value. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <molt/base/values.h>

/* strtoull() takes signs, white space and prefixes, of which a value has none. */
static int digits(const char *text, int base, uint64_t *value, const char **end)
{
	unsigned long long n;
	char *stop;

	if (!isxdigit((unsigned char)*text) || text[1] == 'x' || text[1] == 'X')
		return -EINVAL;
	errno = 0;
	n = strtoull(text, &stop, base);
	if (stop == text)
		return -EINVAL;
	*end = stop;
	*value = n;
	return errno == ERANGE ? -ERANGE : 0;
}

/* The power of two that a suffix stands for, -1 for none that is known. */
static int suffix_shift(const char *suffix)
{
	static const char letters[] = "KMGT";
	const char *letter;

	if (!*suffix)
		return 0;
	letter = strchr(letters, toupper((unsigned char)*suffix));
	if (!letter || (suffix[1] && strcasecmp(suffix + 1, "iB") != 0))
		return -1;
	return 10 * (int)(letter - letters + 1);
}

int value_size(const char *what, const char *text, uint64_t *bytes, struct error *err)
{
	const char *suffix = text;
	uint64_t n = 0;
	int r = digits(text, 10, &n, &suffix);
	int shift = suffix_shift(suffix);

	if (r == -EINVAL || shift < 0)
		return err_set(err, EINVAL,
			       "%s '%s' is not a size: a whole number with K, M, G or "
			       "T (powers of 1024), such as 512M or 4GiB",
			       what, text);
	if (r == -ERANGE || n > UINT64_MAX >> shift)
		return err_set(err, ERANGE, "%s '%s' does not fit in 64 bits", what, text);
	*bytes = n << shift;
	return 0;
}

int value_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *value,
		 struct error *err)
{
	bool hex = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
	const char *end = text;
	uint64_t n = 0;
	int r = digits(hex ? text + 2 : text, hex ? 16 : 10, &n, &end);

	if (r == -EINVAL || *end)
		return err_set(err, EINVAL, "%s '%s' is not a number", what, text);
	if (r == -ERANGE || n < min || n > max)
		return err_set(err, ERANGE, "%s %s is out of range: %" PRIu64 " to %" PRIu64, what,
			       text, min, max);
	*value = n;
	return 0;
}

/* Up to three decimals as thousandths; *end is moved behind them. */
static uint64_t thousandths(const char **end)
{
	uint64_t n = 0;

	for (uint64_t unit = 100; unit && isdigit((unsigned char)**end); unit /= 10)
		n += unit * (uint64_t)(*(*end)++ - '0');
	return n;
}

int value_seconds(const char *what, const char *text, uint64_t min_ms, uint64_t max_ms,
		  uint64_t *ms, struct error *err)
{
	const char *end = text;
	uint64_t seconds = 0, fraction = 0;
	int r = digits(text, 10, &seconds, &end);

	if (r != -EINVAL && *end == '.' && isdigit((unsigned char)end[1])) {
		end++;
		fraction = thousandths(&end);
	}
	if (r == -EINVAL || *end)
		return err_set(err, EINVAL,
			       "%s '%s' is not a number of seconds, such as 5 or 0.25 "
			       "(at most three decimals)",
			       what, text);
	if (r == -ERANGE || seconds > max_ms / 1000 || seconds * 1000 + fraction < min_ms ||
	    seconds * 1000 + fraction > max_ms)
		return err_set(err, ERANGE, "%s %s is out of range: %g to %g seconds", what, text,
			       (double)min_ms / 1000, (double)max_ms / 1000);
	*ms = seconds * 1000 + fraction;
	return 0;
}

/* Cuts the element at *text off at its comma, doubled commas made single; moves *text behind it. */
static char *next_element(char **text)
{
	char *element = *text, *in = element, *out = element;

	while (*in && (*in != ',' || in[1] == ',')) {
		in += *in == ',';
		*out++ = *in++;
	}
	*text = *in ? in + 1 : NULL;
	*out = '\0';
	return element;
}

static int unknown_key(const char *what, const char *key, const char *const *keys,
		       struct error *err)
{
	const char *nearest;
	size_t n = 0;

	while (keys[n])
		n++;
	nearest = nearest_word(key, keys, n);
	if (nearest)
		return err_set(err, EINVAL, "%s: unknown key '%s'; did you mean '%s'?", what, key,
			       nearest);
	return err_set(err, EINVAL, "%s: unknown key '%s'", what, key);
}

static int add_element(struct value_list *list, const char *what, char *element,
		       const char *const *keys, struct error *err)
{
	char *equals = strchr(element, '=');
	const char *key = element, *value = element;
	size_t k = 0;

	if (!*element && list->count) {
		return err_set(err, EINVAL, "%s: a comma with nothing behind it", what);
	} else if (equals) {
		*equals = '\0';
		value = equals + 1;
	} else if (list->count == 0) {
		key = keys[0];
	} else {
		return err_set(err, EINVAL, "%s: '%s' has no value: %s=VALUE", what, element,
			       element);
	}
	while (keys[k] && strcmp(keys[k], key) != 0)
		k++;
	if (!keys[k])
		return unknown_key(what, key, keys, err);
	if (!*value)
		return err_set(err, EINVAL, "%s: '%s' has an empty value", what, key);
	if (value_list_get(list, key))
		return err_set(err, EINVAL, "%s: '%s' is given twice", what, key);
	if (list->count == VALUE_LIST_MAX)
		return err_set(err, EINVAL, "%s: more than %d elements", what, VALUE_LIST_MAX);
	list->pairs[list->count].key = key;
	list->pairs[list->count++].value = value;
	return 0;
}

int value_list_parse(struct value_list *list, const char *what, const char *text,
		     const char *const *keys, struct error *err)
{
	char *rest;
	int r = 0;

	*list = (struct value_list){ .text = strdup(text) };
	if (!list->text)
		return err_set(err, ENOMEM, "no memory for '%s'", what);
	rest = list->text;
	while (r == 0 && rest)
		r = add_element(list, what, next_element(&rest), keys, err);
	if (r < 0)
		value_list_fini(list);
	return r;
}

void value_list_fini(struct value_list *list)
{
	free(list->text);
	*list = (struct value_list){ 0 };
}

const char *value_list_get(const struct value_list *list, const char *key)
{
	for (size_t i = 0; i < list->count; i++)
		if (strcmp(list->pairs[i].key, key) == 0)
			return list->pairs[i].value;
	return NULL;
}

int value_list_on_off(const struct value_list *list, const char *what, const char *key, bool *value,
		      struct error *err)
{
	const char *text = value_list_get(list, key);

	if (!text)
		return 0;
	*value = strcmp(text, "on") == 0;
	if (!*value && strcmp(text, "off") != 0)
		return err_set(err, EINVAL, "%s %s=%s: it must be on or off", what, key, text);
	return 0;
}
