/* SPDX-License-Identifier: MIT */
/*
 * The control server over an update. Old and new server live in one process, each with an event
 * loop of its own: the old one's is simply not turned any more, as after exec.
 */
#include "control_bench.h"

struct handover {
	struct stream_writer w;
	struct stream stream;
	struct fdtable *fds;
};

static void save(struct bench *old, struct handover *h)
{
	struct stream_header header = { .format = STREAM_FORMAT, .machine_version = 1 };
	struct error err = ERROR_INIT;
	int r;

	*h = (struct handover){ .fds = calloc(1, sizeof(*h->fds)) };
	assert_int_equal(stream_writer_init(&h->w, 4096, &err), 0);
	stream_begin(&h->w, &header);
	r = control_save(old->control, &h->w, h->fds, &err);
	assert_int_equal(r, 0);
	assert_int_equal(stream_end(&h->w, &err), 0);
	assert_int_equal(stream_parse(&h->stream, h->w.data, h->w.len, &err), 0);
	/* What exec would have copied. */
	for (uint32_t i = 0; i < h->fds->count; i++) {
		h->fds->entries[i].fd = fcntl(h->fds->entries[i].fd, F_DUPFD_CLOEXEC, 0);
		assert_true(h->fds->entries[i].fd >= 0);
	}
}

static int load(struct bench *new, const struct bench *old, struct handover *h, struct error *err)
{
	*new = (struct bench){ 0 };
	strcpy(new->path, old->path);
	assert_int_equal(loop_create(&new->loop, err), 0);
	return control_create(&new->control, NULL, new->loop, h->fds, &h->stream, err);
}

static void hand_over(struct bench *old, struct bench *new)
{
	struct error err = ERROR_INIT;
	struct handover h;

	save(old, &h);
	assert_int_equal(load(new, old, &h, &err), 0);
	assert_int_equal(stream_check_claimed(&h.stream, &err), 0);
	assert_int_equal(fdtable_check_taken(h.fds, &err), 0);
	control_add_commands(new->control, bench_commands, ARRAY_SIZE(bench_commands), new);
	stream_fini(&h.stream);
	stream_writer_fini(&h.w);
	free(h.fds);
}

static void end(struct bench *old, struct bench *new)
{
	control_destroy(new->control);
	loop_destroy(new->loop);
	bench_fini(old);
}

static const char request[] = "{\"execute\":\"echo\",\"arguments\":{\"value\":\"a}\\\"\"}}";

static void test_half_a_message_at_any_byte(void **state)
{
	(void)state;
	for (size_t at = 1; at < sizeof(request) - 1; at++) {
		struct bench old, new;
		int fd;

		bench_init(&old);
		fd = bench_client(&old);
		bench_send(fd, request, at);
		bench_pump(&old);
		hand_over(&old, &new);
		control_start(new.control);
		bench_send(fd, request + at, sizeof(request) - 1 - at);
		bench_expect(&new, fd, "{\"return\": \"a}\\\"\"}");
		close(fd);
		end(&old, &new);
	}
}

static void test_negotiation_survives(void **state)
{
	struct bench old, new;
	int fd, greeted;

	(void)state;
	bench_init(&old);
	fd = bench_client(&old);
	greeted = bench_greeted(&old);
	hand_over(&old, &new);
	control_start(new.control);
	bench_say(greeted, request);
	bench_expect(&new, greeted,
		     NOT_FOUND("Expecting capabilities negotiation with "
			       "'qmp_capabilities'"));
	bench_say(fd, request);
	bench_expect(&new, fd, "{\"return\": \"a}\\\"\"}");
	close(fd);
	close(greeted);
	end(&old, &new);
}

static void test_later_answer_comes_from_the_successor(void **state)
{
	json_t *report = json_pack("{s:i}", "pid", 1);
	struct bench old, new;
	int fd, other;

	(void)state;
	bench_init(&old);
	other = bench_client(&old);
	fd = bench_client(&old);
	bench_say(fd, "{\"execute\":\"later\",\"id\":5}");
	bench_say(fd, request);
	bench_pump(&old);
	hand_over(&old, &new);
	control_start(new.control);
	bench_expect_nothing(&new, fd);
	control_reply(new.control, old.async.client, "5", report, NULL);
	bench_expect(&new, fd, "{\"return\": {\"pid\": 1}, \"id\": 5}");
	bench_expect(&new, fd, "{\"return\": \"a}\\\"\"}");
	bench_expect_nothing(&new, other);
	close(fd);
	close(other);
	end(&old, &new);
}

static void test_nothing_is_said_before_the_start(void **state)
{
	struct bench old, new;
	char line[256];
	int fd;

	(void)state;
	bench_init(&old);
	fd = bench_client(&old);
	hand_over(&old, &new);
	control_event(new.control, "RESUME", NULL);
	bench_say(fd, request);
	control_flush(new.control);
	bench_expect_nothing(&new, fd);
	control_start(new.control);
	assert_true(bench_line(&new, fd, line, sizeof(line)));
	assert_non_null(strstr(line, "RESUME"));
	bench_expect(&new, fd, "{\"return\": \"a}\\\"\"}");
	close(fd);
	end(&old, &new);
}

/* The client reads nothing until after the update; every answer arrives, once, in order. */
static void test_unread_answers_survive(void **state)
{
	char text[100], expected[100];
	unsigned int sent = 0;
	struct bench old, new;
	int fd;

	(void)state;
	bench_init(&old);
	fd = bench_client(&old);
	for (;;) {
		int n = snprintf(text, sizeof(text),
				 "{\"execute\":\"echo\",\"arguments\":{\"value\":%06u}}",
				 100000 + sent);

		if (send(fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL) != n)
			break;
		sent++;
		bench_pump(&old);
	}
	assert_true(sent > 1000);
	hand_over(&old, &new);
	control_start(new.control);
	for (unsigned int i = 0; i < sent; i++) {
		snprintf(expected, sizeof(expected), "{\"return\": %u}", 100000 + i);
		bench_expect(&new, fd, expected);
	}
	bench_expect_nothing(&new, fd);
	close(fd);
	end(&old, &new);
}

static void test_new_clients_get_new_numbers(void **state)
{
	struct bench old, new;
	uint32_t first;
	int a, c;

	(void)state;
	bench_init(&old);
	a = bench_client(&old);
	bench_say(a, "{\"execute\":\"later\"}");
	bench_pump(&old);
	first = old.async.client;
	hand_over(&old, &new);
	control_start(new.control);
	c = bench_client(&new);
	bench_say(c, "{\"execute\":\"later\"}");
	bench_pump(&new);
	assert_int_not_equal(new.async.client, first);
	close(a);
	close(c);
	end(&old, &new);
}

static void test_half_closed_client_gets_its_answer(void **state)
{
	struct bench old, new;
	int fd;

	(void)state;
	bench_init(&old);
	fd = bench_client(&old);
	bench_say(fd, "{\"execute\":\"later\"}");
	bench_pump(&old);
	shutdown(fd, SHUT_WR);
	bench_pump(&old);
	hand_over(&old, &new);
	control_start(new.control);
	control_reply(new.control, old.async.client, NULL, NULL, NULL);
	bench_expect(&new, fd, DONE);
	control_destroy(old.control); /* it holds the connection open */
	old.control = NULL;
	bench_expect_hangup(&new, fd);
	close(fd);
	end(&old, &new);
}

static void test_only_a_started_successor_owns_the_file(void **state)
{
	struct bench old, new;

	(void)state;
	bench_init(&old);
	hand_over(&old, &new);
	control_destroy(new.control);
	loop_destroy(new.loop);
	assert_int_equal(access(old.path, F_OK), 0);
	hand_over(&old, &new);
	control_start(new.control);
	control_destroy(new.control);
	new.control = NULL;
	assert_int_equal(access(old.path, F_OK), -1);
	end(&old, &new);
}

static void test_no_control_socket_stays_none(void **state)
{
	struct stream_header header = { .format = STREAM_FORMAT };
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct fdtable *fds = calloc(1, sizeof(*fds));
	struct control *c;
	struct stream s;
	struct loop *loop;

	(void)state;
	assert_int_equal(stream_writer_init(&w, 0, &err), 0);
	stream_begin(&w, &header);
	assert_int_equal(control_save(NULL, &w, fds, &err), 0);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
	assert_int_equal(loop_create(&loop, &err), 0);
	assert_int_equal(control_create(&c, "/ignored", loop, fds, &s, &err), 0);
	assert_null(c);
	loop_destroy(loop);
	stream_fini(&s);
	stream_writer_fini(&w);
	free(fds);
}

/* ---- hand-overs that cannot be loaded ---- */

static void expect_refused(void (*spoil)(struct handover *h), const char *sentence)
{
	struct error err = ERROR_INIT;
	struct bench old, new;
	struct handover h;
	int fd;

	bench_init(&old);
	fd = bench_client(&old);
	save(&old, &h);
	spoil(&h);
	assert_true(load(&new, &old, &h, &err) < 0);
	assert_null(new.control);
	assert_non_null(strstr(err.text, sentence));
	assert_int_equal(access(old.path, F_OK), 0);
	for (uint32_t i = 0; i < h.fds->count; i++)
		if (!h.fds->entries[i].taken)
			close(h.fds->entries[i].fd);
	stream_fini(&h.stream);
	stream_writer_fini(&h.w);
	free(h.fds);
	/* The predecessor serves on as if nothing had been. */
	bench_say(fd, request);
	bench_expect(&old, fd, "{\"return\": \"a}\\\"\"}");
	close(fd);
	loop_destroy(new.loop);
	bench_fini(&old);
}

static void lose_descriptor(struct handover *h)
{
	strcpy(h->fds->entries[1].name, "something-else");
}

static void swap_descriptors(struct handover *h)
{
	uint32_t kind = h->fds->entries[0].kind;

	h->fds->entries[0].kind = h->fds->entries[1].kind;
	h->fds->entries[1].kind = kind;
}

static void lose_section(struct handover *h)
{
	stream_find(&h->stream, "control-client", 0)->instance = 77;
}

static void another_version(struct handover *h)
{
	stream_find(&h->stream, "control", 0)->version = 99;
}

static void test_missing_descriptor(void **state)
{
	(void)state;
	expect_refused(lose_descriptor, "control-client");
}

static void test_wrong_kind_of_descriptor(void **state)
{
	(void)state;
	expect_refused(swap_descriptors, "control");
}

static void test_missing_section(void **state)
{
	(void)state;
	expect_refused(lose_section, "section 'control-client' 0 is missing");
}

static void test_unknown_version(void **state)
{
	(void)state;
	expect_refused(another_version, "version 99");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_half_a_message_at_any_byte),
		cmocka_unit_test(test_negotiation_survives),
		cmocka_unit_test(test_later_answer_comes_from_the_successor),
		cmocka_unit_test(test_nothing_is_said_before_the_start),
		cmocka_unit_test(test_unread_answers_survive),
		cmocka_unit_test(test_new_clients_get_new_numbers),
		cmocka_unit_test(test_half_closed_client_gets_its_answer),
		cmocka_unit_test(test_only_a_started_successor_owns_the_file),
		cmocka_unit_test(test_no_control_socket_stays_none),
		cmocka_unit_test(test_missing_descriptor),
		cmocka_unit_test(test_wrong_kind_of_descriptor),
		cmocka_unit_test(test_missing_section),
		cmocka_unit_test(test_unknown_version),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
