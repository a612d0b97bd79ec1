/* SPDX-License-Identifier: MIT */
/* The fd table: kinds, the trip through a memfd, and everything that can be wrong with it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/pci/bus.h>
#include <molt/state/fdtable.h>
#include <molt/virtio/vhost_user.h>
#include <molt/virtio/virtio.h>

#define KINDS FD_KIND_EVENTFD

struct fixture {
	struct fdtable *out;
	struct fdtable *in;
	int memfd;
	int fds[KINDS];
	int others[2]; /* the other ends */
	struct error err;
};

/* The libraries' fstat() in its place; of one file it is noted. */
static int watched = -1;
static unsigned int asked;

int fstat(int fd, struct stat *st)
{
	asked += fd == watched;
	return (int)syscall(SYS_newfstatat, fd, "", st, AT_EMPTY_PATH);
}

static int listening_socket(void)
{
	const struct sockaddr_un any = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	/* An address of the family alone: the kernel finds a free abstract name. */
	assert_int_equal(bind(fd, (const struct sockaddr *)&any, sizeof(sa_family_t)), 0);
	assert_int_equal(listen(fd, 1), 0);
	return fd;
}

static int sealed_memfd(void)
{
	int fd = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
	return fd;
}

static int regular_file(void)
{
	char path[] = "/var/tmp/molt-fdtable-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	assert_true(fd >= 0);
	unlink(path);
	return fd;
}

/* One descriptor of each kind; fds[k - 1] is of kind k. */
static void open_all(struct fixture *f)
{
	int pair[2], ends[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(pipe2(ends, O_CLOEXEC), 0);
	f->fds[FD_KIND_FILE - 1] = regular_file();
	f->fds[FD_KIND_MEMFD - 1] = sealed_memfd();
	f->fds[FD_KIND_LISTEN - 1] = listening_socket();
	f->fds[FD_KIND_STREAM - 1] = pair[0];
	f->fds[FD_KIND_TTY - 1] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	f->fds[FD_KIND_CHAR - 1] = open("/dev/null", O_RDWR | O_CLOEXEC);
	f->fds[FD_KIND_PIPE - 1] = ends[0];
	f->fds[FD_KIND_OTHER - 1] = epoll_create1(EPOLL_CLOEXEC);
	f->fds[FD_KIND_EVENTFD - 1] = eventfd(0, EFD_CLOEXEC);
	f->others[0] = pair[1];
	f->others[1] = ends[1];
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	assert_non_null(f);
	f->out = calloc(1, sizeof(*f->out));
	f->in = calloc(1, sizeof(*f->in));
	assert_non_null(f->out);
	assert_non_null(f->in);
	f->memfd = memfd_create("table", MFD_CLOEXEC);
	open_all(f);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < KINDS; i++)
		fd_close(&f->fds[i]);
	fd_close(&f->others[0]);
	fd_close(&f->others[1]);
	fd_close(&f->memfd);
	free(f->out);
	free(f->in);
	free(f);
	return 0;
}

static void add_all(struct fixture *f)
{
	for (int i = 0; i < KINDS; i++)
		assert_int_equal(fdtable_add_as(f->out, "thing", (uint32_t)i, f->fds[i],
						(enum fd_kind)(i + 1), &f->err),
				 0);
}

static void pass(struct fixture *f)
{
	if (fdtable_write(f->out, f->memfd, &f->err) < 0 ||
	    fdtable_read(f->in, f->memfd, &f->err) < 0)
		fail_msg("%s", f->err.text);
}

static void must_not_read(struct fixture *f, int code, const char *words)
{
	assert_int_equal(fdtable_write(f->out, f->memfd, &f->err), 0);
	assert_int_equal(fdtable_read(f->in, f->memfd, &f->err), -code);
	if (!strstr(f->err.text, words))
		fail_msg("'%s' does not say '%s'", f->err.text, words);
}

/* ---- kinds ---- */

static void test_kinds(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < KINDS; i++) {
		assert_int_equal(fd_kind_of(f->fds[i]), i + 1);
		assert_string_not_equal(fd_kind_name((enum fd_kind)(i + 1)), "unknown");
	}
	assert_string_equal(fd_kind_name((enum fd_kind)99), "unknown");
	assert_int_equal(fd_kind_of(-1), -EBADF);
}

/* A release that does not know the kind takes it all the same. */
static void test_what_was_other_stays_so(void **state)
{
	struct fixture *f = *state;
	int fd = f->fds[FD_KIND_EVENTFD - 1];

	assert_int_equal(fdtable_add(f->out, "thing", 0, fd, &f->err), 0);
	assert_int_equal(f->out->entries[0].kind, FD_KIND_OTHER);
	assert_int_equal(fdtable_add_as(f->out, "thing", 1, fd, FD_KIND_FILE, &f->err), -EINVAL);
	pass(f);
	assert_int_equal(fdtable_take(f->in, "thing", 0, FD_KIND_OTHER, &f->err), fd);
}

/* Its sender has it, too: what it is now it need not be for long, and it may answer nothing. */
static void test_what_others_sent_may_be_anything(void **state)
{
	struct fixture *f = *state;
	const struct sockaddr_un any = { .sun_family = AF_UNIX };
	int fds[] = { memfd_create("sent", MFD_CLOEXEC | MFD_ALLOW_SEALING),
		      socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0),
		      open("/proc/self/exe", O_PATH | O_CLOEXEC) };

	assert_int_equal(bind(fds[1], (const struct sockaddr *)&any, sizeof(sa_family_t)), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(fdtable_add_as(f->out, "sent", i, fds[i], FD_KIND_OTHER, &f->err),
				 0);
	assert_int_equal(fcntl(fds[0], F_ADD_SEALS, F_SEAL_SEAL), 0);
	assert_int_equal(listen(fds[1], 1), 0);
	pass(f);
	for (uint32_t i = 0; i < 3; i++) {
		assert_int_equal(fdtable_take(f->in, "sent", i, 0, &f->err), fds[i]);
		close(fds[i]);
	}
	must_not_read(f, EBADF, "'sent' 0");
}

/* That may hang, or first write out what a disk's I/O process has written, in an update's pause. */
static void test_no_file_system_is_asked(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	watched = f->fds[FD_KIND_FILE - 1];
	asked = 0;
	add_all(f);
	pass(f);
	assert_int_equal(asked, 0);
	assert_int_equal(fstat(watched, &st), 0);
	assert_int_equal(asked, 1);
	watched = -1;
}

static void test_file_on_tmpfs_is_a_file(void **state)
{
	char path[] = "/dev/shm/molt-fdtable-XXXXXX";
	int fd = mkostemp(path, O_CLOEXEC);

	(void)state;
	if (fd < 0) {
		print_message("# /dev/shm cannot be written: %s\n", strerror(errno));
		skip();
	}
	unlink(path);
	assert_int_equal(fd_kind_of(fd), FD_KIND_FILE);
	close(fd);
}

static void test_datagram_socket_is_other(void **state)
{
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	(void)state;
	assert_int_equal(fd_kind_of(fd), FD_KIND_OTHER);
	close(fd);
}

/* ---- the trip ---- */

static void test_round_trip(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	memset(f->out->nonce, 0xab, sizeof(f->out->nonce));
	strcpy(f->out->state_uri, "file:/proc/self/fd/9");
	f->out->stopped_ns = 11;
	f->out->exec_ns = 22;
	f->out->guardian = 33;
	f->out->nmarks = 1;
	f->out->marks[0] = (struct update_mark){ .name = "save", .start_ns = 1, .end_ns = 2 };
	pass(f);
	assert_int_equal(f->in->count, KINDS);
	assert_memory_equal(f->in->nonce, f->out->nonce, sizeof(f->in->nonce));
	assert_string_equal(f->in->state_uri, "file:/proc/self/fd/9");
	assert_int_equal(f->in->stopped_ns, 11);
	assert_int_equal(f->in->exec_ns, 22);
	assert_int_equal(f->in->guardian, 33);
	assert_int_equal(f->in->nmarks, 1);
	assert_string_equal(f->in->marks[0].name, "save");
	for (uint32_t i = 0; i < KINDS; i++)
		assert_int_equal(fdtable_take(f->in, "thing", i, i + 1, &f->err), f->fds[i]);
	assert_int_equal(fdtable_check_taken(f->in, &f->err), 0);
}

static void test_written_twice_the_last_counts(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	assert_int_equal(fdtable_write(f->out, f->memfd, &f->err), 0);
	f->out->count = 2;
	pass(f);
	assert_int_equal(f->in->count, 2);
}

static void test_cloexec(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	assert_int_equal(fdtable_set_cloexec(f->out, false, &f->err), 0);
	for (int i = 0; i < KINDS; i++)
		assert_int_equal(fcntl(f->fds[i], F_GETFD), 0);
	assert_int_equal(fcntl(f->others[0], F_GETFD), FD_CLOEXEC);
	assert_int_equal(fdtable_set_cloexec(f->out, true, &f->err), 0);
	for (int i = 0; i < KINDS; i++)
		assert_int_equal(fcntl(f->fds[i], F_GETFD), FD_CLOEXEC);
	fd_close(&f->fds[3]);
	assert_int_equal(fdtable_set_cloexec(f->out, false, &f->err), -EBADF);
	assert_non_null(strstr(f->err.text, "'thing' 3"));
}

static void test_standard_streams_stay_as_they_are(void **state)
{
	struct fixture *f = *state;
	int before = fcntl(STDOUT_FILENO, F_GETFD);

	assert_int_equal(fdtable_add(f->out, "stdout", 0, STDOUT_FILENO, &f->err), 0);
	assert_int_equal(fdtable_set_cloexec(f->out, true, &f->err), 0);
	assert_int_equal(fcntl(STDOUT_FILENO, F_GETFD), before);
}

/* ---- adding ---- */

static void test_added_twice(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fdtable_add(f->out, "disk", 1, f->fds[0], &f->err), 0);
	assert_int_equal(fdtable_add(f->out, "disk", 2, f->fds[0], &f->err), 0);
	assert_int_equal(fdtable_add(f->out, "disk", 1, f->fds[1], &f->err), -EEXIST);
	assert_non_null(strstr(f->err.text, "'disk' 1"));
	assert_int_equal(f->out->count, 2);
}

static void test_closed_one_is_not_added(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fdtable_add(f->out, "gone", 0, -1, &f->err), -EBADF);
	assert_int_equal(fdtable_add(f->out, "gone", 0, 987654, &f->err), -EBADF);
	assert_non_null(strstr(f->err.text, "'gone' 0"));
}

static void test_full(void **state)
{
	struct fixture *f = *state;

	for (uint32_t i = 0; i < FDTABLE_MAX; i++)
		assert_int_equal(fdtable_add(f->out, "many", i, f->fds[0], &f->err), 0);
	assert_int_equal(fdtable_add(f->out, "many", FDTABLE_MAX, f->fds[0], &f->err), -ENFILE);
	pass(f);
	assert_int_equal(f->in->count, FDTABLE_MAX);
	assert_int_equal(fdtable_check_taken(f->in, &f->err), -EPROTO);
}

static void add_some(struct fixture *f, const char *name, uint32_t first, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (fdtable_add(f->out, name, first + i, f->fds[FD_KIND_EVENTFD - 1], &f->err) < 0)
			fail_msg("%s", f->err.text);
}

/* 31 slots of 64 queues, as many disks as there can be; with a back-end's message half read. */
static void test_a_machine_without_a_free_slot(void **state)
{
	static const char *const of_disk[] = { "disk-file", "disk-board", "disk-event",
					       "disk-process" };
	static const char *const of_all[] = { "virtio-error", "vhost-socket", "vhost-channel",
					      "vhost-inflight" };
	struct fixture *f = *state;

	for (uint32_t slot = 1; slot < PCI_SLOTS; slot++) {
		for (size_t i = 0; i < ARRAY_SIZE(of_disk) && slot <= 16; i++)
			add_some(f, of_disk[i], slot, 1);
		if (slot <= 16)
			add_some(f, "disk-ring", slot * VIRTIO_QUEUES_MAX, VIRTIO_QUEUES_MAX);
		for (size_t i = 0; i < ARRAY_SIZE(of_all); i++)
			add_some(f, of_all[i], slot, 1);
		add_some(f, "virtio-kick", slot * VIRTIO_QUEUES_MAX, VIRTIO_QUEUES_MAX);
		add_some(f, "virtio-call", slot * VIRTIO_QUEUES_MAX, VIRTIO_QUEUES_MAX);
		add_some(f, "vhost-in", slot * 16, 2 * VHOST_USER_MAX_FDS);
	}
	add_some(f, "control-client", 0, 32);
	add_some(f, "control-fd", 0, 32 * 8);
	pass(f);
	assert_int_equal(f->in->count, f->out->count);
}

static void test_long_name_is_not_cut(void **state)
{
	struct fixture *f = *state;
	const char *name = "a-name-of-exactly-forty-seven-bytes-as-is-legal";

	assert_int_equal(strlen(name), STREAM_NAME_MAX);
	assert_int_equal(fdtable_add(f->out, name, 0, f->fds[0], &f->err), 0);
	pass(f);
	assert_int_equal(fdtable_take(f->in, name, 0, 0, &f->err), f->fds[0]);
	assert_int_equal(fdtable_add(f->out, "a-name-of-exactly-forty-eight-bytes-is-too-much-", 0,
				     f->fds[0], &f->err),
			 -EINVAL);
}

/* ---- taking ---- */

static void test_take(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	pass(f);
	assert_true(fdtable_has(f->in, "thing", 0));
	assert_false(fdtable_has(f->in, "thing", 99));
	assert_int_equal(fdtable_take(f->in, "nothing", 0, 0, &f->err), -ENOENT);
	assert_non_null(strstr(f->err.text, "'nothing' 0"));
	assert_int_equal(fdtable_take(f->in, "thing", 0, FD_KIND_LISTEN, &f->err), -EINVAL);
	assert_string_equal(f->err.text, "fd table: 'thing' 0 is a file, not a listening socket");
	assert_int_equal(fdtable_take(f->in, "thing", 0, FD_KIND_FILE, &f->err), f->fds[0]);
	assert_false(fdtable_has(f->in, "thing", 0));
	assert_int_equal(fdtable_take(f->in, "thing", 0, 0, &f->err), -ENOENT);
}

static void test_leftovers_are_named(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	pass(f);
	for (uint32_t i = 0; i < KINDS; i++)
		if (i != 2 && i != 5)
			fdtable_take(f->in, "thing", i, 0, &f->err);
	assert_int_equal(fdtable_check_taken(f->in, &f->err), -EPROTO);
	assert_string_equal(f->err.text, "no owner here for descriptor 'thing' 2, 'thing' 5");
}

/* ---- what a successor can find wrong ---- */

static void test_kind_changed_underneath(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	assert_true(dup2(f->fds[FD_KIND_CHAR - 1], f->fds[FD_KIND_MEMFD - 1]) >= 0);
	must_not_read(f, EINVAL, "'thing' 1 is a character device, not a memfd");
}

static void test_closed_underneath(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	fd_close(&f->fds[4]);
	must_not_read(f, EBADF, "'thing' 4");
}

static void test_impossible_number(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	f->out->entries[2].fd = -7;
	must_not_read(f, EBADF, "'thing' 2");
}

static void test_doubled_in_the_table(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	f->out->entries[6].id = 0;
	must_not_read(f, EEXIST, "'thing' 0 is there twice");
}

static void test_unknown_kind(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	f->out->entries[0].kind = 1234;
	must_not_read(f, EINVAL, "unknown");
}

static void test_each_flipped_byte(void **state)
{
	struct fixture *f = *state;
	struct stat st;

	add_all(f);
	assert_int_equal(fdtable_write(f->out, f->memfd, &f->err), 0);
	assert_int_equal(fstat(f->memfd, &st), 0);
	for (off_t at = 0; at < st.st_size; at++) {
		uint8_t byte;

		assert_int_equal(pread(f->memfd, &byte, 1, at), 1);
		byte ^= 1;
		assert_int_equal(pwrite(f->memfd, &byte, 1, at), 1);
		f->err = ERROR_INIT;
		assert_true(fdtable_read(f->in, f->memfd, &f->err) < 0);
		assert_non_null(strstr(f->err.text, "fd table"));
		byte ^= 1;
		assert_int_equal(pwrite(f->memfd, &byte, 1, at), 1);
	}
	assert_int_equal(fdtable_read(f->in, f->memfd, &f->err), 0);
}

static void test_not_a_table(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(fdtable_read(f->in, f->memfd, &f->err), -EBADMSG);
	assert_int_equal(fdtable_read(f->in, f->fds[FD_KIND_PIPE - 1], &f->err), -EINVAL);
	assert_int_equal(fdtable_read(f->in, f->fds[FD_KIND_CHAR - 1], &f->err), -EINVAL);
	assert_int_equal(fdtable_read(f->in, -1, &f->err), -EBADF);
	assert_int_equal(ftruncate(f->memfd, 100 << 20), 0);
	assert_int_equal(fdtable_read(f->in, f->memfd, &f->err), -EFBIG);
}

/* A stream with more in it than a table has. */
static void test_foreign_section(void **state)
{
	const struct stream_header header = { .producer = "fdtable" };
	struct fixture *f = *state;
	const uint32_t zero = 0;
	const uint64_t zero64 = 0;
	struct stream_writer w;

	assert_int_equal(stream_writer_init(&w, 100, &f->err), 0);
	stream_begin(&w, &header);
	stream_section_begin(&w, "fdtable", 0, 1, 0);
	stream_field(&w, "count", FIELD_U32, 0, &zero, 1);
	stream_field(&w, "guardian", FIELD_U32, 0, &zero, 1);
	stream_field(&w, "state_uri", FIELD_STRING, 0, "", 0);
	stream_field(&w, "nmarks", FIELD_U32, 0, &zero, 1);
	stream_field(&w, "stopped_ns", FIELD_U64, 0, &zero64, 1);
	stream_field(&w, "exec_ns", FIELD_U64, 0, &zero64, 1);
	stream_section_end(&w);
	stream_section_begin(&w, "fd", 0, 1, 0);
	stream_section_end(&w);
	assert_int_equal(stream_end(&w, &f->err), 0);
	assert_int_equal(fd_write_all(f->memfd, w.data, w.len), 0);
	stream_writer_fini(&w);
	assert_int_equal(fdtable_read(f->in, f->memfd, &f->err), -EPROTO);
	assert_non_null(strstr(f->err.text, "'fd' 0"));
}

static void test_hostile_counts(void **state)
{
	struct fixture *f = *state;

	add_all(f);
	assert_int_equal(fdtable_write(f->out, f->memfd, &f->err), 0);
	for (int marks = 0; marks < 2; marks++) {
		const struct stream_header header = { .producer = "fdtable" };
		const uint32_t huge = 0xfffffff0, zero = 0;
		const uint64_t zero64 = 0;
		struct stream_writer w;

		assert_int_equal(stream_writer_init(&w, 100, &f->err), 0);
		stream_begin(&w, &header);
		stream_section_begin(&w, "fdtable", 0, 1, 0);
		stream_field(&w, "count", FIELD_U32, 0, marks ? &zero : &huge, 1);
		stream_field(&w, "guardian", FIELD_U32, 0, &zero, 1);
		stream_field(&w, "state_uri", FIELD_STRING, 0, "", 0);
		stream_field(&w, "nmarks", FIELD_U32, 0, marks ? &huge : &zero, 1);
		stream_field(&w, "stopped_ns", FIELD_U64, 0, &zero64, 1);
		stream_field(&w, "exec_ns", FIELD_U64, 0, &zero64, 1);
		stream_section_end(&w);
		assert_int_equal(stream_end(&w, &f->err), 0);
		assert_int_equal(ftruncate(f->memfd, 0), 0);
		assert_int_equal(pwrite(f->memfd, w.data, w.len, 0), (ssize_t)w.len);
		stream_writer_fini(&w);
		assert_int_equal(fdtable_read(f->in, f->memfd, &f->err), -EBADMSG);
		assert_non_null(strstr(f->err.text, "too many"));
	}
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* 0: what was inherited is closed, or beyond the limit kept from what is executed later. */
static int close_inherited_with_a_low_limit(void)
{
	const struct rlimit low = { .rlim_cur = 64, .rlim_max = 64 };

	if (dup2(STDIN_FILENO, 20) < 0 || dup2(STDIN_FILENO, 200) < 0 ||
	    setrlimit(RLIMIT_NOFILE, &low) < 0)
		return 1;
	fd_close_inherited();
	if (fcntl(20, F_GETFD) >= 0 || fcntl(STDIN_FILENO, F_GETFD) < 0)
		return 2;
	return fcntl(200, F_GETFD) == FD_CLOEXEC ? 0 : 3;
}

static void test_inherited_ones_beyond_the_limit(void **state)
{
	pid_t pid = fork();
	int status;

	(void)state;
	if (pid == 0)
		_exit(close_inherited_with_a_low_limit());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_kinds),
		CASE(test_what_was_other_stays_so),
		CASE(test_what_others_sent_may_be_anything),
		CASE(test_no_file_system_is_asked),
		CASE(test_file_on_tmpfs_is_a_file),
		CASE(test_datagram_socket_is_other),
		CASE(test_round_trip),
		CASE(test_written_twice_the_last_counts),
		CASE(test_cloexec),
		CASE(test_standard_streams_stay_as_they_are),
		CASE(test_added_twice),
		CASE(test_closed_one_is_not_added),
		CASE(test_full),
		CASE(test_a_machine_without_a_free_slot),
		CASE(test_long_name_is_not_cut),
		CASE(test_take),
		CASE(test_leftovers_are_named),
		CASE(test_kind_changed_underneath),
		CASE(test_closed_underneath),
		CASE(test_impossible_number),
		CASE(test_doubled_in_the_table),
		CASE(test_unknown_kind),
		CASE(test_each_flipped_byte),
		CASE(test_not_a_table),
		CASE(test_foreign_section),
		CASE(test_hostile_counts),
		cmocka_unit_test(test_inherited_ones_beyond_the_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
