/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include <molt/base/fd.h>

#include "vhost_driver.h"

#define BLOCK 4096u
#define AREA (1u << 20) /* of guest RAM for a queue */
#define DESC 0x0000u
#define AVAIL 0x1000u
#define USED 0x2000u
#define HEADERS 0x3000u
#define DATA 0x10000u
#define SLOW_NS 20000000000ull

#define DESC_NEXT 1u
#define DESC_WRITE 2u
#define BLK_F_FLUSH 9
#define F_VERSION_1 32
#define F_EVENT_IDX 29

struct desc {
	uint64_t addr;
	uint32_t len;
	uint16_t flags;
	uint16_t next;
};

struct ring {
	uint16_t flags;
	uint16_t idx;
	uint16_t ring[];
};

struct used {
	uint16_t flags;
	uint16_t idx;
	struct {
		uint32_t id;
		uint32_t len;
	} ring[];
};

struct header {
	uint32_t type;
	uint32_t reserved;
	uint64_t sector;
	uint8_t status; /* 16 bytes from the start, part of no other field */
};

static void on_ready(void *opaque)
{
	((struct driver *)opaque)->ready++;
}

static void on_running(void *opaque)
{
	((struct driver *)opaque)->running++;
}

static void on_queue_stopped(void *opaque, unsigned int queue, uint16_t base)
{
	struct driver *d = opaque;

	d->queue[queue].base = base;
	d->queue_stopped++;
}

static void on_stopped(void *opaque)
{
	((struct driver *)opaque)->stopped++;
}

static void on_lost(void *opaque)
{
	((struct driver *)opaque)->lost++;
}

static void on_config_changed(void *opaque)
{
	((struct driver *)opaque)->config_changed++;
}

static void on_failed(void *opaque, const struct error *err)
{
	struct driver *d = opaque;

	d->failed++;
	d->last_error = *err;
}

static void on_requests_lost(void *opaque, unsigned int queue, const struct error *err)
{
	struct driver *d = opaque;

	(void)queue;
	d->requests_lost++;
	d->last_error = *err;
}

/* Any capacity will do, the rest must be as it was. */
static int check_config(void *opaque, const uint8_t *old, const uint8_t *now, uint32_t len,
			struct error *err)
{
	(void)opaque;
	if (memcmp(old + 8, now + 8, len - 8) == 0)
		return 0;
	return err_set(err, ENOTSUP, "its geometry is another");
}

const struct vhost_front_ops driver_ops = {
	.ready = on_ready,
	.running = on_running,
	.queue_stopped = on_queue_stopped,
	.stopped = on_stopped,
	.lost = on_lost,
	.config_changed = on_config_changed,
	.failed = on_failed,
	.requests_lost = on_requests_lost,
	.check_config = check_config,
};

static void *at(struct driver *d, const struct driver_queue *q, uint32_t offset)
{
	void *p = memory_ptr(&d->mem, q->gpa + offset, 1);

	assert_non_null(p);
	return p;
}

void driver_init(struct driver *d, const char *path, unsigned int queues, unsigned int depth)
{
	struct error err = ERROR_INIT;

	memset(d, 0, sizeof(*d));
	d->queues = queues;
	d->depth = depth;
	d->random = 88172645463325252ull;
	assert_int_equal(loop_create(&d->loop, &err), 0);
	assert_int_equal(memory_create(&d->mem, 16 << 20, NULL, NULL, &err), 0);
	d->setup = (struct vhost_front_setup){
		.name = "disk0",
		.path = path,
		.loop = d->loop,
		.mem = &d->mem,
		.ops = &driver_ops,
		.opaque = d,
		.allowed = UINT64_MAX,
		.needed = 1ull << F_VERSION_1,
		.queues = (uint16_t)queues,
		.max_queue_size = DRIVER_SIZE,
		.config_len = 60,
		.finishes = true,
	};
	vhost_front_init(&d->front, &d->guest, &d->setup);
	for (unsigned int i = 0; i < queues; i++) {
		struct driver_queue *q = &d->queue[i];

		q->index = i;
		q->gpa = (i + 1) * AREA;
		q->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		q->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		vhost_front_set_fds(&d->front, i, q->kick, q->call, -1);
	}
	driver_watch(d);
}

static void on_call(void *opaque, uint32_t events)
{
	struct driver_queue *q = opaque;
	uint64_t count;

	(void)events;
	q->interrupts += read(q->call, &count, sizeof(count)) == sizeof(count);
}

void driver_watch(struct driver *d)
{
	for (unsigned int i = 0; i < d->queues; i++)
		assert_int_equal(loop_add(d->loop, &d->queue[i].call_source, d->queue[i].call,
					  EPOLLIN, on_call, &d->queue[i]),
				 0);
}

void driver_fini(struct driver *d)
{
	vhost_front_destroy(&d->front);
	for (unsigned int i = 0; i < d->queues; i++) {
		loop_del(&d->queue[i].call_source);
		fd_close(&d->queue[i].kick);
		fd_close(&d->queue[i].call);
	}
	memory_destroy(&d->mem);
	loop_destroy(d->loop);
}

void driver_reset_queue(struct driver *d, unsigned int index)
{
	struct driver_queue *q = &d->queue[index];

	memset(at(d, q, 0), 0, HEADERS);
	for (unsigned int s = 0; s < d->depth; s++) {
		/* Whether a write that was in flight was done nobody knows. */
		if (q->slot[s].busy && q->slot[s].write)
			d->generation[q->slot[s].block] = 0;
		if (q->slot[s].busy)
			d->block_busy[q->slot[s].block] = false;
	}
	q->avail = q->used = q->base = 0;
	q->flying = 0;
	memset(q->slot, 0, sizeof(q->slot));
}

void driver_reset_rings(struct driver *d)
{
	for (unsigned int i = 0; i < d->queues; i++)
		driver_reset_queue(d, i);
}

void driver_start_queue(struct driver *d, unsigned int index)
{
	const struct driver_queue *q = &d->queue[index];
	struct vhost_front_queue fq = {
		.size = DRIVER_SIZE,
		.desc = q->gpa + DESC,
		.avail = q->gpa + AVAIL,
		.used = q->gpa + USED,
		.base = q->base,
		.enabled = true,
	};

	assert_int_equal(vhost_front_start_queue(&d->front, index, &fq), 0);
}

void driver_start(struct driver *d)
{
	for (unsigned int i = 0; i < d->queues; i++)
		driver_start_queue(d, i);
	assert_int_equal(vhost_front_start(&d->front,
					   1ull << F_VERSION_1 | 1ull << BLK_F_FLUSH |
						   (uint64_t)!d->no_event_idx << F_EVENT_IDX),
			 0);
}

static uint32_t next_random(struct driver *d)
{
	d->random ^= d->random << 13;
	d->random ^= d->random >> 7;
	d->random ^= d->random << 17;
	return (uint32_t)(d->random >> 16);
}

static void fill(uint8_t *data, uint32_t block, uint32_t generation)
{
	uint32_t word[4] = { block, generation, ~block, block ^ generation };

	for (size_t i = 0; i < BLOCK; i += sizeof(word))
		memcpy(data + i, word, sizeof(word));
}

static void submit(struct driver *d, struct driver_queue *q, unsigned int s, uint32_t block,
		   bool write)
{
	struct desc *desc = (struct desc *)at(d, q, DESC) + 3 * s;
	struct ring *avail = at(d, q, AVAIL);
	uint32_t header = HEADERS + s * 32, data = DATA + s * BLOCK;
	struct header *h = at(d, q, header);

	*h = (struct header){ .type = write, .sector = block * (BLOCK / 512), .status = 0xff };
	desc[0] = (struct desc){ q->gpa + header, 16, DESC_NEXT, (uint16_t)(3 * s + 1) };
	desc[1] = (struct desc){ q->gpa + data, BLOCK,
				 (uint16_t)(DESC_NEXT | (write ? 0 : DESC_WRITE)),
				 (uint16_t)(3 * s + 2) };
	desc[2] = (struct desc){ q->gpa + header + 16, 1, DESC_WRITE, 0 };
	q->slot[s].busy = true;
	q->slot[s].write = write;
	q->slot[s].block = block;
	q->slot[s].generation = d->generation[block] + write;
	d->block_busy[block] = true;
	if (write)
		fill(at(d, q, data), block, q->slot[s].generation);
	else
		memset(at(d, q, data), 0xee, BLOCK);
	avail->ring[q->avail % DRIVER_SIZE] = (uint16_t)(3 * s);
	__atomic_store_n(&avail->idx, ++q->avail, __ATOMIC_RELEASE);
	q->flying++;
}

/* A random block, read or written; the first time it is written. */
static bool submit_one(struct driver *d, struct driver_queue *q)
{
	uint32_t block = next_random(d) % DRIVER_BLOCKS;

	for (unsigned int s = 0; s < d->depth; s++) {
		if (q->slot[s].busy)
			continue;
		if (d->block_busy[block])
			return false;
		submit(d, q, s, block, !d->generation[block] || next_random(d) % 2);
		return true;
	}
	return false;
}

static void kick(const struct driver_queue *q)
{
	const uint64_t one = 1;

	assert_int_equal(write(q->kick, &one, sizeof(one)), sizeof(one));
}

static void complete(struct driver *d, struct driver_queue *q, uint32_t id)
{
	unsigned int s = id / 3;
	uint8_t expected[BLOCK];
	const struct header *h;
	uint32_t block;

	if (id % 3 || s >= d->depth || !q->slot[s].busy)
		fail_msg("queue %u: %u came back, which is not in flight", q->index, id);
	block = q->slot[s].block;
	h = at(d, q, HEADERS + s * 32);
	if (h->status)
		fail_msg("queue %u: block %u: status %u", q->index, block, h->status);
	if (q->slot[s].write)
		d->generation[block] = q->slot[s].generation;
	fill(expected, block, d->generation[block]);
	if (memcmp(at(d, q, DATA + s * BLOCK), expected, BLOCK))
		fail_msg("queue %u: block %u is not what was written", q->index, block);
	q->slot[s].busy = false;
	d->block_busy[block] = false;
	q->flying--;
	d->done++;
}

static void take_used(struct driver *d, struct driver_queue *q)
{
	const struct used *used = at(d, q, USED);
	struct ring *avail = at(d, q, AVAIL);

	while (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) != q->used) {
		complete(d, q, used->ring[q->used++ % DRIVER_SIZE].id);
		/* used_event: an interrupt for the next one */
		__atomic_store_n(&avail->ring[DRIVER_SIZE], q->used, __ATOMIC_SEQ_CST);
	}
}

unsigned int driver_submit(struct driver *d)
{
	unsigned int flying = 0;

	for (unsigned int i = 0; i < d->queues; i++) {
		struct driver_queue *q = &d->queue[i];
		bool some = false;

		take_used(d, q);
		while (!d->quiet && !q->quiet && q->flying < d->depth && submit_one(d, q))
			some = true;
		if (some)
			kick(q);
		flying += q->flying;
	}
	return flying;
}

static unsigned int turn(struct driver *d)
{
	unsigned int flying = driver_submit(d);

	assert_true(loop_turn(d->loop, 1) >= 0);
	return flying;
}

static void say_what_hangs(const struct driver *d)
{
	fail_msg("nothing comes back any more: %u, %u, %u, %u in flight; %s; %s",
		 d->queue[0].flying, d->queue[1].flying, d->queue[2].flying, d->queue[3].flying,
		 vhost_front_state_name(vhost_front_state(&d->front)), d->front.last_error.text);
}

void driver_run(struct driver *d, uint64_t count)
{
	uint64_t last = d->done, since = now_ns(), goal = d->done + count;

	while (d->done < goal && !d->requests_lost) {
		turn(d);
		if (d->done != last) {
			last = d->done;
			since = now_ns();
		}
		if (now_ns() - since > SLOW_NS)
			say_what_hangs(d);
	}
}

void driver_finish(struct driver *d)
{
	uint64_t until = now_ns() + SLOW_NS;

	d->quiet = true;
	while (turn(d))
		if (now_ns() > until)
			say_what_hangs(d);
	d->quiet = false;
}

void driver_until(struct driver *d, const unsigned int *what, unsigned int value)
{
	uint64_t until = now_ns() + SLOW_NS;

	while (*what < value) {
		assert_true(loop_turn(d->loop, 10) >= 0);
		if (now_ns() > until)
			fail_msg("waited in vain; %s; %s",
				 vhost_front_state_name(vhost_front_state(&d->front)),
				 d->front.last_error.text);
	}
}

void driver_run_for(struct driver *d, unsigned int ms)
{
	uint64_t until = now_ns() + ms * 1000000ull;

	while (now_ns() < until)
		turn(d);
}

void driver_verify(struct driver *d)
{
	driver_finish(d);
	d->quiet = true;
	for (uint32_t block = 0; block < DRIVER_BLOCKS; block++) {
		struct driver_queue *q = &d->queue[block % d->queues];

		if (!d->generation[block])
			continue;
		submit(d, q, 0, block, false);
		kick(q);
		while (turn(d))
			;
	}
	d->quiet = false;
}

static const struct vmstate_field front_fields[] = { VHOST_FRONT_FIELDS(struct driver, guest),
						     VMSTATE_END };

static const struct vmstate front_vmstate = {
	.name = "test-front",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct driver),
	.fields = front_fields,
};

int driver_save_state(struct driver *d)
{
	const struct stream_header header = { .format = STREAM_FORMAT };
	struct error err = ERROR_INIT;
	struct stream_writer w;
	int fd = fd_memfd("state", 0);

	assert_int_equal(stream_writer_init(&w, 1 << 16, &err), 0);
	stream_begin(&w, &header);
	vmstate_save(&w, &front_vmstate, 0, d);
	assert_int_equal(stream_end(&w, &err), 0);
	assert_int_equal(fd_write_all(fd, w.data, w.len), 0);
	stream_writer_fini(&w);
	return fd;
}

void driver_load_state(struct driver *d, int fd)
{
	struct error err = ERROR_INIT;
	struct stream s = { 0 };
	size_t len;
	void *buf;

	memset(&d->guest, 0, sizeof(d->guest));
	assert_int_equal(fd_read_file(fd, "state", 1 << 20, &buf, &len, &err), 0);
	assert_int_equal(stream_parse(&s, buf, len, &err), 0);
	if (vmstate_load(&s, &front_vmstate, 0, d, &err) < 0)
		fail_msg("%s", err.text);
	stream_fini(&s);
	free(buf);
	vhost_front_init(&d->front, &d->guest, &d->setup);
	for (unsigned int i = 0; i < d->setup.queues; i++) {
		const struct driver_queue *q = &d->queue[i < d->queues ? i : 0];

		vhost_front_set_fds(&d->front, i, q->kick, q->call, -1);
	}
}

void driver_update(struct driver *d)
{
	struct fdtable *t = calloc(1, sizeof(*t));
	struct error err = ERROR_INIT;
	int state;

	assert_non_null(t);
	vhost_front_quiesce(&d->front);
	state = driver_save_state(d);
	assert_int_equal(vhost_front_save_fds(&d->front, 3, t, &err), 0);
	/* As an exec leaves them: open, and nobody else's. */
	for (uint32_t i = 0; i < t->count; i++)
		t->entries[i].fd = fcntl(t->entries[i].fd, F_DUPFD_CLOEXEC, 3);
	vhost_front_destroy(&d->front);
	driver_load_state(d, state);
	close(state);
	if (vhost_front_adopt(&d->front, 3, t, &err) < 0)
		fail_msg("%s", err.text);
	assert_int_equal(fdtable_check_taken(t, &err), 0);
	free(t);
	vhost_front_resume(&d->front);
}
