/* SPDX-License-Identifier: MIT */
/* What a successor says to the stand-in, which takes its time. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "../../src/update/stand_in_impl.h"

#define LATE_US 120000 /* longer than one look */

struct fixture {
	struct stand_in_page page;
	struct stand_in_link link;
	void (*does)(struct stand_in_page *page);
};

/* What happens just before it is looked whether the stand-in has ended; once. */
static void (*_Atomic before_look)(struct fixture *f);
static struct fixture *looked_at;

int poll(struct pollfd *fds, nfds_t n, int timeout_ms)
{
	/* Not of this file's only: stand-ins, which share its memory, look as well. */
	void (*act)(struct fixture * f) = atomic_exchange(&before_look, NULL);

	if (act)
		act(looked_at);
	return (int)syscall(SYS_poll, fds, n, timeout_ms);
}

/* The stand-in has saved, and the guest is nobody's. */
static int setup(void **state)
{
	static struct fixture f;

	memset(&f, 0, sizeof(f));
	f.link.page = &f.page;
	f.link.child = CHILD_NONE;
	f.link.wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_true(f.link.wake_fd >= 0);
	f.page.deadline_ms = 30000;
	atomic_store(&f.page.armed, now_ns());
	atomic_store(&f.page.owner, OWNER_UNDECIDED);
	atomic_store(&f.page.turn, TURN_SAVED);
	*state = &f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	close(f->link.wake_fd);
	return 0;
}

static void *late(void *opaque)
{
	struct fixture *f = opaque;

	usleep(LATE_US);
	f->does(&f->page);
	return NULL;
}

static void refuse(struct fixture *f, void (*does)(struct stand_in_page *page))
{
	pthread_t thread;

	f->does = does;
	assert_int_equal(pthread_create(&thread, NULL, late, f), 0);
	stand_in_link_refuse(&f->link);
	/* Joined afterwards: it must have happened without that. */
	assert_int_not_equal(atomic_load(&f->page.owner), OWNER_UNDECIDED);
	assert_int_equal(pthread_join(thread, NULL), 0);
}

static void run_on(struct stand_in_page *page)
{
	assert_int_equal(atomic_load(&page->turn), TURN_REFUSED);
	assert_true(decide(page, OWNER_UNDECIDED, OWNER_STAND_IN));
	set_and_wake(&page->turn, TURN_REHEARSAL);
}

static void take_back(struct stand_in_page *page)
{
	assert_true(decide(page, OWNER_UNDECIDED, OWNER_TAKEN_BACK));
}

/* Else whoever comes next could commit what was saved at the hand-off. */
static void test_refused_guest_cannot_be_had(void **state)
{
	struct fixture *f = *state;
	struct error err = ERROR_INIT;

	refuse(f, run_on);
	assert_true(stand_in_link_runs_guest(&f->link));
	assert_int_equal(stand_in_link_commit(&f->link, &err), -ECANCELED);
}

static void test_refused_too_late(void **state)
{
	struct fixture *f = *state;
	struct error err = ERROR_INIT;

	refuse(f, take_back);
	assert_false(stand_in_link_runs_guest(&f->link));
	assert_int_equal(stand_in_link_commit(&f->link, &err), -ECANCELED);
}

/* The switch has a deadline of its own, which ends later than the one before. */
static void test_refused_when_the_deadline_is_over(void **state)
{
	struct fixture *f = *state;

	atomic_store(&f->page.armed, now_ns() - 60000000000ull);
	refuse(f, run_on);
	assert_true(stand_in_link_runs_guest(&f->link));
}

/* A stand-in that nobody can see end does not keep its successor for ever. */
static void test_refused_and_nobody_there(void **state)
{
	struct fixture *f = *state;

	f->page.deadline_ms = 100;
	stand_in_link_refuse(&f->link);
	assert_int_equal(atomic_load(&f->page.turn), TURN_REFUSED);
	assert_int_equal(stand_in_link_left_ns(&f->link), 0);
}

static void stops(void *opaque)
{
	(*(unsigned int *)opaque)++;
}

static void test_switch_and_nobody_there(void **state)
{
	struct fixture *f = *state;
	struct error err = ERROR_INIT;
	unsigned int stopped = 0;

	f->page.deadline_ms = 100;
	atomic_store(&f->page.owner, OWNER_STAND_IN);
	assert_int_equal(stand_in_link_switch(&f->link, stops, &stopped, &err), -ECANCELED);
	assert_int_equal(stopped, 1);
	assert_non_null(strstr(err.text, "says nothing"));
	assert_int_equal(stand_in_link_commit(&f->link, &err), -ECANCELED);
}

static void save_and_end(struct fixture *f)
{
	const uint64_t one = 1;

	atomic_store(&f->page.owner, OWNER_UNDECIDED);
	set_and_wake(&f->page.turn, TURN_SAVED);
	assert_int_equal(write(f->link.child.fd, &one, sizeof(one)), sizeof(one));
}

static void end_before_it_has_saved(struct fixture *f)
{
	const uint64_t one = 1;

	assert_int_equal(write(f->link.child.fd, &one, sizeof(one)), sizeof(one));
}

static void nothing(void *opaque)
{
	(void)opaque;
}

static int switch_when(struct fixture *f, void (*act)(struct fixture *f), struct error *err)
{
	int r;

	f->link.child.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK); /* as a pidfd */
	atomic_store(&f->page.owner, OWNER_STAND_IN);
	atomic_store(&f->page.stopping, true);
	looked_at = f;
	before_look = act;
	r = stand_in_link_switch(&f->link, nothing, NULL, err);
	fd_close(&f->link.child.fd);
	return r;
}

/* Nobody else has the guest any more, and all of it is there. */
static void test_a_stand_in_that_has_saved_may_end(void **state)
{
	struct fixture *f = *state;
	struct error err = ERROR_INIT;

	assert_int_equal(switch_when(f, save_and_end, &err), 0);
	assert_int_equal(stand_in_link_commit(&f->link, &err), 0);
}

static void test_a_stand_in_that_has_not_saved_may_not(void **state)
{
	struct fixture *f = *state;
	struct error err = ERROR_INIT;

	assert_int_equal(switch_when(f, end_before_it_has_saved, &err), -ECANCELED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_refused_guest_cannot_be_had, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_too_late, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused_when_the_deadline_is_over, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_refused_and_nobody_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_switch_and_nobody_there, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_stand_in_that_has_saved_may_end, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_a_stand_in_that_has_not_saved_may_not, setup,
						teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
