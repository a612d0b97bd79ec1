/* SPDX-License-Identifier: MIT */
/* The root bus and its host bridge, through the registers that the guest uses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include <molt/pci/classes.h>
#include <molt/pci/config.h>

struct bridge {
	struct device dev;
	struct pci_config guest; /* and more, which host.c keeps to itself */
};

static const struct bus_region *ecam(void)
{
	return &pci_host_class.regions[0];
}

static int setup(void **state)
{
	struct bridge *b = calloc(1, pci_host_class.size);

	if (!b)
		return -1;
	assert_true(pci_host_class.size >= sizeof(*b));
	b->dev.cls = &pci_host_class;
	pci_host_class.reset(&b->dev);
	*state = b;
	return 0;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static uint32_t get(struct bridge *b, uint64_t offset, unsigned int size)
{
	return (uint32_t)ecam()->read(&b->dev, offset, size);
}

static void the_window_is_where_mcfg_says(void **state)
{
	(void)state;
	assert_int_equal(ecam()->kind, BUS_MMIO);
	assert_int_equal(ecam()->base, 0xe0000000);
	assert_int_equal(ecam()->len, 1 << 20);
}

static void function_0_is_a_host_bridge(void **state)
{
	assert_int_equal(get(*state, 0, 4), 0x00081b36);
	assert_int_equal(get(*state, 8, 4), 0x06000000);
	assert_int_equal(get(*state, 0xe, 1), 0);
	assert_int_equal(get(*state, 0x2, 2), 0x0008);
}

static void other_functions_are_not_there(void **state)
{
	for (uint64_t fn = 1; fn < 256; fn++) {
		assert_int_equal(get(*state, fn << 12, 4), UINT32_MAX);
		ecam()->write(&((struct bridge *)*state)->dev, fn << 12, 0, 4);
	}
	assert_int_equal(get(*state, 0, 4), 0x00081b36);
}

static void only_writable_bits_change(void **state)
{
	struct bridge *b = *state;

	for (uint64_t offset = 0; offset < 4096; offset += 4)
		ecam()->write(&b->dev, offset, UINT32_MAX, 4);
	assert_int_equal(get(b, 0, 4), 0x00081b36);
	assert_int_equal(get(b, 4, 4), 0x00000547);
	assert_int_equal(get(b, 0xc, 4), 0x000000ff);
	assert_int_equal(get(b, 0x10, 4), 0); /* no BAR */
	assert_int_equal(get(b, 0x3c, 4), 0x000000ff);
	assert_int_equal(get(b, 0x100, 4), 0); /* no extended capability */
}

static void bytes_and_words_can_be_written(void **state)
{
	struct bridge *b = *state;

	ecam()->write(&b->dev, 5, 0x05, 1);
	assert_int_equal(get(b, 4, 2), 0x0500);
	ecam()->write(&b->dev, 4, 0x0006, 2);
	assert_int_equal(get(b, 4, 2), 0x0006);
}

static void an_access_across_registers_is_nobodys(void **state)
{
	assert_int_equal(get(*state, 2, 4), UINT32_MAX);
	assert_int_equal(get(*state, 0, 8), UINT32_MAX);
}

static void reset_forgets_what_was_written(void **state)
{
	struct bridge *b = *state;

	ecam()->write(&b->dev, 4, 7, 2);
	pci_host_class.reset(&b->dev);
	assert_int_equal(get(b, 4, 2), 0);
}

static void a_changed_id_is_refused_on_load(void **state)
{
	struct error err = ERROR_INIT;
	struct bridge *b = *state;

	assert_int_equal(pci_host_class.post_load(&b->dev, &err), 0);
	ecam()->write(&b->dev, 4, 7, 2);
	assert_int_equal(pci_host_class.post_load(&b->dev, &err), 0);
	b->guest.bytes[1] ^= 1;
	assert_true(pci_host_class.post_load(&b->dev, &err) < 0);
	assert_string_equal(err.text, "pci-host: read-only register 0x01 is 0x1a");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_window_is_where_mcfg_says),
		cmocka_unit_test_setup_teardown(function_0_is_a_host_bridge, setup, teardown),
		cmocka_unit_test_setup_teardown(other_functions_are_not_there, setup, teardown),
		cmocka_unit_test_setup_teardown(only_writable_bits_change, setup, teardown),
		cmocka_unit_test_setup_teardown(bytes_and_words_can_be_written, setup, teardown),
		cmocka_unit_test_setup_teardown(an_access_across_registers_is_nobodys, setup,
						teardown),
		cmocka_unit_test_setup_teardown(reset_forgets_what_was_written, setup, teardown),
		cmocka_unit_test_setup_teardown(a_changed_id_is_refused_on_load, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
