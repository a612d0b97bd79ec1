/* SPDX-License-Identifier: MIT */
/*
 * A virtqueue whose rings, descriptors and indirect tables are the input, all in the first bytes of
 * guest RAM, and which changes while it is walked: the input begins with its shape, then come
 * rounds of bytes to be put somewhere and chains to be popped, pushed and asked about.
 */
#include <string.h>

#include <molt/virtio/queue.h>

#include "fuzz.h"

#define RAM MEMORY_MIN_BYTES
#define IOVS 64

static struct memory mem;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct error err = ERROR_INIT;

	(void)argc;
	(void)argv;
	fuzz_must_work(memory_create(&mem, RAM, NULL, NULL, &err), &err);
	return 0;
}

static void check_chain(const struct virtqueue *q, const struct virtqueue_chain *c)
{
	const char *ram = memory_ptr(&mem, 0, RAM);
	uint64_t read = 0, write = 0;

	fuzz_must(c->head < q->size && c->nread + c->nwrite >= 1 && c->nread + c->nwrite <= c->max);
	for (unsigned int i = 0; i < c->nread + c->nwrite; i++) {
		const char *p = c->iov[i].iov_base;

		fuzz_must(c->iov[i].iov_len && p >= ram && p < ram + RAM);
		fuzz_must(c->iov[i].iov_len <= (size_t)(ram + RAM - p));
		*(i < c->nread ? &read : &write) += c->iov[i].iov_len;
	}
	fuzz_must(read == c->read_len && write == c->write_len);
}

/* Ends by itself: no more chains than the ring has, however often the guest says so. */
static void serve(struct virtqueue *q, unsigned int max)
{
	struct iovec iov[IOVS];
	struct virtqueue_chain c = { .iov = iov, .max = max };
	unsigned int popped = 0;
	int r;

	while ((r = virtqueue_pop(q, &c)) > 0) {
		fuzz_must(++popped <= q->size);
		check_chain(q, &c);
		virtqueue_push(q, c.head, c.write_len);
	}
	if (r < 0) {
		fuzz_must(q->broken && virtqueue_pop(q, &c) == r);
		fuzz_must(*virtqueue_error_text(q->broken));
	}
	virtqueue_flush(q);
	virtqueue_should_notify(q);
	virtqueue_disable_kicks(q);
	virtqueue_enable_kicks(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };
	struct error err = ERROR_INIT;
	struct virtqueue q;
	uint8_t flags = fuzz_u8(&in);
	struct virtqueue_config config = {
		.size = flags & 0x80 ? fuzz_u16(&in) : 1u << (flags & 7),
		.event_idx = flags & 8,
		.indirect = flags & 16,
	};
	unsigned int max = 1 + fuzz_u8(&in) % IOVS;
	uint16_t start = fuzz_u16(&in);
	int r;

	config.desc_gpa = flags & 32 ? fuzz_u64(&in) : 0;
	config.avail_gpa = flags & 32 ? fuzz_u64(&in) : 0x1000;
	config.used_gpa = flags & 32 ? fuzz_u64(&in) : 0x2000;
	memset(memory_ptr(&mem, 0, 0x10000), 0, 0x10000);
	r = virtqueue_setup(&q, &mem, &config, start, fuzz_u16(&in), &err);
	if (r < 0) {
		fuzz_must_explain(r, &err);
		return 0;
	}
	while (in.len) {
		uint16_t at = fuzz_u16(&in);
		uint8_t buf[256];
		size_t n = fuzz_bytes(&in, buf, fuzz_u8(&in));

		memory_write(&mem, at, buf, n);
		if (at & 1)
			serve(&q, max);
	}
	serve(&q, max);
	return 0;
}
