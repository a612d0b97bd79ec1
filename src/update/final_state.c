/* SPDX-License-Identifier: MIT */
/*
 * The final state. Theory of operation.
 *
 * What the successor rehearses with is the state of the hand-off, from which the guest has run on.
 * At the switch the stand-in saves once more: machine, vCPUs and devices, in the same sections,
 * into memory that both have mapped; but not the vCPUs that have waited all the time, nor the
 * devices that nothing has happened to, which are most: a disk has 8 KiB of state. All else that
 * the update saves belongs to what waits meanwhile, and is as it was; so are the descriptors, which
 * is checked.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

#define DEVICE_BYTES 16384u /* twice as much as any has */
#define SERIAL_PORTS 2u
#define CHARDEV_STATE_BYTES 81920u

/* It cannot grow. A serial port may have all of its queue to carry. */
static size_t most(const struct update *u)
{
	return u->hand_over.state_room + u->machine->ndevices * DEVICE_BYTES +
	       SERIAL_PORTS * CHARDEV_STATE_BYTES;
}

int final_state_make(struct update *u, struct error *err)
{
	struct final_state *f = &u->hand_over.final;
	size_t size = most(u);
	void *map;

	f->fds = calloc(1, sizeof(*f->fds));
	if (!f->fds)
		return err_set(err, ENOMEM, "no memory for the final state");
	f->fd = fd_memfd("molt-final", 0);
	if (f->fd < 0)
		return err_sys(err, -f->fd, "memfd_create for the final state");
	if (ftruncate(f->fd, (off_t)size) < 0)
		return err_sys(err, errno, "%zu bytes for the final state", size);
	map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, f->fd, 0);
	if (map == MAP_FAILED)
		return err_sys(err, errno, "mapping the final state");
	f->map = map;
	f->size = size;
	return 0;
}

void final_state_drop(struct final_state *f)
{
	if (f->map)
		munmap(f->map, f->size);
	free(f->fds);
	fd_close(&f->fd);
	*f = FINAL_STATE_NONE;
}

static int save(struct machine *m, struct hand_over *h, struct error *err)
{
	struct final_state *f = &h->final;
	struct stream_header header = { .machine_version = m->machine_version };
	struct stream_writer w;
	int r;

	memcpy(header.producer, h->wire->version, sizeof(header.producer) - 1);
	memcpy(header.uuid, m->uuid, sizeof(header.uuid));
	memcpy(header.nonce, h->fds->nonce, sizeof(header.nonce));
	stream_writer_use(&w, f->map, f->size);
	stream_begin(&w, &header);
	f->fds->count = 0;
	f->fds->handed = h->fds; /* the successor has these, and will get no others */
	r = machine_save_news(m, &w, f->fds, err);
	if (r == 0)
		r = stream_end(&w, err);
	h->stand_in.page->final_len = w.len;
	return r;
}

/* The vCPUs run on, and one of them does not answer: only the devices are to be told. */
static int do_without(struct update *u, int r)
{
	machine_keep_awake(u->machine, false);
	machine_serve(u->machine);
	return r;
}

int update_save_final(void *opaque, struct error *err)
{
	struct update *u = opaque;
	struct hand_over *h = &u->hand_over;
	struct stand_in_page *page = h->stand_in.page;
	int r = 0;

	page->entered_ns = h->parked ? machine_entered(u->machine) : 0;
	if (h->parked) {
		machine_keep_awake(u->machine, u->machine->guest.cpus > 1);
		atomic_store(&page->stopping, true);
		r = machine_park_in_time(u->machine, NULL, &page->stopped_ns, err);
	}
	if (r < 0)
		return do_without(u, r);
	r = machine_quiesce(u->machine, err);
	if (r == 0)
		r = save(u->machine, h, err);
	page->saved_ns = now_ns();
	machine_keep_awake(u->machine, false);
	if (r < 0)
		update_run_on(u);
	return r;
}

void update_run_on(void *opaque)
{
	struct update *u = opaque;

	machine_clear_preempted(u->machine);
	if (u->hand_over.parked)
		machine_unpark_vcpus(u->machine);
	machine_serve(u->machine);
}

/* ---- in the successor ---- */

int final_state_open(struct incoming *in, struct error *err)
{
	_cleanup_close_ int fd = -1;
	struct stat st;
	void *map;

	if (!fdtable_has(in->fds, "final", 0))
		return 0;
	fd = fdtable_take(in->fds, "final", 0, FD_KIND_MEMFD, err);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || st.st_size <= 0)
		return err_set(err, EINVAL, "the memory for the final state has no size");
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED)
		return err_sys(err, errno, "mapping the final state");
	in->final = map;
	in->final_size = (size_t)st.st_size;
	return stream_reserve(&in->last, in->stream.nsections + 1, err);
}

/* The bytes are the stand-in's, who is as we are; but they are checked like any. */
int final_state_load(struct machine *m, struct incoming *in, struct error *err)
{
	uint64_t len = in->link->page->final_len;
	int r;

	if (len > in->final_size)
		return err_set(err, EBADMSG, "final state: %llu bytes in %zu",
			       (unsigned long long)len, in->final_size);
	r = stream_parse_reserved(&in->last, in->final, len, err);
	if (r == 0 && memcmp(in->last.header.nonce, in->fds->nonce, STREAM_NONCE_BYTES) != 0)
		r = err_set(err, ESTALE, "it is another update's");
	if (r == 0)
		r = machine_load_again(m, &in->stream, &in->last, err);
	if (r < 0)
		err_prefix(err, "final state");
	return r;
}

void final_state_close(struct incoming *in)
{
	if (in->final)
		munmap(in->final, in->final_size);
	stream_fini(&in->last);
	in->final = NULL;
}
