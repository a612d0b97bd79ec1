/* SPDX-License-Identifier: MIT */
/* The event loop: sources, wake-ups, and callbacks that change the loop under way. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/base/loop.h>

struct fixture {
	struct loop *loop;
	int pipe[2];
	struct loop_source src;
	struct loop_source other;
	unsigned int calls;
	uint32_t events;
};

/* Where it is to: behind a call that has been made, in which the signal came that ended it. */
static enum { LIVES, DIES_BEHIND, DIES_BEFORE } main_thread;
static jmp_buf in_the_stand_in;

int epoll_ctl(int set, int op, int fd, struct epoll_event *ev)
{
	int r = main_thread == DIES_BEFORE ? 0 : (int)syscall(SYS_epoll_ctl, set, op, fd, ev);

	if (main_thread == LIVES)
		return r;
	main_thread = LIVES;
	longjmp(in_the_stand_in, 1);
}

/* What follows once main has died in the call: it is in the same memory, and the set is shared. */
#define DIES(where, call) \
	do { \
		main_thread = where; \
		if (!setjmp(in_the_stand_in)) { \
			call; \
			fail_msg("it has not died"); \
		} \
	} while (0)

static void begin(struct fixture *f)
{
	struct error err = ERROR_INIT;

	*f = (struct fixture){ .calls = 0 };
	assert_int_equal(loop_create(&f->loop, &err), 0);
	assert_int_equal(pipe2(f->pipe, O_CLOEXEC), 0);
}

static void end(struct fixture *f)
{
	fd_close(&f->pipe[0]);
	fd_close(&f->pipe[1]);
	loop_destroy(f->loop);
}

static void count(void *opaque, uint32_t events)
{
	struct fixture *f = opaque;

	f->calls++;
	f->events = events;
}

static void delete_both(void *opaque, uint32_t events)
{
	struct fixture *f = opaque;

	(void)events;
	f->calls++;
	loop_del(&f->src);
	loop_del(&f->other);
}

static void test_source_is_called_while_ready(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f);
	assert_int_equal(loop_add(f.loop, &f.src, f.pipe[0], EPOLLIN, count, &f), 0);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 0);
	assert_int_equal(write(f.pipe[1], "x", 1), 1);
	assert_int_equal(loop_turn(f.loop, 1000), 0);
	assert_int_equal(f.calls, 1);
	assert_int_equal(f.events, EPOLLIN);
	assert_int_equal(loop_turn(f.loop, 1000), 0);
	assert_int_equal(f.calls, 2);
	loop_del(&f.src);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 2);
	loop_del(&f.src); /* harmless */
	end(&f);
}

static void test_mod_changes_what_is_waited_for(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f);
	assert_int_equal(loop_add(f.loop, &f.src, f.pipe[1], 0, count, &f), 0);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 0);
	assert_int_equal(loop_mod(&f.src, EPOLLOUT), 0);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 1);
	assert_int_equal(loop_mod(&f.src, EPOLLOUT), 0);
	assert_int_equal(loop_mod(&f.src, 0), 0);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 1);
	loop_del(&f.src);
	assert_int_equal(loop_mod(&f.src, EPOLLOUT), -ENOENT);
	end(&f);
}

/* Both are ready; the first callback deletes both, and no stale event may come for the second. */
static void test_callback_may_delete_any_source(void **state)
{
	struct fixture f;
	int more[2];

	(void)state;
	begin(&f);
	assert_int_equal(pipe2(more, O_CLOEXEC), 0);
	assert_int_equal(loop_add(f.loop, &f.src, f.pipe[1], EPOLLOUT, delete_both, &f), 0);
	assert_int_equal(loop_add(f.loop, &f.other, more[1], EPOLLOUT, delete_both, &f), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 1);
	close(more[0]);
	close(more[1]);
	end(&f);
}

static bool is_served(struct fixture *f)
{
	f->calls = 0;
	assert_int_equal(loop_turn(f->loop, 0), 0);
	return f->calls;
}

/* As whoever resumes a device: it is added unless the source says that it is there. */
static void watch(struct fixture *f)
{
	if (f->src.loop)
		assert_int_equal(loop_mod(&f->src, EPOLLOUT), 0);
	else
		assert_int_equal(loop_add(f->loop, &f->src, f->pipe[1], EPOLLOUT, count, f), 0);
}

static void test_main_dies_while_it_takes_a_source_out(void **state)
{
	struct fixture f;

	(void)state;
	for (int where = DIES_BEHIND; where <= DIES_BEFORE; where++) {
		begin(&f);
		watch(&f);
		DIES(where, loop_del(&f.src));
		watch(&f);
		assert_true(is_served(&f));
		end(&f);
	}
}

/* Nobody adds it again. */
static void test_main_dies_while_it_takes_a_source_out_for_good(void **state)
{
	struct epoll_event ev;
	struct fixture f;

	(void)state;
	begin(&f);
	watch(&f);
	DIES(DIES_BEFORE, loop_del(&f.src));
	loop_del(&f.src);
	assert_false(is_served(&f));
	assert_int_equal(epoll_wait(loop_fd(f.loop), &ev, 1, 0), 0);
	end(&f);
}

static void test_main_dies_while_it_adds_a_source(void **state)
{
	struct fixture f;

	(void)state;
	for (int where = DIES_BEHIND; where <= DIES_BEFORE; where++) {
		begin(&f);
		DIES(where, watch(&f));
		watch(&f);
		assert_true(is_served(&f));
		end(&f);
	}
}

/* A device that is quiesced waits for nothing, but stays. */
static void test_main_dies_while_it_changes_what_is_waited_for(void **state)
{
	struct fixture f;

	(void)state;
	for (int where = DIES_BEHIND; where <= DIES_BEFORE; where++)
		for (uint32_t then = 0; then <= EPOLLOUT; then += EPOLLOUT) {
			begin(&f);
			watch(&f);
			DIES(where, loop_mod(&f.src, 0));
			assert_int_equal(loop_mod(&f.src, then), 0);
			assert_int_equal(is_served(&f), then == EPOLLOUT);
			end(&f);
		}
}

struct alarm {
	struct loop_timer timer;
	struct loop *loop;
	unsigned int rings;
	uint64_t rang_ns;
};

static void ring(void *opaque)
{
	struct alarm *a = opaque;

	a->rings++;
	a->rang_ns = now_ns();
}

static void ring_and_stop(void *opaque)
{
	struct alarm *a = opaque;

	ring(a);
	loop_stop(a->loop, 7);
}

static void test_timers(void **state)
{
	struct alarm first = { .rings = 0 }, second = { .rings = 0 }, never = { .rings = 0 };
	uint64_t start = now_ns();
	struct fixture f;

	(void)state;
	begin(&f);
	loop_timer_cancel(&never.timer);
	first.loop = second.loop = f.loop;
	loop_timer_set(f.loop, &second.timer, start + 60000000, ring_and_stop, &second);
	loop_timer_set(f.loop, &first.timer, start + 3600000000000ull, ring, &first);
	loop_timer_set(f.loop, &first.timer, start + 20000000, ring, &first);
	loop_timer_set(f.loop, &never.timer, start + 1000000, ring, &never);
	loop_timer_cancel(&never.timer);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(loop_run(f.loop), 7);
	assert_int_equal(first.rings, 1);
	assert_int_equal(second.rings, 1);
	assert_int_equal(never.rings, 0);
	assert_true(first.rang_ns >= start + 20000000);
	assert_true(second.rang_ns >= start + 60000000);
	end(&f);
}

/* A source that is always ready holds no timer up, and a timer that is always due no source. */
static void test_timers_and_sources_take_turns(void **state)
{
	struct alarm a = { .rings = 0 };
	struct fixture f;

	(void)state;
	begin(&f);
	assert_int_equal(loop_add(f.loop, &f.src, f.pipe[1], EPOLLOUT, count, &f), 0);
	for (unsigned int i = 1; i <= 100; i++) {
		loop_timer_set(f.loop, &a.timer, 0, ring, &a);
		assert_int_equal(loop_turn(f.loop, -1), 0);
		assert_int_equal(a.rings, i);
		assert_int_equal(f.calls, i);
	}
	end(&f);
}

static void test_regular_file_is_refused(void **state)
{
	int fd = open("/etc/passwd", O_RDONLY | O_CLOEXEC);
	struct fixture f;

	(void)state;
	begin(&f);
	assert_int_equal(loop_add(f.loop, &f.src, fd, EPOLLIN, count, &f), -EPERM);
	assert_null(f.src.loop);
	loop_del(&f.src);
	close(fd);
	assert_int_equal(loop_add(f.loop, &f.src, fd, EPOLLIN, count, &f), -EBADF);
	end(&f);
}

static void stop(void *opaque, uint32_t events)
{
	struct fixture *f = opaque;

	(void)events;
	loop_stop(f->loop, 42);
}

static void test_run_until_stopped(void **state)
{
	struct fixture f;

	(void)state;
	begin(&f);
	assert_int_equal(loop_add(f.loop, &f.src, f.pipe[1], EPOLLOUT, stop, &f), 0);
	assert_int_equal(loop_run(f.loop), 42);
	/* It can run again, and a stop that came before is not lost. */
	loop_stop(f.loop, 7);
	assert_int_equal(loop_run(f.loop), 7);
	end(&f);
}

/* ---- wake-ups ---- */

struct waking {
	struct loop *loop;
	struct loop_wake wake;
	_Atomic unsigned int asked;
	unsigned int seen;
	unsigned int calls;
	unsigned int again;
};

static void on_wake(void *opaque)
{
	struct waking *w = opaque;

	w->calls++;
	w->seen = atomic_load(&w->asked);
	if (w->again) {
		w->again--;
		loop_wake_signal(&w->wake);
	}
}

static void waking_begin(struct waking *w)
{
	struct error err = ERROR_INIT;

	*w = (struct waking){ .calls = 0 };
	assert_int_equal(loop_create(&w->loop, &err), 0);
	assert_int_equal(loop_wake_init(w->loop, &w->wake, on_wake, w, &err), 0);
}

static void waking_end(struct waking *w)
{
	loop_wake_fini(&w->wake);
	loop_wake_fini(&w->wake); /* harmless */
	loop_destroy(w->loop);
}

static void test_signals_are_merged(void **state)
{
	struct waking w;

	(void)state;
	waking_begin(&w);
	for (int i = 0; i < 5; i++)
		loop_wake_signal(&w.wake);
	assert_int_equal(loop_turn(w.loop, 1000), 0);
	assert_int_equal(w.calls, 1);
	assert_int_equal(loop_turn(w.loop, 0), 0);
	assert_int_equal(w.calls, 1);
	waking_end(&w);
}

static void test_signal_while_it_runs_runs_it_once_more(void **state)
{
	struct waking w;

	(void)state;
	waking_begin(&w);
	w.again = 1;
	loop_wake_signal(&w.wake);
	for (int i = 0; i < 4; i++)
		assert_int_equal(loop_turn(w.loop, 10), 0);
	assert_int_equal(w.calls, 2);
	waking_end(&w);
}

#define THREADS 4
#define SIGNALS 5000

static void *signaller(void *opaque)
{
	struct waking *w = opaque;

	for (int i = 0; i < SIGNALS; i++) {
		atomic_fetch_add(&w->asked, 1);
		loop_wake_signal(&w->wake);
	}
	return NULL;
}

static void test_no_signal_of_any_thread_is_lost(void **state)
{
	uint64_t end = now_ns() + 20000000000ull;
	pthread_t threads[THREADS];
	struct waking w;

	(void)state;
	waking_begin(&w);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, signaller, &w), 0);
	while (w.seen < THREADS * SIGNALS && now_ns() < end)
		assert_int_equal(loop_turn(w.loop, 100), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	assert_int_equal(w.seen, THREADS * SIGNALS);
	waking_end(&w);
}

static void nobody_waits(void *opaque)
{
	(void)opaque;
	fail_msg("a signal of another process");
}

/* As a stand-in waits for its predecessor's loop, in which a signalfd is ready for the latter
 * alone. */
static void another_process_looks(struct loop *loop)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(loop_turn(loop, 0) == 0 ? 0 : 1);
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_signal_that_another_process_has_looked_for(void **state)
{
	struct signalfd_siginfo info;
	struct fixture f;
	sigset_t set;
	int fd;

	(void)state;
	begin(&f);
	sigemptyset(&set);
	sigaddset(&set, SIGURG);
	assert_int_equal(sigprocmask(SIG_BLOCK, &set, NULL), 0);
	fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	assert_int_equal(loop_add_signals(f.loop, &f.src, fd, count, &f), 0);
	loop_hold(f.loop, nobody_waits, &f);
	assert_int_equal(kill(getpid(), SIGURG), 0);
	another_process_looks(f.loop);
	loop_release(f.loop);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 1);
	assert_int_equal(read(fd, &info, sizeof(info)), sizeof(info));
	loop_del(&f.src);
	loop_release(f.loop);
	assert_int_equal(loop_turn(f.loop, 0), 0);
	assert_int_equal(f.calls, 1);
	close(fd);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
	end(&f);
}

static unsigned int calls_in_a_turn(struct fixture *f)
{
	f->calls = 0;
	assert_int_equal(loop_turn(f->loop, 0), 0);
	return f->calls;
}

static void test_a_group_is_served_or_waits(void **state)
{
	struct loop_group group;
	struct error err = ERROR_INIT;
	struct fixture f;

	(void)state;
	begin(&f);
	assert_int_equal(loop_group_open(f.loop, &group, &err), 0);
	assert_int_equal(loop_group_add(&group, &f.src, f.pipe[1], EPOLLOUT, count, &f), 0);
	assert_int_equal(loop_group_add(&group, &f.other, f.pipe[0], EPOLLIN, count, &f), 0);
	assert_int_equal(calls_in_a_turn(&f), 0);
	for (int i = 0; i < 2; i++) { /* what is so already does no harm */
		assert_int_equal(loop_group_serve(&group, true), 0);
		assert_int_equal(calls_in_a_turn(&f), 1);
		assert_int_equal(f.events, EPOLLOUT);
	}
	loop_hold(f.loop, nobody_waits, &f);
	assert_int_equal(calls_in_a_turn(&f), 1);
	loop_release(f.loop);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(loop_group_serve(&group, false), 0);
		assert_int_equal(calls_in_a_turn(&f), 0);
	}
	loop_del(&f.src);
	assert_int_equal(loop_group_serve(&group, true), 0);
	assert_int_equal(calls_in_a_turn(&f), 0);
	assert_int_equal(write(f.pipe[1], "x", 1), 1);
	assert_int_equal(calls_in_a_turn(&f), 1);
	assert_int_equal(f.events, EPOLLIN);
	loop_del(&f.other);
	loop_group_close(&group);
	assert_int_equal(group.fd, -1);
	assert_int_equal(loop_group_serve(&group, true), 0);
	assert_int_equal(calls_in_a_turn(&f), 0);
	end(&f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_source_is_called_while_ready),
		cmocka_unit_test(test_mod_changes_what_is_waited_for),
		cmocka_unit_test(test_callback_may_delete_any_source),
		cmocka_unit_test(test_main_dies_while_it_takes_a_source_out),
		cmocka_unit_test(test_main_dies_while_it_takes_a_source_out_for_good),
		cmocka_unit_test(test_main_dies_while_it_adds_a_source),
		cmocka_unit_test(test_main_dies_while_it_changes_what_is_waited_for),
		cmocka_unit_test(test_timers),
		cmocka_unit_test(test_timers_and_sources_take_turns),
		cmocka_unit_test(test_regular_file_is_refused),
		cmocka_unit_test(test_run_until_stopped),
		cmocka_unit_test(test_signals_are_merged),
		cmocka_unit_test(test_signal_while_it_runs_runs_it_once_more),
		cmocka_unit_test(test_no_signal_of_any_thread_is_lost),
		cmocka_unit_test(test_signal_that_another_process_has_looked_for),
		cmocka_unit_test(test_a_group_is_served_or_waits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
