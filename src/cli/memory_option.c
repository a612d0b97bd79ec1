/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "memory_option.h"
#include "options.h"

#define HUGE_2M (2ull << 20)
#define HUGE_1G (1ull << 30)

/*
 * A third of the time that an update has by default: what a limit could be needed for, a slow host
 * or hundreds of GiB, must not make it fail. A host maps 5 to 30 GiB a second.
 */
#define LIMIT_MS 10000
#define LIMIT_MAX_MS 3600000

/* The index of a key's value among two or three words, and NULL; absent if it is not there. */
static int choice(const struct value_list *list, const char *key, const char *const *words,
		  int absent, struct error *err)
{
	const char *value = value_list_get(list, key);
	int i = 0;

	if (!value)
		return absent;
	while (words[i] && strcmp(words[i], value) != 0)
		i++;
	if (words[i])
		return i;
	return err_set(err, EINVAL, "--memory: %s=%s: it must be %s%s%s or %s", key, value,
		       words[0], i > 2 ? ", " : "", i > 2 ? words[1] : "", words[i - 1]);
}

static int parse_hugepages(const struct value_list *list, struct memory_arg *arg, struct error *err)
{
	const char *value = value_list_get(list, "hugepages");
	uint64_t size = 0;

	arg->hugepages_given = value != NULL;
	if (!value || strcmp(value, "off") == 0)
		return 0;
	if (strcmp(value, "on") == 0)
		size = MEMORY_HUGE_DEFAULT;
	else if (value_size("--memory: hugepages", value, &size, NULL) < 0 ||
		 (size != HUGE_2M && size != HUGE_1G))
		return err_set(err, EINVAL, "--memory: hugepages=%s: it must be on, off, 2M or 1G",
			       value);
	arg->options.hugepages = size;
	return 0;
}

static int parse_refault(const struct value_list *list, struct memory_arg *arg, struct error *err)
{
	static const char *const words[] = {
		[REFAULT_BEFORE] = "before",
		[REFAULT_BACKGROUND] = "background",
		[REFAULT_LAZY] = "lazy",
		NULL,
	};
	const char *limit = value_list_get(list, "refault-limit");
	uint64_t ms = LIMIT_MS;
	int mode = choice(list, "refault", words, REFAULT_BEFORE, err);
	int r = mode < 0 ? mode : 0;

	if (r == 0 && limit)
		r = value_seconds("--memory: refault-limit", limit, 0, LIMIT_MAX_MS, &ms, err);
	if (r < 0)
		return r;
	arg->refault = (enum refault_mode)mode;
	arg->refault_limit_ns = ms * 1000000;
	return 0;
}

static int parse_choices(const struct value_list *list, struct memory_arg *arg, struct error *err)
{
	static const char *const switches[] = { "off", "on", NULL };
	static const enum memory_thp thps[] = { MEMORY_THP_OFF, MEMORY_THP_ON, MEMORY_THP_HOST };
	int thp = choice(list, "thp", switches, 2, err);
	int prefault = thp < 0 ? thp : choice(list, "prefault", switches, 0, err);

	if (prefault < 0)
		return prefault;
	arg->options.thp = thps[thp];
	arg->options.prefault = prefault;
	if (arg->options.hugepages && arg->options.thp == MEMORY_THP_ON)
		return err_set(err, EINVAL,
			       "--memory: thp=on and hugepages exclude each other: "
			       "reserved huge pages are huge anyway");
	return 0;
}

int cli_parse_memory(const char *text, struct memory_arg *arg, struct error *err)
{
	static const char *const keys[] = { "size",    "hugepages",     "thp", "prefault",
					    "refault", "refault-limit", NULL };
	struct value_list list = { 0 };
	int r = value_list_parse(&list, "--memory", text, keys, err);

	*arg = (struct memory_arg){ 0 };
	if (r < 0)
		return r;
	if (!value_list_get(&list, "size"))
		r = err_set(err, EINVAL, "--memory '%s': size=SIZE is missing", text);
	else
		r = value_size("--memory", value_list_get(&list, "size"), &arg->size, err);
	if (r == 0)
		r = parse_hugepages(&list, arg, err);
	if (r == 0)
		r = parse_choices(&list, arg, err);
	if (r == 0)
		r = parse_refault(&list, arg, err);
	value_list_fini(&list);
	return r;
}
