/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * A client may choose any JSON value as the id of a request and compares what comes back with it.
 * So its text is kept and given back: jansson has no integers beyond 63 bits and no reals beyond a
 * double's, and would write others than it read. The text of a message is searched for the member
 * "id" of the outermost object, by brackets, quotes, colons and commas alone; what is found counts
 * only if it is JSON by itself, so that nothing a client sends can break an answer open.
 *
 * That it is found in texts that are no JSON as a whole is meant: an error can then say to which
 * request it belongs.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/control/json_framing.h>
#include <molt/control/json_message.h>

#define VALUE_FLAGS (JSON_DECODE_ANY | JSON_REJECT_DUPLICATES)

/* A part of a text; NULL: there is none. */
struct span {
	char *text;
	size_t len;
};

/*
 * Turns single-quoted strings into double-quoted ones and \' into '. out has room for twice the
 * text: each byte becomes two at most.
 */
static size_t plain_json(const char *text, size_t len, char *out)
{
	struct json_framer f = { 0 };
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		char quote = f.quote, ch = text[i];
		bool escaped = f.escaped;

		if (f.quote)
			json_framer_string(&f, ch);
		else if (ch == '"' || ch == '\'')
			f.quote = ch;
		if (f.quote != quote) { /* a string begins or ends here */
			out[n++] = '"';
		} else if (f.escaped && i + 1 < len && text[i + 1] == '\'') {
			/* drop the backslash; the quote itself follows */
		} else if (quote == '\'' && ch == '"' && !escaped) {
			out[n++] = '\\';
			out[n++] = ch;
		} else {
			out[n++] = ch;
		}
	}
	return n;
}

static size_t count_digits(const char *text, size_t len)
{
	size_t n = 0;

	while (n < len && isdigit((unsigned char)text[n]))
		n++;
	return n;
}

/* What of text is a number (RFC 8259, 6), as much as can be; 0: it begins with none. */
static size_t number_length(const char *text, size_t len)
{
	size_t at = len && text[0] == '-', digits, sign;

	/* Nothing is counted that is not taken: many zeroes would be counted again and again. */
	digits = at < len && text[at] == '0' ? 1 : count_digits(text + at, len - at);
	if (!digits)
		return 0;
	at += digits;
	digits = at < len && text[at] == '.' ? count_digits(text + at + 1, len - at - 1) : 0;
	at += digits ? digits + 1 : 0;
	if (at == len || (text[at] != 'e' && text[at] != 'E'))
		return at;
	sign = at + 1 < len && (text[at + 1] == '+' || text[at + 1] == '-');
	digits = count_digits(text + at + 1 + sign, len - at - 1 - sign);
	return digits ? at + 1 + sign + digits : at;
}

/* Writes 0 for each number: jansson need not know its size. What is wrong with one stays wrong. */
static void hide_numbers(char *text, size_t len)
{
	struct json_framer f = { 0 };

	for (size_t i = 0; i < len; i++) {
		size_t n = f.quote ? 0 : number_length(text + i, len - i);

		if (f.quote) {
			json_framer_string(&f, text[i]);
		} else if (text[i] == '"') {
			f.quote = '"';
		} else if (n) {
			memset(text + i, ' ', n);
			text[i] = '0';
			i += n - 1;
		}
	}
}

bool json_text_is_value(const char *text, size_t len)
{
	_cleanup_free_ char *copy = malloc(len + 1);
	json_t *value;

	if (!copy)
		return false;
	memcpy(copy, text, len);
	hide_numbers(copy, len);
	value = json_loadb(copy, len, VALUE_FLAGS | JSON_ALLOW_NUL, NULL);
	json_decref(value);
	return value;
}

static struct span trim(char *from, char *to)
{
	while (from < to && json_framing_space(*from))
		from++;
	while (to > from && json_framing_space(to[-1]))
		to--;
	return (struct span){ .text = from, .len = (size_t)(to - from) };
}

/* Whether a member's name, with its quotes, is "id", in whatever way it is written. */
static bool is_id(struct span name)
{
	json_t *string;
	bool is;

	if (!memchr(name.text, '\\', name.len))
		return name.len == 4 && memcmp(name.text, "\"id\"", 4) == 0;
	string = json_loadb(name.text, name.len, JSON_DECODE_ANY, NULL);
	is = json_is_string(string) && strcmp(json_string_value(string), "id") == 0;
	json_decref(string);
	return is;
}

/* Takes a byte outside strings; the depth is then what it is behind the byte. */
static bool ends_member(struct json_framer *f, char ch)
{
	if (ch == '{' || ch == '[')
		f->depth++;
	else if ((ch == '}' || ch == ']') && f->depth)
		f->depth--;
	return (ch == ',' && f->depth == 1) || (ch == '}' && f->depth == 0);
}

/* The value of the member "id" in plain JSON, if it is a value. */
static struct span find_id(char *text, size_t len)
{
	struct json_framer f = { 0 };
	char *member = text + 1, *colon = NULL;

	for (char *p = text; p < text + len && *text == '{'; p++) {
		if (f.quote) {
			json_framer_string(&f, *p);
		} else if (*p == '"') {
			f.quote = '"';
		} else if (*p == ':' && f.depth == 1 && !colon) {
			colon = p;
		} else if (ends_member(&f, *p)) {
			struct span value = colon ? trim(colon + 1, p) : (struct span){ 0 };

			if (colon && is_id(trim(member, colon)))
				return json_text_is_value(value.text, value.len)
					       ? value
					       : (struct span){ 0 };
			member = p + 1;
			colon = NULL;
		}
	}
	return (struct span){ 0 };
}

/* A copy in plain JSON, to be freed, with room for a NUL; NULL without memory. */
static char *plain_copy(const char *text, size_t *len)
{
	bool quotes = memchr(text, '\'', *len);
	char *plain = malloc((quotes ? 2 * *len : *len) + 1);

	if (plain && quotes)
		*len = plain_json(text, *len, plain);
	else if (plain)
		memcpy(plain, text, *len);
	return plain;
}

json_t *json_message_parse(const char *text, size_t len, struct error *err)
{
	const size_t whole = len;
	_cleanup_free_ char *plain = plain_copy(text, &len);
	struct span id = { 0 };
	json_error_t why;
	json_t *msg;

	if (!plain) {
		err_set(err, ENOMEM, "no memory for a message of %zu bytes", whole);
		return NULL;
	}
	id = find_id(plain, len);
	if (id.text) {
		memset(id.text, ' ', id.len);
		*id.text = '0';
	}
	msg = json_loadb(plain, len, VALUE_FLAGS, &why);
	if (!msg)
		err_set(err, EINVAL, "JSON parse error, %s", why.text);
	return msg;
}

char *json_message_id(const char *text, size_t len)
{
	_cleanup_free_ char *plain = plain_copy(text, &len);
	struct span id = plain ? find_id(plain, len) : (struct span){ 0 };
	char *copy = id.text ? strndup(id.text, id.len) : NULL;

	for (char *p = copy; p && *p; p++)
		if (json_framing_space(*p))
			*p = ' ';
	return copy;
}
