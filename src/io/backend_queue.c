/* SPDX-License-Identifier: MIT */
/* Messages about one queue; see backend.c. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "backend.h"

static struct io_queue *queue_at(struct io_disk *d, uint64_t index, struct error *err)
{
	if (index < d->opt->nqueues)
		return &d->queues[index];
	err_set(err, EINVAL, "there is no queue %llu", (unsigned long long)index);
	return NULL;
}

static struct io_queue *stopped_queue_at(struct io_disk *d, uint64_t index, struct error *err)
{
	struct io_queue *q = queue_at(d, index, err);

	if (q && io_queue_running(q)) {
		err_set(err, EBUSY, "queue %u runs", q->index);
		return NULL;
	}
	return q;
}

static int start_if_complete(struct io_queue *q, struct error *err)
{
	if (!q->kickable || !q->enabled || io_queue_running(q))
		return 0;
	return io_queue_start(q, err);
}

int io_set_vring_num(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct io_queue *q = stopped_queue_at(d, msg->payload.state.index, err);

	if (!q)
		return -err->code;
	q->config.size = msg->payload.state.num;
	return 0;
}

int io_set_vring_addr(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	const struct vhost_user_vring_addr *a = &msg->payload.addr;
	struct io_queue *q = stopped_queue_at(d, a->index, err);

	if (!q)
		return -err->code;
	q->config.desc_gpa = a->desc;
	q->config.avail_gpa = a->avail;
	q->config.used_gpa = a->used;
	return 0;
}

int io_set_vring_base(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct io_queue *q = stopped_queue_at(d, msg->payload.state.index, err);

	if (!q)
		return -err->code;
	q->base = (uint16_t)msg->payload.state.num;
	return 0;
}

/* An anonymous inode that takes a number of 8 bytes: nothing else in the kernel does. */
static bool is_eventfd(int fd)
{
	const uint64_t zero = 0;
	struct stat st;

	return fstat(fd, &st) == 0 && !(st.st_mode & S_IFMT) &&
	       write(fd, &zero, sizeof(zero)) == (ssize_t)sizeof(zero);
}

/*
 * The number stays the same, so a running queue has the new one at once. #syscalls io: dup3 close
 */
static int replace_fd(struct io_disk *d, struct vhost_user_message *msg, int to, struct error *err)
{
	bool none = msg->payload.u64 & VHOST_USER_VRING_NO_FD;

	if (none != (msg->nfds == 0))
		return err_set(err, EINVAL, "a descriptor that is there and is not");
	if (!none && !is_eventfd(msg->fds[0]))
		return err_set(err, EINVAL, "the descriptor is no eventfd");
	if (dup3(none ? d->process->nowhere : msg->fds[0], to, O_CLOEXEC) < 0)
		return err_sys(err, errno, "dup3");
	return 0;
}

/*
 * What waits for the old one is woken, and then waits for the new one. A poll() that is woken looks
 * the number up again and would sleep on, on nothing, if it found the new one not ready.
 */
int io_set_vring_kick(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct io_queue *q = queue_at(d, msg->payload.u64 & VHOST_USER_VRING_INDEX_MASK, err);
	const uint64_t one = 1;
	_cleanup_close_ int old = -1;
	int r;

	if (!q)
		return -err->code;
	if (msg->payload.u64 & VHOST_USER_VRING_NO_FD)
		return err_set(err, EINVAL, "queue %u has to be kicked", q->index);
	old = fcntl(q->kick_fd, F_DUPFD_CLOEXEC, 3);
	if (old < 0)
		return err_sys(err, errno, "queue %u", q->index);
	r = replace_fd(d, msg, q->kick_fd, err);
	if (r < 0)
		return r;
	__atomic_store_n(&q->kick_nonblock, fcntl(q->kick_fd, F_GETFL) & O_NONBLOCK,
			 __ATOMIC_RELAXED);
	if (q->kickable &&
	    (write(q->kick_fd, &one, sizeof(one)) < 0 || write(old, &one, sizeof(one)) < 0))
		log_warn("disk '%s', queue %u: %s", d->opt->id, q->index, error_text(errno));
	q->kickable = true;
	return start_if_complete(q, err);
}

int io_set_vring_call(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct io_queue *q = queue_at(d, msg->payload.u64 & VHOST_USER_VRING_INDEX_MASK, err);

	return q ? replace_fd(d, msg, q->call_fd, err) : -err->code;
}

int io_set_vring_err(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct io_queue *q = queue_at(d, msg->payload.u64 & VHOST_USER_VRING_INDEX_MASK, err);

	return q ? replace_fd(d, msg, q->err_fd, err) : -err->code;
}

static int answer_when_stopped(struct io_disk *d, const struct vhost_user_message *msg)
{
	d->stopping = true;
	d->stop_msg = *msg;
	return IO_LATER;
}

/* Disabled, a queue takes nothing more; that it has stopped is told by GET_VRING_BASE. */
int io_set_vring_enable(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct io_queue *q = queue_at(d, msg->payload.state.index, err);

	if (!q)
		return -err->code;
	q->enabled = msg->payload.state.num;
	if (!q->enabled && io_queue_running(q)) {
		io_queue_stop(q);
		return answer_when_stopped(d, msg);
	}
	return start_if_complete(q, err);
}

static void stop(struct io_queue *q)
{
	if (io_queue_running(q))
		io_queue_stop(q);
}

int io_get_vring_base(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	struct io_queue *q = queue_at(d, msg->payload.state.index, err);

	if (!q)
		return -err->code;
	q->kickable = false;
	stop(q);
	d->asked[d->nasked++] = (uint8_t)q->index;
	return IO_LATER;
}

int io_reset_device(struct io_disk *d, struct vhost_user_message *msg, struct error *err)
{
	(void)err;
	for (unsigned int i = 0; i < d->opt->nqueues; i++) {
		d->queues[i].enabled = d->queues[i].kickable = false;
		stop(&d->queues[i]);
	}
	return answer_when_stopped(d, msg);
}
