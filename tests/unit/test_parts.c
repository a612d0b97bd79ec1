/* SPDX-License-Identifier: MIT */
/* What the VMM's parts have in stream and fd table stands in the documents, by its name. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/vmm/vmm.h>

#define DOC_MAX (1u << 20)

static struct takeover_kinds kinds;

static char *read_doc(const char *name)
{
	struct error err = ERROR_INIT;
	char path[4096];
	void *text;
	size_t len;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", getenv("MOLT_DOCS"), name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fd_read_file(fd, name, DOC_MAX, &text, &len, &err), 0);
	close(fd);
	return strndup(text, len);
}

/* `name` as a whole word of code, or the beginning of it, `begin-...`. */
static bool is_named(const char *doc, const char *name)
{
	char word[80];

	snprintf(word, sizeof(word), "`%s`", name);
	if (strstr(doc, word))
		return true;
	for (size_t len = strlen(name); len > 0; len--) {
		snprintf(word, sizeof(word), "`%.*s...`", (int)len, name);
		if (name[len - 1] == '-' && strstr(doc, word))
			return true;
	}
	return false;
}

static unsigned int missing_subsections(const char *doc, const char *section,
					const struct vmstate *vms)
{
	unsigned int missing = 0;
	char name[80];

	for (const struct vmstate *const *sub = vms->subsections; sub && *sub; sub++) {
		snprintf(name, sizeof(name), "%s/%s", section, (*sub)->name);
		if (is_named(doc, name))
			continue;
		print_error("docs/state-format.md: no section '%s'\n", name);
		missing++;
	}
	return missing;
}

static void test_each_section_is_documented(void **state)
{
	char *doc = read_doc("state-format.md");
	unsigned int missing = 0;

	(void)state;
	for (size_t i = 0; i < kinds.count; i++) {
		const struct takeover_kind *kind = &kinds.kind[i];

		if (!kind->section)
			continue;
		if (!is_named(doc, kind->section)) {
			print_error("docs/state-format.md: no section '%s'\n", kind->section);
			missing++;
		}
		if (kind->vms)
			missing += missing_subsections(doc, kind->section, kind->vms);
	}
	free(doc);
	assert_int_equal(missing, 0);
}

static void test_each_descriptor_is_documented(void **state)
{
	char *doc = read_doc("live-update.md");
	unsigned int missing = 0;

	(void)state;
	for (size_t i = 0; i < kinds.count; i++)
		for (const char *const *fd = kinds.kind[i].fds; fd && *fd; fd++)
			if (!is_named(doc, *fd)) {
				print_error("docs/live-update.md: no descriptor '%s'\n", *fd);
				missing++;
			}
	free(doc);
	assert_int_equal(missing, 0);
}

/* A section that two parts called their own would be loaded by the first of them. */
static void test_each_section_has_one_owner(void **state)
{
	(void)state;
	for (size_t i = 0; i < kinds.count; i++)
		if (kinds.kind[i].section &&
		    takeover_kinds_section(&kinds, kinds.kind[i].section) != &kinds.kind[i])
			fail_msg("section '%s' has two owners", kinds.kind[i].section);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_section_is_documented),
		cmocka_unit_test(test_each_descriptor_is_documented),
		cmocka_unit_test(test_each_section_has_one_owner),
	};

	vmm_takeover_kinds(&kinds);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
