/* SPDX-License-Identifier: MIT */
/* vmstate's subsections: sent when needed, defaults where absent, named in errors. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <molt/state/vmstate.h>

struct thing {
	uint8_t u8;
	uint32_t extra;
	uint32_t more;
};

static struct stream_writer w;
static struct stream s;

static void begin(void)
{
	struct stream_header header = { .producer = "test" };
	struct error err = ERROR_INIT;

	assert_int_equal(stream_writer_init(&w, 1024, &err), 0);
	stream_begin(&w, &header);
}

static void end(void)
{
	struct error err = ERROR_INIT;

	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(stream_parse(&s, w.data, w.len, &err), 0);
}

static void done(void)
{
	stream_fini(&s);
	stream_writer_fini(&w);
}

static bool extra_needed(const void *data)
{
	return ((const struct thing *)data)->extra != 5;
}

static int refuse_extra_13(void *data, uint32_t version, struct error *err)
{
	(void)version;
	return ((struct thing *)data)->extra == 13 ? err_set(err, EINVAL, "extra is 13") : 0;
}

static const struct vmstate_field extra_fields[] = { VMSTATE_U32_DEF(struct thing, extra, 5),
						     VMSTATE_END };

static const struct vmstate extra_vmstate = {
	.name = "extra",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct thing),
	.fields = extra_fields,
	.needed = extra_needed,
	.post_load = refuse_extra_13,
};

static const struct vmstate_field more_fields[] = { VMSTATE_U32(struct thing, more), VMSTATE_END };

static const struct vmstate more_vmstate = {
	.name = "more",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct thing),
	.fields = more_fields,
};

static const struct vmstate *const subsections[] = { &extra_vmstate, &more_vmstate, NULL };

static const struct vmstate_field base_fields[] = { VMSTATE_U8(struct thing, u8), VMSTATE_END };

/* Sees what the subsections brought. */
static int base_post_load(void *data, uint32_t version, struct error *err)
{
	const struct thing *t = data;

	(void)version;
	return t->extra + t->more == 100 ? err_set(err, EINVAL, "sum is 100") : 0;
}

static const struct vmstate base_vmstate = {
	.name = "base",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct thing),
	.fields = base_fields,
	.subsections = subsections,
	.post_load = base_post_load,
};

static int base_trip(uint32_t extra, uint32_t more, struct thing *out, struct error *err)
{
	struct thing in = { .u8 = 1 };
	int r;

	in.extra = extra;
	in.more = more;
	begin();
	vmstate_save(&w, &base_vmstate, 2, &in);
	end();
	assert_non_null(stream_find(&s, "base/more", 2));
	assert_true((stream_find(&s, "base/extra", 2) != NULL) == (extra != 5));
	memset(out, 0xff, sizeof(*out));
	*err = ERROR_INIT;
	r = vmstate_load(&s, &base_vmstate, 2, out, err);
	if (r == 0)
		assert_int_equal(stream_check_claimed(&s, err), 0);
	done();
	return r;
}

static void test_needed_subsection_is_sent(void **state)
{
	struct error err;
	struct thing t;

	(void)state;
	assert_int_equal(base_trip(9, 8, &t, &err), 0);
	assert_int_equal(t.extra, 9);
	assert_int_equal(t.more, 8);
}

static void test_absent_subsection_gets_defaults(void **state)
{
	struct error err;
	struct thing t;

	(void)state;
	assert_int_equal(base_trip(5, 8, &t, &err), 0);
	assert_int_equal(t.extra, 5);
	/* Also where a field has no default of its own. */
	begin();
	stream_section_begin(&w, "base", 0, 1, 0);
	stream_field(&w, "u8", FIELD_U8, 0, "\1", 1);
	stream_section_end(&w);
	end();
	assert_int_equal(vmstate_load(&s, &base_vmstate, 0, &t, &err), 0);
	assert_int_equal(t.more, 0);
	done();
}

static void test_subsection_errors_name_it(void **state)
{
	struct error err;
	struct thing t;

	(void)state;
	assert_int_equal(base_trip(13, 8, &t, &err), -EINVAL);
	assert_string_equal(err.text, "section 'base/extra' 2: extra is 13");
	assert_int_equal(base_trip(60, 40, &t, &err), -EINVAL);
	assert_string_equal(err.text, "section 'base' 2: sum is 100");
}

static void test_unknown_subsection_is_unclaimed(void **state)
{
	const struct thing in = { .u8 = 1 };
	struct error err = ERROR_INIT;
	struct thing t = in;

	(void)state;
	begin();
	vmstate_save(&w, &base_vmstate, 0, &in);
	stream_section_begin(&w, "base/later", 0, 1, 0);
	stream_section_end(&w);
	end();
	assert_int_equal(vmstate_load(&s, &base_vmstate, 0, &t, &err), 0);
	assert_int_equal(stream_check_claimed(&s, &err), -EPROTO);
	assert_non_null(strstr(err.text, "'base/later' 0"));
	done();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_needed_subsection_is_sent),
		cmocka_unit_test(test_absent_subsection_gets_defaults),
		cmocka_unit_test(test_subsection_errors_name_it),
		cmocka_unit_test(test_unknown_subsection_is_unclaimed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
