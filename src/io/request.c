/* SPDX-License-Identifier: MIT */
/*
 * Requests of virtio-blk (virtio 1.2, 5.2.6). A chain has a header of 16 bytes that the device
 * reads, data, and a status byte that it writes last; where one buffer ends and the next begins
 * means nothing (2.7.4.2). The header is copied once, and only the copy is looked at.
 *
 * What is wrong with a request is told by its status. Without room for one, or with half a header,
 * there is nothing to tell it with, and the queue is broken.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/probe.h>

#include "internal.h"

/* Drops len bytes from the front of iovecs, which have as many; returns how many are left. */
static uint32_t drop_front(struct iovec *iov, uint32_t n, uint64_t len)
{
	uint32_t i = 0;

	while (i < n && len >= iov[i].iov_len)
		len -= iov[i++].iov_len;
	if (i < n) {
		iov[i].iov_base = (char *)iov[i].iov_base + len;
		iov[i].iov_len -= len;
	}
	memmove(iov, iov + i, (n - i) * sizeof(*iov));
	return n - i;
}

static size_t gather(void *buf, size_t len, const struct iovec *iov, uint32_t n)
{
	size_t done = 0;

	for (uint32_t i = 0; i < n && done < len; i++) {
		size_t part = iov[i].iov_len < len - done ? iov[i].iov_len : len - done;

		memcpy((char *)buf + done, iov[i].iov_base, part);
		done += part;
	}
	__asm__ volatile("" : : "r"(buf) : "memory"); /* the copy is what counts from here on */
	return done;
}

static size_t scatter(const struct iovec *iov, uint32_t n, const void *buf, size_t len)
{
	size_t done = 0;

	for (uint32_t i = 0; i < n && done < len; i++) {
		size_t part = iov[i].iov_len < len - done ? iov[i].iov_len : len - done;

		memcpy(iov[i].iov_base, (const char *)buf + done, part);
		done += part;
	}
	return done;
}

/* The request's own copy of its data buffers, for the chain's are the next request's. */
static void keep_iovecs(struct io_request *r, const struct iovec *iov, uint32_t n)
{
	r->iov = n <= IO_FEW ? r->few : r->queue->wide + (size_t)r->head * IO_IOVS;
	r->niov = n;
	memcpy(r->iov, iov, n * sizeof(*iov));
}

static bool in_range(const struct io_request *r, uint64_t sector, uint64_t bytes)
{
	uint64_t capacity = __atomic_load_n(&r->queue->disk->capacity, __ATOMIC_RELAXED);

	return bytes <= capacity && sector <= (capacity - bytes) / IO_SECTOR;
}

/* A status, or 0xff: it is for the engine. */
#define GOES_ON 0xff

static uint8_t transfer(struct io_request *r, enum io_op op, uint64_t sector, uint64_t bytes)
{
	const struct io_disk *d = r->queue->disk;

	r->kind = op == IO_OP_READ ? IO_BOARD_READ : IO_BOARD_WRITE;
	if (bytes % IO_SECTOR || !in_range(r, sector, bytes))
		return VIRTIO_BLK_S_IOERR;
	if (op == IO_OP_WRITE && d->opt->readonly)
		return VIRTIO_BLK_S_IOERR;
	if (d->direct && (bytes | sector * IO_SECTOR) % d->block_size)
		return VIRTIO_BLK_S_IOERR;
	r->offset = sector * IO_SECTOR;
	r->left = r->bytes = bytes;
	r->op = op;
	r->written = op == IO_OP_READ ? (uint32_t)bytes : 0;
	return bytes ? GOES_ON : VIRTIO_BLK_S_OK;
}

static uint8_t get_id(struct io_request *r, const struct iovec *in, uint32_t n)
{
	char id[VIRTIO_BLK_ID_BYTES] = { 0 };

	memcpy(id, r->queue->disk->opt->serial, strnlen(r->queue->disk->opt->serial, sizeof(id)));
	r->written = (uint32_t)scatter(in, n, id, sizeof(id));
	return VIRTIO_BLK_S_OK;
}

/* DISCARD and WRITE_ZEROES: one segment, for more were not offered. */
static uint8_t change_range(struct io_request *r, uint32_t type, const struct iovec *out,
			    uint32_t n, uint64_t len)
{
	const struct io_disk *d = r->queue->disk;
	bool zeroes = type == VIRTIO_BLK_T_WRITE_ZEROES, unmap;
	struct virtio_blk_discard_write_zeroes seg;
	uint64_t bytes;

	if (!d->config.max_discard_sectors)
		return VIRTIO_BLK_S_UNSUPP;
	r->kind = IO_BOARD_DISCARD;
	if (len != sizeof(seg) || gather(&seg, sizeof(seg), out, n) != sizeof(seg))
		return VIRTIO_BLK_S_IOERR;
	unmap = seg.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
	if (seg.flags & ~(uint32_t)VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP || (unmap && !zeroes))
		return VIRTIO_BLK_S_UNSUPP;
	bytes = (uint64_t)seg.num_sectors * IO_SECTOR;
	if (!in_range(r, seg.sector, bytes) || (bytes | seg.sector * IO_SECTOR) % d->block_size ||
	    seg.num_sectors >
		    (zeroes ? d->config.max_write_zeroes_sectors : d->config.max_discard_sectors))
		return VIRTIO_BLK_S_IOERR;
	r->op = IO_OP_ALLOCATE;
	r->mode = FALLOC_FL_KEEP_SIZE |
		  (zeroes && !unmap ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
	r->must_zero = zeroes;
	r->offset = seg.sector * IO_SECTOR;
	r->left = r->bytes = bytes;
	return bytes ? GOES_ON : VIRTIO_BLK_S_OK;
}

static uint8_t look_at(struct io_request *r, const struct virtio_blk_outhdr *hdr, struct iovec *out,
		       uint32_t nout, uint64_t out_len, struct iovec *in, uint32_t nin)
{
	switch (hdr->type) {
	case VIRTIO_BLK_T_IN:
		keep_iovecs(r, in, nin);
		return transfer(r, IO_OP_READ, hdr->sector, r->writable);
	case VIRTIO_BLK_T_OUT:
		keep_iovecs(r, out, nout);
		return transfer(r, IO_OP_WRITE, hdr->sector, out_len);
	case VIRTIO_BLK_T_FLUSH:
		r->kind = IO_BOARD_FLUSH;
		r->op = IO_OP_SYNC;
		return GOES_ON;
	case VIRTIO_BLK_T_GET_ID:
		return get_id(r, in, nin);
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		return change_range(r, hdr->type, out, nout, out_len);
	default:
		return VIRTIO_BLK_S_UNSUPP;
	}
}

/* The last byte that may be written is the status; what is before it is data. */
static uint32_t cut_status(struct io_request *r, struct iovec *in, uint32_t n)
{
	struct iovec *last = &in[n - 1];

	r->status = (uint8_t *)last->iov_base + --last->iov_len;
	return last->iov_len ? n : n - 1;
}

int io_request_parse(struct io_queue *q, const struct virtqueue_chain *chain)
{
	struct io_request *r = &q->requests[chain->head];
	struct iovec *out = chain->iov, *in = chain->iov + chain->nread;
	struct virtio_blk_outhdr hdr;
	uint32_t nin, nout;

	*r = (struct io_request){ .queue = q, .head = chain->head, .kind = IO_BOARD_KINDS };
	if (chain->read_len < sizeof(hdr) || chain->write_len < 1)
		return -EPROTO;
	gather(&hdr, sizeof(hdr), out, chain->nread);
	nout = drop_front(out, chain->nread, sizeof(hdr));
	nin = cut_status(r, in, chain->nwrite);
	r->writable = chain->write_len - 1;
	r->start_ns = now_ns();
	r->busy = true;
	q->busy++;
	r->early = look_at(r, &hdr, out, nout, chain->read_len - sizeof(hdr), in, nin);
	if (r->early != GOES_ON)
		r->op = IO_OP_NONE;
	return 0;
}

static void count(struct io_request *r, uint8_t status)
{
	struct io_board_queue *b = r->queue->board;
	struct io_board_counters *c;
	uint64_t ns = now_ns() - r->start_ns;

	PROBE6(request_done, r->queue->disk->opt->id, r->queue->index, r->kind, r->bytes, ns,
	       status);
	if (status == VIRTIO_BLK_S_UNSUPP || (status != VIRTIO_BLK_S_OK && r->op == IO_OP_NONE))
		io_board_add(&b->invalid, 1);
	if (r->kind == IO_BOARD_KINDS)
		return;
	c = &b->kinds[r->kind];
	io_board_add(&c->requests, 1);
	io_board_add(&c->time_ns, ns);
	io_board_add(&c->latency[io_board_bucket(ns)], 1);
	if (status == VIRTIO_BLK_S_OK)
		io_board_add(&c->bytes, r->bytes);
	else
		io_board_add(&c->errors, 1);
}

void io_request_finish(struct io_request *r, uint8_t status)
{
	struct io_queue *q = r->queue;
	uint32_t written = 0;

	count(r, status);
	__atomic_store_n(r->status, status, __ATOMIC_RELAXED);
	/* Only what was written without a gap counts, and the status is behind the data. */
	if (status == VIRTIO_BLK_S_OK || !r->writable)
		written = r->written + (r->written == r->writable);
	virtqueue_push(&q->vq, r->head, written);
	io_inflight_put(&q->inflight, r->head);
	q->pushed = true;
	q->busy--;
	r->busy = false;
}

/*
 * Each time that it is carried out, or goes on: since it was looked at, a limit may have held it
 * while the disk was made smaller, and a write beyond the file's end makes that longer again.
 */
void io_request_submit(struct io_request *r)
{
	struct io_disk *d = r->queue->disk;

	if (r->op != IO_OP_SYNC &&
	    r->offset + r->left > __atomic_load_n(&d->capacity, __ATOMIC_RELAXED))
		io_request_finish(r, VIRTIO_BLK_S_IOERR);
	else
		r->queue->engine->submit(r);
}

/* Bytes that are moved are dropped; what is left is asked for again. */
static void move_on(struct io_request *r, uint64_t done)
{
	r->offset += done;
	r->left -= done;
	r->niov = drop_front(r->iov, r->niov, done);
}

/*
 * The file is changed. For a driver that has no FLUSH it must be stable before it is told (virtio
 * 1.2, 5.2.6.2; it has no CONFIG_WCE either, which is not offered).
 */
static void changed(struct io_request *r)
{
	if (r->queue->disk->features >> VIRTIO_BLK_F_FLUSH & 1) {
		io_request_finish(r, VIRTIO_BLK_S_OK);
		return;
	}
	r->op = IO_OP_SYNC;
	io_request_submit(r);
}

/* As many zeroes as go into the iovecs of a request. */
static void write_zeroes(struct io_request *r)
{
	uint64_t left = r->left;

	r->op = IO_OP_ZERO;
	r->iov = r->queue->wide + (size_t)r->head * IO_IOVS;
	for (r->niov = 0; left && r->niov < IO_IOVS; r->niov++) {
		uint64_t part = left < IO_ZEROES ? left : IO_ZEROES;

		r->iov[r->niov] = (struct iovec){
			.iov_base = (void *)(uintptr_t)r->queue->disk->process->zeroes,
			.iov_len = part,
		};
		left -= part;
	}
	io_request_submit(r);
}

/* What a file cannot deallocate it keeps: a discard is only advice. */
static void allocate_result(struct io_request *r, int res)
{
	if (res == -EOPNOTSUPP && r->must_zero)
		write_zeroes(r);
	else if (res == 0)
		changed(r);
	else
		io_request_finish(r, res == -EOPNOTSUPP ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
}

/*
 * What the kernel could not write it drops, and says so to one sync of this open file alone. Others
 * asked at the same time or later, of any queue, also by the next process, and for what was lost.
 * Without a page cache each sync is the device's own.
 */
void io_sync_failed(struct io_disk *d, int error)
{
	uint64_t none = 0;

	if (!d->direct &&
	    __atomic_compare_exchange_n(&d->board.board->sync_error, &none, (uint64_t)error, false,
					__ATOMIC_RELAXED, __ATOMIC_RELAXED))
		log_error("disk '%s': its file cannot be synced: %s; what was written is lost, so "
			  "each flush fails from now on",
			  d->opt->id, error_text(error));
}

static void synced(struct io_request *r, int res)
{
	struct io_disk *d = r->queue->disk;
	bool lost;

	if (res < 0)
		io_sync_failed(d, -res);
	lost = res < 0 || __atomic_load_n(&d->board.board->sync_error, __ATOMIC_RELAXED);
	io_request_finish(r, lost ? VIRTIO_BLK_S_IOERR : VIRTIO_BLK_S_OK);
}

void io_request_result(struct io_request *r, int res)
{
	if (res == -EINTR || res == -EAGAIN) {
		io_request_submit(r);
	} else if (r->op == IO_OP_ALLOCATE) {
		allocate_result(r, res);
	} else if (r->op == IO_OP_SYNC) {
		synced(r, res);
	} else if (res < 0) {
		io_request_finish(r, VIRTIO_BLK_S_IOERR);
	} else if (res == 0 || (uint64_t)res > r->left) {
		/* The file has become shorter than the guest knows. */
		io_request_finish(r, VIRTIO_BLK_S_IOERR);
	} else if ((uint64_t)res == r->left && r->op == IO_OP_READ) {
		io_request_finish(r, VIRTIO_BLK_S_OK);
	} else if ((uint64_t)res == r->left) {
		changed(r);
	} else if (r->op == IO_OP_ZERO) {
		r->offset += (uint64_t)res;
		r->left -= (uint64_t)res;
		write_zeroes(r);
	} else {
		move_on(r, (uint64_t)res);
		io_request_submit(r);
	}
}
