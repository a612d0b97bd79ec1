/* SPDX-License-Identifier: MIT */
/* What the tests of character backends share: a device that takes input, and the other ends. */
#ifndef MOLT_TESTS_CHARDEV_BENCH_H
#define MOLT_TESTS_CHARDEV_BENCH_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <molt/backend/chardev.h>

#define QUEUE_BYTES 61440 /* what a backend keeps of output that nobody takes */
#define INPUT_MAX (1 << 20)

/* The device: takes what comes as long as it has room. */
struct sink {
	struct loop *loop;
	struct loop *next_loop; /* the successor's: another process has an epoll set of its own */
	struct loop *old_loops[4];
	struct chardev *cd;
	struct chardev *old[4]; /* predecessors, quiesced for good */
	struct fdtable fds;
	void *saved;
	size_t saved_len;
	size_t room;
	uint8_t input[INPUT_MAX];
	size_t len;
	unsigned int connects;
	unsigned int disconnects;
	unsigned int quits;
	char dir[64];
	char path[96];
	char spec[128];
	int log_fd;
	int std[2]; /* standard input and output that a test replaced */
	bool replaced;
};

int bench_setup(void **state);

int bench_teardown(void **state);

/* Standard input and output become these; cmocka's own reports wait until teardown. */
void replace_std(struct sink *s, int in, int out);

void open_chardev(struct sink *s, const char *spec);

/* "kind=<path in the test's directory>" */
void open_path(struct sink *s, const char *kind);

int open_fails(struct sink *s, const char *spec, const char *words);

void settle(struct sink *s);

/* With nothing to do the loop must sleep. */
void assert_idle(struct sink *s);

void put_text(struct sink *s, const char *text);

/* Waits for that much input (a terminal's comes by way of a kernel thread), and for no more. */
void assert_input(struct sink *s, const char *text);

/* What the other end can read: exactly this. */
void assert_read(struct sink *s, int fd, const char *text);

void assert_file(const char *path, const char *text);

unsigned int log_count(struct sink *s, const char *words);

int dial(const char *path);

/* Quiesce and save, as the predecessor does. */
void save_state(struct sink *s);

/*
 * The incoming side, in this process: standard descriptors as they are, others under new numbers.
 */
int load_saved(struct sink *s, struct chardev **cd, struct error *err);

/*
 * An update in one process: the successor's backend takes over, and the predecessor, whose
 * descriptors exec would have closed, stays quiesced. What was loaded saves as the same bytes.
 */
void update(struct sink *s);

/* An update whose successor gives up before it commits. */
void failed_update(struct sink *s);

/* Counts up in lines of 8 bytes, so that a gap would show. */
size_t numbered(char *buf, size_t size);

/*
 * Reads everything from fd until it stays quiet: whole lines of numbered(), of which `said` bytes
 * were written, with few gaps and the last one among them. How many bytes there were.
 */
size_t drain_newest(struct sink *s, int fd, size_t said, unsigned int max_gaps);

#define T(f) cmocka_unit_test_setup_teardown(f, bench_setup, bench_teardown)

#endif
