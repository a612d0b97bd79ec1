/* SPDX-License-Identifier: MIT */
/*
 * What a file or block device makes of a disk: its size, the sizes that it works well with, and the
 * configuration space that tells the guest (virtio 1.2, 5.2.4).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>

#include "internal.h"

#define SEGMENTS_MAX 126u /* data buffers in a request, as with others' disks */
#define DISCARD_SECTORS_MAX (1u << 21)
/* Where zeroes have to be written one by one, a request must end some time. */
#define ZEROES_SECTORS_MAX (1u << 16)
#define PAGE 4096u

static int refuse(const struct io_disk *d, int code, struct error *err, const char *what)
{
	return err_set(err, code, "disk '%s': descriptor %d %s", d->opt->id, d->file, what);
}

/* #syscalls io: ioctl(BLKGETSIZE64) */
int io_disk_read_size(struct io_disk *d, uint64_t *bytes, struct error *err)
{
	uint64_t size = 0;
	struct stat st;

	if (fstat(d->file, &st) < 0)
		return err_sys(err, errno, "disk '%s'", d->opt->id);
	if (!d->block_device)
		size = (uint64_t)st.st_size;
	else if (ioctl(d->file, BLKGETSIZE64, &size) < 0)
		return err_sys(err, errno, "disk '%s': BLKGETSIZE64", d->opt->id);
	*bytes = size - size % d->block_size;
	return 0;
}

static bool is_power_of_2(uint32_t n)
{
	return n && !(n & (n - 1));
}

/* What direct I/O asks for. A kernel that does not tell gets what suits every device. */
static void find_alignment(struct io_disk *d)
{
	struct statx stx = { 0 };
	int size = 0;

	d->block_size = IO_SECTOR;
	d->mem_align = 1;
	if (d->block_device && ioctl(d->file, BLKSSZGET, &size) == 0 && size >= (int)IO_SECTOR &&
	    is_power_of_2((uint32_t)size))
		d->block_size = (uint32_t)size;
	if (!d->direct)
		return;
	d->mem_align = PAGE;
	if (statx(d->file, "", AT_EMPTY_PATH, STATX_DIOALIGN, &stx) < 0 ||
	    !(stx.stx_mask & STATX_DIOALIGN) || !is_power_of_2(stx.stx_dio_mem_align))
		return;
	d->mem_align = stx.stx_dio_mem_align;
	if (stx.stx_dio_offset_align > d->block_size && is_power_of_2(stx.stx_dio_offset_align) &&
	    stx.stx_dio_offset_align <= PAGE)
		d->block_size = stx.stx_dio_offset_align;
}

/* In bytes; what nobody tells stays 0. */
static void find_topology(const struct io_disk *d, uint32_t *physical, uint32_t *min, uint32_t *opt)
{
	unsigned int value = 0;
	struct stat st;

	*physical = *min = *opt = 0;
	if (!d->block_device) {
		if (fstat(d->file, &st) == 0 && st.st_blksize > 0 && st.st_blksize <= 65536)
			*physical = *min = (uint32_t)st.st_blksize;
		return;
	}
	if (ioctl(d->file, BLKPBSZGET, &value) == 0)
		*physical = value;
	if (ioctl(d->file, BLKIOMIN, &value) == 0)
		*min = value;
	if (ioctl(d->file, BLKIOOPT, &value) == 0)
		*opt = value;
}

static void fill_config(struct io_disk *d)
{
	uint32_t physical, min, opt, size = d->opt->queue_size;
	struct virtio_blk_config *c = &d->config;

	find_topology(d, &physical, &min, &opt);
	if (!is_power_of_2(physical) || physical < d->block_size)
		physical = d->block_size;
	c->seg_max = size > SEGMENTS_MAX + 2 ? SEGMENTS_MAX : size > 2 ? size - 2 : 1;
	c->blk_size = d->block_size;
	c->physical_block_exp = (uint8_t)__builtin_ctz(physical / d->block_size);
	c->min_io_size = (uint16_t)(min / d->block_size);
	c->opt_io_size = opt / d->block_size;
	c->num_queues = (uint16_t)d->opt->nqueues;
	if (d->opt->readonly || !d->opt->discard)
		return;
	c->max_discard_sectors = DISCARD_SECTORS_MAX;
	c->max_discard_seg = 1;
	c->discard_sector_alignment = (physical > PAGE ? physical : PAGE) / IO_SECTOR;
	c->max_write_zeroes_sectors = ZEROES_SECTORS_MAX;
	c->max_write_zeroes_seg = 1;
	c->write_zeroes_may_unmap = 1;
}

static int check_file(struct io_disk *d, struct error *err)
{
	int flags = fcntl(d->file, F_GETFL);
	struct stat st;

	if (flags < 0 || fstat(d->file, &st) < 0)
		return refuse(d, errno, err, "is not open");
	if (!S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode))
		return refuse(d, EINVAL, err, "is neither a regular file nor a block device");
	if ((flags & O_ACCMODE) == O_WRONLY || (!d->opt->readonly && (flags & O_ACCMODE) != O_RDWR))
		return refuse(d, EINVAL, err, "has the wrong access mode");
	d->block_device = S_ISBLK(st.st_mode);
	d->direct = flags & O_DIRECT;
	return 0;
}

int io_disk_open(struct io_disk *d, struct error *err)
{
	uint64_t bytes = 0;
	int r = check_file(d, err);

	if (r < 0)
		return r;
	find_alignment(d);
	fill_config(d);
	r = io_disk_read_size(d, &bytes, err);
	d->capacity = bytes;
	return r;
}

uint64_t io_disk_features(const struct io_disk *d)
{
	uint64_t f = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_EVENT_IDX |
		     1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_F_RING_RESET |
		     1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_BLK_SIZE |
		     1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_TOPOLOGY |
		     1ull << VHOST_USER_F_PROTOCOL_FEATURES;

	if (d->opt->nqueues > 1)
		f |= 1ull << VIRTIO_BLK_F_MQ;
	if (d->opt->readonly)
		f |= 1ull << VIRTIO_BLK_F_RO;
	if (d->config.max_discard_sectors)
		f |= 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	return f;
}

struct virtio_blk_config io_disk_config(const struct io_disk *d)
{
	struct virtio_blk_config c = d->config;

	c.capacity = __atomic_load_n(&d->capacity, __ATOMIC_RELAXED) / IO_SECTOR;
	return c;
}
