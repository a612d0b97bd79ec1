/* SPDX-License-Identifier: MIT */
/*
 * The copy of the state that a user asked for. Theory of operation.
 *
 * What the successor loads is a memfd. When the guest runs again there is a process that has it,
 * too, and nothing else to do than to take the predecessor's memory apart: the stand-in. So the
 * copy is made there, after the commit. A disk that is slow or hangs is in nobody's way: all
 * descriptors but those that this takes are closed before. What fails is a line in the log, and
 * nothing to the update; an update that failed leaves no file and changes none.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

static void close_all_but(int a, int b)
{
	const int first = a < b ? a : b, last = a < b ? b : a;

	if (first > 0)
		syscall(SYS_close_range, 0, first - 1, 0);
	if (last > first + 1)
		syscall(SYS_close_range, first + 1, last - 1, 0);
	syscall(SYS_close_range, last + 1, UINT_MAX, 0);
}

/* The state as the successor got it; mapped, for the end of this process is near. */
static const void *map_state(int fd, size_t *len, struct error *err)
{
	struct stat st = { 0 };
	void *map;

	map = fstat(fd, &st) < 0 ? MAP_FAILED
				 : mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	*len = (size_t)st.st_size;
	if (map != MAP_FAILED)
		return map;
	err_sys(err, errno, "mapping it");
	return NULL;
}

static int write_given(int fd, const void *data, size_t len, struct error *err)
{
	/* One that was opened to append writes behind what there is. */
	bool appends = fcntl(fd, F_GETFL) & O_APPEND;
	int r = lseek(fd, 0, SEEK_SET) < 0 || (appends && ftruncate(fd, 0) < 0) ? -errno : 0;

	if (r == 0)
		r = fd_write_all(fd, data, len);
	if (r == 0 && ftruncate(fd, (off_t)len) < 0)
		r = -errno;
	/* So the client sees that it is whole. Another file than a memfd has no seals. */
	if (r == 0)
		fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW);
	return r < 0 ? err_sys(err, -r, "as a descriptor") : 0;
}

/*
 * What the successor loaded: the final state, and what it left out because nothing had happened to
 * it, as it was at the hand-off. w is the update's own, whose memory nobody needs any more.
 */
static int merge(struct hand_over *h, const void *handed, size_t len, struct error *err)
{
	struct stream first = { 0 }, last = { 0 };
	struct stream_writer *w = &h->w;
	int r = stream_parse(&first, handed, len, err);

	if (r == 0)
		r = stream_parse(&last, h->final.map, h->stand_in.page->final_len, err);
	if (r == 0)
		stream_begin(w, &last.header);
	for (size_t i = 0; i < first.nsections && r == 0; i++) {
		const struct stream_section *sec = &first.sections[i], *now;

		now = stream_find(&last, sec->name, sec->instance);
		if (!stream_is_gone(&last, sec))
			stream_copy_section(w, now ? now : sec);
	}
	for (size_t i = 0; i < last.nsections && r == 0; i++)
		if (!stream_find(&first, last.sections[i].name, last.sections[i].instance))
			stream_copy_section(w, &last.sections[i]);
	if (r == 0)
		r = stream_end(w, err);
	stream_fini(&first);
	stream_fini(&last);
	return r;
}

void update_committed(void *opaque)
{
	struct error err = ERROR_INIT;
	struct update *u = opaque;
	struct hand_over *h = &u->hand_over;
	int fd = h->state_file.fd >= 0 ? h->state_file.fd : u->request.given_state_fd, r;
	const void *data;
	size_t len;

	log_write_since_rest(LOG_END_MS);
	if (fd < 0)
		return;
	data = map_state(h->state_fd, &len, &err);
	close_all_but(fd, log_get_fd());
	if (h->stand_in.page->reason[0]) { /* the way back: it was our own image that committed */
		new_file_drop(&h->state_file);
		return;
	}
	r = data ? 0 : -err.code;
	if (r == 0 && h->handed_over) {
		r = merge(h, data, len, &err);
		data = h->w.data;
		len = h->w.len;
	}
	if (r < 0)
		;
	else if (h->state_file.fd >= 0)
		r = new_file_keep(&h->state_file, data, len, &err);
	else
		r = write_given(fd, data, len, &err);
	new_file_drop(&h->state_file);
	if (r == 0)
		return;
	log_revive();
	log_warn("the update is done, but not the copy of its state: state file %s", err.text);
	log_stop(LOG_END_MS);
}
