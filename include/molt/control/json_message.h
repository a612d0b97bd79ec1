/* SPDX-License-Identifier: MIT */
/* One JSON message, as json_framer_scan() cuts it out: its parsing and its id. */
#ifndef MOLT_CONTROL_JSON_MESSAGE_H
#define MOLT_CONTROL_JSON_MESSAGE_H

#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include <molt/base/error.h>

/*
 * Parses one message. QMP's extensions to JSON are understood: 'single-quoted' strings and the
 * escape \'. NULL with the sentence ("JSON parse error, ...") if it is not JSON, -EINVAL in
 * err->code's sense. The caller owns the reference.
 *
 * The "id" of an object is any JSON value, some of which jansson cannot hold: in the result it is
 * 0.
 */
json_t *json_message_parse(const char *text, size_t len, struct error *err);

/*
 * The text of the "id" of the object that text is, or begins: valid JSON, byte for byte as it was
 * sent but for single quotes (double now) and line breaks (spaces now). For the caller to free();
 * NULL where there is none, it is not JSON, or there is no memory. text need not be JSON otherwise.
 */
char *json_message_id(const char *text, size_t len);

/* Whether text is one JSON value, with numbers of any size. False also where there is no memory. */
bool json_text_is_value(const char *text, size_t len);

#endif
