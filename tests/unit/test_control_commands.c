/* SPDX-License-Identifier: MIT */
/* The machine's commands and events, over a fake machine that notes what it is told. */
#include "control_bench.h"

#include <molt/control/commands.h>

struct fake {
	struct bench bench;
	struct machine machine;
	struct crew_member vcpus[2];
	char calls[256]; /* what the machine was asked, in order */
	bool fails;
	bool hangs; /* a vCPU does not stop */
};

static struct fake *fake_of(struct machine *m)
{
	return container_of(m, struct fake, machine);
}

static int note(struct machine *m, const char *what, struct error *err)
{
	struct fake *f = fake_of(m);

	strcat(f->calls, what);
	return f->fails ? err_set(err, EIO, "%s failed", what) : 0;
}

const char *run_state_name(enum run_state state)
{
	return state == RUN_STATE_RUNNING ? "running" : "other";
}

int machine_pause(struct machine *m, struct error *err)
{
	m->guest.run_state = RUN_STATE_PAUSED;
	return note(m, "pause ", err);
}

int machine_resume(struct machine *m, struct error *err)
{
	m->guest.run_state = RUN_STATE_RUNNING;
	return note(m, "resume ", err);
}

int machine_park_in_time(struct machine *m, struct crew *next, uint64_t *stopped_ns,
			 struct error *err)
{
	(void)next;
	*stopped_ns = 0;
	return fake_of(m)->hangs ? err_set(err, ETIMEDOUT, "vCPU 1 does not stop") : 0;
}

int machine_reset(struct machine *m, const char *reason, struct error *err)
{
	int r = note(m, "reset ", err);

	if (r == 0)
		m->ops.event(m, m->ops.opaque, MACHINE_EVENT_RESET, reason);
	return r;
}

int machine_power_button(struct machine *m, struct error *err)
{
	return note(m, "button ", err);
}

void machine_exit(struct machine *m, int code, const char *reason)
{
	char text[64];

	snprintf(text, sizeof(text), "exit(%d,%s) ", code, reason);
	note(m, text, NULL);
}

static void take_event(struct machine *m, void *opaque, enum machine_event ev, const char *detail)
{
	struct fake *f = opaque;

	(void)m;
	control_machine_event(f->bench.control, ev, detail);
}

static int setup(void **state)
{
	struct fake *f = calloc(1, sizeof(*f));

	bench_init(&f->bench);
	f->machine.guest.cpus = 2;
	f->machine.guest.run_state = RUN_STATE_RUNNING;
	f->machine.crew = &f->machine.crews[0];
	f->machine.crew->members = f->vcpus;
	f->vcpus[0].tid = 1000;
	f->vcpus[1].tid = 1001;
	f->machine.ops.event = take_event;
	f->machine.ops.opaque = f;
	control_add_machine_commands(f->bench.control, &f->machine);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fake *f = *state;

	bench_fini(&f->bench);
	free(f);
	return 0;
}

static void ask(struct fake *f, const char *command, const char *answer)
{
	int fd = bench_client(&f->bench);
	char text[100];

	snprintf(text, sizeof(text), "{\"execute\":\"%s\"}", command);
	bench_say(fd, text);
	bench_expect(&f->bench, fd, answer);
	close(fd);
}

static void test_queries(void **state)
{
	struct fake *f = *state;

	ask(f, "query-status", "{\"return\": {\"status\": \"running\", \"running\": true}}");
	f->machine.guest.run_state = RUN_STATE_PAUSED;
	ask(f, "query-status", "{\"return\": {\"status\": \"other\", \"running\": false}}");
	ask(f, "query-kvm", "{\"return\": {\"enabled\": true, \"present\": true}}");
	ask(f, "query-cpus-fast",
	    "{\"return\": [{\"cpu-index\": 0, \"qom-path\": \"/machine/cpu[0]\", "
	    "\"thread-id\": 1000, \"target\": \"x86_64\"}, "
	    "{\"cpu-index\": 1, \"qom-path\": \"/machine/cpu[1]\", "
	    "\"thread-id\": 1001, \"target\": \"x86_64\"}]}");
	assert_string_equal(f->calls, "");
}

static void test_names(void **state)
{
	struct fake *f = *state;

	ask(f, "query-name", "{\"return\": {}}");
	strcpy(f->machine.guest.name, "web1");
	ask(f, "query-name", "{\"return\": {\"name\": \"web1\"}}");
	strcpy(f->machine.guest.name, "caf\351");
	ask(f, "query-name", "{\"return\": {\"name\": \"caf?\"}}");
	for (uint8_t i = 0; i < 16; i++)
		f->machine.uuid[i] = (uint8_t)(i << 4 | i);
	ask(f, "query-uuid", "{\"return\": {\"UUID\": \"00112233-4455-6677-8899-aabbccddeeff\"}}");
}

static void test_stop_and_cont_are_idempotent(void **state)
{
	struct fake *f = *state;

	ask(f, "cont", DONE);
	assert_string_equal(f->calls, "");
	ask(f, "stop", DONE);
	ask(f, "stop", DONE);
	assert_string_equal(f->calls, "pause ");
	ask(f, "cont", DONE);
	assert_string_equal(f->calls, "pause resume ");
	f->machine.guest.run_state = RUN_STATE_PRELAUNCH;
	ask(f, "stop", DONE);
	ask(f, "cont", DONE);
	assert_string_equal(f->calls, "pause resume resume ");
}

static void test_cont_after_the_end(void **state)
{
	struct fake *f = *state;

	f->machine.guest.run_state = RUN_STATE_SHUTDOWN;
	ask(f, "cont", GENERIC("Resetting the Virtual Machine is required"));
	f->machine.guest.run_state = RUN_STATE_INTERNAL_ERROR;
	ask(f, "cont", GENERIC("Resetting the Virtual Machine is required"));
	assert_string_equal(f->calls, "");
}

static void test_reset(void **state)
{
	struct fake *f = *state;
	int fd = bench_client(&f->bench);
	char line[512];

	bench_say(fd, "{\"execute\":\"system_reset\"}");
	assert_true(bench_line(&f->bench, fd, line, sizeof(line)));
	assert_non_null(strstr(line, "\"event\": \"RESET\", \"data\": {\"guest\": false, "
				     "\"reason\": \"host-qmp-system-reset\"}}"));
	bench_expect(&f->bench, fd, DONE);
	assert_string_equal(f->calls, "reset ");
	close(fd);
}

static void test_failed_reset_is_the_end(void **state)
{
	struct fake *f = *state;

	f->fails = true;
	ask(f, "system_reset", GENERIC("reset  failed"));
	assert_string_equal(f->calls, "reset exit(1,host-qmp-system-reset) ");
}

/* Main would wait for it for ever, and all other vCPUs would stand still. */
static void test_a_vcpu_that_does_not_stop_is_not_reset(void **state)
{
	struct fake *f = *state;

	f->hangs = true;
	ask(f, "system_reset", GENERIC("vCPU 1 does not stop"));
	assert_string_equal(f->calls, "");
}

static void test_power_button_and_quit(void **state)
{
	struct fake *f = *state;

	ask(f, "system_powerdown", DONE);
	ask(f, "quit", DONE);
	assert_string_equal(f->calls, "button exit(0,host-qmp-quit) ");
	f->fails = true;
	ask(f, "system_powerdown", GENERIC("button  failed"));
}

static void test_events(void **state)
{
	static const struct {
		enum machine_event event;
		const char *detail, *text;
	} cases[] = {
		{ MACHINE_EVENT_STOP, NULL, "\"event\": \"STOP\"}" },
		{ MACHINE_EVENT_RESUME, NULL, "\"event\": \"RESUME\"}" },
		{ MACHINE_EVENT_POWERDOWN, NULL, "\"event\": \"POWERDOWN\"}" },
		{ MACHINE_EVENT_RESET, "guest-reset",
		  "\"RESET\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}" },
		{ MACHINE_EVENT_SHUTDOWN, "guest-shutdown",
		  "\"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-shutdown\"}}" },
		{ MACHINE_EVENT_SHUTDOWN, "host-signal",
		  "\"SHUTDOWN\", \"data\": {\"guest\": false, \"reason\": \"host-signal\"}}" },
		{ MACHINE_EVENT_GUEST_PANICKED, "run",
		  "\"GUEST_PANICKED\", \"data\": {\"action\": \"run\"}}" },
	};
	struct fake *f = *state;
	int fd = bench_client(&f->bench);
	char line[512];

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		control_machine_event(f->bench.control, cases[i].event, cases[i].detail);
		assert_true(bench_line(&f->bench, fd, line, sizeof(line)));
		assert_non_null(strstr(line, cases[i].text));
	}
	close(fd);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_queries),
		TEST(test_names),
		TEST(test_stop_and_cont_are_idempotent),
		TEST(test_cont_after_the_end),
		TEST(test_reset),
		TEST(test_failed_reset_is_the_end),
		TEST(test_a_vcpu_that_does_not_stop_is_not_reset),
		TEST(test_power_button_and_quit),
		TEST(test_events),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
