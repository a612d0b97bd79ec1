/* SPDX-License-Identifier: MIT */
/*
 * A disk, looked at and changed while its guest runs. What is counted and what limits it is on the
 * board, which the I/O process has as well: so nothing is asked of the process, and what it wrote
 * there is numbers and nothing more.
 *
 * A resize is done in three steps, by three parties: the file gets its length here, the process
 * looks at it when the board says so, and tells the front-end, which reads the configuration and
 * has the guest interrupted. A process may end or be replaced in the middle, and take the request
 * with it. So it is asked again until the guest has been shown the size.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/virtio_blk.h>

#include "blk.h"
#include "disk.h"

#define ASK_AGAIN_NS 50000000
#define SECTOR 512u

static_assert(BLOCK_KINDS == (int)IO_BOARD_KINDS && BLOCK_READ == (int)IO_BOARD_READ &&
		      BLOCK_WRITE == (int)IO_BOARD_WRITE && BLOCK_FLUSH == (int)IO_BOARD_FLUSH &&
		      BLOCK_DISCARD == (int)IO_BOARD_DISCARD && BLOCK_BUCKETS == IO_BOARD_BUCKETS,
	      "the board counts what is to be shown");
static_assert(BLOCK_LIMITS == (int)IO_BOARD_LIMITS && BLOCK_OPS == (int)IO_BOARD_OPS &&
		      BLOCK_BYTES == (int)IO_BOARD_BYTES,
	      "limits are the board's");

static uint64_t shown_size(struct disk *d)
{
	uint64_t sectors;

	pthread_mutex_lock(&d->dev.lock);
	sectors = blk_capacity(d->host.device.config);
	pthread_mutex_unlock(&d->dev.lock);
	return sectors > UINT64_MAX / SECTOR ? UINT64_MAX : sectors * SECTOR;
}

static uint32_t block_size(const struct disk *d)
{
	uint32_t size;

	memcpy(&size, d->host.device.config + offsetof(struct virtio_blk_config, blk_size),
	       sizeof(size));
	return size >= SECTOR ? size : SECTOR;
}

static void disk_info(struct device *dev, struct block_info *info)
{
	struct disk *d = to_disk(dev);
	const struct disk_options *o = &d->host.options;
	const struct vhost_front *front = &d->host.device.front;

	*info = (struct block_info){
		.file = o->path,
		.engine = d->host.nrings ? "io_uring" : "threads",
		.state = vhost_front_state_name(vhost_front_state(front)),
		.since_ns = vhost_front_since_ns(front),
		.size = shown_size(d),
		.pid = d->host.process.child.pid,
		.outdated = d->guest.outdated,
		.queues = o->queues,
		.queue_size = o->queue_size,
		.readonly = o->readonly,
		.direct = o->direct,
	};
}

static void read_counters(const struct io_board_counters *from, struct block_counters *to)
{
	to->requests = io_board_read(&from->requests);
	to->errors = io_board_read(&from->errors);
	to->bytes = io_board_read(&from->bytes);
	to->time_ns = io_board_read(&from->time_ns);
	for (unsigned int i = 0; i < BLOCK_BUCKETS; i++)
		to->latency[i] = io_board_read(&from->latency[i]);
}

static void disk_stats(struct device *dev, uint32_t queue, struct block_stats *stats)
{
	const struct io_board_queue *q = io_board_queue(&to_disk(dev)->host.board, queue);

	for (unsigned int i = 0; i < BLOCK_KINDS; i++)
		read_counters(&q->kinds[i], &stats->kinds[i]);
	stats->invalid = io_board_read(&q->invalid);
	stats->held = io_board_read(&q->held);
	stats->held_ns = io_board_read(&q->held_ns);
	stats->kicks = io_board_read(&q->kicks);
	stats->calls = io_board_read(&q->calls);
	stats->resubmitted = io_board_read(&q->resubmitted);
	stats->broken = __atomic_load_n(&q->broken, __ATOMIC_RELAXED) != 0;
}

/* ---- limits ---- */

static void disk_limits(struct device *dev, struct block_limit limits[BLOCK_LIMITS])
{
	const struct io_board *board = to_disk(dev)->host.board.board;

	for (int i = 0; i < BLOCK_LIMITS; i++) {
		struct io_board_limit l = io_board_get_limit(board, (enum io_board_limited)i);

		limits[i] = (struct block_limit){ .rate = l.rate, .burst = l.burst };
	}
}

static void look_at_board(const struct disk *d)
{
	fd_signal_event(d->host.event);
}

static void disk_set_limits(struct device *dev, const struct block_limit limits[BLOCK_LIMITS])
{
	struct disk *d = to_disk(dev);

	for (int i = 0; i < BLOCK_LIMITS; i++)
		io_board_set_limit(d->host.board.board, (enum io_board_limited)i, limits[i].rate,
				   limits[i].burst, now_ns());
	look_at_board(d);
}

/* ---- size ---- */

static void ask_process(struct disk *d)
{
	struct io_board *b = d->host.board.board;
	uint32_t asked = __atomic_load_n(&b->resize_asked, __ATOMIC_RELAXED);

	__atomic_store_n(&b->resize_asked, asked + 1, __ATOMIC_RELEASE);
	look_at_board(d);
	d->host.asked_ns = now_ns();
}

/* It is as long as it is; molt only looks. */
static bool is_block_device(const struct disk *d)
{
	return fd_type(d->host.file) == S_IFBLK;
}

static int set_length(const struct disk *d, uint64_t bytes, struct error *err)
{
	const char *path = d->host.options.path;
	struct stat st;

	if (fstat(d->host.file, &st) < 0)
		return err_sys(err, errno, "disk %s", path);
	if (is_block_device(d) || (uint64_t)st.st_size == bytes)
		return 0;
	if (d->host.options.readonly)
		return err_set(err, EROFS, "disk %s is read-only", path);
	if (ftruncate(d->host.file, (off_t)bytes) < 0)
		return err_sys(err, errno, "disk %s: %llu bytes", path, (unsigned long long)bytes);
	return 0;
}

static int disk_resize(struct device *dev, uint64_t bytes, struct error *err)
{
	struct disk *d = to_disk(dev);
	uint32_t unit = block_size(d);
	int r;

	if (!bytes || bytes > INT64_MAX || bytes % unit)
		return err_set(err, EINVAL,
			       "size %llu: it must be a multiple of %u, the disk's block size",
			       (unsigned long long)bytes, unit);
	r = set_length(d, bytes, err);
	if (r == 0)
		ask_process(d);
	return r;
}

static int disk_resized(struct device *dev, uint64_t bytes, struct error *err)
{
	struct disk *d = to_disk(dev);
	const struct io_board *b = d->host.board.board;
	bool looked = __atomic_load_n(&b->resize_done, __ATOMIC_ACQUIRE) ==
		      __atomic_load_n(&b->resize_asked, __ATOMIC_RELAXED);
	uint64_t capacity = __atomic_load_n(&b->capacity, __ATOMIC_RELAXED);

	if (looked && shown_size(d) == bytes)
		return 0;
	if (looked && capacity != bytes && is_block_device(d))
		return err_set(err, EINVAL,
			       "%s has %llu bytes; a block device is resized where it comes from",
			       d->host.options.path, (unsigned long long)capacity);
	if (now_ns() - d->host.asked_ns > ASK_AGAIN_NS)
		ask_process(d);
	if (!looked)
		return err_set(err, EAGAIN, "its I/O process has not looked at %s yet",
			       d->host.options.path);
	if (capacity != bytes)
		return err_set(err, EAGAIN, "%s has %llu bytes", d->host.options.path,
			       (unsigned long long)capacity);
	return err_set(err, EAGAIN, "the guest has not been told yet");
}

const struct device_block_ops disk_block_ops = {
	.info = disk_info,
	.stats = disk_stats,
	.bucket_ns = io_board_bucket_ns,
	.limits = disk_limits,
	.set_limits = disk_set_limits,
	.resize = disk_resize,
	.resized = disk_resized,
};
