/* SPDX-License-Identifier: MIT */
/*
 * The process: one loop for the messages of all disks, a thread for each queue.
 *
 * Order of its beginning: what it was not given is closed, the disks and their queues are made,
 * with all threads that it will ever have, then all of them enter the sandbox, and only then the
 * first message is read. Up to SET_OWNER another process may be serving the disk: rings, board and
 * event are its own.
 *
 * It ends when the front-end's ends of its sockets are gone. A request in flight is no reason to
 * wait: there is nobody whom it could be told to, or somebody will start another process and has it
 * done again. So SIGTERM, too, simply ends it. Other signals of a terminal are for the VMM, whose
 * process group this one may be in.
 *
 * #syscalls io: read write close epoll_wait epoll_ctl recvmsg sendmsg futex
 * #syscalls io: fcntl(,F_GETFL) fcntl(,F_SETFL,!&FASYNC) fcntl(,F_DUPFD_CLOEXEC)
 * #syscalls io: brk mmap(,,!&PROT_EXEC) munmap madvise clock_gettime getpid exit exit_group
 * #syscalls io: rt_sigreturn rt_sigprocmask
 *
 * A terminal, which standard input may be, would send SIGIO to whoever is in its foreground: with
 * FASYNC (O_ASYNC), and without an F_SETOWN.
 *
 * The log's thread waits for a time, and a wait that SIGSTOP or the cgroup freezer interrupts goes
 * on as another call: #syscalls io: restart_syscall
 *
 * Threads may still be on their way when all of them get the filter:
 * #syscalls io: rseq set_robust_list prctl(PR_SET_NAME)
 */
#include <errno.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/sandbox/sandbox.h>

#include "internal.h"

#define FDS_MAX (IO_DISKS_MAX * (4 + IO_BOARD_QUEUES_MAX))

static int compare(const void *a, const void *b)
{
	return *(const int *)a - *(const int *)b;
}

/* Everything that was not named on the command line is somebody else's. */
static int close_the_rest(const struct io_disk_options *disks, unsigned int ndisks,
			  struct error *err)
{
	_cleanup_free_ int *keep = calloc(FDS_MAX, sizeof(*keep));
	unsigned int n = 0, from = STDERR_FILENO + 1;

	if (!keep)
		return err_set(err, ENOMEM, "no memory");
	for (unsigned int i = 0; i < ndisks; i++) {
		const struct io_disk_options *d = &disks[i];
		const int fds[] = { d->socket, d->file, d->board, d->event };

		memcpy(keep + n, fds, sizeof(fds));
		n += ARRAY_SIZE(fds);
		memcpy(keep + n, d->rings, d->nrings * sizeof(*keep));
		n += d->nrings;
	}
	qsort(keep, n, sizeof(*keep), compare);
	for (unsigned int i = 0; i < n; i++) {
		if (keep[i] < (int)from)
			continue;
		if (keep[i] > (int)from)
			close_range(from, (unsigned int)keep[i] - 1, 0);
		from = (unsigned int)keep[i] + 1;
	}
	close_range(from, ~0u, 0);
	return 0;
}

static void settle_signals(void)
{
	static const int ignored[] = { SIGINT,  SIGQUIT, SIGHUP,  SIGPIPE,
				       SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH };
	sigset_t none;

	for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
		signal(ignored[i], SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void on_stopped(void *opaque)
{
	struct io_process *p = opaque;

	for (unsigned int i = 0; i < p->ndisks; i++)
		io_backend_queue_stopped(&p->disks[i]);
}

static void on_event(void *opaque, uint32_t events)
{
	struct io_disk *d = opaque;
	uint64_t count;

	(void)events;
	if (read(d->opt->event, &count, sizeof(count)) == (ssize_t)sizeof(count) || errno == EAGAIN)
		io_backend_look(d);
	else
		loop_del(&d->event_source); /* no eventfd: it would be ready for ever */
}

static int check_socket(const struct io_disk *d, struct error *err)
{
	int type = 0;
	socklen_t len = sizeof(type);

	if (getsockopt(d->opt->socket, SOL_SOCKET, SO_TYPE, &type, &len) == 0 &&
	    type == SOCK_STREAM)
		return 0;
	return err_set(err, EINVAL, "disk '%s': descriptor %d is no stream socket", d->opt->id,
		       d->opt->socket);
}

static int open_queues(struct io_disk *d, struct error *err)
{
	int r = d->opt->nrings ? 0 : io_pool_create(d, err);

	d->queues = calloc(d->opt->nqueues, sizeof(*d->queues));
	if (r == 0 && !d->queues)
		r = err_set(err, ENOMEM, "disk '%s': no memory", d->opt->id);
	for (unsigned int i = 0; i < d->opt->nqueues && r == 0; i++) {
		r = io_queue_init(&d->queues[i], d, i, err);
		if (r == 0)
			r = io_queue_start_thread(&d->queues[i], err);
	}
	return r;
}

static int open_disk(struct io_disk *d, struct error *err)
{
	int r = check_socket(d, err);

	d->file = d->opt->file;
	if (r == 0)
		r = io_disk_open(d, err);
	if (r == 0)
		r = io_board_map(&d->board, d->opt->board, d->opt->nqueues, err);
	if (r == 0)
		r = open_queues(d, err);
	return r;
}

/* The file may have another size by now. */
int io_disk_begin(struct io_disk *d, struct error *err)
{
	struct io_board *b = d->board.board;
	uint64_t bytes;
	int r = io_disk_read_size(d, &bytes, err);

	if (r < 0)
		return r;
	__atomic_store_n(&d->capacity, bytes, __ATOMIC_RELAXED);
	io_limit_repair(b, now_ns());
	__atomic_store_n(&b->capacity, bytes, __ATOMIC_RELAXED);
	__atomic_store_n(&b->features, io_disk_features(d), __ATOMIC_RELAXED);
	for (unsigned int i = 0; i < d->opt->nqueues; i++)
		io_queue_begin(&d->queues[i]);
	if (d->opt->event < 0 || d->event_source.loop)
		return 0;
	r = loop_add(d->process->loop, &d->event_source, d->opt->event, EPOLLIN, on_event, d);
	return r < 0 ? err_sys(err, -r, "event") : 0;
}

static int make_process(struct io_process *p, struct error *err)
{
	void *zeroes = mmap(NULL, IO_ZEROES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int r;

	p->nowhere = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (zeroes == MAP_FAILED || p->nowhere < 0)
		return err_sys(err, errno, "I/O process");
	p->zeroes = zeroes;
	r = loop_create(&p->loop, err);
	if (r == 0)
		r = loop_wake_init(p->loop, &p->stopped, on_stopped, p, err);
	p->disks = calloc(p->ndisks, sizeof(*p->disks));
	if (r == 0 && !p->disks)
		r = err_set(err, ENOMEM, "no memory");
	return r;
}

static int open_all(struct io_process *p, const struct io_disk_options *disks, struct error *err)
{
	int r = 0;

	for (unsigned int i = 0; i < p->ndisks && r == 0; i++) {
		struct io_disk *d = &p->disks[i];

		d->opt = &disks[i];
		d->process = p;
		r = open_disk(d, err);
	}
	return r;
}

static int serve_all(struct io_process *p, struct error *err)
{
	int r = 0;

	for (unsigned int i = 0; i < p->ndisks && r == 0; i++) {
		r = io_backend_open(&p->disks[i], err);
		p->connected++;
	}
	if (r < 0)
		return r;
	r = loop_run(p->loop);
	return r < 0 ? err_sys(err, -r, "event loop") : 0;
}

int io_run(const struct io_disk_options *disks, unsigned int ndisks, struct error *err)
{
	/* Never freed, as nothing is: the threads live until the process ends. */
	struct io_process *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set(err, ENOMEM, "no memory");
	p->ndisks = ndisks;
	settle_signals();
	sandbox_hide(true);
	r = close_the_rest(disks, ndisks, err);
	if (r == 0)
		r = sandbox_prepare_io(err);
	if (r == 0)
		r = make_process(p, err);
	if (r == 0)
		r = open_all(p, disks, err);
	if (r == 0)
		r = log_start(err);
	if (r == 0)
		r = sandbox_enter_io(err);
	if (r == 0)
		r = serve_all(p, err);
	log_stop(LOG_END_MS);
	return r;
}
