/* SPDX-License-Identifier: MIT */
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/json.h>

json_t *json_any_string(const char *text)
{
	json_t *string = json_string(text);
	_cleanup_free_ char *copy = NULL;

	if (string)
		return string;
	copy = strdup(text);
	if (!copy)
		return NULL;
	for (char *p = copy; *p; p++)
		if ((unsigned char)*p >= 0x80)
			*p = '?';
	return json_string(copy);
}
