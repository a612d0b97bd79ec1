/* SPDX-License-Identifier: MIT */
/*
 * What a successor gets. Theory of operation.
 *
 * First the fd table, before any other object exists; then the stream, which must carry the same
 * nonce: a stream of another update, or of another guest, is refused. Then each owner takes its
 * sections and its descriptors, and in the end every section must be claimed and every descriptor
 * taken. The steps in which that happens are in successor.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

bool update_is_successor(void)
{
	return getenv(FDTABLE_ENV) != NULL;
}

static int read_table(struct incoming *in, struct error *err)
{
	const char *text = getenv(FDTABLE_ENV);
	char *end = NULL;
	long fd;
	int r;

	if (!text)
		return err_set(
			err, ENOENT,
			"--incoming is for the successor of a running molt, and no fd table was "
			"handed over (%s is not set); to replace a running molt use 'molt update'",
			FDTABLE_ENV);
	errno = 0;
	fd = strtol(text, &end, 10);
	if (errno || end == text || *end || fd < 0 || fd > INT32_MAX)
		return err_set(err, EINVAL, "%s='%s' is not a descriptor number", FDTABLE_ENV,
			       text);
	in->fds = calloc(1, sizeof(*in->fds));
	if (!in->fds)
		return err_set(err, ENOMEM, "no memory for the fd table");
	in->table_fd = (int)fd;
	fd_set_cloexec(in->table_fd, true);
	unsetenv(FDTABLE_ENV);
	r = fdtable_read(in->fds, in->table_fd, err);
	if (r == 0)
		r = fdtable_set_cloexec(in->fds, true, err);
	if (r == 0)
		r = way_back_keep(in, err);
	return r;
}

static int open_state(struct incoming *in, const char *uri, struct error *err)
{
	int own = fdtable_take(in->fds, "state", 0, 0, err);
	int fd;

	if (own < 0 || !uri || strcmp(uri, in->fds->state_uri) == 0)
		return own;
	if (strncmp(uri, "file:", 5) != 0)
		return err_set(err, EINVAL, "--incoming %s: only file:PATH is possible", uri);
	close(own);
	fd = open(uri + 5, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? err_sys(err, errno, "state file %s", uri + 5) : fd;
}

/*
 * A memfd that nobody can change any more is looked at where it is. Other files are copied: what
 * was checked must be what is loaded.
 */
static int map_or_read(struct incoming *in, int fd, const char *name, struct error *err)
{
	const int sealed = F_SEAL_WRITE | F_SEAL_SHRINK;
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;
	void *map;

	if (seals < 0 || (seals & sealed) != sealed || fstat(fd, &st) < 0 || st.st_size <= 0 ||
	    (uint64_t)st.st_size > STREAM_MAX_BYTES)
		return fd_read_file(fd, name, STREAM_MAX_BYTES, &in->stream_buf, &in->stream_len,
				    err);
	map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (map == MAP_FAILED)
		return err_sys(err, errno, "%s: mapping %lld bytes", name, (long long)st.st_size);
	in->stream_buf = map;
	in->stream_len = (size_t)st.st_size;
	in->stream_mapped = true;
	return 0;
}

static int read_stream(struct incoming *in, const char *uri, struct error *err)
{
	_cleanup_close_ int fd = open_state(in, uri, err);
	const char *name = uri ? uri : in->fds->state_uri;
	int r;

	if (fd < 0)
		return fd;
	r = map_or_read(in, fd, name, err);
	if (r < 0)
		return r;
	r = stream_parse(&in->stream, in->stream_buf, in->stream_len, err);
	if (r < 0) {
		err_prefix(err, "%s", name);
		return r;
	}
	if (memcmp(in->stream.header.nonce, in->fds->nonce, STREAM_NONCE_BYTES) != 0)
		return err_set(err, ESTALE,
			       "%s: this state was not written for this update (the nonce differs)",
			       name);
	return 0;
}

int incoming_arrive(struct incoming *in, struct error *err)
{
	in->failure = getenv(UPDATE_ERROR_ENV);
	in->link = calloc(1, sizeof(*in->link));
	if (!in->link)
		return err_set(err, ENOMEM, "no memory for the link to the stand-in");
	return read_table(in, err);
}

int incoming_adopt(struct incoming *in, struct error *err)
{
	int r = stand_in_link_open(in->link, in->fds, err);

	if (r == 0)
		r = read_stream(in, in->uri, err);
	return r < 0 ? r : final_state_open(in, err);
}

int incoming_load_wire(struct incoming *in, struct error *err)
{
	if (in->wire)
		return 0;
	in->wire = calloc(1, sizeof(*in->wire));
	if (!in->wire)
		return err_set(err, ENOMEM, "no memory for the update's state");
	return vmstate_load(&in->stream, &update_vmstate, 0, in->wire, err);
}

int incoming_check_claimed(struct incoming *in, struct error *err)
{
	/* Needed by a way back alone. */
	int fd = fdtable_take(in->fds, "predecessor", 0, 0, err);
	int r;

	if (fd < 0)
		return fd;
	close(fd);
	r = stream_check_claimed(&in->stream, err);
	return r < 0 ? r : fdtable_check_taken(in->fds, err);
}

void update_incoming_fini(struct incoming *in)
{
	final_state_close(in);
	stream_fini(&in->stream);
	if (in->stream_mapped)
		munmap(in->stream_buf, in->stream_len);
	else
		free(in->stream_buf);
	way_back_forget(in);
	free(in->fds);
	free(in->wire);
	free(in->link);
	*in = (struct incoming){ 0 };
}
