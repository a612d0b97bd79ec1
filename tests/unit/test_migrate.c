/* SPDX-License-Identifier: MIT */
/* QEMU's sequence for cpr-exec: parameters, and which places a state can be migrated to. */
#include "update_bench.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/log.h>

#include "../../src/update/steps.h"

static int setup(void **state)
{
	struct update_bench *t = calloc(1, sizeof(*t));

	assert_non_null(t);
	update_bench_init(t, 1);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	update_bench_fini(*state);
	free(*state);
	return 0;
}

static int run(struct update_bench *t, const char *name, const char *json, struct error *err)
{
	return update_bench_run(t, migrate_commands, migrate_commands_count, name, json, NULL, err);
}

static void accepted(struct update_bench *t, const char *name, const char *json)
{
	struct error err;

	if (run(t, name, json, &err) != 0)
		fail_msg("%s %s: %s", name, json, err.text);
}

static void refused(struct update_bench *t, const char *name, const char *json, const char *words)
{
	struct error err;
	int r = run(t, name, json, &err);

	if (r >= 0 || r != -err.code)
		fail_msg("%s %s: %d", name, json, r);
	if (!strstr(err.text, words))
		fail_msg("%s %s: '%s' does not say '%s'", name, json, err.text, words);
	assert_int_not_equal(t->u->status, UPDATE_STATUS_RUNNING);
	assert_string_equal(t->said, "");
}

static void answers(struct update_bench *t, const char *name, const char *want)
{
	json_t *result = NULL, *wanted = json_loads(want, 0, NULL);
	struct error err;

	assert_int_equal(update_bench_run(t, migrate_commands, migrate_commands_count, name, "",
					  &result, &err),
			 0);
	if (!json_equal(result, wanted))
		fail_msg("%s: %s", name, json_dumps(result, 0));
	json_decref(result);
	json_decref(wanted);
}

static void prepare(struct update_bench *t)
{
	accepted(t, "migrate-set-parameters",
		 "{\"mode\":\"cpr-exec\",\"cpr-exec-command\":[\"/nowhere/molt\",\"run\"]}");
}

/* ---- parameters ---- */

static void test_parameters(void **state)
{
	struct update_bench *t = *state;

	answers(t, "query-migrate-parameters", "{\"mode\":\"normal\"}");
	prepare(t);
	answers(t, "query-migrate-parameters",
		"{\"mode\":\"cpr-exec\",\"cpr-exec-command\":[\"/nowhere/molt\",\"run\"]}");
	accepted(t, "migrate-set-parameters", "{\"mode\":\"normal\"}");
	accepted(t, "migrate-set-parameters", "{\"cpr-exec-command\":[\"x\"]}");
	answers(t, "query-migrate-parameters",
		"{\"mode\":\"normal\",\"cpr-exec-command\":[\"x\"]}");
	accepted(t, "migrate-set-parameters", "");
}

static void test_wrong_parameters(void **state)
{
	static const char *const cases[][2] = {
		{ "{\"mode\":\"cpr-reboot\"}", "'cpr-reboot'" },
		{ "{\"mode\":3}", "'mode'" },
		{ "{\"cpr-exec-command\":\"molt\"}", "'cpr-exec-command'" },
		{ "{\"cpr-exec-command\":[]}", "'cpr-exec-command'" },
		{ "{\"cpr-exec-command\":[\"a\",2]}", "'cpr-exec-command[1]'" },
	};
	struct update_bench *t = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		refused(t, "migrate-set-parameters", cases[i][0], cases[i][1]);
	answers(t, "query-migrate-parameters", "{\"mode\":\"normal\"}");
}

static void test_capabilities(void **state)
{
	struct update_bench *t = *state;

	accepted(t, "migrate-set-capabilities",
		 "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}");
	accepted(t, "migrate-set-capabilities",
		 "{\"capabilities\":[{\"capability\":\"xbzrle\",\"state\":false}]}");
	refused(t, "migrate-set-capabilities",
		"{\"capabilities\":[{\"capability\":\"postcopy-ram\",\"state\":true}]}",
		"'postcopy-ram'");
	refused(t, "migrate-set-capabilities", "{\"capabilities\":[{}]}", ".capability'");
	refused(t, "migrate-set-capabilities", "{\"capabilities\":7}", "'capabilities'");
	refused(t, "migrate-set-capabilities", "", "'capabilities'");
}

/* ---- where to ---- */

static void test_places_that_cannot_hold_the_state(void **state)
{
	static const char *const uris[] = {
		"tcp:127.0.0.1:4444",
		"unix:/tmp/s",
		"exec:cat",
		"fd:3",
		"rdma:host:1",
		"",
		"/tmp/state",
		"file",
		"file:/tmp/state,offset=4096",
		"FILE:/tmp/x",
	};
	struct update_bench *t = *state;

	prepare(t);
	for (size_t i = 0; i < ARRAY_SIZE(uris); i++) {
		char json[200], words[100];

		snprintf(json, sizeof(json), "{\"uri\":\"%s\"}", uris[i]);
		snprintf(words, sizeof(words), "'%s' cannot take the whole state", uris[i]);
		refused(t, "migrate", json, words);
	}
}

static void test_channels(void **state)
{
	static const char *const bad[][2] = {
		{ "[]", "one channel" },
		{ "[{}]", ".addr'" },
		{ "[{\"addr\":{\"transport\":\"socket\",\"type\":\"inet\"}}]", "'socket'" },
		{ "[{\"addr\":{\"transport\":\"exec\",\"args\":[\"cat\"]}}]", "'exec'" },
		{ "[{\"addr\":{\"transport\":\"file\",\"filename\":\"/x\",\"offset\":1}}]",
		  "offset" },
		{ "[{\"addr\":{\"transport\":\"file\"}}]", "'filename'" },
		{ "[{\"addr\":{\"transport\":\"file\",\"filename\":\"\"}}]", "path is empty" },
		{ "[{\"addr\":{\"transport\":\"file\",\"filename\":\"/x\"}},{}]",
		  "'channels[1].addr'" },
		{ "[{\"addr\":3},{\"addr\":{}}]", "one channel" },
		{ "[{\"addr\":3}]", "one channel" },
		{ "[{\"channel-type\":\"cpr\",\"addr\":{}}]", "'cpr'" },
		{ "7", "expected: array" },
	};
	struct update_bench *t = *state;

	prepare(t);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		char json[200];

		snprintf(json, sizeof(json), "{\"channels\":%s}", bad[i][0]);
		refused(t, "migrate", json, bad[i][1]);
	}
	accepted(t, "migrate",
		 "{\"channels\":[{\"addr\":{\"transport\":\"file\","
		 "\"filename\":\"/tmp/state\",\"offset\":0}}]}");
	assert_string_equal(t->u->request.state_path, "/tmp/state");
}

static void test_either_uri_or_channels(void **state)
{
	struct update_bench *t = *state;

	prepare(t);
	refused(t, "migrate", "", "either");
	refused(t, "migrate", "{\"uri\":3}", "'uri'");
	refused(t, "migrate", "{\"uri\":\"file:/x\",\"channels\":[]}", "either");
	refused(t, "migrate", "{\"uri\":\"file:\"}", "path is empty");
}

static void test_mode_and_command_come_first(void **state)
{
	struct update_bench *t = *state;

	refused(t, "migrate", "{\"uri\":\"file:/x\"}", "'cpr-exec' only");
	accepted(t, "migrate-set-parameters", "{\"mode\":\"cpr-exec\"}");
	refused(t, "migrate", "{\"uri\":\"file:/x\"}", "cpr-exec-command");
}

/* ---- how it goes on ---- */

static void test_is_answered_at_once(void **state)
{
	struct update_bench *t = *state;

	prepare(t);
	answers(t, "query-migrate", "{}");
	accepted(t, "migrate", "{\"uri\":\"file:/tmp/state\"}");
	assert_string_equal(t->said, "MIGRATION {\"status\":\"setup\"}\n");
	answers(t, "query-migrate", "{\"status\":\"active\"}");
	assert_string_equal(t->u->request.state_path, "/tmp/state");
	assert_string_equal(t->u->request.command[0], "/nowhere/molt");
	assert_string_equal(t->u->request.command[1], "run");
}

static void test_failure_is_told_by_events(void **state)
{
	struct update_bench *t = *state;
	json_t *result = NULL;
	struct error err;

	prepare(t);
	accepted(t, "migrate", "{\"uri\":\"file:/tmp/molt-test-state\"}");
	update_bench_wait(t, "UPDATE_FAILED");
	assert_non_null(strstr(t->said, "MIGRATION {\"status\":\"failed\"}\n"));
	assert_int_equal(t->replies, 0);
	assert_int_equal(update_bench_run(t, migrate_commands, migrate_commands_count,
					  "query-migrate", "", &result, &err),
			 0);
	assert_string_equal(json_string_value(json_object_get(result, "status")), "failed");
	assert_non_null(
		strstr(json_string_value(json_object_get(result, "error-desc")), "/nowhere/molt"));
	json_decref(result);
	/* The parameters are still there for another try. */
	t->said[0] = '\0';
	accepted(t, "migrate", "{\"uri\":\"file:/tmp/molt-test-state\"}");
}

/* In the predecessor that a successor has executed again: another try, as after any other failure. */
static void test_parameters_come_back_with_the_guest(void **state)
{
	char *command[] = { (char *)"molt", (char *)"run", (char *)"-v", NULL };
	struct update_wire *wire = calloc(1, sizeof(*wire));
	struct update_bench *t = *state;
	struct stand_in_link link = { .wake_fd = -1 };
	struct incoming in = { .update = t->u, .wire = wire, .link = &link, .failure = "no" };
	struct error err = ERROR_INIT;

	assert_non_null(wire);
	wire->kind = UPDATE_KIND_MIGRATE;
	assert_int_equal(update_pack_command("/nowhere/molt", command, wire, &err), 0);
	assert_int_equal(step_tell(&in, &err), 0);
	assert_non_null(strstr(t->said, "MIGRATION {\"status\":\"failed\"}\n"));
	answers(t, "query-migrate-parameters",
		"{\"mode\":\"cpr-exec\",\"cpr-exec-command\":[\"/nowhere/molt\",\"run\",\"-v\"]}");
	accepted(t, "migrate", "{\"uri\":\"file:/tmp/molt-test-state\"}");
	free(wire);
}

/* And what the last update that went well was like. */
static void test_last_report_comes_back_with_the_guest(void **state)
{
	struct update_wire *wire = calloc(1, sizeof(*wire));
	struct update_bench *t = *state;
	struct stand_in_link link = { .wake_fd = -1 };
	struct incoming in = { .update = t->u, .wire = wire, .link = &link, .failure = "no" };
	json_t *last = json_pack("{s:i}", "blackout-us", 250), *result = NULL;
	struct error err = ERROR_INIT;

	assert_non_null(wire);
	update_pack_last(last, wire);
	assert_int_equal(step_tell(&in, &err), 0);
	assert_int_equal(update_bench_run(t, update_commands, update_commands_count, "query-update",
					  "", &result, &err),
			 0);
	assert_true(json_equal(json_object_get(result, "last"), last));
	json_decref(result);
	/* One that is too long is none, and so is what is no report. */
	json_object_set_new(last, "stages",
			    json_stringn((const char *)wire->argv, UPDATE_LAST_MAX));
	update_pack_last(last, wire);
	assert_null(update_unpack_last(wire));
	wire->last[0] = '7';
	wire->last_len = 1;
	assert_null(update_unpack_last(wire));
	json_decref(last);
	free(wire);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_parameters),
		CASE(test_wrong_parameters),
		CASE(test_capabilities),
		CASE(test_places_that_cannot_hold_the_state),
		CASE(test_channels),
		CASE(test_last_report_comes_back_with_the_guest),
		CASE(test_either_uri_or_channels),
		CASE(test_mode_and_command_come_first),
		CASE(test_is_answered_at_once),
		CASE(test_failure_is_told_by_events),
		CASE(test_parameters_come_back_with_the_guest),
	};

	log_set_fd(-1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
