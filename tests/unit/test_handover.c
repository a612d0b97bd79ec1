/* SPDX-License-Identifier: MIT */
/* The predecessor's half of an update: who the successor is, and every way to fail and run on. */
#include "update_bench.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <molt/base/end_signals.h>
#include <molt/base/log.h>

#include "../../src/update/keep_off.h"
#include "../../src/update/stand_in_impl.h"
#include "../../src/update/steps.h"
#include "fake_cpuset.h"

#define COM1_SCRATCH 0x3ff

static void run_machine(struct update_bench *t)
{
	struct error err = ERROR_INIT;

	assert_int_equal(machine_resume(&t->b.m, &err), 0);
	machine_wait_entered(&t->b.m);
}

static void must_still_run(struct update_bench *t)
{
	const struct fake_exit write = {
		.reason = KVM_EXIT_IO,
		.addr = COM1_SCRATCH,
		.size = 1,
		.count = 1,
		.write = true,
	};

	assert_int_equal(t->b.m.guest.run_state, RUN_STATE_RUNNING);
	fake_vcpu_play(t->b.kvm, t->b.m.vcpus[0].fd, &write);
	fake_vcpu_wait_played(t->b.kvm, t->b.m.vcpus[0].fd);
}

static void must_fail_command(struct update_bench *t, const char *program, const char *words)
{
	char json[256];

	snprintf(json, sizeof(json), "{\"no-check\":true,\"command\":[\"%s\"]}", program);
	update_bench_must_fail(t, json, words);
}

/* ---- who the successor is ---- */

static void test_an_id_that_does_not_fit_is_refused_at_once(void **state)
{
	struct command_origin origin = { .client = 7 };
	struct error err = ERROR_INIT;
	char id[UPDATE_ID_MAX + 1];
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	memset(id, '1', UPDATE_ID_MAX);
	id[UPDATE_ID_MAX] = '\0';
	origin.id = id;
	assert_int_equal(update_request(t.u, &origin, UPDATE_KIND_UPDATE, NULL, NULL, &err),
			 -E2BIG);
	assert_non_null(strstr(err.text, "of 1024 bytes is too long for update: it can have up to "
					 "1023"));
	assert_int_equal(t.u->status, UPDATE_STATUS_NONE);
	assert_null(t.u->request.id);
	/* `migrate` is answered at once: its id need not travel. */
	assert_int_equal(update_request(t.u, &origin, UPDATE_KIND_MIGRATE, NULL, NULL, &err), 0);
	assert_null(t.u->request.id);
	update_bench_wait(&t, "UPDATE_FAILED");
	id[UPDATE_ID_MAX - 1] = '\0';
	assert_int_equal(update_request(t.u, &origin, UPDATE_KIND_UPDATE, NULL, NULL, &err), 0);
	assert_string_equal(t.u->request.id, id);
	update_bench_fini(&t);
}

static void test_missing_program(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	must_fail_command(&t, "/nowhere/molt", "successor '/nowhere/molt': No such file");
	update_bench_fini(&t);
}

static void test_directory(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	must_fail_command(&t, t.dir, "is a directory");
	update_bench_fini(&t);
}

static void test_not_executable(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	must_fail_command(&t, update_bench_file(&t, "data", "x", 0600), "cannot be executed");
	update_bench_fini(&t);
}

/* By its check and, not asked, by the exec itself. */
static void test_a_script_whose_interpreter_is_missing(void **state)
{
	struct update_bench t;
	const char *path;
	char json[256];

	(void)state;
	update_bench_init(&t, 1);
	path = update_bench_file(&t, "script", "#!/nowhere/sh\n", 0700);
	snprintf(json, sizeof(json), "{\"command\":[\"%s\"]}", path);
	update_bench_must_fail(&t, json, "or its interpreter: No such file");
	must_fail_command(&t, path, "or its interpreter: No such file");
	update_bench_fini(&t);
}

static void test_not_a_regular_file(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	must_fail_command(&t, "/dev/null", "is not a regular file");
	update_bench_fini(&t);
}

static void test_path_is_searched(void **state)
{
	const char *old = getenv("PATH");
	char *kept = strdup(old ? old : "/usr/bin:/bin"), path[200];
	struct update_bench t;
	struct error err = ERROR_INIT;

	(void)state;
	update_bench_init(&t, 1);
	update_bench_file(&t, "here", "data", 0600);
	snprintf(path, sizeof(path), "/nowhere::%s:/usr/bin:/bin", t.dir);
	setenv("PATH", path, 1);
	must_fail_command(&t, "no-such-program-anywhere", "is not in PATH");
	/* What cannot be executed is passed over, as a shell does. */
	must_fail_command(&t, "here", "is not in PATH");
	update_bench_file(&t, "here", "data", 0700);
	assert_int_equal(update_bench_prepare(&t, (char *[]){ (char *)"here", NULL }, &err), 0);
	snprintf(path, sizeof(path), "%s/here", t.dir);
	assert_string_equal(t.u->hand_over.argv[0], path);
	update_bench_unprepare(&t);
	setenv("PATH", kept, 1);
	free(kept);
	update_bench_fini(&t);
}

static unsigned int count_incoming(char *const *argv)
{
	unsigned int n = 0;

	for (; *argv; argv++)
		n += strncmp(*argv, "--incoming", 10) == 0;
	return n;
}

static void with_command(struct update_bench *t, char **command, const char *last)
{
	struct hand_over *h = &t->u->hand_over;
	struct error err = ERROR_INIT;
	size_t n = 0;

	if (update_bench_prepare(t, command, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(count_incoming(h->argv), 1);
	while (h->argv[n])
		n++;
	assert_string_equal(h->argv[n - 1], last ? last : h->fds->state_uri);
	update_bench_unprepare(t);
}

static void test_incoming_is_there_once(void **state)
{
	char *bare[] = { (char *)"/bin/sh", (char *)"run", NULL };
	char *given[] = { (char *)"/bin/sh", (char *)"--incoming", (char *)"file:/x", NULL };
	char *joined[] = { (char *)"/bin/sh", (char *)"--incoming=file:/x", NULL };
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	with_command(&t, NULL, NULL);
	with_command(&t, bare, NULL);
	with_command(&t, given, "file:/x");
	with_command(&t, joined, "--incoming=file:/x");
	update_bench_fini(&t);
}

static void test_default_successor_is_ourselves(void **state)
{
	struct error err = ERROR_INIT;
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	assert_int_equal(update_bench_prepare(&t, NULL, &err), 0);
	assert_string_equal(t.u->hand_over.argv[0], t.self_path);
	assert_string_equal(t.u->hand_over.argv[1], "run");
	assert_string_equal(t.u->hand_over.argv[2], "--pause");
	assert_string_equal(t.u->hand_over.argv[3], "--incoming");
	assert_int_equal(strncmp(t.u->hand_over.argv[4], "file:/proc/self/fd/", 19), 0);
	assert_null(t.u->hand_over.argv[5]);
	update_bench_unprepare(&t);
	update_bench_fini(&t);
}

static void test_nonces_differ(void **state)
{
	uint8_t first[STREAM_NONCE_BYTES];
	struct error err = ERROR_INIT;
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	assert_int_equal(update_bench_prepare(&t, NULL, &err), 0);
	memcpy(first, t.u->hand_over.fds->nonce, sizeof(first));
	update_bench_unprepare(&t);
	assert_int_equal(update_bench_prepare(&t, NULL, &err), 0);
	assert_memory_not_equal(first, t.u->hand_over.fds->nonce, sizeof(first));
	update_bench_unprepare(&t);
	update_bench_fini(&t);
}

/* ---- an exec that fails ---- */

static bool any_inheritable(void)
{
	DIR *dir = opendir("/proc/self/fd");
	bool found = false;
	struct dirent *e;

	assert_non_null(dir);
	while ((e = readdir(dir))) {
		int fd = atoi(e->d_name);

		if (e->d_name[0] != '.' && fd > STDERR_FILENO && fd != dirfd(dir))
			found |= fcntl(fd, F_GETFD) == 0;
	}
	closedir(dir);
	return found;
}

/* Descriptors that the test program itself was started with are none of our business. */
static void close_what_was_inherited(void)
{
	for (int fd = STDERR_FILENO + 1; fd < 256; fd++)
		if (fcntl(fd, F_GETFD) == 0)
			fcntl(fd, F_SETFD, FD_CLOEXEC);
}

static void test_failing_exec_is_undone(void **state)
{
	struct update_bench t;
	unsigned int before;

	(void)state;
	update_bench_skip_under_tsan();
	close_what_was_inherited();
	update_bench_init(&t, 2);
	run_machine(&t);
	before = bench_count_fds() - t.b.kvm->nvcpus; /* the fake keeps one for each */
	for (int i = 0; i < 5; i++) {
		must_fail_command(&t, t.self_path, "Exec format error");
		assert_non_null(strstr(t.said, "exec: successor"));
		assert_null(getenv(FDTABLE_ENV));
		assert_false(any_inheritable());
		assert_int_equal(bench_count_fds() - t.b.kvm->nvcpus, before);
		assert_int_equal(t.u->status, UPDATE_STATUS_FAILED);
		must_still_run(&t);
	}
	assert_int_equal(t.replies, 5);
	update_bench_fini(&t);
}

/* A stand-in that is only its page: nobody watches. */
static void make_page(struct stand_in *g)
{
	g->page_fd = memfd_create("guard", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(ftruncate(g->page_fd, 4096), 0);
	g->page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, g->page_fd, 0);
	g->wake_fd = eventfd(0, EFD_CLOEXEC);
}

/* As one in a file system that hangs: without its pidfd nobody kills it. */
static struct child child_that_does_not_end(void)
{
	pid_t pid = fork();

	if (pid == 0)
		for (;;)
			pause();
	assert_true(pid > 0);
	return (struct child){ .pid = pid, .fd = -1 };
}

static void test_who_does_not_end_is_waited_for_when_he_does(void **state)
{
	uint64_t until = now_ns() + 10000000000ull;
	struct update_bench t;
	pid_t pid;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	t.u->check.child = child_that_does_not_end();
	pid = t.u->check.child.pid;
	check_end(t.u);
	assert_int_equal(t.u->check.child.pid, 0);
	kill(pid, SIGKILL);
	while (t.u->old_stand_ins[0].child.pid && now_ns() < until)
		assert_int_equal(loop_turn(t.b.loop, 10), 0);
	/* Else it would be a zombie as long as there is a guest. */
	assert_int_equal(waitpid(pid, NULL, 0), -1);
	assert_int_equal(errno, ECHILD);
	update_bench_fini(&t);
}

static void count_waiting(void *opaque)
{
	++*(unsigned int *)opaque;
}

/* Of a large guest it takes its time, and the next update may be under way by then. */
static void test_an_old_stand_in_that_ends_hurries_nobody(void **state)
{
	struct error err = ERROR_INIT;
	unsigned int waiting = 0;
	struct update_wire *wire;
	struct update_bench t;
	struct child child;
	siginfo_t info;
	pid_t pid;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	wire = calloc(1, sizeof(*wire));
	assert_non_null(wire);
	child = child_that_does_not_end();
	pid = child.pid;
	update_keep_stand_in(t.u, &child);
	assert_int_equal(update_reap_stand_ins(t.u, wire, &err), 0);
	assert_int_equal(wire->nguardians, 1);
	assert_int_equal(wire->guardians[0], pid);
	loop_hold(t.b.loop, count_waiting, &waiting);
	kill(pid, SIGKILL);
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
	assert_int_equal(loop_turn(t.b.loop, 10), 0);
	assert_int_equal(waiting, 0);
	loop_release(t.b.loop);
	undo_prepare(t.u);
	assert_int_equal(loop_turn(t.b.loop, 1000), 0);
	assert_int_equal(t.u->old_stand_ins[0].child.pid, 0);
	assert_int_equal(waitpid(pid, NULL, 0), -1);
	free(wire);
	update_bench_fini(&t);
}

static struct {
	pid_t predecessor;
	unsigned int revived;
} at_work;

/* A stand-in's thread that is in a write to a file system which hangs. */
static int rest_but_in_stand_in(struct device *dev, struct error *err)
{
	(void)dev;
	return getpid() == at_work.predecessor ? 0 : err_set(err, EBUSY, "it does not rest");
}

static void count_revivals(struct device *dev, bool stood_in)
{
	(void)dev;
	assert_false(stood_in);
	at_work.revived++;
}

/* That thread ends with the stand-in: what it worked on must not wait for it, then and for ever. */
static void test_what_a_stand_in_leaves_at_work_is_made_anew(void **state)
{
	struct device_class cls;
	struct update_bench t;
	struct device *dev;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	dev = t.b.m.devices[t.b.m.ndevices - 1];
	cls = *dev->cls;
	cls.rest = rest_but_in_stand_in;
	cls.revive = count_revivals;
	dev->cls = &cls;
	at_work.predecessor = getpid();
	at_work.revived = 0;
	run_machine(&t);
	update_bench_must_fail(&t, "{\"no-check\":true}", "exec: successor");
	assert_int_equal(at_work.revived, 1);
	must_still_run(&t);
	update_bench_must_fail(&t, "{\"no-check\":true}", "exec: successor");
	assert_int_equal(at_work.revived, 2);
	must_still_run(&t);
	update_bench_fini(&t);
}

/* A stand-in that is a child and a page: its deadline is over while it gives the guest back. */
struct late {
	struct stand_in s;
	pid_t pid;
	bool lived;
};

static void *decide_and_die(void *opaque)
{
	siginfo_t info = { .si_pid = 0 };
	struct late *l = opaque;

	while (atomic_load(&l->s.state) != STATE_TO_GIVE_BACK)
		usleep(1000);
	l->s.at_work = true;
	atomic_store(&l->s.page->owner, OWNER_TAKEN_BACK);
	atomic_store(&l->s.state, STATE_STANDS_BY);
	usleep(300000);
	l->lived = waitid(P_PID, (id_t)l->pid, &info, WEXITED | WNOWAIT | WNOHANG) == 0 &&
		   info.si_pid == 0;
	kill(l->pid, SIGKILL);
	return NULL;
}

static void test_a_stand_in_that_was_faster_is_not_killed(void **state)
{
	struct late l = { .s = STAND_IN_NONE };
	pthread_t thread;

	(void)state;
	make_page(&l.s);
	l.s.child = child_that_does_not_end();
	l.pid = l.s.child.pid;
	assert_true(child_hold(&l.s.child));
	atomic_store(&l.s.page->owner, OWNER_STAND_IN);
	atomic_store(&l.s.state, STATE_STANDS_IN);
	assert_int_equal(pthread_create(&thread, NULL, decide_and_die, &l), 0);
	stand_in_disarm(&l.s);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_true(l.lived);
	assert_int_equal(l.s.child.pid, 0);
	/* What it was at when it was ended, and the locks of its threads, are made anew. */
	assert_true(l.s.is_gone);
	munmap(l.s.page, 4096);
	close(l.s.page_fd);
	close(l.s.wake_fd);
}

/* SIGSTOP has come to it, before it has looked at the page. */
static void test_a_stand_in_that_does_not_serve_is_not_waited_for_long(void **state)
{
	struct stand_in s = STAND_IN_NONE;
	struct error err = ERROR_INIT;
	siginfo_t info;

	(void)state;
	make_page(&s);
	s.child = child_that_does_not_end();
	assert_true(child_hold(&s.child));
	s.deadline_ms = 100;
	assert_int_equal(stand_in_wait_serving(&s, &err), -ETIMEDOUT);
	child_kill(&s.child, false);
	/* On a busy host that takes its time, too. */
	assert_true(waitid(P_PID, (id_t)s.child.pid, &info, WEXITED | WNOWAIT) == 0);
	assert_int_equal(stand_in_wait_serving(&s, &err), -ECHILD);
	assert_true(child_wait(&s.child, 10000));
	munmap(s.page, 4096);
	close(s.page_fd);
	close(s.wake_fd);
}

/* ---- a switch that does not take place ---- */

static _Atomic bool cannot_save;

static int make_nothing(void *opaque, struct error *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

static void unmake_nothing(void *opaque)
{
	(void)opaque;
}

static void pass_over(void *opaque)
{
	(void)opaque;
}

static bool spare_none(void *opaque, cpu_set_t *spare)
{
	(void)opaque;
	(void)spare;
	return false;
}

static bool stop_nothing(void *opaque)
{
	(void)opaque;
	return true;
}

static int save_or_not(void *opaque, struct error *err)
{
	(void)opaque;
	return atomic_load(&cannot_save) ? err_set(err, EIO, "no state") : 0;
}

/* No guest at all. */
static const struct stand_in_ops switch_ops = {
	.make = make_nothing,
	.unmake = unmake_nothing,
	.begin = pass_over,
	.spare_cpus = spare_none,
	.serve = pass_over,
	.tell_progress = pass_over,
	.stop = stop_nothing,
	.rest = make_nothing,
	.save = save_or_not,
	.run_on = pass_over,
};

/* Else who comes on the way back has no time to get ready: for each vCPU it takes a moment. */
static void test_the_deadline_begins_anew_where_no_switch_takes_place(void **state)
{
	const uint64_t second = 1000000000ull;
	struct stand_in s = STAND_IN_NONE;
	struct error err = ERROR_INIT;
	struct stand_in_link link;

	(void)state;
	update_bench_skip_under_tsan();
	assert_int_equal(loop_create(&s.loop, &err), 0);
	s.ops = &switch_ops;
	s.deadline_ms = 30000;
	if (stand_in_start(&s, &err) < 0)
		fail_msg("%s", err.text);
	stand_in_arm(&s, true);
	stand_in_hand_over(&s);
	assert_int_equal(stand_in_wait_serving(&s, &err), 0);
	link = (struct stand_in_link){ .page = s.page, .wake_fd = s.wake_fd, .child = CHILD_NONE };
	for (int declines = 0; declines < 2; declines++) {
		atomic_store(&cannot_save, declines);
		atomic_store(&s.page->armed, now_ns() - 60 * second);
		assert_int_equal(stand_in_link_switch(&link, pass_over, NULL, &err),
				 declines ? -EIO : 0);
		if (!declines)
			stand_in_link_refuse(&link);
		assert_true(stand_in_link_runs_guest(&link));
		assert_true(stand_in_link_left_ns(&link) > 20 * second);
	}
	stand_in_disarm(&s);
	stand_in_dismiss(&s);
	loop_destroy(s.loop);
}

/* The stand-in would kill this process. In the end it sees that that has gone. */
static void be_stopped_with_the_stand_in(uint32_t deadline_ms, uint32_t left_ms)
{
	struct stand_in s = STAND_IN_NONE;
	struct error err = ERROR_INIT;
	uint64_t armed;

	s.ops = &switch_ops;
	s.deadline_ms = deadline_ms;
	if (loop_create(&s.loop, &err) < 0 || stand_in_start(&s, &err) < 0)
		_exit(1);
	stand_in_arm(&s, true);
	set_deadline(&s, left_ms);
	stand_in_hand_over(&s);
	armed = atomic_load(&s.page->armed);
	if (stand_in_wait_serving(&s, &err) < 0 || kill(s.child.pid, SIGSTOP) < 0)
		_exit(1);
	usleep(1500000);
	kill(s.child.pid, SIGCONT);
	usleep(100000);
	if (atomic_load(&s.page->owner) != OWNER_STAND_IN || atomic_load(&s.page->armed) == armed)
		_exit(2);
	stand_in_disarm(&s);
	stand_in_dismiss(&s);
	_exit(0);
}

/* By the cgroup freezer, say, where both are stopped: a successor has as long as it was to have. */
static void successor_has_its_time(uint32_t deadline_ms, uint32_t left_ms)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		be_stopped_with_the_stand_in(deadline_ms, left_ms);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_a_stop_is_none_of_the_successors_time(void **state)
{
	(void)state;
	update_bench_skip_under_tsan();
	successor_has_its_time(300, 300);
	/* One that is to hurry has less. */
	successor_has_its_time(30000, 300);
}

/* ---- who leads the session of a terminal ends ---- */

/* Molt on a terminal of its own, and its stand-in, which takes the guest back. */
struct session {
	const char *terminal;
	int told;       /* what becomes of the guest: 'x' is its end by a signal */
	int ready[2];   /* of a job: it has a stand-in, and who leads the session may end */
	bool is_job;    /* another leads, who ends before: the terminal hangs up */
	bool hangs;     /* the successor does not end by itself */
	bool is_to_end; /* somebody sends SIGHUP to the stand-in */
	struct stand_in s;
};

static void undo_nothing(void *opaque, bool stood_in)
{
	(void)opaque;
	(void)stood_in;
}

static void tell_what_is_pending(void *opaque)
{
	const struct session *t = opaque;

	(void)!write(t->told, end_signals_pending() ? "x" : ".", 1);
	_exit(0);
}

static const struct stand_in_ops session_ops = {
	.make = make_nothing,
	.unmake = unmake_nothing,
	.take_back = undo_nothing,
	.run = tell_what_is_pending,
};

static _Noreturn void leave_to_stand_in(struct session *t)
{
	struct error err = ERROR_INIT;

	t->s = STAND_IN_NONE;
	t->s.ops = &session_ops;
	t->s.opaque = t;
	t->s.deadline_ms = t->hangs ? 100 : 30000;
	if (stand_in_start(&t->s, &err) < 0)
		_exit(99);
	if (t->is_to_end)
		kill(t->s.child.pid, SIGHUP);
	(void)!write(t->ready[1], "x", 1);
	while (t->is_job && !end_signals_pending())
		usleep(1000);
	stand_in_arm(&t->s, true);
	while (t->hangs)
		pause();
	_exit(1);
}

static _Noreturn void lead_session(struct session *t)
{
	sigset_t ending;
	char ch;

	end_signals(&ending);
	sigprocmask(SIG_BLOCK, &ending, NULL);
	/* The first terminal that a session's leader opens is its own. */
	if (setsid() < 0 || open(t->terminal, O_RDWR | O_CLOEXEC) < 0)
		_exit(99);
	if (!t->is_job || fork() == 0)
		leave_to_stand_in(t);
	close(t->ready[1]);
	_exit(read(t->ready[0], &ch, 1) == 1 ? 0 : 99);
}

static char what_becomes_of_guest(struct session t)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC), told[2];
	char said = '\0';
	pid_t pid;

	assert_true(master >= 0 && grantpt(master) == 0 && unlockpt(master) == 0);
	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	assert_int_equal(pipe2(t.ready, O_CLOEXEC), 0);
	t.terminal = ptsname(master);
	t.told = told[1];
	pid = fork();
	if (pid == 0)
		lead_session(&t);
	close(told[1]);
	close(t.ready[1]);
	assert_int_equal(read(told[0], &said, 1), 1);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(told[0]);
	close(t.ready[0]);
	close(master);
	return said;
}

/* The kernel sends SIGHUP to the terminal's foreground, in which the stand-in is. */
static void test_a_guest_outlives_who_leads_the_session(void **state)
{
	(void)state;
	update_bench_skip_under_tsan();
	assert_int_equal(what_becomes_of_guest((struct session){ .told = -1 }), '.');
	assert_int_equal(what_becomes_of_guest((struct session){ .hangs = true }), '.');
}

static void test_a_hang_up_and_who_ends_it_are_heard(void **state)
{
	(void)state;
	update_bench_skip_under_tsan();
	assert_int_equal(what_becomes_of_guest((struct session){ .is_job = true }), 'x');
	assert_int_equal(what_becomes_of_guest((struct session){ .is_to_end = true }), 'x');
}

/* ---- one take-back after another ---- */

#define TAKE_BACKS 6u

static struct {
	struct update_bench t;
	unsigned int done;
	int maps; /* after the third: what the first two left is settled */
	int told;
} chain;

/* But for the fake's own, one for each vCPU that there ever was. */
static int count_maps(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	int n = -(int)chain.t.b.kvm->nvcpus, ch;

	while (f && (ch = fgetc(f)) != EOF)
		n += ch == '\n';
	if (f)
		fclose(f);
	return n;
}

static int be_reborn(void *opaque, struct error *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

/* In each of the processes in turn. */
static void take_back_again(void *opaque)
{
	struct update_bench *t = &chain.t;
	struct error err = ERROR_INIT;

	(void)opaque;
	alarm(30); /* the end of a chain that breaks */
	must_still_run(t);
	if (chain.done == 3)
		chain.maps = count_maps();
	if (chain.done++ == TAKE_BACKS) {
		int more = count_maps() - chain.maps;

		(void)!write(chain.told, &more, sizeof(more));
		_exit(0);
	}
	t->said[0] = '\0';
	update_bench_run(t, update_commands, update_commands_count, "update",
			 "{\"no-check\":true,\"command\":[\"/bin/false\"]}", NULL, &err);
	for (;;)
		loop_turn(t->b.loop, 1000);
}

static void test_a_take_back_leaves_nothing_of_the_one_before(void **state)
{
	int more = 99, told[2];
	pid_t pid;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_skip_under_asan();
	assert_int_equal(pipe2(told, O_CLOEXEC), 0);
	pid = fork();
	if (pid == 0) {
		chain.told = told[1];
		mallopt(M_ARENA_MAX, 1); /* or there is one more each time, up to a limit */
		update_bench_init(&chain.t, 1);
		unlink(chain.t.self_path);
		rmdir(chain.t.dir);
		chain.t.u->ops.reborn = be_reborn;
		chain.t.u->ops.run_on = take_back_again;
		run_machine(&chain.t);
		take_back_again(NULL);
	}
	close(told[1]);
	assert_int_equal(read(told[0], &more, sizeof(more)), sizeof(more));
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(told[0]);
	/* A stack each, and their helpers' with its guard, would be nine. */
	assert_true(more < 3);
}

static void test_paused_machine_stays_paused(void **state)
{
	struct error err = ERROR_INIT;
	struct update_bench t;
	unsigned int runs;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	run_machine(&t);
	assert_int_equal(machine_pause(&t.b.m, &err), 0);
	runs = bench_vcpu(&t.b, 0)->runs;
	must_fail_command(&t, t.self_path, "Exec format error");
	assert_int_equal(t.b.m.guest.run_state, RUN_STATE_PAUSED);
	usleep(20000);
	assert_int_equal(bench_vcpu(&t.b, 0)->runs, runs);
	update_bench_fini(&t);
}

/* ---- a vCPU that does not stop ---- */

static struct {
	const struct crew_ops *usual;
	uint32_t id;
	_Atomic bool on;
} hang;

static void kick_in_vain(struct crew_member *cm)
{
	if (cm->id != hang.id || !atomic_load(&hang.on))
		hang.usual->kick(cm);
}

/* From when it has been entered: before, it parks without a kick. */
static void have_last_one_hang(struct update_bench *t)
{
	bench_play(&t->b, hang.id, fake_in(0x1234, 1));
	fake_vcpu_wait_played(t->b.kvm, t->b.m.vcpus[hang.id].fd);
	atomic_store(&hang.on, true);
}

static void run_one_that_may_hang(struct update_bench *t, struct crew_ops *ops)
{
	hang.usual = t->b.m.crew->ops;
	hang.id = t->b.m.guest.cpus - 1;
	*ops = *hang.usual;
	ops->kick = kick_in_vain;
	t->b.m.crew->ops = ops;
	run_machine(t);
}

/* The last one's thread does not come out of KVM_RUN; then it does, and all is as ever. */
static void must_fail_for_one_that_hangs(uint32_t cpus, const char *words)
{
	struct update_bench t;
	struct crew_ops ops;

	update_bench_init(&t, cpus);
	run_one_that_may_hang(&t, &ops);
	have_last_one_hang(&t);
	update_bench_must_fail(&t, "{\"no-check\":true}", words);
	must_still_run(&t);
	atomic_store(&hang.on, false);
	update_bench_must_fail(&t, "{\"no-check\":true}", "exec: successor");
	must_still_run(&t);
	update_bench_fini(&t);
}

/* One that is busy is waited for; one that does not listen is in no update's way. */
static void test_a_service_manager_that_does_not_read(void **state)
{
	struct update_bench t;
	uint64_t since;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	run_machine(&t);
	t.manager = -EAGAIN;
	since = now_ns();
	update_bench_must_fail(&t, "{\"no-check\":true}", "exec: successor");
	assert_in_range(now_ns() - since, 2000000000, 20000000000);
	must_still_run(&t);
	t.manager = -ECONNREFUSED;
	update_bench_must_fail(&t, "{\"no-check\":true}", "exec: successor");
	must_still_run(&t);
	update_bench_fini(&t);
}

/* It had no room for the successor's word, which is the last update's stand-in's to say now. */
static void test_a_service_manager_that_has_still_to_be_told(void **state)
{
	struct update_bench t;
	pid_t teller;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	run_machine(&t);
	teller = fork();
	if (teller == 0)
		for (;;)
			pause();
	update_keep_stand_in(t.u, &(struct child){ .pid = teller, .fd = -1 });
	t.u->teller = teller;
	update_bench_must_fail(&t, "{\"no-check\":true}",
			       "rest: the service manager does not read");
	must_still_run(&t);
	assert_int_equal(t.u->teller, teller);
	kill(teller, SIGKILL);
	update_bench_must_fail(&t, "{\"no-check\":true}", "exec: successor");
	assert_int_equal(t.u->teller, 0);
	update_bench_fini(&t);
}

static void test_a_vcpu_that_does_not_stop(void **state)
{
	(void)state;
	update_bench_skip_under_tsan();
	must_fail_for_one_that_hangs(2, "read vCPUs: vCPU 1 does not stop");
	must_fail_for_one_that_hangs(1, "pause: vCPU 0 does not stop");
}

/* As the predecessor leaves it to the stand-in: all is saved, and the guest runs. */
static void hand_over(struct update_bench *t, struct stand_in_page *page)
{
	struct hand_over *h = &t->u->hand_over;
	struct error err = ERROR_INIT;

	assert_int_equal(update_bench_prepare(t, NULL, &err), 0);
	h->wire = calloc(1, sizeof(*h->wire));
	h->stand_in.page = page;
	h->parked = true;
	assert_int_equal(final_state_make(t->u, &err), 0);
	machine_park_vcpus(&t->b.m);
	stream_begin(&h->w, &(struct stream_header){ .machine_version = 1 });
	assert_int_equal(machine_save(&t->b.m, &h->w, h->fds, &err), 0);
	machine_unpark_vcpus(&t->b.m);
}

/* The successor gives back then, and the other vCPUs do not stand still with it meanwhile. */
static void test_a_vcpu_that_does_not_stop_for_the_switch(void **state)
{
	struct stand_in_page page = { 0 };
	struct error err = ERROR_INIT;
	struct update_bench t;
	struct crew_ops ops;

	(void)state;
	update_bench_init(&t, 2);
	run_one_that_may_hang(&t, &ops);
	hand_over(&t, &page);
	have_last_one_hang(&t);
	assert_int_equal(update_save_final(t.u, &err), -ETIMEDOUT);
	assert_non_null(strstr(err.text, "vCPU 1 does not stop"));
	must_still_run(&t);
	atomic_store(&hang.on, false);
	if (update_save_final(t.u, &err) < 0)
		fail_msg("%s", err.text);
	assert_true(page.stopped_ns && page.final_len);
	update_run_on(t.u);
	must_still_run(&t);
	free(t.u->hand_over.wire);
	t.u->hand_over.wire = NULL;
	t.u->hand_over.stand_in.page = NULL;
	update_bench_unprepare(&t);
	update_bench_fini(&t);
}

/* ---- a state that cannot be saved ---- */

static void test_rooms_above_fail_to_save(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	t.save_error = EIO;
	run_machine(&t);
	update_bench_must_fail(&t, "{\"no-check\":true}", "save: the bench cannot save");
	must_still_run(&t);
	update_bench_fini(&t);
}

static void test_kvm_fails_to_tell(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 2);
	t.b.kvm->fail_request = KVM_GET_XSAVE2;
	t.b.kvm->fail_error = EIO;
	t.b.kvm->fail_skip = 1;
	t.b.m.crew->host_cpus = 1; /* no helpers: vCPUs are saved in order */
	run_machine(&t);
	update_bench_must_fail(&t, "{\"no-check\":true}", "read vCPUs: vCPU 1: KVM_GET_XSAVE2");
	must_still_run(&t);
	update_bench_fini(&t);
}

static void state_file(struct update_bench *t, const char *path, const char *words)
{
	char json[300];

	snprintf(json, sizeof(json), "{\"no-check\":true,\"state-file\":\"%s\"}", path);
	update_bench_must_fail(t, json, words);
}

static void test_state_file_that_is_none(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	state_file(&t, "/dev/full", "/dev/full: not a regular file");
	state_file(&t, t.dir, "Is a directory");
	state_file(&t, "/nowhere/state", "/nowhere/state: No such file");
	update_bench_fini(&t);
}

static void test_full_disk_is_found_before_the_pause(void **state)
{
	struct update_bench t;
	char path[100];

	(void)state;
	update_bench_init(&t, 1);
	run_machine(&t);
	/* In a name space of our own, so that nothing stays mounted whatever happens. */
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("molt-test", t.dir, "tmpfs", MS_NOSUID | MS_NODEV, "size=16k") < 0) {
		print_message("# no small file system can be mounted here: %s\n", strerror(errno));
		update_bench_fini(&t);
		skip();
	}
	snprintf(path, sizeof(path), "%s/state", t.dir);
	state_file(&t, path, "no room for");
	assert_non_null(strstr(t.said, "prepare: state file"));
	assert_int_equal(access(path, F_OK), -1);
	must_still_run(&t);
	umount(t.dir);
	update_bench_fini(&t);
}

static void test_files_of_others_are_kept(void **state)
{
	struct update_bench t;
	char path[100];

	(void)state;
	update_bench_skip_under_tsan();
	update_bench_init(&t, 1);
	t.save_error = EIO;
	snprintf(path, sizeof(path), "%s/new", t.dir);
	state_file(&t, path, "cannot save");
	assert_int_equal(access(path, F_OK), -1);
	strcpy(path, update_bench_file(&t, "old", "precious", 0600));
	state_file(&t, path, "cannot save");
	assert_int_equal(access(path, F_OK), 0);
	update_bench_fini(&t);
}

/* ---- requests ---- */

static void test_requests_that_make_no_sense(void **state)
{
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	update_bench_refused(&t, "{\"state-file\":\"here\"}", EINVAL, "must be absolute");
	update_bench_refused(&t, "{\"state-file\":3}", EINVAL, "'state-file'");
	update_bench_refused(&t, "{\"command\":[]}", EINVAL, "list");
	update_bench_refused(&t, "{\"command\":\"molt\"}", EINVAL, "expected: array");
	update_bench_refused(&t, "{\"command\":[1]}", EINVAL, "'command[0]'");
	update_bench_refused(&t, "{\"command\":[\"\"]}", EINVAL, "strings");
	update_bench_refused(&t, "{\"timeout\":0}", EINVAL, "'timeout'");
	update_bench_refused(&t, "{\"timeout\":600001}", EINVAL, "'timeout'");
	update_bench_refused(&t, "{\"timeout\":\"1\"}", EINVAL, "'timeout'");
	update_bench_refused(&t, "{\"no-check\":1}", EINVAL, "'no-check'");
	update_bench_refused(&t, "{\"check-only\":\"\"}", EINVAL, "'check-only'");
	t.b.m.guest.run_state = RUN_STATE_SHUTDOWN;
	update_bench_refused(&t, "", EBUSY, "'shutdown'");
	assert_string_equal(t.said, "");
	update_bench_fini(&t);
}

static void test_one_at_a_time(void **state)
{
	struct error err;
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	assert_int_equal(update_bench_update(&t, "{\"no-check\":true,\"command\":[\"/nowhere\"]}",
					     &err),
			 COMMAND_ASYNC);
	update_bench_refused(&t, "", EBUSY, "busy");
	update_bench_wait(&t, "UPDATE_FAILED");
	/* And then the next may come. */
	must_fail_command(&t, "/nowhere", "No such file");
	update_bench_fini(&t);
}

static void test_query(void **state)
{
	json_t *result = NULL;
	struct error err;
	struct update_bench t;

	(void)state;
	update_bench_init(&t, 1);
	assert_int_equal(update_bench_run(&t, update_commands, update_commands_count,
					  "query-update", "", &result, &err),
			 0);
	assert_string_equal(json_string_value(json_object_get(result, "status")), "none");
	json_decref(result);
	must_fail_command(&t, "/nowhere", "No such file");
	assert_int_equal(update_bench_run(&t, update_commands, update_commands_count,
					  "query-update", "", &result, &err),
			 0);
	assert_string_equal(json_string_value(json_object_get(result, "status")), "failed");
	assert_non_null(strstr(json_string_value(json_object_get(result, "error")), "/nowhere"));
	json_decref(result);
	update_bench_fini(&t);
}

/* ---- the step itself ---- */

static const char successor[] =
	"#!/bin/sh\n"
	"dir=${0%/*}\n"
	"{ echo \"args: $*\"; echo \"table: $MOLT_FDTABLE\"; ls -l /proc/$$/fd; } >\"$dir/seen\"\n";

/* The whole predecessor lives in the child, for exec would take the test's threads with it. */
static void become_successor(const char *dir)
{
	struct error err = ERROR_INIT;
	struct stream_header header = { .machine_version = 1 };
	struct update_bench t;
	struct hand_over *h;
	char path[100], *command[] = { path, (char *)"run", (char *)"-v", NULL };

	update_bench_init(&t, 1);
	unlink(t.self_path);
	rmdir(t.dir);
	snprintf(path, sizeof(path), "%s/successor", dir);
	h = &t.u->hand_over;
	make_page(&h->stand_in);
	h->stops_guest = true;
	if (update_bench_prepare(&t, command, &err) == 0) {
		stream_begin(&h->w, &header);
		if (machine_save(&t.b.m, &h->w, h->fds, &err) == 0 && handover_write(h, &err) == 0)
			handover_exec(h, &t.b.m, &err);
	}
	fprintf(stderr, "%s\n", err.text);
	_exit(99);
}

static char *read_seen(const char *dir)
{
	struct error err = ERROR_INIT;
	char path[100];
	void *buf = NULL;
	char *text;
	size_t len;
	int fd;

	snprintf(path, sizeof(path), "%s/seen", dir);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fd_read_file(fd, path, 65536, &buf, &len, &err), 0);
	close(fd);
	unlink(path);
	text = strndup(buf, len);
	free(buf);
	return text;
}

static void test_successor_gets_what_is_in_the_table(void **state)
{
	static const char *const wanted[] = {
		"args: run -v --incoming file:/proc/self/fd/",
		"table: ",
		"memfd:molt-ram0",
		"memfd:molt-state",
		"memfd:molt-fdtable",
		"memfd:guard",
		"/dev/null",
	};
	static const char *const unwanted[] = { "fake-kvm", "eventpoll", "timerfd" };
	char dir[] = "/tmp/molt-successor-XXXXXX", path[100];
	int status = 0, fd;
	char *seen;
	pid_t pid;

	(void)state;
	update_bench_skip_under_tsan();
	close_what_was_inherited();
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/successor", dir);
	fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0700);
	assert_int_equal(fd_write_all(fd, successor, strlen(successor)), 0);
	close(fd);
	pid = fork();
	if (pid == 0)
		become_successor(dir);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	seen = read_seen(dir);
	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if (!strstr(seen, wanted[i]))
			fail_msg("'%s' did not arrive:\n%s", wanted[i], seen);
	for (size_t i = 0; i < ARRAY_SIZE(unwanted); i++)
		if (strstr(seen, unwanted[i]))
			fail_msg("'%s' leaked:\n%s", unwanted[i], seen);
	free(seen);
	unlink(path);
	rmdir(dir);
}

/* As before: on a CPU that its cpuset gets later, or that comes online then, but where it is
 * pinned. */
static void test_main_is_kept_off_only_for_so_long(void **state)
{
	struct keep_off k = { 0 };
	cpu_set_t spare, own;

	(void)state;
	CPU_ZERO(&spare);
	CPU_SET(1, &spare);
	fake_cpuset(3);
	keep_off_begin(&k, &spare);
	assert_int_equal(fake_cpuset_of(0), 2);
	keep_off_end(&k);
	assert_int_equal(fake_cpuset_of(0), 3);
	fake_cpuset_change(15);
	assert_int_equal(fake_cpuset_of(0), 15);

	/* It becomes another one meanwhile. */
	keep_off_begin(&k, &spare);
	fake_cpuset_change(0x30);
	keep_off_end(&k);
	fake_cpuset_change(0x3f);
	assert_int_equal(fake_cpuset_of(0), 0x3f);

	CPU_ZERO(&own);
	CPU_SET(0, &own);
	CPU_SET(1, &own);
	assert_int_equal(sched_setaffinity(0, sizeof(own), &own), 0);
	keep_off_begin(&k, &spare);
	keep_off_end(&k);
	assert_int_equal(fake_cpuset_of(0), 3);
	fake_cpuset(0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_an_id_that_does_not_fit_is_refused_at_once),
		cmocka_unit_test(test_missing_program),
		cmocka_unit_test(test_directory),
		cmocka_unit_test(test_not_executable),
		cmocka_unit_test(test_a_script_whose_interpreter_is_missing),
		cmocka_unit_test(test_not_a_regular_file),
		cmocka_unit_test(test_path_is_searched),
		cmocka_unit_test(test_incoming_is_there_once),
		cmocka_unit_test(test_default_successor_is_ourselves),
		cmocka_unit_test(test_nonces_differ),
		cmocka_unit_test(test_failing_exec_is_undone),
		cmocka_unit_test(test_who_does_not_end_is_waited_for_when_he_does),
		cmocka_unit_test(test_an_old_stand_in_that_ends_hurries_nobody),
		cmocka_unit_test(test_what_a_stand_in_leaves_at_work_is_made_anew),
		cmocka_unit_test(test_a_stand_in_that_was_faster_is_not_killed),
		cmocka_unit_test(test_a_stand_in_that_does_not_serve_is_not_waited_for_long),
		cmocka_unit_test(test_the_deadline_begins_anew_where_no_switch_takes_place),
		cmocka_unit_test(test_a_stop_is_none_of_the_successors_time),
		cmocka_unit_test(test_a_guest_outlives_who_leads_the_session),
		cmocka_unit_test(test_a_hang_up_and_who_ends_it_are_heard),
		cmocka_unit_test(test_a_take_back_leaves_nothing_of_the_one_before),
		cmocka_unit_test(test_paused_machine_stays_paused),
		cmocka_unit_test(test_a_service_manager_that_does_not_read),
		cmocka_unit_test(test_a_service_manager_that_has_still_to_be_told),
		cmocka_unit_test(test_a_vcpu_that_does_not_stop),
		cmocka_unit_test(test_a_vcpu_that_does_not_stop_for_the_switch),
		cmocka_unit_test(test_rooms_above_fail_to_save),
		cmocka_unit_test(test_kvm_fails_to_tell),
		cmocka_unit_test(test_state_file_that_is_none),
		cmocka_unit_test(test_full_disk_is_found_before_the_pause),
		cmocka_unit_test(test_files_of_others_are_kept),
		cmocka_unit_test(test_requests_that_make_no_sense),
		cmocka_unit_test(test_one_at_a_time),
		cmocka_unit_test(test_query),
		cmocka_unit_test(test_main_is_kept_off_only_for_so_long),
		cmocka_unit_test(test_successor_gets_what_is_in_the_table),
	};

	log_set_fd(-1);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
