/* SPDX-License-Identifier: MIT */
/* What strangers write reaches no terminal and no log as anything but text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/printable.h>

struct capture {
	FILE *out;
	char *text;
	size_t len;
};

static void capture(struct capture *c)
{
	c->out = open_memstream(&c->text, &c->len);
	assert_non_null(c->out);
}

static void assert_text(struct capture *c, const char *expected)
{
	fclose(c->out);
	assert_string_equal(c->text, expected);
	free(c->text);
}

static void assert_printed(const char *text, const char *expected)
{
	struct capture c;

	capture(&c);
	printable_print(c.out, text);
	assert_text(&c, expected);
}

static void text_stays_text(void **state)
{
	(void)state;
	assert_printed("", "");
	assert_printed("an 'ordinary' text: 100 %s", "an 'ordinary' text: 100 %s");
	assert_printed("\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x8a",
		       "\xc3\xa9\xe2\x82\xac\xf0\x9f\xa6\x8a");
}

static void terminals_are_told_nothing(void **state)
{
	(void)state;
	assert_printed("\x1b[31m\x07\x7f", "\\x1b[31m\\x07\\x7f");
	assert_printed("a\nb\tc\r", "a\\x0ab\\x09c\\x0d");
	/* U+009B is CSI; U+202E turns round what follows; U+2066 isolates it. */
	assert_printed("\xc2\x9b"
		       "1m",
		       "\\xc2\\x9b1m");
	assert_printed("\xe2\x80\xae"
		       "gpj.exe",
		       "\\xe2\\x80\\xaegpj.exe");
	assert_printed("\xe2\x81\xa6\xd8\x9c", "\\xe2\\x81\\xa6\\xd8\\x9c");
}

static void what_is_no_utf8_is_shown_byte_by_byte(void **state)
{
	(void)state;
	assert_printed("\xff"
		       "a\x80",
		       "\\xffa\\x80");
	assert_printed("\xc3", "\\xc3");
	assert_printed("\xe2\x82", "\\xe2\\x82");
	assert_printed("\xc0\x9b", "\\xc0\\x9b");                   /* overlong */
	assert_printed("\xe0\x80\x9b", "\\xe0\\x80\\x9b");          /* overlong */
	assert_printed("\xed\xa0\x80", "\\xed\\xa0\\x80");          /* a surrogate */
	assert_printed("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80"); /* beyond U+10FFFF */
}

static void long_text_is_cut(void **state)
{
	char *text = malloc(PRINTABLE_MAX + 101);
	struct capture c;

	(void)state;
	capture(&c);
	memset(text, 'a', PRINTABLE_MAX + 100);
	text[PRINTABLE_MAX + 100] = '\0';
	printable_printf(c.out, "%s", text);
	fclose(c.out);
	assert_non_null(strstr(c.text, "aaa... (4196 bytes in all)\n"));
	assert_true(c.len < PRINTABLE_MAX + 40);
	free(c.text);
	free(text);
}

static void json_stays_the_same_json(void **state)
{
	json_t *value = json_pack("{s:s}", "k\x1b", "\x7f\xc2\x9b\xe2\x80\xae\xc3\xa9\n"), *again;
	struct capture c;

	(void)state;
	capture(&c);
	printable_print_json(c.out, value, JSON_COMPACT);
	fclose(c.out);
	assert_string_equal(c.text, "{\"k\\u001B\":\"\\u007f\\u009b\\u202e\xc3\xa9\\n\"}\n");
	again = json_loads(c.text, 0, NULL);
	assert_true(json_equal(value, again));
	json_decref(again);
	json_decref(value);
	free(c.text);
}

static void a_line_stays_one_line(void **state)
{
	char line[] = "a\nb\tc\x1b"
		      "d\xc2\x9b"
		      "e\xc3\xa9";

	(void)state;
	printable_line(line, strlen(line));
	assert_string_equal(line, "a b c?d??e\xc3\xa9");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_stays_text),
		cmocka_unit_test(terminals_are_told_nothing),
		cmocka_unit_test(what_is_no_utf8_is_shown_byte_by_byte),
		cmocka_unit_test(long_text_is_cut),
		cmocka_unit_test(json_stays_the_same_json),
		cmocka_unit_test(a_line_stays_one_line),
	};

	return cmocka_run_group_tests_name("printable", tests, NULL, NULL);
}
