/* SPDX-License-Identifier: MIT */
/* Which directories main may change files in, besides those that it is told. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "../../src/sandbox/internal.h"
#include "../../src/vmm/confine.h"

struct place {
	char dir[64];
	char own[80]; /* what the options name in it */
};

static int setup(void **state)
{
	struct place *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	strcpy(p->dir, "/tmp/molt-confine-XXXXXX");
	assert_non_null(mkdtemp(p->dir));
	snprintf(p->own, sizeof(p->own), "%s/web", p->dir);
	*state = p;
	return 0;
}

static int teardown(void **state)
{
	struct place *p = *state;

	rmdir(p->dir);
	free(p);
	return 0;
}

/* A process of its own, for a sandbox is for ever; whether it can be had here does not matter. */
static bool others_are_found(const struct vmm_config *cfg, const char *control)
{
	int log = memfd_create("log", MFD_CLOEXEC), status;
	char text[4096] = "";
	pid_t pid = fork();

	assert_true(pid >= 0);
	if (pid == 0) {
		struct error err = ERROR_INIT;

		log_set_fd(log);
		log_set_level(LOG_LEVEL_INFO);
		confine_cold(cfg, control, false, &err);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_true(pread(log, text, sizeof(text) - 1, 0) >= 0);
	close(log);
	return strstr(text, "is not molt's alone");
}

static bool is_own_beside(const struct place *p, const char *name, const struct vmm_config *cfg,
			  const char *control)
{
	char path[128];
	bool found;
	int fd;

	snprintf(path, sizeof(path), "%s/%s", p->dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	found = others_are_found(cfg, control);
	unlink(path);
	return !found;
}

static const char *const others[] = {
	"web.img", "web-secrets.key", "web.1.img", "web2", "web.log", "webs", "we", "other",
};

static const char *const rotated[] = {
	"web.1",   "web.12.gz", "web-20240131", "web-20240131.zst", "web-2024-01-31-1706659200",
	"web.old",
};

static void beside_a_control_socket_is_nothing_else(void **state)
{
	const struct place *p = *state;
	const struct vmm_config cfg = { .sandbox = true };

	assert_true(is_own_beside(p, "web", &cfg, p->own));
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_false(is_own_beside(p, others[i], &cfg, p->own));
	for (size_t i = 0; i < ARRAY_SIZE(rotated); i++)
		assert_false(is_own_beside(p, rotated[i], &cfg, p->own));
}

static void beside_a_serial_socket_is_nothing_else(void **state)
{
	const struct place *p = *state;
	struct vmm_config cfg = { .sandbox = true };
	char spec[96];

	snprintf(spec, sizeof(spec), "socket=%s", p->own);
	cfg.serial[1] = spec;
	assert_true(is_own_beside(p, "web", &cfg, NULL));
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_false(is_own_beside(p, others[i], &cfg, NULL));
}

static void beside_a_log_are_older_ones(void **state)
{
	const struct place *p = *state;
	const struct vmm_config cfg = { .sandbox = true, .log_file = p->own };

	assert_true(is_own_beside(p, "web", &cfg, NULL));
	for (size_t i = 0; i < ARRAY_SIZE(rotated); i++)
		assert_true(is_own_beside(p, rotated[i], &cfg, NULL));
	for (size_t i = 0; i < ARRAY_SIZE(others); i++)
		assert_false(is_own_beside(p, others[i], &cfg, NULL));
}

/* ---- write= ---- */

static void in_child(void (*run)(const struct place *, struct vmm_config *), const struct place *p)
{
	struct vmm_config cfg = { .sandbox = true };
	int status;
	pid_t pid;

	if (!landlock_abi() || sandbox_level()) {
		print_message("# no Landlock here, or molt's own sandbox\n");
		skip();
	}
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		log_set_fd(-1);
		run(p, &cfg);
		_exit(1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* In a directory that even root may not search, once it has no capabilities. */
static void make_closed(const struct place *p, char *inside, size_t size)
{
	assert_int_equal(mkdir(p->own, 0700), 0);
	snprintf(inside, size, "%s/in", p->own);
	assert_int_equal(mkdir(inside, 0700), 0);
	assert_int_equal(chmod(p->own, 0), 0);
}

static void remove_closed(const struct place *p, const char *inside)
{
	chmod(p->own, 0700);
	rmdir(inside);
	rmdir(p->own);
}

static char impossible[128];

static void start_cold(const struct place *p, struct vmm_config *cfg)
{
	struct error err = ERROR_INIT;

	(void)p;
	cfg->write_dirs[0].path = impossible;
	if (confine_cold(cfg, NULL, false, &err) < 0 && strstr(err.text, impossible))
		_exit(0);
}

/* What it can have it has, and nothing else. */
static void start_successor(const struct place *p, struct vmm_config *cfg)
{
	char path[128];

	cfg->write_dirs[0].path = impossible;
	cfg->write_dirs[1].path = p->dir;
	confine_successor(cfg, NULL, false);
	snprintf(path, sizeof(path), "%s/new", p->dir);
	if (open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) < 0 || unlink(path) < 0)
		_exit(2);
	snprintf(path, sizeof(path), "%s-not", p->dir);
	if (open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600) >= 0) {
		unlink(path);
		_exit(3);
	}
	if (errno == EACCES && sandbox_in_force())
		_exit(0);
}

static void what_cannot_be_in_write_ends_a_cold_start(void **state)
{
	strcpy(impossible, "/proc/self/exe");
	in_child(start_cold, *state);
	make_closed(*state, impossible, sizeof(impossible));
	in_child(start_cold, *state);
	remove_closed(*state, impossible);
}

static void what_cannot_be_in_write_costs_a_successor_nothing_else(void **state)
{
	strcpy(impossible, "/proc/self/exe");
	in_child(start_successor, *state);
	make_closed(*state, impossible, sizeof(impossible));
	in_child(start_successor, *state);
	remove_closed(*state, impossible);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(beside_a_control_socket_is_nothing_else, setup,
						teardown),
		cmocka_unit_test_setup_teardown(beside_a_serial_socket_is_nothing_else, setup,
						teardown),
		cmocka_unit_test_setup_teardown(beside_a_log_are_older_ones, setup, teardown),
		cmocka_unit_test_setup_teardown(what_cannot_be_in_write_ends_a_cold_start, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			what_cannot_be_in_write_costs_a_successor_nothing_else, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
