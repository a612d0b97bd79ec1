/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/virtio/io_board.h>

#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)
#define FIRST_BITS 10 /* bucket 0 is below 2 to that */
#define SIZE_MAX_BYTES (1u << 20)

static_assert(sizeof(struct io_board) % 8 == 0 && sizeof(struct io_board_queue) % 8 == 0,
	      "numbers are aligned");
static_assert(offsetof(struct io_board, limits) == 32, "no padding");

static uint32_t whole_size(unsigned int nqueues)
{
	return (uint32_t)(sizeof(struct io_board) + nqueues * sizeof(struct io_board_queue));
}

static struct io_board make_head(unsigned int nqueues)
{
	return (struct io_board){
		.magic = IO_BOARD_MAGIC,
		.version = IO_BOARD_VERSION,
		.size = whole_size(nqueues),
		.header_size = sizeof(struct io_board),
		.queue_size = sizeof(struct io_board_queue),
		.nqueues = nqueues,
	};
}

int io_board_make(unsigned int nqueues, struct error *err)
{
	struct io_board head = make_head(nqueues);
	int fd = fd_memfd("molt-io-board", 0);

	if (fd < 0)
		return err_sys(err, -fd, "a disk's board");
	if (ftruncate(fd, head.size) == 0 &&
	    pwrite(fd, &head, sizeof(head), 0) == (ssize_t)sizeof(head) &&
	    fcntl(fd, F_ADD_SEALS, SEALS) == 0)
		return fd;
	err_sys(err, errno, "a disk's board");
	close(fd);
	return -(err ? err->code : EIO);
}

static bool contains_this(const struct io_board *b, unsigned int nqueues)
{
	return b->magic == IO_BOARD_MAGIC && b->version >= IO_BOARD_VERSION &&
	       b->size <= SIZE_MAX_BYTES && b->header_size >= sizeof(*b) &&
	       b->header_size % 8 == 0 && b->header_size <= b->size &&
	       b->queue_size >= sizeof(struct io_board_queue) && b->queue_size % 8 == 0 &&
	       b->nqueues >= nqueues && b->nqueues <= IO_BOARD_QUEUES_MAX &&
	       (uint64_t)b->nqueues * b->queue_size <= b->size - b->header_size;
}

/*
 * A board of just the size that this binary makes it has this binary's layout: no other fits. What
 * the header says is asked of others alone, so a process that spoils it all the time is not in the
 * way of who comes next.
 */
static bool find_layout(int fd, unsigned int nqueues, struct io_board *head)
{
	struct stat st;

	*head = make_head(nqueues);
	if (fstat(fd, &st) < 0)
		return false;
	return st.st_size == head->size ||
	       (pread(fd, head, sizeof(*head), 0) == (ssize_t)sizeof(*head) &&
		contains_this(head, nqueues) && st.st_size >= head->size);
}

int io_board_map(struct io_board_view *view, int fd, unsigned int nqueues, struct error *err)
{
	struct io_board head;
	void *p;

	*view = (struct io_board_view){ 0 };
	if (!find_layout(fd, nqueues, &head))
		return err_set(err, EINVAL, "descriptor %d is no board of a disk with %u queues",
			       fd, nqueues);
	if ((fcntl(fd, F_GET_SEALS) & SEALS) != SEALS)
		return err_set(err, EINVAL, "the board at descriptor %d is not sealed", fd);
	p = mmap(NULL, head.size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return err_sys(err, errno, "a disk's board");
	*view = (struct io_board_view){
		.board = p,
		.version = head.version,
		.size = head.size,
		.header_size = head.header_size,
		.queue_size = head.queue_size,
		.nqueues = head.nqueues,
	};
	return 0;
}

void io_board_unmap(struct io_board_view *view)
{
	if (view->board)
		munmap(view->board, view->size);
	view->board = NULL;
}

void io_board_mend(const struct io_board_view *view)
{
	struct io_board *b = view->board;

	b->magic = IO_BOARD_MAGIC;
	b->version = view->version;
	b->size = view->size;
	b->header_size = view->header_size;
	b->queue_size = view->queue_size;
	b->nqueues = view->nqueues;
}

struct io_board_queue *io_board_queue(const struct io_board_view *view, unsigned int index)
{
	return (struct io_board_queue *)(void *)((char *)view->board + view->header_size +
						 (size_t)index * view->queue_size);
}

unsigned int io_board_bucket(uint64_t ns)
{
	unsigned int bits = ns ? 63 - (unsigned int)__builtin_clzll(ns) : 0;
	unsigned int bucket;

	if (bits < FIRST_BITS)
		return 0;
	bucket = 1 + 2 * (bits - FIRST_BITS) + (unsigned int)(ns >> (bits - 1) & 1);
	return bucket < IO_BOARD_BUCKETS ? bucket : IO_BOARD_BUCKETS - 1;
}

uint64_t io_board_bucket_ns(unsigned int bucket)
{
	if (bucket == 0)
		return 0;
	return (2ull + (bucket - 1) % 2) << (FIRST_BITS - 1 + (bucket - 1) / 2);
}

uint64_t io_board_duration(uint64_t amount, uint64_t rate)
{
	unsigned __int128 ns = (unsigned __int128)amount * 1000000000u / rate;

	return ns > INT64_MAX ? INT64_MAX : (uint64_t)ns;
}

/* What is in use of the old bucket is in use of the new one. */
static uint64_t carried_over(const struct io_board_limit *old, uint64_t rate, uint64_t burst,
			     uint64_t now)
{
	uint64_t busy = __atomic_load_n(&old->busy_ns, __ATOMIC_RELAXED);
	unsigned __int128 used;

	if (!old->rate || !rate || busy <= now)
		return 0;
	used = (unsigned __int128)(busy - now) * old->rate / 1000000000u;
	if (used > burst)
		used = burst;
	return now + io_board_duration((uint64_t)used, rate);
}

void io_board_set_limit(struct io_board *board, enum io_board_limited which, uint64_t rate,
			uint64_t burst, uint64_t now)
{
	struct io_board_limit *l = &board->limits[which];
	uint32_t seq = __atomic_load_n(&board->limits_seq, __ATOMIC_RELAXED);
	uint64_t busy;

	if (!burst)
		burst = rate / 10 ? rate / 10 : 1;
	busy = carried_over(l, rate, burst, now);
	/* Whoever was killed in here has left it odd; the next one makes it right. */
	__atomic_store_n(&board->limits_seq, seq | 1, __ATOMIC_RELAXED);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	__atomic_store_n(&l->rate, rate, __ATOMIC_RELAXED);
	__atomic_store_n(&l->burst, burst, __ATOMIC_RELAXED);
	__atomic_store_n(&l->busy_ns, busy, __ATOMIC_RELAXED);
	__atomic_store_n(&board->limits_seq, (seq | 1) + 1, __ATOMIC_RELEASE);
}

/* Bounded: a writer that died in between must not stop anybody. */
struct io_board_limit io_board_get_limit(const struct io_board *board, enum io_board_limited which)
{
	const struct io_board_limit *l = &board->limits[which];
	struct io_board_limit copy = { 0 };

	for (int tries = 0; tries < 100; tries++) {
		uint32_t seq = __atomic_load_n(&board->limits_seq, __ATOMIC_ACQUIRE);

		copy.rate = __atomic_load_n(&l->rate, __ATOMIC_RELAXED);
		copy.burst = __atomic_load_n(&l->burst, __ATOMIC_RELAXED);
		copy.busy_ns = __atomic_load_n(&l->busy_ns, __ATOMIC_RELAXED);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (!(seq & 1) && seq == __atomic_load_n(&board->limits_seq, __ATOMIC_RELAXED))
			break;
	}
	return copy;
}
