/* SPDX-License-Identifier: MIT */
/* The commands about disks, over devices that note what they are told and say what they should. */
#include "../../src/control/internal.h"
#include "control_bench.h"

#include <molt/control/commands.h>
#include <molt/vm/machine.h>

struct fake_disk {
	struct device dev;
	struct block_stats stats[2];
	struct block_limit limits[BLOCK_LIMITS];
	unsigned int set; /* times that limits were */
	uint64_t size;
	uint64_t asked; /* the last resize */
	int resize_code;
	int resized_code;
};

struct stage {
	struct bench bench;
	struct machine machine;
	struct fake_disk disk, foreign;
	struct device other;
};

static struct fake_disk *disk_of(struct device *dev)
{
	return container_of(dev, struct fake_disk, dev);
}

static void fake_info(struct device *dev, struct block_info *info)
{
	*info = (struct block_info){
		.file = "/img\xff",
		.engine = "io_uring",
		.state = "running",
		.since_ns = now_ns() + 1000000000, /* a clock that went wrong */
		.size = disk_of(dev)->size,
		.pid = 77,
		.outdated = true,
		.queues = 2,
		.queue_size = 256,
	};
}

static void fake_stats(struct device *dev, uint32_t queue, struct block_stats *stats)
{
	assert_true(queue < 2);
	*stats = disk_of(dev)->stats[queue];
}

static uint64_t fake_bucket_ns(unsigned int bucket)
{
	return bucket * 1000ull;
}

static void fake_limits(struct device *dev, struct block_limit limits[BLOCK_LIMITS])
{
	memcpy(limits, disk_of(dev)->limits, sizeof(disk_of(dev)->limits));
}

static void fake_set_limits(struct device *dev, const struct block_limit limits[BLOCK_LIMITS])
{
	memcpy(disk_of(dev)->limits, limits, sizeof(disk_of(dev)->limits));
	disk_of(dev)->set++;
}

static int fake_resize(struct device *dev, uint64_t bytes, struct error *err)
{
	struct fake_disk *d = disk_of(dev);

	d->asked = bytes;
	return d->resize_code ? err_set(err, d->resize_code, "no room") : 0;
}

static int fake_resized(struct device *dev, uint64_t bytes, struct error *err)
{
	struct fake_disk *d = disk_of(dev);

	assert_int_equal(bytes, d->asked);
	return d->resized_code ? err_set(err, d->resized_code, "not seen") : 0;
}

static void foreign_info(struct device *dev, struct block_info *info)
{
	(void)dev;
	*info = (struct block_info){ .socket = "/qsd", .state = "disconnected", .size = UINT64_MAX };
}

static const struct device_block_ops fake_ops = {
	.info = fake_info,
	.stats = fake_stats,
	.bucket_ns = fake_bucket_ns,
	.limits = fake_limits,
	.set_limits = fake_set_limits,
	.resize = fake_resize,
	.resized = fake_resized,
};
static const struct device_block_ops foreign_ops = { .info = foreign_info };

static const struct device_class disk_cls = { .name = "disk", .block = &fake_ops };
static const struct device_class foreign_cls = { .name = "foreign", .block = &foreign_ops };
static const struct device_class other_cls = { .name = "serial" };

static int setup(void **state)
{
	struct stage *s = calloc(1, sizeof(*s));

	bench_init(&s->bench);
	s->disk.dev = (struct device){ .cls = &disk_cls, .id = "d0" };
	s->foreign.dev = (struct device){ .cls = &foreign_cls, .id = "v0" };
	s->other = (struct device){ .cls = &other_cls, .id = "serial0" };
	s->machine.devices[0] = &s->other;
	s->machine.devices[1] = &s->disk.dev;
	s->machine.devices[2] = &s->foreign.dev;
	s->machine.ndevices = 3;
	control_add_machine_commands(s->bench.control, &s->machine);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	struct stage *s = *state;

	bench_fini(&s->bench);
	free(s);
	return 0;
}

/* The answer to a command, whole. */
static json_t *ask(struct stage *s, const char *command, const char *arguments)
{
	static char line[1 << 20];
	int fd = bench_client(&s->bench);
	json_t *answer;
	char text[600];

	snprintf(text, sizeof(text), "{\"execute\":\"%s\",\"arguments\":%s}", command, arguments);
	bench_say(fd, text);
	assert_true(bench_line(&s->bench, fd, line, sizeof(line)));
	close(fd);
	answer = json_loads(line, 0, NULL);
	assert_non_null(answer);
	return answer;
}

static void must_fail(struct stage *s, const char *command, const char *arguments,
		      const char *words)
{
	json_t *answer = ask(s, command, arguments);
	const char *desc = json_string_value(
		json_object_get(json_object_get(answer, "error"), "desc"));

	if (!desc || !strstr(desc, words))
		fail_msg("%s %s: '%s' is not in '%s'", command, arguments, words, desc ? desc : "");
	json_decref(answer);
}

static void must_work(struct stage *s, const char *command, const char *arguments)
{
	json_t *answer = ask(s, command, arguments);

	assert_non_null(json_object_get(answer, "return"));
	json_decref(answer);
}

static json_t *entry(json_t *answer, size_t index)
{
	return json_array_get(json_object_get(answer, "return"), index);
}

static json_int_t number(const json_t *object, const char *key)
{
	assert_true(json_is_integer(json_object_get(object, key)));
	return json_integer_value(json_object_get(object, key));
}

static const char *word(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	assert_non_null(text);
	return text;
}

static void shows_disks(void **state)
{
	struct stage *s = *state;
	json_t *answer, *inserted, *back_end;

	s->disk.size = 1 << 20;
	s->disk.limits[BLOCK_OPS] = (struct block_limit){ 500, 50 };
	answer = ask(s, "query-block", "{}");
	assert_int_equal(json_array_size(json_object_get(answer, "return")), 2);
	inserted = json_object_get(entry(answer, 0), "inserted");
	back_end = json_object_get(entry(answer, 0), "back-end");
	assert_string_equal(word(entry(answer, 0), "device"), "d0");
	assert_string_equal(word(inserted, "file"), "/img?");
	assert_int_equal(number(json_object_get(inserted, "image"), "virtual-size"), 1 << 20);
	assert_int_equal(number(inserted, "iops"), 500);
	assert_int_equal(number(inserted, "iops_max"), 50);
	assert_int_equal(number(inserted, "bps"), 0);
	assert_null(json_object_get(inserted, "bps_max"));
	assert_string_equal(word(back_end, "type"), "molt-io");
	assert_int_equal(number(back_end, "pid"), 77);
	assert_true(json_is_true(json_object_get(back_end, "outdated")));
	assert_int_equal(number(back_end, "state-ms"), 0);
	inserted = json_object_get(entry(answer, 1), "inserted");
	back_end = json_object_get(entry(answer, 1), "back-end");
	assert_string_equal(word(back_end, "type"), "vhost-user");
	assert_string_equal(word(back_end, "socket"), "/qsd");
	assert_null(json_object_get(back_end, "pid"));
	assert_null(json_object_get(back_end, "outdated"));
	assert_true(number(json_object_get(inserted, "image"), "virtual-size") == INT64_MAX);
	json_decref(answer);
}

static void adds_queues_up(void **state)
{
	struct stage *s = *state;
	struct block_counters *a = &s->disk.stats[0].kinds[BLOCK_READ];
	struct block_counters *b = &s->disk.stats[1].kinds[BLOCK_READ];
	json_t *answer, *stats, *bins, *queues;

	*a = (struct block_counters){ .requests = 5, .errors = 2, .bytes = 100, .time_ns = 7 };
	*b = (struct block_counters){ .requests = 10, .errors = 1, .bytes = 50, .time_ns = 8 };
	a->latency[0] = 1;
	b->latency[0] = 2;
	b->latency[BLOCK_BUCKETS - 1] = 4;
	s->disk.stats[1].broken = true;
	s->disk.stats[0].kicks = 3;
	answer = ask(s, "query-blockstats", "{\"device\":\"d0\",\"queues\":true}");
	assert_int_equal(json_array_size(json_object_get(answer, "return")), 1);
	stats = json_object_get(entry(answer, 0), "stats");
	assert_int_equal(number(stats, "rd_operations"), 12);
	assert_int_equal(number(stats, "failed_rd_operations"), 3);
	assert_int_equal(number(stats, "rd_bytes"), 150);
	assert_int_equal(number(stats, "rd_total_time_ns"), 15);
	assert_int_equal(number(stats, "kicks"), 3);
	assert_true(json_is_true(json_object_get(stats, "broken")));
	bins = json_object_get(json_object_get(stats, "rd_latency_histogram"), "bins");
	assert_int_equal(json_array_size(bins), BLOCK_BUCKETS);
	assert_int_equal(json_integer_value(json_array_get(bins, 0)), 3);
	assert_int_equal(json_integer_value(json_array_get(bins, BLOCK_BUCKETS - 1)), 4);
	queues = json_object_get(entry(answer, 0), "queues");
	assert_int_equal(json_array_size(queues), 2);
	assert_int_equal(number(json_array_get(queues, 1), "rd_operations"), 9);
	json_decref(answer);
}

/* Whoever has the board may have written anything. */
static void counters_may_be_anything(void **state)
{
	struct stage *s = *state;
	json_t *answer, *stats;

	memset(s->disk.stats, 0xff, sizeof(s->disk.stats));
	s->disk.stats[0].broken = s->disk.stats[1].broken = true;
	answer = ask(s, "query-blockstats", "{}");
	assert_int_equal(json_array_size(json_object_get(answer, "return")), 1);
	stats = json_object_get(entry(answer, 0), "stats");
	assert_int_equal(number(stats, "wr_operations"), 0);
	assert_true(number(stats, "failed_wr_operations") == INT64_MAX);
	assert_true(number(stats, "calls") == INT64_MAX);
	json_decref(answer);
	must_fail(s, "query-blockstats", "{\"queues\":true}", "needs a 'device'");
	must_fail(s, "query-blockstats", "{\"device\":\"serial0\"}", "Cannot find");
}

static void sets_limits(void **state)
{
	struct stage *s = *state;
	struct block_limit *l = s->disk.limits;

	must_work(s, "block_set_io_throttle",
		  "{\"device\":\"d0\",\"iops\":100,\"bps\":0,\"iops_max\":7,\"bps_rd\":0,"
		  "\"iops_max_length\":1,\"iops_size\":0}");
	assert_int_equal(l[BLOCK_OPS].rate, 100);
	assert_int_equal(l[BLOCK_OPS].burst, 7);
	assert_int_equal(l[BLOCK_BYTES].rate, 0);
	must_work(s, "block_set_io_throttle",
		  "{\"id\":\"d0\",\"iops\":0,\"bps\":1000000000000000}");
	assert_int_equal(l[BLOCK_OPS].rate, 0);
	assert_int_equal(l[BLOCK_BYTES].rate, BLOCK_LIMIT_MAX);
	assert_int_equal(s->disk.set, 2);
}

static void refuses_limits_by_name(void **state)
{
	static const struct {
		const char *arguments, *words;
	} cases[] = {
		{ "{\"device\":\"d0\",\"iops\":1}", "'bps' is missing" },
		{ "{\"device\":\"d0\",\"bps\":1}", "'iops' is missing" },
		{ "{\"device\":\"d0\",\"bps\":\"1\",\"iops\":0}", "'bps', expected: integer" },
		{ "{\"device\":\"d0\",\"bps\":-1,\"iops\":0}", "'bps' must be" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":1000000000000001}", "'iops' must be" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":0,\"iops_max\":5}",
		  "nothing without 'iops'" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":0,\"bps_wr\":5}", "'bps_wr'" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":0,\"iops_rd_max\":5}", "'iops_rd_max'" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":0,\"bps_max_length\":2}",
		  "'bps_max_length'" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":0,\"iops_size\":1}", "'iops_size'" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":0,\"group\":\"x\"}", "'group'" },
		{ "{\"device\":\"d0\",\"bps\":0,\"iops\":0,\"colour\":1}",
		  "'colour' is unexpected" },
		{ "{\"bps\":0,\"iops\":0}", "exactly one of 'device' and 'id'" },
		{ "{\"device\":\"d0\",\"id\":\"d0\",\"bps\":0,\"iops\":0}", "exactly one of" },
		{ "{\"device\":\"\",\"bps\":0,\"iops\":0}", "Cannot find" },
		{ "{\"device\":\"v0\",\"bps\":0,\"iops\":0}", "at its back-end" },
	};
	struct stage *s = *state;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++)
		must_fail(s, "block_set_io_throttle", cases[i].arguments, cases[i].words);
	assert_int_equal(s->disk.set, 0);
}

static void refuses_sizes(void **state)
{
	struct stage *s = *state;

	must_fail(s, "block_resize", "{\"device\":\"d0\"}", "'size' is missing");
	must_fail(s, "block_resize", "{\"device\":\"d0\",\"size\":0}", "positive");
	must_fail(s, "block_resize", "{\"device\":\"d0\",\"size\":-512}", "positive");
	must_fail(s, "block_resize", "{\"device\":\"d0\",\"size\":1.5}", "expected: integer");
	must_fail(s, "block_resize", "{\"size\":512}", "exactly one of 'device' and 'node-name'");
	must_fail(s, "block_resize", "{\"device\":\"serial0\",\"size\":512}", "Cannot find");
	must_fail(s, "block_resize", "{\"device\":\"v0\",\"size\":512}", "at its back-end");
	assert_int_equal(s->disk.asked, 0);
	s->disk.resize_code = ENOSPC;
	must_fail(s, "block_resize", "{\"device\":\"d0\",\"size\":512}", "no room");
	s->disk.resize_code = 0;
	s->disk.resized_code = EIO;
	must_fail(s, "block_resize", "{\"device\":\"d0\",\"size\":512}", "not seen");
	s->disk.resized_code = 0;
	must_work(s, "block_resize", "{\"node-name\":\"d0\",\"size\":512}");
}

static void a_resize_is_answered_when_it_is_done(void **state)
{
	struct stage *s = *state;
	int fd = bench_client(&s->bench);

	s->disk.resized_code = EAGAIN;
	bench_say(fd,
		  "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d0\",\"size\":512},"
		  "\"id\":7}");
	bench_expect_nothing(&s->bench, fd);
	must_fail(s, "block_resize", "{\"device\":\"d0\",\"size\":1024}", "under way");
	s->disk.resized_code = 0;
	bench_expect(&s->bench, fd, "{\"return\": {}, \"id\": 7}");
	close(fd);
}

/* Nobody reads the answer. */
static void its_client_may_go(void **state)
{
	struct stage *s = *state;
	int fd = bench_client(&s->bench);

	s->disk.resized_code = EAGAIN;
	bench_say(fd,
		  "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d0\",\"size\":512}}");
	bench_pump(&s->bench);
	close(fd);
	bench_pump(&s->bench);
	s->disk.resized_code = 0;
	must_work(s, "query-block", "{}");
	for (unsigned int i = 0; i < 10; i++)
		assert_int_equal(loop_turn(s->bench.loop, 2), 0);
	must_work(s, "block_resize", "{\"device\":\"d0\",\"size\":512}");
}

static void set_until(struct control *c, uint64_t ns)
{
	for (unsigned int i = 0; i < CONTROL_RESIZES_MAX; i++)
		c->resizes[i].until_ns = ns;
}

/* An update that fails holds the loop for up to its timeout; so do SIGSTOP and `docker pause`. */
static void a_resize_outlives_a_loop_that_is_held(void **state)
{
	struct stage *s = *state;
	struct control *c = s->bench.control;
	int fd = bench_client(&s->bench);

	s->disk.resized_code = EAGAIN;
	bench_say(fd,
		  "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d0\",\"size\":512},"
		  "\"id\":8}");
	bench_expect_nothing(&s->bench, fd);
	assert_non_null(c->resize_timer.loop);
	c->resize_timer.at_ns = now_ns() - 30000000000ull;
	set_until(c, now_ns() - 25000000000ull);
	bench_expect_nothing(&s->bench, fd);
	s->disk.resized_code = 0;
	bench_expect(&s->bench, fd, "{\"return\": {}, \"id\": 8}");
	/* With nobody in the way it has its time and no more. */
	s->disk.resized_code = EAGAIN;
	bench_say(fd,
		  "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d0\",\"size\":512}}");
	bench_expect_nothing(&s->bench, fd);
	set_until(c, now_ns());
	bench_expect(
		&s->bench, fd,
		"{\"error\": {\"class\": \"GenericError\", \"desc\": \"not done within 5000 ms, it "
		"may be yet: not seen\"}}");
	close(fd);
}

/* It ends, whatever the I/O process does. until_ns comes from the stream, so it can be made early. */
static void a_resize_crosses_an_update(void **state)
{
	struct stream_header header = { .format = STREAM_FORMAT, .machine_version = 2 };
	struct stage *s = *state;
	struct error err = ERROR_INIT;
	struct stream_writer w;
	struct bench new = { 0 };
	struct stream stream;
	struct fdtable *fds = calloc(1, sizeof(*fds));
	int fd = bench_client(&s->bench);

	s->disk.resized_code = EAGAIN;
	bench_say(fd,
		  "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d0\",\"size\":512},"
		  "\"id\":\"x\"}");
	bench_expect_nothing(&s->bench, fd);
	assert_int_equal(stream_writer_init(&w, 4096, &err), 0);
	stream_begin(&w, &header);
	assert_int_equal(control_save(s->bench.control, &w, fds, &err), 0);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&stream, w.data, w.len, &err), 0);
	for (uint32_t i = 0; i < fds->count; i++)
		fds->entries[i].fd = fcntl(fds->entries[i].fd, F_DUPFD_CLOEXEC, 0);
	assert_int_equal(loop_create(&new.loop, &err), 0);
	assert_int_equal(control_create(&new.control, NULL, new.loop, fds, &stream, &err), 0);
	assert_int_equal(stream_check_claimed(&stream, &err), 0);
	control_add_machine_commands(new.control, &s->machine);
	/* The update took longer than a resize may, and the device has not heard of it yet. */
	new.control->resizes[0].until_ns = 1;
	control_start(new.control);
	bench_expect_nothing(&new, fd);
	s->disk.resized_code = 0;
	bench_expect(&new, fd, "{\"return\": {}, \"id\": \"x\"}");
	close(fd);
	control_destroy(new.control);
	loop_destroy(new.loop);
	stream_fini(&stream);
	stream_writer_fini(&w);
	free(fds);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(shows_disks),
		TEST(adds_queues_up),
		TEST(counters_may_be_anything),
		TEST(sets_limits),
		TEST(refuses_limits_by_name),
		TEST(refuses_sizes),
		TEST(a_resize_is_answered_when_it_is_done),
		TEST(its_client_may_go),
		TEST(a_resize_outlives_a_loop_that_is_held),
		TEST(a_resize_crosses_an_update),
	};

	log_set_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
