/* SPDX-License-Identifier: MIT */
#ifndef MOLT_BASE_JSON_H
#define MOLT_BASE_JSON_H

#include <jansson.h>

/*
 * A JSON string of any bytes: text that is not valid UTF-8 (a file name can be anything) has its
 * bytes above 0x7f replaced by '?'. A new reference, NULL without memory.
 */
json_t *json_any_string(const char *text);

#endif
