/* SPDX-License-Identifier: MIT */
/*
 * The successor's half of an update. Theory of operation.
 *
 *	adopt	the fd table, before any other object exists; then the stream, which must carry the
 *		same nonce: a stream of another update, or of another guest, is refused
 *	build	done by the caller: the machine and everything else, each owner taking its sections
 *		and its descriptors
 *	commit	every section claimed, every descriptor taken: from here on the guest is ours. Devices
 *		and vCPUs run, and the client that asked for the update gets its answer
 *
 * Until the commit nothing is written to guest RAM and nothing done that anybody outside can see.
 */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "internal.h"

bool update_leaves_io(const struct incoming *in)
{
	return in->failure || in->wire->keep_io;
}

bool update_is_lazy(const struct incoming *in)
{
	return in->wire->lazily;
}

bool update_is_rehearsal(const struct incoming *in)
{
	return in->link && stand_in_link_runs_guest(in->link);
}

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

int update_adopt(struct incoming *in, const char *uri, uint64_t main_ns, struct error *err)
{
	int r;

	*in = (struct incoming){ .main_ns = main_ns, .table_fd = -1 };
	in->failure = getenv(UPDATE_ERROR_ENV);
	in->link = calloc(1, sizeof(*in->link));
	if (!in->link)
		return err_set(err, ENOMEM, "no memory for the link to the stand-in");
	r = read_table(in, err);
	if (r == 0)
		r = stand_in_link_open(in->link, in->fds, err);
	if (r == 0)
		r = read_stream(in, uri, err);
	if (r == 0)
		r = final_state_open(in, err);
	in->adopted_ns = now_ns();
	return r;
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

/*
 * The guest runs in this process again, on the binary it had: for everybody else the update failed.
 */
static void answer_failure(struct update *u, const struct incoming *in,
			   const struct update_wire *wire)
{
	struct update_request *req = &u->request;
	struct error err = ERROR_INIT;

	err_set(&err, EIO, "%s", in->failure);
	u->updates = wire->updates;
	req->client = wire->client;
	req->kind = (enum update_kind)wire->kind;
	req->told_stop = true; /* or there would have been no exec */
	req->id = wire->id[0] ? strdup(wire->id) : NULL;
	update_failed(u, &err);
	unsetenv(UPDATE_ERROR_ENV);
}

static void answer(struct update *u, const struct update_wire *wire)
{
	void *opaque = u->ops.opaque;

	if (wire->kind == UPDATE_KIND_UPDATE) {
		u->ops.reply(opaque, wire->client, wire->id[0] ? wire->id : NULL,
			     json_incref(u->last), NULL);
	} else {
		if (u->machine->guest.run_state == RUN_STATE_RUNNING)
			u->ops.event(opaque, "RESUME", NULL);
		u->ops.event(opaque, "MIGRATION", json_pack("{s:s}", "status", "completed"));
	}
	u->ops.event(opaque, "UPDATE_COMPLETED", json_incref(u->last));
}

static int check_all_claimed(struct incoming *in, struct error *err)
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

static void tell_end(struct update *u, const struct incoming *in, const struct update_wire *wire,
		     const struct take_over_times *t)
{
	pid_t left = stand_in_link_left_process(in->link);

	if (left)
		log_warn("the guest runs in process %d, not in %d any more: the wrapper started molt as a "
			 "child and did not execute it",
			 (int)getpid(), (int)left);
	if (in->failure) {
		answer_failure(u, in, wire);
		return;
	}
	u->updates = wire->updates + 1;
	u->status = UPDATE_STATUS_COMPLETED;
	u->last = update_report(u, in, t);
	answer(u, wire);
	if (t->entered_ns)
		log_info("update %llu from %s: blackout %lld us", (unsigned long long)u->updates,
			 wire->version,
			 (long long)json_integer_value(json_object_get(u->last, "blackout-us")));
	else
		log_info("update %llu from %s, the guest being paused",
			 (unsigned long long)u->updates, wire->version);
}

static bool hurry(void *link)
{
	return stand_in_link_hurry(link);
}

int update_map_ram(struct update *u, struct incoming *in, struct refault *r, uint64_t limit_ns,
		   struct error *err)
{
	struct stand_in_page *page = in->link->page;
	uint64_t left = stand_in_link_left_ns(in->link) / 2;
	const struct refault_plan plan = {
		.limit_ns = limit_ns < left ? limit_ns : left,
		.hurry = hurry,
		.opaque = in->link,
		.spare = atomic_load(&page->has_free) ? &page->free : NULL,
		.vcpu = &u->machine->vcpus[0],
		.progress = &page->progress,
	};

	int ret;

	in->mapping_ns = now_ns();
	ret = refault_before(r, &u->machine->memory, &plan, err);
	in->mapped = r->before;
	return ret;
}

/* The guest runs until the stand-in stops it for us. */
static int switch_over(struct update *u, struct incoming *in, struct take_over_times *t,
		       struct error *err)
{
	int r;

	t->stopped_ns = in->fds->stopped_ns;
	if (!stand_in_link_runs_guest(in->link))
		return 0;
	if (!in->final)
		return err_set(err, EPROTO, "there is no memory for the final state");
	r = stand_in_link_switch(in->link, err);
	if (r < 0)
		return r;
	t->handed_ns = in->link->page->entered_ns;
	t->stopped_ns = in->link->page->stopped_ns;
	t->saved_ns = in->link->page->saved_ns;
	r = final_state_load(u->machine, in, err);
	if (r < 0)
		stand_in_link_refuse(in->link);
	return r;
}

int update_commit(struct update *u, struct incoming *in, struct error *err)
{
	struct take_over_times t = { .built_ns = now_ns() };
	const struct update_wire *wire;
	cpu_set_t spare;
	int r = incoming_load_wire(in, err);

	wire = in->wire;
	if (r == 0)
		r = check_all_claimed(in, err);
	if (r == 0)
		r = switch_over(u, in, &t, err);
	if (r == 0)
		r = stand_in_link_commit(in->link, err);
	if (r < 0)
		return r;
	t.ready_ns = now_ns();
	machine_unquiesce(u->machine);
	if (u->machine->guest.run_state == RUN_STATE_RUNNING) {
		machine_unpark_vcpus(u->machine);
		t.entered_ns = machine_wait_entered(u->machine);
	}
	machine_keep_awake(u->machine, false);
	u->ops.main_pid(u->ops.opaque, getpid());
	tell_end(u, in, wire, &t);
	machine_forget_rehearsal(u->machine);
	machine_fast_paths(u->machine, true);
	stand_in_link_release(in->link, machine_spare_cpus(u->machine, &spare) ? &spare : NULL);
	update_keep_stand_in(u, &in->link->child);
	for (uint32_t i = 0; i < wire->nguardians; i++) {
		struct child older = { .pid = (pid_t)wire->guardians[i], .fd = -1 };

		update_keep_stand_in(u, &older);
	}
	return 0;
}
