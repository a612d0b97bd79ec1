/* SPDX-License-Identifier: MIT */
/* The device's side of a virtqueue against a driver that is right, and one that is not. */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <molt/base/fd.h>
#include <molt/virtio/queue.h>

#define RAM (MEMORY_LOW_MAX + (16ull << 20)) /* two regions; nothing of it but a few pages exists */
#define SIZE 8
#define DESC 0x1000
#define AVAIL 0x2000
#define USED 0x3000
#define TABLE 0x4000
#define DATA 0x10000
#define W VRING_DESC_F_WRITE
#define N VRING_DESC_F_NEXT
#define I VRING_DESC_F_INDIRECT

static struct error err;
static struct memory mem;
static struct virtqueue q;
static struct iovec iov[SIZE];
static struct virtqueue_chain chain = { .iov = iov, .max = SIZE };

static struct virtqueue_config config(bool event_idx)
{
	return (struct virtqueue_config){
		.size = SIZE,
		.desc_gpa = DESC,
		.avail_gpa = AVAIL,
		.used_gpa = USED,
		.event_idx = event_idx,
		.indirect = true,
	};
}

static int setup(void **state)
{
	struct virtqueue_config c = config(false);

	(void)state;
	if (memory_create(&mem, RAM, NULL, NULL, &err) < 0)
		return -1;
	return virtqueue_setup(&q, &mem, &c, 0, 0, &err);
}

static int teardown(void **state)
{
	(void)state;
	memory_destroy(&mem);
	return 0;
}

/* The driver's side. */
static struct vring_desc *table(uint64_t gpa)
{
	return memory_ptr(&mem, gpa, SIZE * sizeof(struct vring_desc));
}

static struct vring_avail *avail(void)
{
	return memory_ptr(&mem, AVAIL, 6 + 2 * SIZE);
}

static struct vring_used *used(void)
{
	return memory_ptr(&mem, USED, 6 + 8 * SIZE);
}

static void desc(uint64_t at, unsigned int i, uint64_t addr, uint32_t len, unsigned int flags,
		 unsigned int next)
{
	table(at)[i] = (struct vring_desc){
		.addr = addr,
		.len = len,
		.flags = (uint16_t)flags,
		.next = (uint16_t)next,
	};
}

static void offer(unsigned int head)
{
	avail()->ring[avail()->idx % SIZE] = (uint16_t)head;
	avail()->idx++;
}

static void test_setup_refuses(void **state)
{
	static const struct {
		struct virtqueue_config c;
		const char *words;
	} bad[] = {
		{ { 0, DESC, AVAIL, USED, 0, 0 }, "queue of 0" },
		{ { 3, DESC, AVAIL, USED, 0, 0 }, "queue of 3" },
		{ { 2048, DESC, AVAIL, USED, 0, 0 }, "queue of 2048" },
		{ { 65536 + 8, DESC, AVAIL, USED, 0, 0 }, "queue of 65544" },
		{ { SIZE, DESC + 8, AVAIL, USED, 0, 0 }, "descriptor table at 0x1008 is not" },
		{ { SIZE, DESC, AVAIL + 1, USED, 0, 0 }, "available ring at 0x2001 is not" },
		{ { SIZE, DESC, AVAIL, USED + 2, 0, 0 }, "used ring at 0x3002 is not" },
		{ { SIZE, MEMORY_LOW_MAX - 112, AVAIL, USED, 0, 0 }, "128 bytes, is not in" },
		{ { SIZE, DESC, MEMORY_LOW_MAX - 20, USED, 0, 0 }, "22 bytes, is not in" },
		{ { SIZE, DESC, AVAIL, MEMORY_LOW_MAX - 68, 0, 0 }, "70 bytes, is not in" },
		{ { SIZE, DESC, AVAIL, UINT64_MAX - 3, 0, 0 }, "used ring at 0xfffffffffffffffc" },
		{ { SIZE, UINT64_MAX - 15, AVAIL, USED, 0, 0 }, "descriptor table" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(virtqueue_setup(&q, &mem, &bad[i].c, 0, 0, &err), -EINVAL);
		if (!strstr(err.text, bad[i].words))
			fail_msg("'%s' is not in '%s'", bad[i].words, err.text);
		assert_null(q.mem);
	}
}

static void test_setup_at_the_edges(void **state)
{
	const struct virtqueue_config ends[] = {
		{ SIZE, MEMORY_LOW_MAX - 128, AVAIL, USED, 0, 0 },
		{ SIZE, DESC, MEMORY_LOW_MAX - 22, USED, 0, 0 },
		{ SIZE, DESC, AVAIL, MEMORY_LOW_MAX - 72, 0, 0 },
		{ 1, MEMORY_HIGH_BASE, MEMORY_HIGH_BASE + 16, MEMORY_HIGH_BASE + 24, 0, 0 },
		{ 1024, MEMORY_HIGH_BASE, AVAIL, USED, 0, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(ends); i++)
		assert_int_equal(virtqueue_setup(&q, &mem, &ends[i], 0, 0, &err), 0);
}

static void test_chain(void **state)
{
	(void)state;
	assert_int_equal(virtqueue_pop(&q, &chain), 0);
	desc(DESC, 3, DATA, 16, N, 1);
	desc(DESC, 1, MEMORY_HIGH_BASE, 512, N, 7);
	desc(DESC, 7, DATA + 64, 100, N | W, 0);
	desc(DESC, 0, DATA + 16, 1, W, 0);
	offer(3);
	assert_int_equal(virtqueue_pop(&q, &chain), 1);
	assert_int_equal(chain.head, 3);
	assert_int_equal(chain.nread, 2);
	assert_int_equal(chain.nwrite, 2);
	assert_int_equal(chain.read_len, 528);
	assert_int_equal(chain.write_len, 101);
	assert_ptr_equal(iov[0].iov_base, memory_ptr(&mem, DATA, 16));
	assert_ptr_equal(iov[1].iov_base, memory_ptr(&mem, MEMORY_HIGH_BASE, 512));
	assert_int_equal(iov[1].iov_len, 512);
	assert_ptr_equal(iov[3].iov_base, memory_ptr(&mem, DATA + 16, 1));
	assert_int_equal(virtqueue_pop(&q, &chain), 0);
}

static void test_indirect(void **state)
{
	(void)state;
	/* One ordinary descriptor, then the table (2.7.5.3.2); its WRITE flag means nothing. */
	desc(DESC, 0, DATA, 8, N, 5);
	desc(DESC, 5, TABLE + 8, 3 * 16, I | W, 0);
	desc(TABLE + 8, 0, DATA + 8, 8, N, 2);
	desc(TABLE + 8, 2, DATA + 16, 24, W, 0);
	offer(0);
	assert_int_equal(virtqueue_pop(&q, &chain), 1);
	assert_int_equal(chain.nread, 2);
	assert_int_equal(chain.nwrite, 1);
	assert_int_equal(chain.read_len, 16);
	assert_int_equal(chain.write_len, 24);
}

static void one_head(void)
{
	desc(DESC, 0, DATA, 16, N, 1);
}

static void make_avail_far(void)
{
	avail()->idx = SIZE + 1;
}

static void make_bad_head(void)
{
	offer(SIZE);
}

static void make_bad_next(void)
{
	one_head();
	table(DESC)[0].next = SIZE;
	offer(0);
}

static void make_loop(void)
{
	one_head();
	desc(DESC, 1, DATA, 16, N, 0);
	offer(0);
}

static void make_self_loop(void)
{
	desc(DESC, 2, DATA, 16, N | W, 2);
	offer(2);
}

static void make_too_long(void)
{
	one_head();
	desc(DESC, 1, TABLE, SIZE * 16, I, 0);
	for (unsigned int i = 0; i < SIZE; i++)
		desc(TABLE, i, DATA, 16, i + 1 < SIZE ? N : 0, i + 1);
	offer(0);
}

static void make_indirect_loop(void)
{
	desc(DESC, 1, TABLE, 2 * 16, I, 0);
	desc(TABLE, 0, DATA, 16, N, 1);
	desc(TABLE, 1, DATA, 16, N, 0);
	offer(1);
}

static void make_indirect_next_outside(void)
{
	desc(DESC, 1, TABLE, 2 * 16, I, 0);
	desc(TABLE, 0, DATA, 16, N, 2);
	offer(1);
}

static void make_unwanted_indirect(void)
{
	q.indirect = false;
	desc(DESC, 1, TABLE, 2 * 16, I, 0);
	offer(1);
}

static void make_nested(void)
{
	desc(DESC, 1, TABLE, 2 * 16, I, 0);
	desc(TABLE, 0, TABLE, 16, I, 0);
	offer(1);
}

static void make_indirect_and_next(void)
{
	desc(DESC, 1, TABLE, 2 * 16, I | N, 2);
	desc(TABLE, 0, DATA, 16, 0, 0);
	offer(1);
}

static void make_indirect_of(uint32_t len)
{
	desc(DESC, 1, TABLE, len, I, 0);
	desc(TABLE, 0, DATA, 16, 0, 0);
	offer(1);
}

static void make_indirect_empty(void)
{
	make_indirect_of(0);
}

static void make_indirect_half(void)
{
	make_indirect_of(24);
}

static void make_indirect_huge(void)
{
	make_indirect_of(0xfffffff0);
}

static void make_indirect_outside(void)
{
	desc(DESC, 1, MEMORY_LOW_MAX - 16, 2 * 16, I, 0);
	offer(1);
}

static void make_read_after_write(void)
{
	desc(DESC, 0, DATA, 16, N | W, 1);
	desc(DESC, 1, DATA, 16, 0, 0);
	offer(0);
}

static void make_empty(void)
{
	desc(DESC, 0, DATA, 0, 0, 0);
	offer(0);
}

static void make_outside(void)
{
	desc(DESC, 0, MEMORY_LOW_MAX - 1, 2, 0, 0);
	offer(0);
}

static void make_between(void)
{
	desc(DESC, 0, MEMORY_LOW_MAX - 16, 0x40000020, 0, 0);
	offer(0);
}

static void make_wrapping(void)
{
	desc(DESC, 0, UINT64_MAX - 7, 16, 0, 0);
	offer(0);
}

static void make_more_than_4g(void)
{
	desc(DESC, 0, 0, 0x80000000, N, 1);
	desc(DESC, 1, 0, 0x7fffffff, N, 2);
	desc(DESC, 2, 0, 1, W, 0);
	offer(0);
}

static void test_nonsense(void **state)
{
	static const struct {
		void (*make)(void);
		enum virtqueue_error error;
	} bad[] = {
		{ make_avail_far, VIRTQUEUE_EAVAIL },
		{ make_bad_head, VIRTQUEUE_EHEAD },
		{ make_bad_next, VIRTQUEUE_ENEXT },
		{ make_loop, VIRTQUEUE_ELOOP },
		{ make_self_loop, VIRTQUEUE_ELOOP },
		{ make_too_long, VIRTQUEUE_ETOOLONG },
		{ make_indirect_loop, VIRTQUEUE_ELOOP },
		{ make_indirect_next_outside, VIRTQUEUE_ENEXT },
		{ make_unwanted_indirect, VIRTQUEUE_ENOINDIRECT },
		{ make_nested, VIRTQUEUE_ENESTED },
		{ make_indirect_and_next, VIRTQUEUE_EINDIRECTNEXT },
		{ make_indirect_empty, VIRTQUEUE_EINDIRECTLEN },
		{ make_indirect_half, VIRTQUEUE_EINDIRECTLEN },
		{ make_indirect_huge, VIRTQUEUE_EINDIRECTLEN },
		{ make_indirect_outside, VIRTQUEUE_EINDIRECTADDR },
		{ make_read_after_write, VIRTQUEUE_EORDER },
		{ make_empty, VIRTQUEUE_EZERO },
		{ make_outside, VIRTQUEUE_EADDR },
		{ make_between, VIRTQUEUE_EADDR },
		{ make_wrapping, VIRTQUEUE_EADDR },
		{ make_more_than_4g, VIRTQUEUE_ETOTAL },
	};
	struct virtqueue_config c = config(false);

	(void)state;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		memset(memory_ptr(&mem, 0, DATA), 0, DATA);
		assert_int_equal(virtqueue_setup(&q, &mem, &c, 0, 0, &err), 0);
		bad[i].make();
		if (virtqueue_pop(&q, &chain) != -(int)bad[i].error)
			fail_msg("case %zu: '%s', not '%s'", i, virtqueue_error_text(q.broken),
				 virtqueue_error_text(bad[i].error));
		/* And it stays so, whatever the guest does. */
		memset(memory_ptr(&mem, 0, DATA), 0, DATA);
		assert_int_equal(virtqueue_pop(&q, &chain), -(int)bad[i].error);
		assert_int_equal(virtqueue_pop_again(&q, 0, &chain), -(int)bad[i].error);
	}
	for (unsigned int e = 0; e < VIRTQUEUE_EMAX; e++)
		assert_string_not_equal(virtqueue_error_text((enum virtqueue_error)e), "unknown");
	assert_string_equal(virtqueue_error_text(VIRTQUEUE_EMAX), "unknown");
}

static void test_just_below_4g(void **state)
{
	(void)state;
	desc(DESC, 0, 0, 0x80000000, N, 1);
	desc(DESC, 1, 0, 0x7fffffff, W, 0);
	offer(0);
	assert_int_equal(virtqueue_pop(&q, &chain), 1);
}

/* Indices run over 65535, and the ring over its end, with nothing lost. */
static void test_wraps(void **state)
{
	struct virtqueue_config c = config(false);

	(void)state;
	assert_int_equal(virtqueue_setup(&q, &mem, &c, 65533, 65530, &err), 0);
	avail()->idx = 65533;
	for (unsigned int i = 0; i < 3 * SIZE; i++) {
		desc(DESC, i % SIZE, DATA + i, 1 + i, W, 0);
		offer(i % SIZE);
		assert_int_equal(virtqueue_pop(&q, &chain), 1);
		assert_int_equal(chain.head, i % SIZE);
		assert_int_equal(chain.write_len, 1 + i);
		virtqueue_push(&q, chain.head, chain.write_len);
		assert_int_equal(used()->idx, i ? (uint16_t)(65530 + i) : 0);
		virtqueue_flush(&q);
		assert_int_equal(used()->idx, (uint16_t)(65530 + i + 1));
		assert_int_equal(virtqueue_read_used_idx(&q), used()->idx);
		assert_int_equal(used()->ring[(uint16_t)(65530 + i) % SIZE].id, i % SIZE);
		assert_int_equal(used()->ring[(uint16_t)(65530 + i) % SIZE].len, 1 + i);
	}
	assert_int_equal(q.next_avail, (uint16_t)(65533 + 3 * SIZE));
}

static void test_a_full_ring(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < SIZE; i++) {
		desc(DESC, i, DATA, 1, 0, 0);
		offer(i);
	}
	for (unsigned int i = 0; i < SIZE; i++)
		assert_int_equal(virtqueue_pop(&q, &chain), 1);
	assert_int_equal(virtqueue_pop(&q, &chain), 0);
}

static void test_again(void **state)
{
	(void)state;
	desc(DESC, 4, DATA, 16, W, 0);
	assert_int_equal(virtqueue_pop_again(&q, 4, &chain), 1);
	assert_int_equal(chain.head, 4);
	assert_int_equal(chain.write_len, 16);
	assert_int_equal(q.next_avail, 0);
	assert_int_equal(virtqueue_pop_again(&q, SIZE, &chain), -VIRTQUEUE_EHEAD);
}

static void test_flags(void **state)
{
	(void)state;
	assert_true(virtqueue_should_notify(&q));
	avail()->flags = VRING_AVAIL_F_NO_INTERRUPT;
	assert_false(virtqueue_should_notify(&q));
	virtqueue_disable_kicks(&q);
	assert_int_equal(used()->flags, VRING_USED_F_NO_NOTIFY);
	assert_false(virtqueue_enable_kicks(&q));
	assert_int_equal(used()->flags, 0);
	avail()->idx = 1;
	assert_true(virtqueue_enable_kicks(&q));
}

static void complete(unsigned int n)
{
	while (n--)
		virtqueue_push(&q, 0, 0);
	virtqueue_flush(&q);
}

static void test_event_idx(void **state)
{
	struct virtqueue_config c = config(true);
	uint16_t *used_event = &avail()->ring[SIZE], event = 0;

	(void)state;
	assert_int_equal(virtqueue_setup(&q, &mem, &c, 65534, 65534, &err), 0);
	avail()->idx = 65534;
	avail()->flags = VRING_AVAIL_F_NO_INTERRUPT; /* means nothing now */
	*used_event = 100;
	complete(1);
	assert_true(virtqueue_should_notify(&q)); /* the first time always */
	*used_event = 1;
	complete(2); /* 65535 -> 1 */
	assert_false(virtqueue_should_notify(&q));
	assert_false(virtqueue_should_notify(&q));
	complete(1); /* 1 -> 2: entry 1 is in it */
	assert_true(virtqueue_should_notify(&q));
	assert_false(virtqueue_should_notify(&q)); /* nothing is new */
	*used_event = 4;
	complete(5);
	assert_true(virtqueue_should_notify(&q));

	assert_false(virtqueue_enable_kicks(&q));
	assert_int_equal(memory_read(&mem, USED + 4 + 8 * SIZE, &event, 2), 0);
	assert_int_equal(event, 65534);
	virtqueue_disable_kicks(&q);
	assert_int_equal(used()->flags, 0);
	avail()->idx++;
	assert_true(virtqueue_enable_kicks(&q));
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_setup_refuses), TEST(test_setup_at_the_edges), TEST(test_chain),
		TEST(test_indirect),      TEST(test_nonsense),           TEST(test_just_below_4g),
		TEST(test_wraps),         TEST(test_a_full_ring),        TEST(test_again),
		TEST(test_flags),         TEST(test_event_idx),
	};

	return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
