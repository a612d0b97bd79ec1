/* SPDX-License-Identifier: MIT */
/*
 * molt as a client, `ctl`, `update` and `stats`, of a server that is the input. The first byte
 * chooses the command line (its highest bit: CRCs of the state are made right); then come a length
 * and so many bytes, which the server writes where the client wants the state; the rest is what it
 * sends. Seven control characters, which no JSON can hold, steer it:
 *
 *	01	it waits until the client waits for it
 *	02	and then for another second
 *	03	a descriptor comes with the next byte
 *	04	from here on it takes a second until anything comes
 *	05	it makes the state's memory huge
 *	06	it seals it
 *	07	it cuts it off as soon as the client has asked for its size
 *
 * Time is the harness's own, and client and server take turns in poll(), so that nothing waits.
 * What the client opens, makes, renames and sends goes through here. (Linked with --wrap.)
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include <molt/base/fd.h>

#include "../../src/cli/cli.h"
#include "fuzz.h"

#define WAIT 1
#define SECOND 2
#define DESCRIPTOR 3
#define SLOW 4
#define HUGE_STATE 5
#define SEAL 6
#define CUT 7
#define REPAIR 0x80
#define NS_PER_SECOND 1000000000ull
/* A wait takes up to two seconds, however long it should be; one that should be none takes one. */
#define LATE 3
#define CTL_SECONDS (60 + LATE)
/* For the check, for the take-over, for all around it; then for what is asked afterwards. */
#define UPDATE_SECONDS (5 + 5 + 10 + LATE + 2 + LATE)
#define TEXT_MAX (64u << 10)
#define SOCK "sock"
#define STATE "state"
#define ELF "elf"
#define SCRIPT "script"

static char dir[] = "/tmp/molt-fuzz-XXXXXX";
static char paths[4][64]; /* of the names above */
enum { AT_SOCK, AT_STATE, AT_ELF, AT_SCRIPT };

static char *const command_lines[][10] = {
	{ "ctl", paths[AT_SOCK], "x" },
	{ "ctl", "--compact", paths[AT_SOCK], "x", "a=1" },
	{ "ctl", "--events", paths[AT_SOCK] },
	{ "ctl", "--events", "--compact", paths[AT_SOCK], "x" },
	{ "update", paths[AT_SOCK] },
	{ "update", "--json", paths[AT_SOCK] },
	{ "update", "--check", paths[AT_SOCK] },
	{ "update", "--state", paths[AT_STATE], paths[AT_SOCK] },
	{ "update", "--state", paths[AT_STATE], paths[AT_SOCK], "--", paths[AT_ELF], "run" },
	{ "update", "--json", "--state", paths[AT_STATE], paths[AT_SOCK], "--", paths[AT_SCRIPT] },
	{ "stats", paths[AT_SOCK] },
	{ "stats", "--json", paths[AT_SOCK] },
	{ "stats", "--prometheus", paths[AT_SOCK] },
};

static struct {
	int listener;
	/* one run */
	char *const *argv;
	struct fuzz_input in; /* what the server still has to say */
	struct fuzz_input state;
	uint64_t time_ns;
	bool running;
	bool slow;
	bool with_fd;
	bool cut;
	int server;
	int state_fd;
	bool sent_elf;
	char asked[TEXT_MAX]; /* what came from the client */
	size_t nasked;
} f;

static bool names(const char *word)
{
	for (char *const *arg = f.argv; *arg; arg++)
		if (strcmp(*arg, word) == 0)
			return true;
	return false;
}

/* ---- the server ---- */

static void write_state(void)
{
	fuzz_must(pwrite(f.state_fd, f.state.data, f.state.len, 0) == (ssize_t)f.state.len);
}

/* Nothing but what the user has named, and that for no more than it is needed for. */
static void take_descriptor(int fd)
{
	struct stat st, elf;
	int seals = fcntl(fd, F_GET_SEALS);

	fuzz_must(fstat(fd, &st) == 0 && stat(paths[AT_ELF], &elf) == 0);
	if (st.st_dev == elf.st_dev && st.st_ino == elf.st_ino) {
		fuzz_must(names(paths[AT_ELF]) && !f.sent_elf);
		fuzz_must((fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY);
		f.sent_elf = true;
		close(fd);
		return;
	}
	fuzz_must(names("--state") && f.state_fd < 0);
	fuzz_must(st.st_nlink == 0 && st.st_size == 0 && seals >= 0 && !(seals & F_SEAL_SEAL));
	f.state_fd = fd;
	write_state();
}

static bool take_requests(void)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(4 * sizeof(int))];
	} rights;
	struct iovec iov = { f.asked + f.nasked, TEXT_MAX - f.nasked };
	struct msghdr msg = {
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = rights.buf,
		.msg_controllen = sizeof(rights.buf),
	};
	ssize_t n = recvmsg(f.server, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	struct cmsghdr *cmsg = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
	int fd;

	if (n <= 0)
		return false;
	f.nasked += (size_t)n;
	fuzz_must(f.nasked < TEXT_MAX && !(msg.msg_flags & MSG_CTRUNC));
	if (cmsg) {
		fuzz_must(cmsg->cmsg_len == CMSG_LEN(sizeof(fd)));
		memcpy(&fd, CMSG_DATA(cmsg), sizeof(fd));
		take_descriptor(fd);
	}
	return true;
}

static void send_bytes(const uint8_t *data, size_t len)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} rights = { .buf = { 0 } };
	struct iovec iov = { (void *)(uintptr_t)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	struct cmsghdr *cmsg;

	if (f.with_fd) {
		msg.msg_control = rights.buf;
		msg.msg_controllen = sizeof(rights.buf);
		cmsg = CMSG_FIRSTHDR(&msg);
		cmsg->cmsg_level = SOL_SOCKET;
		cmsg->cmsg_type = SCM_RIGHTS;
		cmsg->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(cmsg), &f.listener, sizeof(int));
	}
	f.with_fd = false;
	(void)!sendmsg(f.server, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* True where the server takes a break. */
static bool steer(uint8_t what)
{
	const int seals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK;

	if (what == SECOND)
		f.time_ns += NS_PER_SECOND;
	else if (what == DESCRIPTOR)
		f.with_fd = true;
	else if (what == SLOW)
		f.slow = true;
	else if (what == CUT)
		f.cut = true;
	else if (what == HUGE_STATE && f.state_fd >= 0)
		(void)!ftruncate(f.state_fd, (off_t)1 << 40);
	else if (what == SEAL && f.state_fd >= 0)
		fcntl(f.state_fd, F_ADD_SEALS, seals);
	return what == WAIT || what == SECOND;
}

/* The server says its next piece, or hangs up. False where it let a second pass instead. */
static bool speak(void)
{
	while (f.in.len) {
		size_t n = 0;
		uint8_t what;

		while (n < f.in.len && (f.in.data[n] < WAIT || f.in.data[n] > CUT))
			n++;
		if (n) {
			send_bytes(f.in.data, n);
			f.in.data += n;
			f.in.len -= n;
			return true;
		}
		what = fuzz_u8(&f.in);
		if (steer(what))
			return what != SECOND;
	}
	shutdown(f.server, SHUT_WR);
	return true;
}

/* ---- what the client calls ---- */

int __wrap_clock_gettime(clockid_t id, struct timespec *ts);
int __wrap_clock_gettime(clockid_t id, struct timespec *ts)
{
	(void)id;
	ts->tv_sec = (time_t)(f.time_ns / NS_PER_SECOND);
	ts->tv_nsec = (long)(f.time_ns % NS_PER_SECOND);
	return 0;
}

int __real_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len);
int __wrap_connect(int fd, const struct sockaddr *addr, socklen_t len)
{
	int r = __real_connect(fd, addr, len);

	fuzz_must(r == 0 && f.server < 0);
	f.server = accept4(f.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	fuzz_must(f.server >= 0);
	return r;
}

int __real_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout);
int __wrap_poll(struct pollfd *fds, nfds_t n, int timeout)
{
	int r;

	if (!n) { /* only to wait */
		f.time_ns += (uint64_t)timeout * 1000000;
		return 0;
	}
	while (f.server >= 0 && take_requests())
		;
	if (f.slow)
		f.time_ns += NS_PER_SECOND;
	r = __real_poll(fds, n, 0);
	while (r == 0 && f.server >= 0) {
		if (!speak() && timeout >= 0)
			return 0;
		r = __real_poll(fds, n, 0);
	}
	return r;
}

/* The successor is looked at, and nothing else. */
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...)
{
	if (f.running) {
		fuzz_must((flags & (O_ACCMODE | O_CREAT | O_TRUNC)) == O_RDONLY);
		fuzz_must(strcmp(path, paths[AT_ELF]) == 0 || strcmp(path, paths[AT_SCRIPT]) == 0);
		fuzz_must(names(path));
	}
	return __real_open64(path, flags, 0600);
}

int __real_mkostemp64(char *path, int flags);
int __wrap_mkostemp64(char *path, int flags);
int __wrap_mkostemp64(char *path, int flags)
{
	size_t len = strlen(paths[AT_STATE]);

	fuzz_must(names("--state") && strncmp(path, paths[AT_STATE], len) == 0);
	fuzz_must(!strchr(path + len, '/'));
	return __real_mkostemp64(path, flags);
}

int __real_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to);
int __wrap_rename(const char *from, const char *to)
{
	fuzz_must(names("--state") && strcmp(to, paths[AT_STATE]) == 0);
	return __real_rename(from, to);
}

int __real_fstat64(int fd, struct stat64 *st);
int __wrap_fstat64(int fd, struct stat64 *st);
int __wrap_fstat64(int fd, struct stat64 *st)
{
	int r = __real_fstat64(fd, st);

	if (f.cut && f.state_fd >= 0)
		(void)!ftruncate(f.state_fd, st->st_size / 2);
	return r;
}

/* ---- what must hold ---- */

/* U+061C, U+200E and U+200F, U+2028 to U+202E, U+2066 to U+2069 */
static bool is_mark_of_direction(const char *text)
{
	unsigned char last = (unsigned char)text[2];

	if (memcmp(text, "\xe2\x80", 2) == 0)
		return last == 0x8e || last == 0x8f || (last >= 0xa8 && last <= 0xae);
	if (memcmp(text, "\xe2\x81", 2) == 0)
		return last >= 0xa6 && last <= 0xa9;
	return memcmp(text, "\xd8\x9c", 2) == 0;
}

static void check_text(const char *text, size_t len)
{
	json_t *string = json_stringn(text, len);

	fuzz_must(string); /* it is UTF-8 */
	json_decref(string);
	for (size_t i = 0; i < len; i++) {
		unsigned char ch = (unsigned char)text[i];

		fuzz_must((ch >= 0x20 && ch != 0x7f) || ch == '\n');
		fuzz_must(ch != 0xc2 || (unsigned char)text[i + 1] >= 0xa0);
		fuzz_must(ch < 0xc0 || len - i < 3 || !is_mark_of_direction(text + i));
	}
}

static void check_json(const char *text, size_t len)
{
	json_t *value = json_loadb(text, len, JSON_DECODE_ANY, NULL);

	fuzz_must(value);
	json_decref(value);
}

static void check_lines_of_json(char *text)
{
	for (char *line; (line = strsep(&text, "\n")) && *line;)
		check_json(line, strlen(line));
}

static void check_output(char *text, size_t len, int status)
{
	check_text(text, len);
	fuzz_must(len == 0 || text[len - 1] == '\n');
	if (names("--events"))
		check_lines_of_json(text);
	else if (len && (names("ctl") || names("--json")))
		check_json(text, len);
	else if (names("ctl") && status)
		fuzz_must(len == 0);
}

/* The client's own words, with no line of the server's making among them. */
static void check_complaints(char *text, size_t len, int status)
{
	static const char *const starts[] = {
		"molt ctl: ",
		"molt stats: ",
		"molt update: ",
		"    molt ctl /tmp/",
		"If nobody answers there,",
		"it tells if another"
	};

	check_text(text, len);
	fuzz_must(len < 16384 && (len > 0 || status == 0));
	for (char *line; (line = strsep(&text, "\n")) && *line;) {
		size_t i = 0;

		while (i < ARRAY_SIZE(starts) && strncmp(line, starts[i], strlen(starts[i])) != 0)
			i++;
		fuzz_must(i < ARRAY_SIZE(starts));
	}
}

static void check_requests(void)
{
	char *text = f.asked;

	while (take_requests())
		;
	f.asked[f.nasked] = '\0';
	for (char *line; (line = strsep(&text, "\r\n"));)
		if (*line)
			check_json(line, strlen(line));
}

/* What the client keeps is a whole stream, in a file for its user alone. */
static void check_state_file(void)
{
	struct error err = ERROR_INIT;
	struct stat st;
	struct stream s;
	void *data;
	size_t len;
	int fd;

	fd = open(paths[AT_STATE], O_RDONLY | O_CLOEXEC);
	fuzz_must(fd >= 0 && fstat(fd, &st) == 0 && (st.st_mode & 07777) == 0600);
	fuzz_must_work(fd_read_file(fd, STATE, STREAM_MAX_BYTES, &data, &len, &err), &err);
	fuzz_must_work(stream_parse(&s, data, len, &err), &err);
	stream_fini(&s);
	free(data);
	close(fd);
	unlink(paths[AT_STATE]);
}

static void check_files(int status)
{
	DIR *d = opendir(dir);
	unsigned int files = 0;
	bool kept = false;

	fuzz_must(d);
	for (struct dirent *e; (e = readdir(d));) {
		files += e->d_name[0] != '.';
		kept = kept || strcmp(e->d_name, STATE) == 0;
	}
	closedir(d);
	fuzz_must(files == 3u + kept && kept == (status == 0 && names("--state")));
	if (kept)
		check_state_file();
}

static void remove_dir(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++)
		unlink(paths[i]);
	rmdir(dir);
}

static void make_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);

	fuzz_must(fd >= 0 && fd_write_all(fd, text, strlen(text)) == 0);
	close(fd);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static const char *const name[] = { SOCK, STATE, ELF, SCRIPT };
	struct sockaddr_un sun = { .sun_family = AF_UNIX };

	(void)argc;
	(void)argv;
	fuzz_must(mkdtemp(dir));
	for (size_t i = 0; i < ARRAY_SIZE(name); i++)
		snprintf(paths[i], sizeof(paths[i]), "%s/%s", dir, name[i]);
	make_file(paths[AT_ELF], "\177ELF");
	make_file(paths[AT_SCRIPT], "#!/bin/sh\n");
	strcpy(sun.sun_path, paths[AT_SOCK]);
	f.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	fuzz_must(f.listener >= 0);
	fuzz_must(bind(f.listener, (struct sockaddr *)&sun, sizeof(sun)) == 0);
	fuzz_must(listen(f.listener, 1) == 0);
	atexit(remove_dir);
	return 0;
}

/* The command, with what it prints in memory. */
static int run(char **out, size_t *nout, char **complaints, size_t *ncomplaints)
{
	FILE *saved_out = stdout, *saved_err = stderr;
	int argc = 0, status;

	while (f.argv[argc])
		argc++;
	stdout = open_memstream(out, nout);
	stderr = open_memstream(complaints, ncomplaints);
	f.running = true;
	if (names("stats"))
		status = cmd_stats(argc, (char **)f.argv);
	else
		status = (names("ctl") ? cmd_ctl : cmd_update)(argc, (char **)f.argv);
	f.running = false;
	fclose(stdout);
	fclose(stderr);
	stdout = saved_out;
	stderr = saved_err;
	return status;
}

static int lowest_fd(void)
{
	int fd = dup(f.listener);

	close(fd);
	return fd;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	uint8_t choice = fuzz_u8(&in), *state;
	size_t nstate = fuzz_u16(&in), nout, ncomplaints;
	int lowest = lowest_fd(), status;
	char *out, *complaints;
	uint64_t seconds;

	nstate = nstate < in.len ? nstate : in.len;
	state = malloc(nstate + 1);
	fuzz_must(state);
	fuzz_bytes(&in, state, nstate);
	if (choice & REPAIR)
		fuzz_repair_crcs(state, nstate);
	f.argv = command_lines[choice % REPAIR % ARRAY_SIZE(command_lines)];
	f.in = in;
	f.state = (struct fuzz_input){ state, nstate };
	f.time_ns = 1000 * NS_PER_SECOND;
	f.slow = f.with_fd = f.cut = f.sent_elf = false;
	f.server = f.state_fd = -1;
	f.nasked = 0;

	status = run(&out, &nout, &complaints, &ncomplaints);
	seconds = f.time_ns / NS_PER_SECOND - 1000;
	check_requests();
	fuzz_must(status == 0 || status == EXIT_FAILURE);
	fuzz_must(names("--events") || seconds <= (names("update") ? UPDATE_SECONDS : CTL_SECONDS));
	/* Two bytes of JSON, 62 levels deep; of disks and queues there is an end. */
	fuzz_must(nout <= (names("stats") ? 32u << 20 : 256 * size + 8192));
	check_output(out, nout, status);
	check_complaints(complaints, ncomplaints, status);
	check_files(status);
	fd_close(&f.state_fd);
	fd_close(&f.server);
	fuzz_must(lowest_fd() == lowest);
	free(out);
	free(complaints);
	free(state);
	return 0;
}
