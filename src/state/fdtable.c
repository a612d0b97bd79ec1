/* SPDX-License-Identifier: MIT */
/*
 * The fd table travels in the stream's own framing, so that one reader, one CRC and one set of
 * tests serve both. It holds what only the two processes of one update share: descriptor numbers,
 * the nonce that pairs table and stream, and the time stamps of the predecessor's half.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/state/fdtable.h>
#include <molt/state/vmstate.h>

#define TABLE_MAX_BYTES (2u << 20)

/* One entry as a section "fd", instance: its position. */
struct entry_wire {
	char name[STREAM_NAME_MAX + 1];
	uint32_t id;
	uint32_t kind;
	uint32_t fd;
};

static const struct vmstate_field entry_fields[] = {
	VMSTATE_STRING(struct entry_wire, name), VMSTATE_U32(struct entry_wire, id),
	VMSTATE_U32(struct entry_wire, kind), VMSTATE_U32(struct entry_wire, fd), VMSTATE_END
};

static const struct vmstate entry_vmstate = {
	.name = "fd",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct entry_wire),
	.fields = entry_fields,
};

static const struct vmstate_field mark_fields[] = {
	VMSTATE_STRING(struct update_mark, name), VMSTATE_U64(struct update_mark, start_ns),
	VMSTATE_U64(struct update_mark, end_ns), VMSTATE_END
};

static const struct vmstate mark_vmstate = {
	.name = "mark",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct update_mark),
	.fields = mark_fields,
};

static const struct vmstate_field table_fields[] = {
	VMSTATE_U32(struct fdtable, count),
	VMSTATE_U32(struct fdtable, guardian),
	VMSTATE_STRING(struct fdtable, state_uri),
	VMSTATE_U32(struct fdtable, nmarks),
	VMSTATE_U64(struct fdtable, stopped_ns),
	VMSTATE_U64(struct fdtable, exec_ns),
	VMSTATE_U32_DEF(struct fdtable, vm_fd, UINT32_MAX), /* none */
	VMSTATE_END
};

static const struct vmstate table_vmstate = {
	.name = "fdtable",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct fdtable),
	.fields = table_fields,
};

const char *fd_kind_name(enum fd_kind kind)
{
	switch (kind) {
	case FD_KIND_FILE:
		return "file";
	case FD_KIND_MEMFD:
		return "memfd";
	case FD_KIND_LISTEN:
		return "listening socket";
	case FD_KIND_STREAM:
		return "stream socket";
	case FD_KIND_TTY:
		return "terminal";
	case FD_KIND_CHAR:
		return "character device";
	case FD_KIND_PIPE:
		return "pipe";
	case FD_KIND_OTHER:
		return "other";
	case FD_KIND_EVENTFD:
		return "eventfd";
	case FD_KIND_IO_URING:
		return "io_uring";
	}
	return "unknown";
}

static int socket_kind(int fd)
{
	int listening = 0, type = 0;
	socklen_t len = sizeof(type);

	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0)
		return -errno;
	if (type != SOCK_STREAM)
		return FD_KIND_OTHER;
	len = sizeof(listening);
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listening, &len) < 0)
		return -errno;
	return listening ? FD_KIND_LISTEN : FD_KIND_STREAM;
}

/* What has no type of file is an anonymous inode, and only its link tells of what kind. */
static int anonymous_kind(int fd)
{
	char path[32], target[32];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return FD_KIND_OTHER;
	target[n] = '\0';
	if (strcmp(target, "anon_inode:[eventfd]") == 0)
		return FD_KIND_EVENTFD;
	return strcmp(target, "anon_inode:[io_uring]") == 0 ? FD_KIND_IO_URING : FD_KIND_OTHER;
}

int fd_kind_of(int fd)
{
	int type = fd_type(fd);

	if (type < 0)
		return type;
	if (type == S_IFREG) {
		int seals = fcntl(fd, F_GET_SEALS);

		if (seals < 0 && errno != EINVAL)
			return -errno;
		/* A plain file on tmpfs answers too, always with F_SEAL_SEAL alone. */
		return seals >= 0 && seals != F_SEAL_SEAL ? FD_KIND_MEMFD : FD_KIND_FILE;
	}
	if (type == S_IFSOCK)
		return socket_kind(fd);
	if (type == S_IFCHR)
		return isatty(fd) ? FD_KIND_TTY : FD_KIND_CHAR;
	if (type == S_IFIFO)
		return FD_KIND_PIPE;
	return type == 0 ? anonymous_kind(fd) : FD_KIND_OTHER;
}

/*
 * The kind, where it is expected to be one: of an anonymous inode it is enough that it is one.
 * There may be hundreds, a pause is not to be spent with links in /proc, and what is none of its
 * kind will not be taken by whom it is for. Of "other" it is enough that it is open: what somebody
 * else has sent need not answer, and he may make it another kind between two looks.
 */
static int check_kind(int fd, uint32_t expected)
{
	struct stat st;

	if (expected == FD_KIND_OTHER)
		return fcntl(fd, F_GETFD) < 0 ? -errno : FD_KIND_OTHER;
	if (expected != FD_KIND_EVENTFD && expected != FD_KIND_IO_URING)
		return fd_kind_of(fd);
	if (fstat(fd, &st) < 0)
		return -errno;
	return (st.st_mode & S_IFMT) == 0 ? (int)expected : fd_kind_of(fd);
}

static struct fdtable_entry *find_between(const struct fdtable *t, uint32_t from, uint32_t to,
					  const char *name, uint32_t id)
{
	for (uint32_t i = from; i < to; i++)
		if (t->entries[i].id == id && strcmp(t->entries[i].name, name) == 0)
			return (struct fdtable_entry *)&t->entries[i];
	return NULL;
}

/* They are mostly taken in the order in which they were added: so from the last one taken on. */
static struct fdtable_entry *find(const struct fdtable *t, const char *name, uint32_t id)
{
	struct fdtable_entry *e = find_between(t, t->last, t->count, name, id);

	return e ? e : find_between(t, 0, t->last < t->count ? t->last : t->count, name, id);
}

static int compare(struct fdtable *t, const char *name, uint32_t id, int fd, struct error *err)
{
	const struct fdtable_entry *e = &t->handed->entries[t->count++];

	if (t->count > t->handed->count || e->fd != fd || e->id != id || strcmp(e->name, name) != 0)
		return err_set(err, EBUSY, "descriptor '%s' %u is not what was handed over", name,
			       id);
	return 0;
}

static int add(struct fdtable *t, const char *name, uint32_t id, int fd, int kind,
	       struct error *err)
{
	struct fdtable_entry *e = &t->entries[t->count];

	if (kind < 0)
		return err_sys(err, -kind, "descriptor %d for '%s' %u", fd, name, id);
	if (strlen(name) > STREAM_NAME_MAX)
		return err_set(err, EINVAL, "fd table: '%s' is longer than %d bytes", name,
			       STREAM_NAME_MAX);
	if (find(t, name, id))
		return err_set(err, EEXIST, "fd table: '%s' %u is there already", name, id);
	if (t->count == FDTABLE_MAX)
		return err_set(err, ENFILE, "fd table: full with %u descriptors", t->count);
	*e = (struct fdtable_entry){ .id = id, .kind = (uint32_t)kind, .fd = fd };
	snprintf(e->name, sizeof(e->name), "%s", name);
	t->count++;
	return 0;
}

int fdtable_add(struct fdtable *t, const char *name, uint32_t id, int fd, struct error *err)
{
	int kind;

	if (t->handed)
		return compare(t, name, id, fd, err);
	kind = fd_kind_of(fd);
	return add(t, name, id, fd, kind > FD_KIND_OTHER ? FD_KIND_OTHER : kind, err);
}

int fdtable_add_as(struct fdtable *t, const char *name, uint32_t id, int fd, enum fd_kind kind,
		   struct error *err)
{
	int real;

	if (t->handed)
		return compare(t, name, id, fd, err);
	real = check_kind(fd, kind);
	if (real >= 0 && real != (int)kind)
		return err_set(err, EINVAL, "descriptor %d for '%s' %u is a %s, not a %s", fd, name,
			       id, fd_kind_name((enum fd_kind)real), fd_kind_name(kind));
	return add(t, name, id, fd, real, err);
}

int fdtable_write_by(const struct fdtable *t, struct stream_writer *w, int memfd, struct error *err)
{
	struct stream_header header = { .producer = "fdtable" };
	int r;

	memcpy(header.nonce, t->nonce, sizeof(header.nonce));
	stream_begin(w, &header);
	vmstate_save(w, &table_vmstate, 0, t);
	for (uint32_t i = 0; i < t->nmarks; i++)
		vmstate_save(w, &mark_vmstate, i, &t->marks[i]);
	for (uint32_t i = 0; i < t->count; i++) {
		const struct fdtable_entry *e = &t->entries[i];
		struct entry_wire out = { .id = e->id, .kind = e->kind, .fd = (uint32_t)e->fd };

		memcpy(out.name, e->name, sizeof(out.name));
		vmstate_save(w, &entry_vmstate, i, &out);
	}
	r = stream_end(w, err);
	if (r == 0 && (ftruncate(memfd, 0) < 0 || lseek(memfd, 0, SEEK_SET) < 0))
		r = err_sys(err, errno, "fd table");
	if (r == 0) {
		r = fd_write_all(memfd, w->data, w->len);
		if (r < 0)
			err_sys(err, -r, "fd table: write");
	}
	return r;
}

int fdtable_write(const struct fdtable *t, int memfd, struct error *err)
{
	struct stream_writer w;
	int r = stream_writer_init(&w, 32768, err);

	if (r == 0)
		r = fdtable_write_by(t, &w, memfd, err);
	stream_writer_fini(&w);
	return r;
}

int fdtable_set_cloexec(const struct fdtable *t, bool on, struct error *err)
{
	int failed = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		const struct fdtable_entry *e = &t->entries[i];
		int r;

		/* Standard streams belong to whoever started us and were never close-on-exec. */
		if (e->fd <= STDERR_FILENO)
			continue;
		r = fd_set_cloexec(e->fd, on);
		if (r == 0)
			continue;
		failed = err_sys(err, -r, "close-on-exec of descriptor %d ('%s' %u)", e->fd,
				 e->name, e->id);
		/* Where it is set again one failure is no reason to leave the others open. */
		if (!on)
			break;
	}
	return failed;
}

/* A terminal that was hung up meanwhile no longer answers as one. */
static bool is_terminal_gone(uint32_t kind, int now)
{
	return kind == FD_KIND_TTY && now == FD_KIND_CHAR;
}

static int check_entry(const struct entry_wire *in, struct error *err)
{
	int kind = in->fd <= INT32_MAX ? check_kind((int)in->fd, in->kind) : -EBADF;

	if (kind < 0)
		return err_sys(err, -kind, "fd table: descriptor %u for '%s' %u", in->fd, in->name,
			       in->id);
	if ((uint32_t)kind != in->kind && !is_terminal_gone(in->kind, kind))
		return err_set(err, EINVAL, "fd table: descriptor %u for '%s' %u is a %s, not a %s",
			       in->fd, in->name, in->id, fd_kind_name((enum fd_kind)kind),
			       fd_kind_name((enum fd_kind)in->kind));
	return 0;
}

/* open: the descriptors are to be here, and are checked. */
static int read_entries(struct fdtable *t, struct stream *s, uint32_t count, bool open,
			struct error *err)
{
	for (uint32_t i = 0; i < count; i++) {
		struct entry_wire in = { 0 };
		int r = vmstate_load(s, &entry_vmstate, i, &in, err);

		if (r == 0 && open)
			r = check_entry(&in, err);
		if (r == 0 && find(t, in.name, in.id))
			r = err_set(err, EEXIST, "fd table: '%s' %u is there twice", in.name,
				    in.id);
		if (r < 0)
			return r;
		t->entries[t->count] = (struct fdtable_entry){ .id = in.id, .kind = in.kind };
		t->entries[t->count].fd = open ? (int)in.fd : -1;
		memcpy(t->entries[t->count++].name, in.name, sizeof(in.name));
	}
	return 0;
}

static int read_stream(struct fdtable *t, struct stream *s, bool open, struct error *err)
{
	uint32_t count;
	int r;

	memcpy(t->nonce, s->header.nonce, sizeof(t->nonce));
	r = vmstate_load(s, &table_vmstate, 0, t, err);
	if (r < 0)
		return r;
	count = t->count;
	t->count = 0;
	if (count > FDTABLE_MAX || t->nmarks > UPDATE_MARKS_MAX)
		return err_set(err, EBADMSG, "fd table: %u descriptors, %u marks are too many",
			       count, t->nmarks);
	for (uint32_t i = 0; i < t->nmarks && r == 0; i++)
		r = vmstate_load(s, &mark_vmstate, i, &t->marks[i], err);
	if (r == 0)
		r = read_entries(t, s, count, open, err);
	if (r == 0)
		r = stream_check_claimed(s, err);
	return r;
}

static int read_table(struct fdtable *t, int memfd, bool open, struct error *err)
{
	_cleanup_free_ void *buf = NULL;
	struct stream s;
	size_t len;
	int r;

	memset(t, 0, offsetof(struct fdtable, entries));
	r = fd_read_file(memfd, "fd table", TABLE_MAX_BYTES, &buf, &len, err);
	if (r < 0)
		return r;
	r = stream_parse(&s, buf, len, err);
	if (r < 0) {
		err_prefix(err, "fd table");
		return r;
	}
	r = read_stream(t, &s, open, err);
	stream_fini(&s);
	/* What a refused table says of its own size must not be believed by whoever looks at it. */
	if (r < 0)
		t->count = t->nmarks = 0;
	return r;
}

int fdtable_read(struct fdtable *t, int memfd, struct error *err)
{
	return read_table(t, memfd, true, err);
}

int fdtable_describe_read(struct fdtable *t, int memfd, struct error *err)
{
	return read_table(t, memfd, false, err);
}

int fdtable_take(struct fdtable *t, const char *name, uint32_t id, unsigned int kind,
		 struct error *err)
{
	struct fdtable_entry *e = find(t, name, id);

	if (!e || e->taken)
		return err_set(err, ENOENT, "fd table: no descriptor for '%s' %u", name, id);
	if (kind && e->kind != kind)
		return err_set(err, EINVAL, "fd table: '%s' %u is a %s, not a %s", name, id,
			       fd_kind_name((enum fd_kind)e->kind),
			       fd_kind_name((enum fd_kind)kind));
	e->taken = true;
	t->last = (uint32_t)(e - t->entries);
	t->ntaken++;
	return e->fd;
}

int fdtable_look(const struct fdtable *t, const char *name, uint32_t id)
{
	const struct fdtable_entry *e = find(t, name, id);

	return e && !e->taken ? e->fd : -1;
}

bool fdtable_has(const struct fdtable *t, const char *name, uint32_t id)
{
	const struct fdtable_entry *e = find(t, name, id);

	return e && !e->taken;
}

int fdtable_check_taken(const struct fdtable *t, struct error *err)
{
	char names[512] = "";
	size_t len = 0;

	for (uint32_t i = 0; i < t->count; i++) {
		const struct fdtable_entry *e = &t->entries[i];

		if (!e->taken && len < sizeof(names))
			len += (size_t)snprintf(names + len, sizeof(names) - len, "%s'%s' %u",
						len ? ", " : "", e->name, e->id);
	}
	if (names[0])
		return err_set(err, EPROTO, "no owner here for descriptor %s", names);
	return 0;
}
