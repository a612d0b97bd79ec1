/* SPDX-License-Identifier: MIT */
/*
 * labcheck: what a guest in the lab runs to notice that its world was changed under it.
 *
 * Theory of operation.  Each checker is a background process with one page of counters, mapped from
 * a file in /run/labcheck.  "labcheck NAME-status" maps the same file and prints it: so a status is
 * exact at the moment it is asked for, and asking does not disturb the checker.  All output is
 * key=value.
 *
 * Linked statically and without anything but libc: it runs in an initramfs, on any kernel, and on
 * the host side too.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/input.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define RUN_DIR "/run/labcheck"
#define MAX_CPUS 64

typedef _Atomic uint64_t counter;

struct pattern_status {
	counter mebibytes, passes, errors;
	counter first_offset, first_expected, first_found;
	counter pages_low, pages_high; /* below and above 4 GiB of guest-physical memory */
};

struct load_status {
	counter threads, iterations[MAX_CPUS];
};

enum clock_kind { CLOCK_KIND_MONO, CLOCK_KIND_REAL, CLOCK_KIND_TSC, CLOCK_KINDS };

static const char *const clock_names[CLOCK_KINDS] = { "mono", "real", "tsc" };

struct clocks_status {
	counter threads, reads;
	struct {
		counter latest;           /* the highest reading that any CPU has published */
		counter steps_back_own;   /* readings below this CPU's previous one */
		counter steps_back_cross; /* readings below another CPU's earlier one */
		counter largest_step_back;
		counter largest_gap; /* of two readings in a row on one CPU */
	} clock[CLOCK_KINDS];
};

struct status {
	counter pid;
	union {
		struct pattern_status pattern;
		struct load_status load;
		struct clocks_status clocks;
	};
};

static int fail(const char *what)
{
	fprintf(stderr, "labcheck: error=\"%s: %s\"\n", what, strerror(errno));
	return 1;
}

/* The page of counters of one checker; NULL with errno set if it cannot be had. */
static struct status *status_map(const char *name, bool create)
{
	char path[128];
	struct status *status;
	int fd;

	mkdir(RUN_DIR, 0755);
	snprintf(path, sizeof(path), RUN_DIR "/%s", name);
	if (create)
		unlink(path); /* a checker that still runs keeps its own page */
	fd = open(path, O_RDWR | (create ? O_CREAT : 0), 0644);
	if (fd < 0)
		return NULL;
	if (create && ftruncate(fd, sizeof(*status)) < 0) {
		close(fd);
		return NULL;
	}
	status = mmap(NULL, sizeof(*status), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	return status == MAP_FAILED ? NULL : status;
}

/*
 * Leave the shell's session.  Returns in the child only; the parent prints the child's pid and
 * ends.  stderr stays, so that an error shows at once.
 */
static void go_background(struct status *status, const char *name)
{
	pid_t pid = fork();

	if (pid < 0)
		exit(fail("fork"));
	if (pid > 0) {
		atomic_store(&status->pid, (uint64_t)pid);
		printf("%s=started pid=%d\n", name, (int)pid);
		exit(0);
	}
	setsid();
	signal(SIGHUP, SIG_IGN);
}

static unsigned online_cpus(void)
{
	long n = sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > MAX_CPUS ? MAX_CPUS : (unsigned)n;
}

static void pin_to(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* Run one pinned thread per CPU, for ever. */
static int thread_per_cpu(unsigned cpus, void *(*body)(void *))
{
	for (unsigned cpu = 0; cpu < cpus; cpu++) {
		pthread_t thread;

		errno = pthread_create(&thread, NULL, body, (void *)(uintptr_t)cpu);
		if (errno)
			return fail("pthread_create");
	}
	for (;;)
		pause();
}

static void raise_to(counter *maximum, uint64_t value)
{
	uint64_t seen = atomic_load_explicit(maximum, memory_order_relaxed);

	while (seen < value && !atomic_compare_exchange_weak(maximum, &seen, value))
		;
}

/* ---- pattern: is the guest's memory what the guest wrote? ---- */

#define PAGE_WORDS (4096 / sizeof(uint64_t))
#define PAGES_PER_MIB 256

/* Depends on the word's place and on how often that was written (splitmix64's mixer). */
static uint64_t pattern_word(uint64_t index, uint64_t generation)
{
	uint64_t x = index * 0x9e3779b97f4a7c15u + generation * 0xd1342543de82ef95u + 1;

	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static void pattern_write_page(uint64_t *page, uint64_t first, uint64_t generation)
{
	for (uint64_t i = 0; i < PAGE_WORDS; i++)
		page[i] = pattern_word(first + i, generation);
}

static void pattern_check_page(struct pattern_status *s, const uint64_t *page, uint64_t first,
			       uint64_t generation)
{
	for (uint64_t i = 0; i < PAGE_WORDS; i++) {
		uint64_t expected = pattern_word(first + i, generation);
		uint64_t found = page[i];

		if (found == expected)
			continue;
		if (atomic_load(&s->errors) == 0) {
			uint64_t offset = (first + i) * sizeof(uint64_t);

			atomic_store(&s->first_offset, offset);
			atomic_store(&s->first_expected, expected);
			atomic_store(&s->first_found, found);
			fprintf(stderr,
				"labcheck: pattern=error offset=%#" PRIx64 " expected=%#" PRIx64
				" found=%#" PRIx64 "\n",
				offset, expected, found);
		}
		atomic_fetch_add(&s->errors, 1);
	}
}

/* Where in guest-physical memory the pages are, as far as the kernel tells. */
static void pattern_count_places(struct pattern_status *s, const void *memory, uint64_t pages)
{
	const uint64_t frame_mask = (UINT64_C(1) << 55) - 1, present = UINT64_C(1) << 63;
	uint64_t first = (uintptr_t)memory / 4096;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);

	for (uint64_t page = 0; fd >= 0 && page < pages; page++) {
		uint64_t entry;

		if (pread(fd, &entry, sizeof(entry), (off_t)((first + page) * sizeof(entry))) !=
			    sizeof(entry) ||
		    !(entry & present))
			continue;
		if ((entry & frame_mask) < (UINT64_C(4) << 30) / 4096)
			atomic_fetch_add(&s->pages_low, 1);
		else
			atomic_fetch_add(&s->pages_high, 1);
	}
	if (fd >= 0)
		close(fd);
}

/*
 * Each pass checks every page and writes it anew with the next generation: so a page that falls
 * back to what it was some time ago is noticed as surely as one with foreign bytes in it.
 */
static int pattern_main(int argc, char **argv)
{
	uint64_t mebibytes = argc > 0 ? strtoull(argv[0], NULL, 0) : 0;
	uint64_t pages = mebibytes * PAGES_PER_MIB;
	struct status *status;
	uint64_t *memory;

	if (mebibytes == 0 || mebibytes > UINT64_C(1) << 24) {
		errno = EINVAL;
		return fail("pattern MIB");
	}
	status = status_map("pattern", true);
	if (!status)
		return fail(RUN_DIR "/pattern");
	/* Shared, or the fork below would have every page copied. */
	memory = mmap(NULL, mebibytes << 20, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (memory == MAP_FAILED)
		return fail("memory");
	for (uint64_t page = 0; page < pages; page++)
		pattern_write_page(memory + page * PAGE_WORDS, page * PAGE_WORDS, 0);
	atomic_store(&status->pattern.mebibytes, mebibytes);
	pattern_count_places(&status->pattern, memory, pages);
	go_background(status, "pattern");

	for (uint64_t generation = 0;; generation++) {
		for (uint64_t page = 0; page < pages; page++) {
			uint64_t first = page * PAGE_WORDS;

			pattern_check_page(&status->pattern, memory + first, first, generation);
			pattern_write_page(memory + first, first, generation + 1);
			if (page % PAGES_PER_MIB == 0)
				usleep(1000); /* leave some of the CPU to others */
		}
		atomic_fetch_add(&status->pattern.passes, 1);
	}
}

static void pattern_print(struct status *status)
{
	struct pattern_status *s = &status->pattern;

	printf("mib=%" PRIu64 " passes=%" PRIu64 " errors=%" PRIu64 " first_offset=%#" PRIx64
	       " first_expected=%#" PRIx64 " first_found=%#" PRIx64 " mib_below_4g=%" PRIu64
	       " mib_above_4g=%" PRIu64 "\n",
	       s->mebibytes, s->passes, s->errors, s->first_offset, s->first_expected,
	       s->first_found, s->pages_low / PAGES_PER_MIB, s->pages_high / PAGES_PER_MIB);
}

/* ---- load: keep every CPU busy with arithmetic, stores and copies ---- */

#define LOAD_BYTES (1u << 20)

static struct load_status *load;

static void *load_thread(void *arg)
{
	unsigned cpu = (unsigned)(uintptr_t)arg;
	uint8_t *a = malloc(LOAD_BYTES), *b = malloc(LOAD_BYTES);

	pin_to(cpu);
	if (!a || !b)
		exit(fail("memory"));
	for (uint64_t i = 0;; i++) {
		memset(a, (int)i, LOAD_BYTES);
		memcpy(b, a, LOAD_BYTES);
		for (size_t at = 0; at < LOAD_BYTES; at += 4096)
			if (b[at] != (uint8_t)i)
				fprintf(stderr, "labcheck: load=error cpu=%u offset=%#zx\n", cpu,
					at);
		atomic_fetch_add_explicit(&load->iterations[cpu], 1, memory_order_relaxed);
	}
	return NULL;
}

static int load_main(int argc, char **argv)
{
	struct status *status = status_map("load", true);
	unsigned cpus = online_cpus();

	(void)argc, (void)argv;
	if (!status)
		return fail(RUN_DIR "/load");
	load = &status->load;
	atomic_store(&load->threads, cpus);
	go_background(status, "load");
	return thread_per_cpu(cpus, load_thread);
}

static void load_print(struct status *status)
{
	uint64_t total = 0;

	printf("threads=%" PRIu64, status->load.threads);
	for (unsigned cpu = 0; cpu < status->load.threads && cpu < MAX_CPUS; cpu++) {
		total += status->load.iterations[cpu];
		printf(" cpu%u=%" PRIu64, cpu, status->load.iterations[cpu]);
	}
	printf(" iterations=%" PRIu64 "\n", total);
}

/* ---- clocks: does one step back, on one CPU or between CPUs, and how far does it leap? ---- */

static struct clocks_status *clocks;

static uint64_t clock_ns(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Unfenced, RDTSC may be executed before an earlier load. */
static uint64_t tsc_ordered(void)
{
	uint64_t t;

	_mm_lfence();
	t = __rdtsc();
	_mm_lfence();
	return t;
}

static uint64_t clock_read(enum clock_kind kind)
{
	switch (kind) {
	case CLOCK_KIND_MONO:
		return clock_ns(CLOCK_MONOTONIC);
	case CLOCK_KIND_REAL:
		return clock_ns(CLOCK_REALTIME);
	default:
		return tsc_ordered();
	}
}

static void clock_step_back(enum clock_kind kind, bool cross, uint64_t by, unsigned cpu)
{
	counter *count = cross ? &clocks->clock[kind].steps_back_cross
			       : &clocks->clock[kind].steps_back_own;

	raise_to(&clocks->clock[kind].largest_step_back, by);
	if (atomic_fetch_add(count, 1) == 0)
		fprintf(stderr, "labcheck: clocks=error clock=%s kind=%s by=%" PRIu64 " cpu=%u\n",
			clock_names[kind], cross ? "cross" : "own", by, cpu);
}

static void *clocks_thread(void *arg)
{
	unsigned cpu = (unsigned)(uintptr_t)arg;
	uint64_t previous[CLOCK_KINDS] = { 0 };

	pin_to(cpu);
	for (;;) {
		for (enum clock_kind kind = 0; kind < CLOCK_KINDS; kind++) {
			/* Published before our reading began, so not above it. */
			uint64_t published = atomic_load(&clocks->clock[kind].latest);
			uint64_t now = clock_read(kind);

			if (now < previous[kind])
				clock_step_back(kind, false, previous[kind] - now, cpu);
			else if (now < published)
				clock_step_back(kind, true, published - now, cpu);
			if (previous[kind] && now > previous[kind])
				raise_to(&clocks->clock[kind].largest_gap, now - previous[kind]);
			raise_to(&clocks->clock[kind].latest, now);
			previous[kind] = now;
		}
		atomic_fetch_add_explicit(&clocks->reads, CLOCK_KINDS, memory_order_relaxed);
	}
	return NULL;
}

static int clocks_main(int argc, char **argv)
{
	struct status *status = status_map("clocks", true);
	unsigned cpus = online_cpus();

	(void)argc, (void)argv;
	if (!status)
		return fail(RUN_DIR "/clocks");
	clocks = &status->clocks;
	atomic_store(&clocks->threads, cpus);
	go_background(status, "clocks");
	return thread_per_cpu(cpus, clocks_thread);
}

static void clocks_print(struct status *status)
{
	struct clocks_status *s = &status->clocks;
	char source[32] = "unknown";
	FILE *f = fopen("/sys/devices/system/clocksource/clocksource0/current_clocksource", "re");

	if (f) {
		if (fscanf(f, "%31s", source) != 1)
			source[0] = '\0';
		fclose(f);
	}
	printf("threads=%" PRIu64 " reads=%" PRIu64 " clocksource=%s", s->threads, s->reads,
	       source);
	for (int kind = 0; kind < CLOCK_KINDS; kind++)
		printf(" %s_back_own=%" PRIu64 " %s_back_cross=%" PRIu64 " %s_back_max=%" PRIu64
		       " %s_gap_max=%" PRIu64,
		       clock_names[kind], s->clock[kind].steps_back_own, clock_names[kind],
		       s->clock[kind].steps_back_cross, clock_names[kind],
		       s->clock[kind].largest_step_back, clock_names[kind],
		       s->clock[kind].largest_gap);
	printf("\n");
}

/* Forget the largest gaps, not the steps back: so that each event can have its own figure. */
static int clocks_reset_main(int argc, char **argv)
{
	struct status *status = status_map("clocks", false);

	(void)argc, (void)argv;
	if (!status)
		return fail(RUN_DIR "/clocks");
	for (int kind = 0; kind < CLOCK_KINDS; kind++)
		atomic_store(&status->clocks.clock[kind].largest_gap, 0);
	printf("clocks=reset\n");
	return 0;
}

/* ---- clock-ping: one set of readings at one moment, for comparison with another machine's ---- */

#define PING_TRIES 16

struct reading {
	uint64_t tsc, width, mono, real, boot;
};

static struct reading tightest_reading(void)
{
	struct reading best = { .width = UINT64_MAX };

	for (int i = 0; i < PING_TRIES; i++) {
		struct reading r;
		uint64_t before = tsc_ordered(), after;

		r.mono = clock_ns(CLOCK_MONOTONIC);
		r.real = clock_ns(CLOCK_REALTIME);
		r.boot = clock_ns(CLOCK_BOOTTIME);
		after = tsc_ordered();
		r.width = after - before;
		r.tsc = before + r.width / 2;
		if (r.width < best.width)
			best = r;
	}
	return best;
}

static int clock_ping_main(int argc, char **argv)
{
	int c;

	(void)argc, (void)argv;
	while ((c = getchar()) != EOF) {
		struct reading r;

		if (c != '\n')
			continue;
		r = tightest_reading();
		printf("tsc=%" PRIu64 " mono=%" PRIu64 " real=%" PRIu64 " boot=%" PRIu64
		       " width=%" PRIu64 "\n",
		       r.tsc, r.mono, r.real, r.boot, r.width);
		fflush(stdout);
	}
	return 0;
}

/* ---- power-button: the guest's acpid ---- */

#define MAX_INPUTS 8

static bool has_power_key(int fd)
{
	unsigned long keys[KEY_CNT / (8 * sizeof(long)) + 1] = { 0 };

	return ioctl(fd, EVIOCGBIT(EV_KEY, sizeof(keys)), keys) >= 0 &&
	       (keys[KEY_POWER / (8 * sizeof(long))] >> (KEY_POWER % (8 * sizeof(long))) & 1);
}

/* Any input device may have the key: a keyboard claims it as well as the ACPI button does. */
static nfds_t open_power_keys(struct pollfd *inputs)
{
	nfds_t found = 0;

	for (int i = 0; i < MAX_INPUTS; i++) {
		char path[64];
		int fd;

		snprintf(path, sizeof(path), "/dev/input/event%d", i);
		fd = open(path, O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && has_power_key(fd))
			inputs[found++] = (struct pollfd){ .fd = fd, .events = POLLIN };
		else if (fd >= 0)
			close(fd);
	}
	return found;
}

static int power_button_main(int argc, char **argv)
{
	struct pollfd inputs[MAX_INPUTS];
	nfds_t count = open_power_keys(inputs);
	pid_t pid;

	(void)argc, (void)argv;
	if (count == 0)
		return fail("no power button");
	pid = fork();
	if (pid) {
		printf("power-button=started devices=%d pid=%d\n", (int)count, (int)pid);
		return pid < 0 ? fail("fork") : 0;
	}
	setsid();
	while (poll(inputs, count, -1) > 0) {
		for (nfds_t i = 0; i < count; i++) {
			struct input_event event;

			if (!inputs[i].revents ||
			    read(inputs[i].fd, &event, sizeof(event)) != sizeof(event))
				continue;
			if (event.type == EV_KEY && event.code == KEY_POWER && event.value == 1) {
				fprintf(stderr, "labcheck: power-button=pressed\n");
				sync();
				reboot(RB_POWER_OFF);
			}
		}
	}
	return fail("power button");
}

/* ---- the table of it all ---- */

static int stop_main(int argc, char **argv)
{
	static const char *const names[] = { "pattern", "load", "clocks" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		struct status *status;

		if (argc > 0 && strcmp(argv[0], names[i]) != 0)
			continue;
		status = status_map(names[i], false);
		if (status && status->pid && kill((pid_t)status->pid, SIGKILL) == 0)
			printf("%s=stopped\n", names[i]);
	}
	return 0;
}

static const struct command {
	const char *name, *help;
	int (*run)(int argc, char **argv);
	const char *status_name; /* of the commands that print a status */
	void (*print)(struct status *status);
} commands[] = {
	{ "pattern", "MIB: fill that much memory, check and rewrite it for ever", pattern_main,
	  NULL, NULL },
	{ "pattern-status", "mib, passes, errors, the first error, where it lies", NULL, "pattern",
	  pattern_print },
	{ "load", "a busy thread on every CPU", load_main, NULL, NULL },
	{ "load-status", "iterations done", NULL, "load", load_print },
	{ "clocks", "read all clocks on every CPU for ever", clocks_main, NULL, NULL },
	{ "clocks-status", "steps back, largest gaps (ns; the TSC's in ticks)", NULL, "clocks",
	  clocks_print },
	{ "clocks-reset", "forget the largest gaps", clocks_reset_main, NULL, NULL },
	{ "clock-ping", "for each line on stdin, one line of clock readings", clock_ping_main, NULL,
	  NULL },
	{ "power-button", "power off when the ACPI power button is pressed", power_button_main,
	  NULL, NULL },
	{ "stop", "[pattern|load|clocks]: end one checker, or all", stop_main, NULL, NULL },
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(commands[0]); i++) {
		struct status *status;

		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		if (commands[i].run)
			return commands[i].run(argc - 2, argv + 2);
		status = status_map(commands[i].status_name, false);
		if (!status)
			return fail(commands[i].status_name);
		commands[i].print(status);
		return 0;
	}
	fprintf(stderr, "usage: labcheck COMMAND\n");
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		fprintf(stderr, "  %-14s %s\n", commands[i].name, commands[i].help);
	return 2;
}
