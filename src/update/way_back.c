/* SPDX-License-Identifier: MIT */
/*
 * The way back of a successor that notices that it cannot take over. Theory of operation.
 *
 * Nothing has happened yet that could not be taken back: guest RAM is untouched, the stream is as
 * it was written. So the successor execs the predecessor's binary, which it got as a descriptor, on
 * the same stream and fd table. The process id stays. That image is a successor like any other,
 * only that it tells everybody that the update failed, and why (MOLT_UPDATE_ERROR).
 *
 * By the time something fails, descriptors may have been closed by the very code that failed. So
 * all of them are copied when the table is read, and it is the copies that the way back hands on;
 * after the commit they are closed, files by a thread. If this way fails, too, the process ends,
 * and the stand-in has the guest.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/thread.h>

#include "internal.h"

#define STACK_BYTES (64u << 10)
/* It takes microseconds, and then nothing is left for whoever looks. */
#define CLOSE_WAIT_NS 10000000

static void close_copies(const struct fdtable *spare, bool files)
{
	for (uint32_t i = 0; i < spare->count; i++)
		if ((spare->entries[i].kind == FD_KIND_FILE) == files)
			close(spare->entries[i].fd);
}

/*
 * For lack of descriptors the way back goes by those that there are: nothing has closed one yet.
 * The predecessor that comes by it has no way back itself, and needs no copies.
 */
int way_back_keep(struct incoming *in, struct error *err)
{
	if (in->failure)
		return 0;
	in->spare = malloc(sizeof(*in->spare));
	if (!in->spare)
		return err_set(err, ENOMEM, "no memory for the way back");
	memcpy(in->spare, in->fds, offsetof(struct fdtable, entries));
	in->spare->count = 0;
	for (uint32_t i = 0; i < in->fds->count; i++) {
		struct fdtable_entry e = in->fds->entries[i];

		e.fd = fcntl(e.fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
		if (e.fd < 0) {
			err_sys(err, errno, "copying descriptor '%s' %u", e.name, e.id);
			close_copies(in->spare, false);
			close_copies(in->spare, true);
			*in->spare = *in->fds;
			return -err->code;
		}
		in->spare->entries[in->spare->count++] = e;
	}
	return 0;
}

static void *close_files(void *opaque)
{
	struct fdtable *spare = opaque;

	prctl(PR_SET_NAME, "closing");
	close_copies(spare, true);
	free(spare);
	return NULL;
}

static bool ends_in_time(pthread_t thread)
{
	const struct timespec then = ns_to_timespec(now_ns() + CLOSE_WAIT_NS);

	return pthread_clockjoin_np(thread, NULL, CLOCK_MONOTONIC, &then) == 0;
}

/*
 * To close a copy of a file's descriptor may take as long as to write to it: a network file system
 * writes out what is to be written, FUSE waits for whoever writes. The guest's timers do not wait
 * for that.
 */
void way_back_forget(struct incoming *in)
{
	struct fdtable *spare = in->spare;
	struct update *u = in->update;

	in->spare = NULL;
	fd_close(&in->table_fd);
	if (!spare)
		return;
	close_copies(spare, false);
	if (thread_create(&u->closer, STACK_BYTES, close_files, spare))
		close_files(spare);
	else
		u->closes = !ends_in_time(u->closer);
}

bool way_back_is_forgotten(struct update *u)
{
	if (u->closes && pthread_tryjoin_np(u->closer, NULL) == 0)
		u->closes = false;
	return !u->closes;
}

/* Returns only where it failed. */
static void exec_predecessor(struct incoming *in, const char *reason, struct error *err)
{
	char *argv[] = { (char *)"molt", (char *)"run", (char *)"--incoming", in->spare->state_uri,
			 NULL };
	char number[16];
	int exe = fdtable_take(in->spare, "predecessor", 0, 0, err);

	if (exe < 0 || fdtable_write(in->spare, in->table_fd, err) < 0 ||
	    fdtable_set_cloexec(in->spare, false, err) < 0)
		return;
	snprintf(number, sizeof(number), "%d", in->table_fd);
	if (fd_set_cloexec(in->table_fd, false) < 0 || setenv(FDTABLE_ENV, number, 1) < 0 ||
	    setenv(UPDATE_ERROR_ENV, reason, 1) < 0) {
		err_sys(err, errno, "way back");
		return;
	}
	fexecve(exe, argv, environ);
	err_sys(err, errno, "way back: exec of the predecessor's binary");
}

void update_give_up(struct incoming *in, const struct error *err)
{
	struct error trouble = ERROR_INIT;

	if (in->link)
		stand_in_link_give_up(in->link, err->text);
	/*
	 * Once is enough: if the predecessor's own binary cannot load this, there is the stand-in.
	 * And where that has the guest already there is nothing to give back.
	 */
	if (in->failure || !in->spare || err->code == ECANCELED)
		return;
	exec_predecessor(in, err->text, &trouble);
	log_error("%s", trouble.text);
}
