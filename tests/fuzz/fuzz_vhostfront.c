/* SPDX-License-Identifier: MIT */
/*
 * The vhost-user front-end between an owner, a guest and a back-end that are the input. Each step
 * begins with a byte, see act(); a back-end that only said what it likes would never get past the
 * first question, so it can also give the right answer to what it was asked last, with some of its
 * bytes changed. Time is the harness's own.
 *
 * What must hold: no descriptor stays; what was asked of the owner's side comes to an end, whatever
 * the back-end does; any state that comes about is taken over by another molt, and a spoilt one is
 * refused with a sentence or served like any other.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/virtio/vhost_front.h>

#include "fuzz.h"

#define QUEUES 3u
#define CONFIG_LEN 60u
#define NS_PER_MS 1000000ull
#define FD_FROM 3

struct owner {
	struct vhost_front_guest guest;
};

static const struct vmstate_field fields[] = { VHOST_FRONT_FIELDS(struct owner, guest),
					       VMSTATE_END };

static const struct vmstate vmstate = {
	.name = "fuzz-front",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct owner),
	.fields = fields,
};

static struct {
	struct loop *loop;
	struct memory mem;
	int kick, call;
	/* one run */
	struct fuzz_input in;
	struct owner owner;
	struct vhost_front front;
	int peer;
	int peer_channel;
	struct vhost_user_header asked; /* last */
	uint64_t asked_first;           /* eight bytes of its payload */
	uint64_t time_ns;
	unsigned int stops, stopped;
	bool lost;
} f;

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	(void)clock;
	ts->tv_sec = (time_t)(f.time_ns / 1000000000ull);
	ts->tv_nsec = (long)(f.time_ns % 1000000000ull);
	return 0;
}

static void on_stopped(void *opaque)
{
	(void)opaque;
	f.stopped++;
}

static void on_queue_stopped(void *opaque, unsigned int queue, uint16_t base)
{
	(void)opaque;
	(void)base;
	fuzz_must(queue < QUEUES);
}

static void on_lost(void *opaque)
{
	(void)opaque;
	f.lost = true;
}

static void on_failed(void *opaque, const struct error *err)
{
	(void)opaque;
	fuzz_must(err->code > 0 && err->text[0]);
}

static int check_config(void *opaque, const uint8_t *old, const uint8_t *now, uint32_t len,
			struct error *err)
{
	(void)opaque;
	fuzz_must(len == CONFIG_LEN);
	if (old[8] == now[8])
		return 0;
	return err_set(err, ENOTSUP, "another geometry");
}

static const struct vhost_front_ops ops = {
	.stopped = on_stopped,
	.queue_stopped = on_queue_stopped,
	.lost = on_lost,
	.failed = on_failed,
	.check_config = check_config,
};

static void make_front(void)
{
	const struct vhost_front_setup setup = {
		.name = "fuzz",
		.loop = f.loop,
		.mem = &f.mem,
		.ops = &ops,
		.allowed = UINT64_MAX,
		.queues = QUEUES,
		.max_queue_size = 64,
		.finishes = true,
		.config_len = CONFIG_LEN,
	};

	vhost_front_init(&f.front, &f.owner.guest, &setup);
	for (unsigned int i = 0; i < QUEUES; i++)
		vhost_front_set_fds(&f.front, i, f.kick, f.call, -1);
}

/* ---- the back-end ---- */

static void give_socket(void)
{
	int fds[2];

	fd_close(&f.peer);
	fuzz_must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
	f.peer = fds[1];
	f.lost = false;
	vhost_front_give_socket(&f.front, fds[0]);
}

static void send_bytes(int fd, const void *data, size_t len, unsigned int nfds)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(16 * sizeof(int))];
	} control = { 0 };
	struct iovec iov = { .iov_base = (void *)(uintptr_t)data, .iov_len = len };
	struct msghdr mh = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd < 0 || !len)
		return;
	if (nfds) {
		mh.msg_control = &control;
		mh.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		control.align.cmsg_level = SOL_SOCKET;
		control.align.cmsg_type = SCM_RIGHTS;
		control.align.cmsg_len = CMSG_LEN(nfds * sizeof(int));
		for (unsigned int i = 0; i < nfds; i++)
			memcpy(CMSG_DATA(&control.align) + i * sizeof(int), &f.mem.regions[0].fd,
			       sizeof(int));
	}
	if (sendmsg(fd, &mh, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
		return;
}

/* What the input has, as it is. */
static void say_anything(int fd)
{
	uint8_t buf[300];
	unsigned int nfds = fuzz_u8(&f.in) % 10;
	size_t len = fuzz_bytes(&f.in, buf, fuzz_u8(&f.in));

	send_bytes(fd, buf, len, nfds);
}

/* The answer to what was asked last, with so many of its bytes changed. */
static void answer(unsigned int changes)
{
	struct vhost_user_message msg = vhost_user_request_u64(f.asked.request, 0);
	uint8_t raw[sizeof(msg.hdr) + sizeof(msg.payload)];
	unsigned int nfds = 0;

	msg.hdr.flags |= VHOST_USER_FLAG_REPLY;
	if (f.asked.request == VHOST_USER_GET_VRING_BASE) {
		msg.payload.state.index = (uint32_t)f.asked_first;
	} else if (f.asked.request == VHOST_USER_GET_CONFIG) {
		msg.hdr.size = VHOST_USER_CONFIG_HEADER + CONFIG_LEN;
		msg.payload.config.size = CONFIG_LEN;
	} else if (f.asked.request == VHOST_USER_GET_INFLIGHT_FD) {
		msg.hdr.size = sizeof(msg.payload.inflight);
		msg.payload.inflight.mmap_size = 4096;
		nfds = 1;
	} else if (!(f.asked.flags & VHOST_USER_FLAG_NEED_REPLY)) {
		msg.payload.u64 = UINT64_MAX; /* features, or a number of queues */
	}
	memcpy(raw, &msg.hdr, sizeof(msg.hdr));
	memcpy(raw + sizeof(msg.hdr), &msg.payload, sizeof(msg.payload));
	for (; changes; changes--)
		raw[fuzz_u8(&f.in) % (sizeof(msg.hdr) + msg.hdr.size)] = fuzz_u8(&f.in);
	send_bytes(f.peer, raw, sizeof(msg.hdr) + msg.hdr.size, nfds);
}

static void take_fds(struct msghdr *mh)
{
	for (struct cmsghdr *h = CMSG_FIRSTHDR(mh); h; h = CMSG_NXTHDR(mh, h)) {
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < n; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(h) + i * sizeof(int), sizeof(fd));
			if (f.asked.request == VHOST_USER_SET_BACKEND_REQ_FD && n == 1) {
				fd_close(&f.peer_channel);
				f.peer_channel = fd;
			} else {
				close(fd);
			}
		}
	}
}

static ssize_t take(void *buf, size_t len)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(16 * sizeof(int))];
	} control;
	struct iovec iov = { .iov_base = buf, .iov_len = len };
	struct msghdr mh = { .msg_iov = &iov,
			     .msg_iovlen = 1,
			     .msg_control = &control,
			     .msg_controllen = sizeof(control) };
	ssize_t n = recvmsg(f.peer, &mh, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);

	if (n > 0) {
		if (len == sizeof(f.asked))
			memcpy(&f.asked, buf, sizeof(f.asked));
		take_fds(&mh);
	}
	return n;
}

/* One message of the front-end's, which is always whole. */
static bool listen_to_front(void)
{
	uint8_t payload[sizeof(union vhost_user_payload)] = { 0 };
	struct vhost_user_header hdr;

	if (f.peer < 0 || take(&hdr, sizeof(hdr)) <= 0)
		return false;
	fuzz_must((hdr.flags & ~VHOST_USER_FLAG_NEED_REPLY) == VHOST_USER_VERSION);
	fuzz_must(hdr.size <= sizeof(payload));
	if (hdr.size)
		fuzz_must(take(payload, hdr.size) == (ssize_t)hdr.size);
	memcpy(&f.asked_first, payload, sizeof(f.asked_first));
	return true;
}

/* ---- the owner ---- */

static void stop(bool reset)
{
	f.stops += vhost_front_stop(&f.front, reset) == 0;
}

static void start_queue(void)
{
	struct vhost_front_queue q = {
		.size = (uint16_t)(1u << (fuzz_u8(&f.in) % 17)),
		.desc = fuzz_u8(&f.in) * 256u,
		.avail = fuzz_u8(&f.in) * 256u,
		.used = fuzz_u8(&f.in) * 256u,
		.base = fuzz_u16(&f.in),
		.enabled = true,
	};

	vhost_front_start_queue(&f.front, fuzz_u8(&f.in) % (QUEUES + 1), &q);
}

static void save(struct stream_writer *w, struct fdtable *fds)
{
	const struct stream_header header = { .format = STREAM_FORMAT };
	struct error err = ERROR_INIT;

	vhost_front_quiesce(&f.front);
	fuzz_must_work(stream_writer_init(w, 1 << 16, &err), &err);
	stream_begin(w, &header);
	vmstate_save(w, &vmstate, 0, &f.owner);
	fuzz_must_work(stream_end(w, &err), &err);
	fuzz_must_work(vhost_front_save_fds(&f.front, 1, fds, &err), &err);
	fuzz_duplicate_fds(fds);
	vhost_front_destroy(&f.front);
}

static void load(struct stream_writer *w)
{
	struct stream s = { 0 };
	struct error err = ERROR_INIT;

	memset(&f.owner, 0, sizeof(f.owner));
	fuzz_must_work(stream_parse(&s, w->data, w->len, &err), &err);
	fuzz_must_work(vmstate_load(&s, &vmstate, 0, &f.owner, &err), &err);
	stream_fini(&s);
	stream_writer_fini(w);
}

/* A few bytes of the state are others; booleans stay what a stream can hold. */
static void spoil(void)
{
	uint8_t *raw = (uint8_t *)&f.owner.guest;

	for (unsigned int n = fuzz_u8(&f.in) % 8; n; n--) {
		size_t at = fuzz_u16(&f.in) % sizeof(f.owner.guest);
		bool flag = at >= offsetof(struct vhost_front_guest, connected) &&
			    at <= offsetof(struct vhost_front_guest, has_inflight);

		raw[at] = flag ? fuzz_u8(&f.in) % 2 : fuzz_u8(&f.in);
	}
}

static void update(bool spoilt)
{
	static struct fdtable fds;
	struct error err = ERROR_INIT;
	struct stream_writer w;
	int r;

	fds.count = 0;
	save(&w, &fds);
	load(&w);
	if (spoilt)
		spoil();
	make_front();
	r = vhost_front_adopt(&f.front, 1, &fds, &err);
	if (spoilt && r < 0)
		fuzz_must_explain(r, &err);
	else
		fuzz_must_work(r, &err);
	fuzz_close_untaken(&fds);
	if (r == 0) {
		vhost_front_resume(&f.front);
		f.stops = f.stopped + f.owner.guest.tell_stopped;
		return;
	}
	/* A cold start in its place. */
	vhost_front_destroy(&f.front);
	memset(&f.owner, 0, sizeof(f.owner));
	make_front();
	vhost_front_resume(&f.front);
	f.stops = f.stopped;
	give_socket();
}

static void change_ram(void)
{
	uint16_t value = fuzz_u16(&f.in);

	memory_write(&f.mem, fuzz_u8(&f.in) * 256u + fuzz_u8(&f.in) % 8, &value, sizeof(value));
}

static void turn(void)
{
	fuzz_must(loop_turn(f.loop, 0) == 0);
	f.time_ns += NS_PER_MS;
}

static void act(uint8_t what)
{
	switch (what % 16) {
	case 0:
		say_anything(f.peer);
		return;
	case 1:
		say_anything(f.peer_channel);
		return;
	case 2:
		answer(what / 16);
		return;
	case 3:
		vhost_front_start(&f.front, fuzz_u64(&f.in));
		return;
	case 4:
		stop(what & 16);
		return;
	case 5:
		start_queue();
		return;
	case 6:
		vhost_front_stop_queue(&f.front, fuzz_u8(&f.in) % (QUEUES + 1));
		return;
	case 7:
		give_socket();
		return;
	case 8:
		fd_close(what & 16 ? &f.peer : &f.peer_channel);
		return;
	case 9:
		update(what & 16);
		return;
	case 10:
		change_ram();
		return;
	case 11:
		f.time_ns += fuzz_u16(&f.in) * NS_PER_MS;
		return;
	case 12: /* asked and answered, until nothing more is asked */
		for (unsigned int n = 0; n < 64; n++) {
			turn();
			while (listen_to_front())
				answer(0);
		}
		return;
	default:
		turn();
		listen_to_front();
		return;
	}
}

/* ---- runs ---- */

static void come_to_an_end(void)
{
	stop(false);
	/* Whatever the back-end has not done by then is given up. */
	for (unsigned int n = 0; n < 200; n++) {
		f.time_ns += 1000 * NS_PER_MS;
		turn();
		while (listen_to_front())
			;
	}
	fuzz_must(f.stopped == f.stops);
}

static unsigned int open_fds(void)
{
	unsigned int n = 0;

	for (int fd = FD_FROM; fd < 256; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err = ERROR_INIT;

	(void)argc;
	(void)argv;
	f.time_ns = 1000000000ull;
	log_set_level(LOG_LEVEL_ERROR - 1);
	fuzz_must_work(loop_create(&f.loop, &err), &err);
	fuzz_must_work(memory_create(&f.mem, 2 << 20, NULL, NULL, &err), &err);
	f.kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f.call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	f.peer = -1;
	f.peer_channel = -1;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned int before = open_fds();

	f.in = (struct fuzz_input){ data, size };
	f.stops = f.stopped = 0;
	memset(&f.owner, 0, sizeof(f.owner));
	memset(&f.asked, 0, sizeof(f.asked));
	memset(f.mem.regions[0].hva, 0, 1 << 16);
	make_front();
	vhost_front_resume(&f.front);
	give_socket();
	while (f.in.len)
		act(fuzz_u8(&f.in));
	come_to_an_end();
	vhost_front_destroy(&f.front);
	fd_close(&f.peer);
	fd_close(&f.peer_channel);
	fuzz_must(open_fds() == before);
	return 0;
}
