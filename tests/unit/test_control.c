/* SPDX-License-Identifier: MIT */
/* The control server as its clients see it: protocol, framing, limits. */
#include "control_bench.h"
#include "molt_version.h"

static int setup(void **state)
{
	struct bench *b = calloc(1, sizeof(*b));

	bench_init(b);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	bench_fini(*state);
	free(*state);
	return 0;
}

/* ---- protocol ---- */

static void test_greeting(void **state)
{
	struct bench *b = *state;
	int fd = bench_connect(b);

	bench_expect(b, fd,
		     "{\"QMP\": {\"version\": {\"qemu\": {\"major\": 10, \"minor\": 2, "
		     "\"micro\": 0}, \"package\": \"molt " MOLT_VERSION "\"}, "
		     "\"capabilities\": []}}");
	close(fd);
}

static void test_only_negotiation_at_first(void **state)
{
	struct bench *b = *state;
	int fd = bench_greeted(b);

	bench_say(fd, "{\"execute\":\"echo\",\"arguments\":{\"value\":1}}{\"execute\":\"x\"}");
	for (int i = 0; i < 2; i++)
		bench_expect(b, fd,
			     NOT_FOUND("Expecting capabilities negotiation with "
				       "'qmp_capabilities'"));
	close(fd);
}

static void test_only_one_negotiation(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);

	bench_say(fd, NEGOTIATE);
	bench_expect(b, fd,
		     NOT_FOUND("Capabilities negotiation is already complete, "
			       "command ignored"));
	close(fd);
}

static void test_unknown_capability_keeps_negotiating(void **state)
{
	struct bench *b = *state;
	int fd = bench_greeted(b);

	bench_say(fd, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}");
	bench_expect(b, fd, GENERIC("Capability oob not available"));
	bench_say(fd, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":1}}");
	bench_expect(b, fd, GENERIC("Invalid parameter type for 'enable', expected: array"));
	bench_say(fd, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}");
	bench_expect(b, fd, DONE);
	close(fd);
}

static void test_id_comes_back(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);

	bench_say(fd, "{\"execute\":\"echo\",\"arguments\":{\"value\":[1,\"\\u00e9\"]},"
		      "\"id\":{\"n\":null}}");
	bench_expect(b, fd, "{\"return\": [1, \"\\u00E9\"], \"id\": {\"n\":null}}");
	bench_say(fd, "{\"id\":7,\"execute\":\"nope\"}");
	bench_expect(b, fd,
		     "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": "
		     "\"The command nope has not been found\"}, \"id\": 7}");
	bench_say(fd, "{\"id\":8,\"exec-oob\":\"echo\"}");
	bench_expect(b, fd,
		     "{\"error\": {\"class\": \"GenericError\", \"desc\": "
		     "\"QMP input member 'exec-oob' is unexpected\"}, \"id\": 8}");
	close(fd);
}

/* Byte for byte, whatever becomes of the request. */
static void test_any_value_is_an_id(void **state)
{
	static const char *const ids[] = {
		"18446744073709551616",
		"1e999",
		"-0.10",
		"\"\\u0000\"",
		"[1,  {\"a\":9223372036854775808}]",
		"null"
	};
	struct bench *b = *state;
	int fd = bench_client(b);
	char text[512], expected[512];

	for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
		snprintf(text, sizeof(text),
			 "{\"execute\":\"echo\","
			 "\"arguments\":{\"value\":1},\"id\":%s}"
			 "{\"id\":%s,\"execute\":\"fail\"}"
			 "{\"id\":%s,\"execute\":\"nope\"}",
			 ids[i], ids[i], ids[i]);
		bench_say(fd, text);
		snprintf(expected, sizeof(expected), "{\"return\": 1, \"id\": %s}", ids[i]);
		bench_expect(b, fd, expected);
		snprintf(expected, sizeof(expected),
			 "{\"error\": {\"class\": \"GenericError\", "
			 "\"desc\": \"no such thing: 'caf?'\"}, \"id\": %s}",
			 ids[i]);
		bench_expect(b, fd, expected);
		snprintf(expected, sizeof(expected),
			 "{\"error\": {\"class\": "
			 "\"CommandNotFound\", \"desc\": "
			 "\"The command nope has not been found\"}, \"id\": %s}",
			 ids[i]);
		bench_expect(b, fd, expected);
	}
	close(fd);
}

static void test_errors_of_the_parser_carry_the_id(void **state)
{
	static const char *const bad[] = {
		"{\"execute\": stop, \"id\": 7}",
		"{\"id\": 7, \"execute\": }",
		"{\"id\":7,\"execute\":\"echo\",\"arguments\":{\"value\":1e999}}",
		"{\"id\":7,\"execute\":\"\xff",
		"{\"id\":7,\"execute\":]",
		"{\"id\":7,\"x\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
		"{\"id\":7,\"execute\":1}",
		"{\"id\":7}",
	};
	struct bench *b = *state;
	int fd = bench_client(b);
	char line[512];

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		bench_say(fd, bad[i]);
		assert_true(bench_line(b, fd, line, sizeof(line)));
		if (!strstr(line, "{\"error\": {") || !strstr(line, "}, \"id\": 7}"))
			fail_msg("%s: %s", bad[i], line);
	}
	bench_say(fd, "{\"execute\":1}");
	assert_true(bench_line(b, fd, line, sizeof(line)));
	assert_null(strstr(line, "\"id\""));
	close(fd);
}

static void test_error_sentences(void **state)
{
	static const struct {
		const char *request, *answer;
	} cases[] = {
		{ "[]", GENERIC("QMP input must be a JSON object") },
		{ "\"stop\" ", GENERIC("QMP input must be a JSON object") },
		{ "{}", GENERIC("QMP input lacks member 'execute'") },
		{ "{\"execute\":1}", GENERIC("QMP input member 'execute' must be a string") },
		{ "{\"execute\":\"echo\",\"arguments\":[]}",
		  GENERIC("QMP input member 'arguments' must be an object") },
		{ "{\"execute\":\"echo\",\"control\":1}",
		  GENERIC("QMP input member 'control' is unexpected") },
		{ "{\"execute\":\"echo\",\"arguments\":{\"valu\":1}}",
		  GENERIC("Parameter 'valu' is unexpected") },
		{ "{\"execute\":\"fail\",\"arguments\":{\"value\":1}}",
		  GENERIC("Parameter 'value' is unexpected") },
		{ "{\"execute\":\"fail\"}", GENERIC("no such thing: 'caf?'") },
		{ "}", GENERIC("JSON parse error, closing bracket without its opening one") },
		{ "\002", GENERIC("JSON parse error, stray control character or byte that is not "
				  "UTF-8") },
	};
	struct bench *b = *state;
	int fd = bench_client(b);

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		bench_say(fd, cases[i].request);
		bench_expect(b, fd, cases[i].answer);
	}
	close(fd);
}

static void test_server_commands(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);

	bench_say(fd, "{\"execute\":\"query-commands\"}");
	bench_expect(b, fd,
		     "{\"return\": [{\"name\": \"qmp_capabilities\"}, "
		     "{\"name\": \"query-version\"}, {\"name\": \"query-commands\"}, "
		     "{\"name\": \"query-qmp-schema\"}, "
		     "{\"name\": \"getfd\"}, {\"name\": \"closefd\"}, "
		     "{\"name\": \"echo\"}, {\"name\": \"fail\"}, {\"name\": \"later\"}, "
		     "{\"name\": \"from-within\"}]}");
	bench_say(fd, "{\"execute\":\"query-version\"}");
	bench_expect(b, fd,
		     "{\"return\": {\"qemu\": {\"major\": 10, \"minor\": 2, \"micro\": 0}, "
		     "\"package\": \"molt " MOLT_VERSION "\"}}");
	close(fd);
}

static void test_events_reach_only_those_who_negotiated(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b), other = bench_greeted(b);
	char line[256];
	json_t *msg;

	control_event(b->control, "RESET", json_pack("{s:b}", "guest", 1));
	assert_true(bench_line(b, fd, line, sizeof(line)));
	msg = json_loads(line, 0, NULL);
	assert_string_equal(json_string_value(json_object_get(msg, "event")), "RESET");
	assert_true(json_is_true(json_object_get(json_object_get(msg, "data"), "guest")));
	assert_true(json_integer_value(json_object_get(json_object_get(msg, "timestamp"),
						       "seconds")) > 1700000000);
	json_decref(msg);
	bench_expect_nothing(b, other);
	close(fd);
	close(other);
}

static void test_later_answer(void **state)
{
	struct error err = ERROR_INIT;
	struct bench *b = *state;
	int fd = bench_client(b);

	bench_say(fd, "{\"execute\":\"later\"}{\"execute\":\"echo\",\"arguments\":{\"value\":1}}");
	bench_expect_nothing(b, fd); /* answers keep the order of requests */
	control_reply(b->control, b->async.client, NULL, json_string("late"), NULL);
	bench_expect(b, fd, "{\"return\": \"late\"}");
	bench_expect(b, fd, "{\"return\": 1}");
	bench_say(fd, "{\"execute\":\"later\"}");
	bench_expect_nothing(b, fd);
	err_set(&err, EBUSY, "not now");
	control_reply(b->control, b->async.client, "true", NULL, &err);
	bench_expect(b, fd,
		     "{\"error\": {\"class\": \"GenericError\", \"desc\": \"not now\"}, "
		     "\"id\": true}");
	control_reply(b->control, b->async.client, "18446744073709551616", json_true(), NULL);
	bench_expect(b, fd, "{\"return\": true, \"id\": 18446744073709551616}");
	/* From a stream that was tampered with. */
	control_reply(b->control, b->async.client, "1}{", json_true(), NULL);
	bench_expect(b, fd, "{\"return\": true}");
	close(fd);
}

static void test_later_answer_from_within(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);
	char line[256];

	bench_say(fd, "{\"execute\":\"from-within\",\"id\":1}{\"execute\":\"fail\"}");
	assert_true(bench_line(b, fd, line, sizeof(line)));
	assert_non_null(strstr(line, "FIRST"));
	bench_expect(b, fd, "{\"return\": true, \"id\": 1}");
	bench_expect(b, fd, GENERIC("no such thing: 'caf?'"));
	close(fd);
}

static void test_later_answer_to_nobody(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b), other = bench_client(b);

	bench_say(fd, "{\"execute\":\"later\"}");
	bench_pump(b);
	close(fd);
	bench_pump(b);
	control_reply(b->control, b->async.client, NULL, json_true(), NULL);
	control_reply(b->control, CONTROL_NO_CLIENT, NULL, json_true(), NULL);
	bench_expect_nothing(b, other);
	close(other);
}

/* ---- framing ---- */

static const char three[] = "{\"execute\":\"echo\",\"arguments\":{\"value\":\"}{\"}}"
			    "{'execute':'echo','arguments':{'value':'\"'}}\n"
			    "{\"execute\":\"fail\"}";

static void expect_three(struct bench *b, int fd)
{
	bench_expect(b, fd, "{\"return\": \"}{\"}");
	bench_expect(b, fd, "{\"return\": \"\\\"\"}");
	bench_expect(b, fd, GENERIC("no such thing: 'caf?'"));
}

static void test_any_two_pieces(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);

	for (size_t at = 0; at <= sizeof(three) - 1; at++) {
		if (at)
			bench_send(fd, three, at);
		bench_pump(b);
		if (at < sizeof(three) - 1)
			bench_send(fd, three + at, sizeof(three) - 1 - at);
		expect_three(b, fd);
	}
	close(fd);
}

static void test_byte_by_byte(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);

	for (size_t at = 0; at < sizeof(three) - 1; at++) {
		bench_send(fd, three + at, 1);
		bench_pump(b);
	}
	expect_three(b, fd);
	close(fd);
}

static void test_garbage_costs_one_error_each(void **state)
{
	static const char *const garbage[] = {
		"nonsense ", "{\"execute\": }",         "\xff",
		"[1,}",      "{\"execute\":\"\xc3(\"}", "{\"open\":[\"\x01"
	};
	struct bench *b = *state;
	int fd = bench_client(b);
	char line[512];

	for (size_t i = 0; i < ARRAY_SIZE(garbage); i++) {
		bench_say(fd, garbage[i]);
		assert_true(bench_line(b, fd, line, sizeof(line)));
		assert_non_null(strstr(line, "JSON parse error, "));
		bench_say(fd, three);
		expect_three(b, fd);
	}
	close(fd);
}

static void test_noise_does_not_harm(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b), other = bench_client(b);
	uint32_t seed = 7;
	char noise[512], sink[4096];

	for (unsigned int round = 0; round < 200; round++) {
		for (size_t i = 0; i < sizeof(noise); i++) {
			seed = seed * 1664525u + 1013904223u;
			noise[i] = (char)(seed >> 24);
		}
		bench_send(fd, noise, sizeof(noise));
		bench_pump(b);
		while (recv(fd, sink, sizeof(sink), MSG_DONTWAIT) > 0)
			bench_pump(b);
	}
	bench_say(other, three);
	expect_three(b, other);
	close(fd);
	close(other);
}

static void test_half_close_gets_all_answers(void **state)
{
	struct bench *b = *state;
	int fd = bench_greeted(b);

	bench_say(fd, NEGOTIATE);
	bench_say(fd, three);
	shutdown(fd, SHUT_WR);
	bench_expect(b, fd, DONE);
	expect_three(b, fd);
	bench_expect_hangup(b, fd);
	close(fd);
}

/* ---- limits ---- */

/* An echo request of exactly len bytes. */
static char *long_request(size_t len)
{
	static const char head[] = "{\"execute\":\"fail\",\"arguments\":{},\"id\":\"";
	char *text = malloc(len);

	memset(text, 'a', len);
	memcpy(text, head, sizeof(head) - 1);
	memcpy(text + len - 2, "\"}", 2);
	return text;
}

static void send_pumping(struct bench *b, int fd, const char *text, size_t len)
{
	for (size_t at = 0; at < len; at += 4096) {
		size_t piece = len - at < 4096 ? len - at : 4096;

		if (send(fd, text + at, piece, MSG_NOSIGNAL) < 0)
			return;
		bench_pump(b);
	}
}

static void test_longest_message(void **state)
{
	struct bench *b = *state;
	char *text = long_request(65536);
	static char line[70000];
	int fd = bench_client(b);

	send_pumping(b, fd, text, 65536);
	assert_true(bench_line(b, fd, line, sizeof(line)));
	assert_non_null(strstr(line, "no such thing"));
	bench_say(fd, three);
	expect_three(b, fd);
	free(text);
	close(fd);
}

static void test_too_long_message(void **state)
{
	struct bench *b = *state;
	char *text = long_request(65537);
	int fd = bench_client(b);

	send_pumping(b, fd, text, 65537);
	bench_expect(b, fd, GENERIC("JSON token size limit exceeded"));
	bench_expect_hangup(b, fd);
	free(text);
	close(fd);
}

static void test_white_space_is_no_message(void **state)
{
	struct bench *b = *state;
	char *blanks = malloc(200000);
	int fd = bench_client(b);

	memset(blanks, '\n', 200000);
	send_pumping(b, fd, blanks, 200000);
	bench_say(fd, three);
	expect_three(b, fd);
	free(blanks);
	close(fd);
}

/* Ten thousand requests before the first answer is read: nothing is lost, nobody is cut off. */
static void test_requests_far_ahead(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);
	unsigned int sent = 0, got = 0;
	char text[100], line[100];

	while (got < 10000) {
		while (sent < 10000) {
			int n = snprintf(text, sizeof(text),
					 "{\"execute\":\"echo\",\"arguments\":"
					 "{\"value\":%05u}}",
					 10000 + sent);

			if (send(fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
				break;
			sent++;
		}
		bench_pump(b);
		snprintf(text, sizeof(text), "{\"return\": %u}", 10000 + got);
		assert_true(bench_line(b, fd, line, sizeof(line)));
		assert_string_equal(line, text);
		got++;
	}
	close(fd);
}

static json_t *kilobyte(void)
{
	char text[1025];

	memset(text, 'x', 1024);
	text[1024] = '\0';
	return json_pack("{s:s}", "text", text);
}

/*
 * What a client that did not read finds in the end: count[i] events of each kind, and the last
 * one's number.
 */
struct found {
	unsigned int count;
	json_int_t first, last;
};

static json_int_t number_of(json_t *msg)
{
	return json_integer_value(json_object_get(json_object_get(msg, "data"), "n"));
}

static void find(struct bench *b, int fd, const char *const *kinds, struct found *found, size_t n)
{
	static char line[2048];
	json_int_t before = -1;

	memset(found, 0, n * sizeof(*found));
	for (;;) {
		json_t *msg;
		size_t kind = 0;

		assert_true(bench_line(b, fd, line, sizeof(line)));
		msg = json_loads(line, 0, NULL);
		assert_non_null(msg);
		while (kind < n && !strstr(line, kinds[kind]))
			kind++;
		assert_true(kind < n);
		/* In the order in which they happened. */
		assert_true(number_of(msg) > before);
		before = number_of(msg);
		found[kind].first = found[kind].count++ ? found[kind].first : before;
		found[kind].last = before;
		json_decref(msg);
		if (strcmp(kinds[kind], "SHUTDOWN") == 0)
			return;
	}
}

static json_t *numbered_kilobyte(int n)
{
	json_t *data = kilobyte();

	json_object_set_new(data, "n", json_integer(n));
	return data;
}

static void test_who_does_not_read_keeps_the_newest_events(void **state)
{
	static const char *const kinds[] = { "STOP", "RESUME", "UPDATE_FAILED", "SHUTDOWN" };
	struct bench *b = *state;
	int lazy = bench_client(b), fd = bench_client(b), n = 0;
	struct found found[ARRAY_SIZE(kinds)];
	static char line[2048];

	for (unsigned int i = 0; i < 1500; i++)
		for (size_t k = 0; k < 3; k++) {
			control_event(b->control, kinds[k], numbered_kilobyte(n++));
			assert_true(bench_line(b, fd, line, sizeof(line)));
		}
	control_event(b->control, "SHUTDOWN", numbered_kilobyte(n));
	assert_true(bench_line(b, fd, line, sizeof(line)));
	/* What the kernel and 64 KiB of queue had taken at first, then of each kind the last. */
	find(b, lazy, kinds, found, ARRAY_SIZE(kinds));
	for (size_t k = 0; k < 3; k++) {
		assert_int_equal(found[k].last, n - 3 + (int)k);
		assert_in_range(found[k].count, 2, 500);
	}
	assert_int_equal(found[3].count, 1);
	/* It was not hung up on. */
	bench_say(lazy, three);
	expect_three(b, lazy);
	bench_say(fd, three);
	expect_three(b, fd);
	close(fd);
	close(lazy);
}

static void say_frequent(struct bench *b, const char *name, int n)
{
	control_frequent_event(b->control, name, json_pack("{s:i}", "n", n));
}

static void test_frequent_events_are_limited_in_time(void **state)
{
	static const char *const kinds[] = { "GUEST_PANICKED", "RESET", "SHUTDOWN" };
	struct bench *b = *state;
	struct found found[ARRAY_SIZE(kinds)];
	uint64_t start = now_ns(), before = start, awake = 0, now, took;
	int fd = bench_client(b), n = 0;

	/* On a busy machine a turn may take longer than all of it. */
	for (; awake < 700000000; before = now) {
		say_frequent(b, kinds[0], n++);
		say_frequent(b, kinds[1], n++);
		assert_int_equal(loop_turn(b->loop, 0), 0);
		now = now_ns();
		awake += now - before < 10000000 ? now - before : 10000000;
	}
	took = before - start;
	assert_true(n > 100);
	control_event(b->control, "SHUTDOWN", json_pack("{s:i}", "n", n));
	find(b, fd, kinds, found, ARRAY_SIZE(kinds));
	for (size_t k = 0; k < 2; k++) {
		/* At once, then four a second, and the very last before what came after it. */
		assert_int_equal(found[k].first, k);
		assert_int_equal(found[k].last, n - 2 + (int)k);
		assert_in_range(found[k].count, 3, took / 250000000 + 2);
	}
	close(fd);
}

static void test_a_held_event_comes_by_itself(void **state)
{
	struct bench *b = *state;
	int fd = bench_client(b);
	char line[512];

	for (int n = 0; n < 3; n++)
		say_frequent(b, "RESET", n);
	assert_true(bench_line(b, fd, line, sizeof(line)));
	assert_non_null(strstr(line, "\"n\": 0"));
	assert_true(bench_line(b, fd, line, sizeof(line)));
	assert_non_null(strstr(line, "\"n\": 2"));
	bench_expect_nothing(b, fd);
	close(fd);
}

static void test_number_of_clients_is_limited(void **state)
{
	struct bench *b = *state;
	int fds[32], fd;

	for (unsigned int i = 0; i < 32; i++)
		fds[i] = bench_client(b);
	fd = bench_connect(b);
	bench_expect(b, fd, GENERIC("32 clients are connected already, that is all molt serves"));
	bench_expect_hangup(b, fd);
	close(fd);
	close(fds[5]);
	bench_pump(b);
	fds[5] = bench_client(b);
	for (unsigned int i = 0; i < 32; i++)
		close(fds[i]);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_greeting),
		TEST(test_only_negotiation_at_first),
		TEST(test_only_one_negotiation),
		TEST(test_unknown_capability_keeps_negotiating),
		TEST(test_id_comes_back),
		TEST(test_any_value_is_an_id),
		TEST(test_errors_of_the_parser_carry_the_id),
		TEST(test_error_sentences),
		TEST(test_server_commands),
		TEST(test_events_reach_only_those_who_negotiated),
		TEST(test_later_answer),
		TEST(test_later_answer_from_within),
		TEST(test_later_answer_to_nobody),
		TEST(test_any_two_pieces),
		TEST(test_byte_by_byte),
		TEST(test_garbage_costs_one_error_each),
		TEST(test_noise_does_not_harm),
		TEST(test_half_close_gets_all_answers),
		TEST(test_longest_message),
		TEST(test_too_long_message),
		TEST(test_white_space_is_no_message),
		TEST(test_requests_far_ahead),
		TEST(test_who_does_not_read_keeps_the_newest_events),
		TEST(test_frequent_events_are_limited_in_time),
		TEST(test_a_held_event_comes_by_itself),
		TEST(test_number_of_clients_is_limited),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
