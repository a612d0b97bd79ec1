/* SPDX-License-Identifier: MIT */
/* The boot files: opening them, and keeping them open over an update. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/boot/boot_files.h>

struct fixture {
	char dir[64];
	char kernel[96];
	char initramfs[96];
	struct fdtable *fds;
	struct stream_writer w;
	struct stream s;
	struct error err;
};

static void make_file(char *path, size_t size, const char *dir, const char *name)
{
	int fd;

	snprintf(path, size, "%s/%s", dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(fd_write_all(fd, name, strlen(name)), 0);
	close(fd);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->fds = calloc(1, sizeof(*f->fds));
	assert_non_null(f->fds);
	strcpy(f->dir, "/tmp/molt-boot-files-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	make_file(f->kernel, sizeof(f->kernel), f->dir, "kernel");
	make_file(f->initramfs, sizeof(f->initramfs), f->dir, "initramfs");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->kernel);
	unlink(f->initramfs);
	rmdir(f->dir);
	stream_fini(&f->s);
	stream_writer_fini(&f->w);
	free(f->fds);
	free(f);
	return 0;
}

static int reopen(struct fixture *f, const struct boot_files *files, struct boot_files *out)
{
	const struct stream_header header = { .producer = "test" };

	assert_int_equal(stream_writer_init(&f->w, 100, &f->err), 0);
	stream_begin(&f->w, &header);
	assert_int_equal(boot_files_save(files, &f->w, f->fds, &f->err), 0);
	assert_int_equal(stream_end(&f->w, &f->err), 0);
	assert_int_equal(stream_parse(&f->s, f->w.data, f->w.len, &f->err), 0);
	for (uint32_t i = 0; i < f->fds->count; i++)
		f->fds->entries[i].fd = fcntl(f->fds->entries[i].fd, F_DUPFD_CLOEXEC, 3);
	return boot_files_load(out, &f->s, f->fds, &f->err);
}

static void must_hold(int fd, const char *text)
{
	char buf[32] = "";

	assert_int_equal(pread(fd, buf, sizeof(buf) - 1, 0), strlen(text));
	assert_string_equal(buf, text);
}

static void test_all_of_it_survives(void **state)
{
	struct fixture *f = *state;
	struct boot_files a, b;

	assert_int_equal(boot_files_open(&a, f->kernel, f->initramfs, "quiet", &f->err), 0);
	/* From here on the paths are gone. */
	unlink(f->kernel);
	unlink(f->initramfs);
	assert_int_equal(reopen(f, &a, &b), 0);
	assert_int_equal(fdtable_check_taken(f->fds, &f->err), 0);
	assert_int_equal(stream_check_claimed(&f->s, &f->err), 0);
	boot_files_close(&a);
	must_hold(b.kernel_fd, "kernel");
	must_hold(b.initramfs_fd, "initramfs");
	assert_string_equal(b.kernel_name, f->kernel);
	assert_string_equal(b.cmdline, "quiet");
	boot_files_close(&b);
	assert_int_equal(b.kernel_fd, -1);
}

static void test_nothing_survives_as_nothing(void **state)
{
	struct fixture *f = *state;
	struct boot_files a, b;

	assert_int_equal(boot_files_open(&a, NULL, NULL, NULL, &f->err), 0);
	assert_int_equal(reopen(f, &a, &b), 0);
	assert_int_equal(b.kernel_fd, -1);
	assert_int_equal(b.initramfs_fd, -1);
	assert_string_equal(b.cmdline, "");
	assert_int_equal(f->fds->count, 0);
}

static void test_missing_descriptor(void **state)
{
	struct fixture *f = *state;
	struct boot_files a, b;

	assert_int_equal(boot_files_open(&a, f->kernel, f->initramfs, NULL, &f->err), 0);
	assert_int_equal(reopen(f, &a, &b), 0);
	boot_files_close(&b);
	for (uint32_t i = 0; i < f->fds->count; i++)
		f->fds->entries[i].taken = strcmp(f->fds->entries[i].name, "boot-kernel") != 0;
	f->fds->entries[0].fd = dup(a.kernel_fd);
	assert_int_equal(boot_files_load(&b, &f->s, f->fds, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "'boot-initramfs' 0"));
	boot_files_close(&b);
	boot_files_close(&a);
}

static void test_missing_files_are_named(void **state)
{
	struct fixture *f = *state;
	struct boot_files a;

	assert_int_equal(boot_files_open(&a, "/nowhere/vmlinuz", NULL, NULL, &f->err), -ENOENT);
	assert_string_equal(f->err.text,
			    "/nowhere/vmlinuz (the kernel): No such file or directory");
	assert_int_equal(boot_files_open(&a, f->kernel, "/nowhere/initrd", NULL, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "/nowhere/initrd (the initramfs)"));
	/* The kernel was opened before, and is closed again. */
	assert_int_equal(a.kernel_fd, -1);
}

static void test_too_long(void **state)
{
	struct fixture *f = *state;
	struct boot_files a;
	char *text = malloc(BOOT_CMDLINE_MAX + 1);

	assert_non_null(text);
	memset(text, 'x', BOOT_CMDLINE_MAX);
	text[BOOT_CMDLINE_MAX] = '\0';
	assert_int_equal(boot_files_open(&a, NULL, NULL, text, &f->err), -E2BIG);
	assert_int_equal(boot_files_open(&a, text, NULL, NULL, &f->err), -ENAMETOOLONG);
	text[BOOT_CMDLINE_MAX - 1] = '\0';
	assert_int_equal(boot_files_open(&a, NULL, NULL, text, &f->err), 0);
	assert_string_equal(a.cmdline, text);
	free(text);
}

static void test_fifo_does_not_hang(void **state)
{
	struct fixture *f = *state;
	struct boot_files a;
	char path[96];

	snprintf(path, sizeof(path), "%s/fifo", f->dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	alarm(10);
	assert_int_equal(boot_files_open(&a, path, NULL, NULL, &f->err), 0);
	alarm(0);
	boot_files_close(&a);
	unlink(path);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_all_of_it_survives), CASE(test_nothing_survives_as_nothing),
		CASE(test_missing_descriptor), CASE(test_missing_files_are_named),
		CASE(test_too_long),           CASE(test_fifo_does_not_hang),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
