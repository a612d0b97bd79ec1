/* SPDX-License-Identifier: MIT */
/*
 * Fault injection. Theory of operation.
 *
 * `molt-faults` is molt, from the same objects, linked with the linker's --wrap for every library
 * function and system call that they call and that can fail (wraps.py finds out which) and for
 * those functions of its own at which a stage of the update begins or ends (stages.c). So no source
 * of molt knows of it, the molt that is installed is free of it, and a call that somebody adds to
 * the update path tomorrow is a failure point without anybody's doing.
 *
 * Each call between "update accepted" and "committed, and the client answered" is a point with a
 * name:
 *
 *	successor:build:KVM_CREATE_VCPU#1
 *
 * the side of the update, the stage, the function (of an ioctl its request) and which call of it
 * that is on this side in this stage, in whatever thread: parked vCPU threads take a share of
 * main's work. The start of each stage is a point, too: "begin".
 *
 * The directory in MOLT_FAULTS_DIR, which the environment carries from image to image, says what
 * happens:
 *
 *	record	if it exists, the names of all points are appended to `points`, with the errno of a
 *		failure there (0: not a call, or one that cannot fail) and where in the program the
 *		call is: what a loop does, or both sides of the update, has many names, but one
 *		place
 *	arm	"NAME ACTION": what is to happen at a point. Whoever gets there renames the file to
 *		`fired` first: it happens once, not again on the way back
 *	old-order
 *		if it exists, the check's answer does not say that the successor knows a stand-in
 *	slow-output
 *		if it exists, the devices are not at rest when they are first asked, and the event
 *		loop goes on
 *
 * Actions: error (the call fails), exhaust (and so does every later call that would need the same
 * resource, until the update ends in this process), abort, segv, hang, kill. And with the call let
 * through: orphan (the stand-in is killed), wait (the file `waiting` is made, and the call waits
 * for the file `go`). wait-error, wait-kill and wait-hang wait before.
 *
 * Predecessor and stand-in share this memory, and each has its own side and stage: which is whose
 * goes by the process.
 *
 * Nothing here allocates, locks (but for a moment, with no call out of it) or calls what may be
 * wrapped: see files.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "faults.h"
#include "files.h"

#define NAME_MAX_BYTES 128
#define COUNTERS 512

static struct side {
	_Atomic int pid;
	const char *side;
	const char *stage; /* NULL: nothing is counted */
	bool recording;
	char point[NAME_MAX_BYTES];
	char action[16];
	int exhausted; /* the errno of the resource that has run out, 0 */
	atomic_flag lock;
	struct counter {
		const char *stage;
		const char *name;
		unsigned int calls;
	} counters[COUNTERS];
} sides[2] = { { .lock = ATOMIC_FLAG_INIT }, { .lock = ATOMIC_FLAG_INIT } };

extern const char __ehdr_start[]; /* the linker's: where the program lies */

static struct side *own(void)
{
	return &sides[atomic_load(&sides[1].pid) == raw(SYS_getpid, 0, 0, 0, 0)];
}

static void load_armed(void)
{
	struct side *mine = own();
	char text[NAME_MAX_BYTES + 16];

	mine->point[0] = mine->action[0] = '\0';
	if (file_read("arm", text, sizeof(text)) &&
	    sscanf(text, "%127s %15s", mine->point, mine->action) != 2)
		_exit(99);
	mine->recording = file_exists("record");
}

bool faults_old_order(void)
{
	return file_exists("old-order");
}

bool faults_slow_output(void)
{
	return file_exists("slow-output");
}

void faults_note_stand_in(int pid)
{
	char text[16];

	snprintf(text, sizeof(text), "%d", pid);
	if (strcmp(own()->action, "orphan") == 0)
		file_write("stand-in", O_TRUNC, text);
}

static void kill_stand_in(void)
{
	char text[16];

	if (!file_read("stand-in", text, sizeof(text)) || atoi(text) <= 1 ||
	    raw(SYS_kill, atoi(text), SIGKILL, 0, 0) < 0)
		_exit(99);
}

/* False: who armed it did not want to wait any longer. */
static bool disarm(void)
{
	own()->point[0] = '\0';
	return file_rename("arm", "fired");
}

void faults_begin(const char *side, const char *stage)
{
	int saved = errno;

	memset(own()->counters, 0, sizeof(own()->counters));
	own()->exhausted = 0;
	load_armed();
	errno = saved;
	faults_side(side, stage);
}

void faults_begin_stand_in(void)
{
	struct side *parents = atomic_load(&sides[1].pid) == getppid() ? &sides[1] : &sides[0];
	struct side *mine = parents == &sides[0] ? &sides[1] : &sides[0];

	atomic_store(&parents->pid, getppid());
	atomic_store(&mine->pid, getpid());
	faults_begin("stand-in", "make");
}

/*
 * The side of the process that is gone. A thread of it may have been ended while it counted, with
 * the lock that the next stand-in, or a check's child, would wait for.
 */
void faults_bury(void)
{
	struct side *gone = own() == &sides[0] ? &sides[1] : &sides[0];

	gone->stage = NULL;
	atomic_flag_clear(&gone->lock);
}

void faults_side(const char *side, const char *stage)
{
	own()->side = side;
	own()->exhausted = 0;
	faults_stage(stage);
}

void faults_stage(const char *stage)
{
	if (!own()->side)
		return;
	own()->stage = stage;
	fault("begin", 0, 0);
}

void faults_pause(void)
{
	own()->stage = NULL;
	own()->exhausted = 0;
}

const char *faults_now(void)
{
	return own()->stage;
}

const char *faults_now_side(void)
{
	return own()->side;
}

/* Whose it is costs a system call, which under emulation takes as long as what is measured here. */
static unsigned int count(struct side *mine, const char *stage, const char *name)
{
	unsigned int n = 0;

	while (atomic_flag_test_and_set(&mine->lock))
		;
	for (size_t i = 0; i < COUNTERS; i++) {
		struct counter *c = &mine->counters[i];

		if (!c->stage)
			*c = (struct counter){ stage, name, 0 };
		if (strcmp(c->stage, stage) || strcmp(c->name, name))
			continue;
		n = ++c->calls;
		break;
	}
	atomic_flag_clear(&mine->lock);
	if (!n)
		_exit(99);
	return n;
}

static void die_by(int sig)
{
	unsigned long defaults[4] = { 0 }, set = 1UL << (sig - 1);

	raw(SYS_rt_sigaction, sig, (long)defaults, 0, sizeof(set));
	raw(SYS_rt_sigprocmask, SIG_UNBLOCK, (long)&set, 0, sizeof(set));
	raw(SYS_tgkill, raw(SYS_getpid, 0, 0, 0, 0), raw(SYS_gettid, 0, 0, 0, 0), sig, 0);
	_exit(99);
}

/* Not by abort(), whose lock would stay with the dead, in memory that the stand-in lives on in. */
static bool act(int code)
{
	const char *action = own()->action;

	if (strcmp(action, "exhaust") == 0)
		own()->exhausted = code;
	if (strcmp(action, "abort") == 0)
		die_by(SIGABRT);
	if (strcmp(action, "segv") == 0)
		__asm__ volatile("movl $0, 8" ::: "memory");
	if (strncmp(action, "wait", 4) == 0)
		file_wait("waiting", "go");
	if (strcmp(action, "kill") == 0 || strcmp(action, "wait-kill") == 0)
		die_by(SIGKILL);
	while (strcmp(action, "hang") == 0 || strcmp(action, "wait-hang") == 0)
		raw(SYS_poll, 0, 0, -1, 0);
	if (strcmp(action, "orphan") == 0) {
		kill_stand_in();
		return false;
	}
	return code && strcmp(action, "wait") != 0;
}

/* Threads of vCPUs run the guest, but in the stages in which they are parked. */
static bool works_for_update(const char *stage)
{
	static const char *const parked[] = { "save", "build", "map-RAM", "final-save",
					      "final-load" };

	if (raw(SYS_gettid, 0, 0, 0, 0) == raw(SYS_getpid, 0, 0, 0, 0))
		return true;
	for (size_t i = 0; i < sizeof(parked) / sizeof(parked[0]); i++)
		if (strcmp(stage, parked[i]) == 0)
			return true;
	return false;
}

bool fault(const char *name, int code, uintptr_t site)
{
	struct side *mine = own();
	const char *stage = mine->stage;
	char point[NAME_MAX_BYTES];
	bool fails = false;
	int saved = errno;

	if (!stage || !works_for_update(stage))
		return false;
	snprintf(point, sizeof(point), "%s:%s:%s#%u", mine->side, stage, name,
		 count(mine, stage, name));
	if (mine->recording) {
		snprintf(point + strlen(point), sizeof(point) - strlen(point), " %d %lx\n", code,
			 site ? site - (uintptr_t)__ehdr_start : 0);
		file_write("points", O_APPEND, point);
	} else if (code && code == mine->exhausted) {
		fails = true;
	} else if (strcmp(point, mine->point) == 0) {
		fails = disarm() && act(code);
	}
	errno = fails ? code : saved;
	return fails;
}
