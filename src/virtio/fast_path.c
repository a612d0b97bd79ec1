/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/base/probe.h>
#include <molt/vm/machine.h>
#include <molt/vm/msi_route.h>

#include "fast_path.h"

/* A VM that goes may hold an eventfd for some time yet. */
#define RETRY_NS 20000000

void fast_path_init(struct fast_path *p, struct virtio *v, void (*error)(struct virtio *v))
{
	memset(p, 0, sizeof(*p));
	p->v = v;
	p->error = error;
	for (uint32_t q = 0; q < VIRTIO_QUEUES_MAX; q++) {
		p->queues[q].path = p;
		p->queues[q].kick_fd = p->queues[q].call_fd = -1;
	}
	p->error_fd = -1;
	p->group.fd = -1;
}

/* ---- the slow way ---- */

static void take_call(struct fast_queue *q)
{
	struct virtio *v = q->path->v;

	if (fd_take_event(q->call_fd)) {
		virtio_notify_queue(v, (uint32_t)(q - q->path->queues));
		PROBE2(slow_call, v->dev->id, (uint32_t)(q - q->path->queues));
	}
}

static void called(void *opaque, uint32_t events)
{
	struct fast_queue *q = opaque;

	(void)events;
	pthread_mutex_lock(&q->path->v->dev->lock);
	take_call(q);
	pthread_mutex_unlock(&q->path->v->dev->lock);
}

void fast_path_last_call(struct fast_path *p, uint32_t queue)
{
	if (p->queues[queue].call_fd >= 0)
		take_call(&p->queues[queue]);
}

static void failed(void *opaque, uint32_t events)
{
	struct fast_path *p = opaque;

	(void)events;
	pthread_mutex_lock(&p->v->dev->lock);
	if (fd_take_event(p->error_fd))
		p->error(p->v);
	pthread_mutex_unlock(&p->v->dev->lock);
}

static int wait_for_call(struct fast_queue *q, bool on)
{
	if (on && !q->call_source.loop)
		return loop_group_add(&q->path->group, &q->call_source, q->call_fd, EPOLLIN, called,
				      q);
	if (!on)
		loop_del(&q->call_source);
	return 0;
}

/* To a queue's calls, which begin on the slow way, and to errors. */
static int listen_to(struct fast_path *p, uint32_t queue, struct error *err)
{
	int r = 0;

	if (p->group.fd < 0)
		r = loop_group_open(p->v->dev->machine->loop, &p->group, err);
	if (r < 0)
		return r;
	if (!p->queues[queue].call_fast)
		r = wait_for_call(&p->queues[queue], true);
	if (r == 0 && p->error_fd >= 0 && !p->error_source.loop)
		r = loop_group_add(&p->group, &p->error_source, p->error_fd, EPOLLIN, failed, p);
	return r < 0 ? err_sys(err, -r, "waiting for the back-end of queue %u", queue) : 0;
}

/* ---- descriptors ---- */

static uint32_t fd_id(const struct fast_path *p, uint32_t queue)
{
	return p->v->pci.slot * VIRTIO_QUEUES_MAX + queue;
}

int fast_path_open(struct fast_path *p, uint32_t queue, struct error *err)
{
	struct fast_queue *q = &p->queues[queue];
	int *const fds[] = { &p->error_fd, &q->kick_fd, &q->call_fd };

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		if (*fds[i] >= 0)
			continue;
		*fds[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		if (*fds[i] < 0)
			return err_sys(err, errno, "eventfd for queue %u", queue);
	}
	return listen_to(p, queue, err);
}

int fast_path_save(const struct fast_path *p, struct fdtable *fds, struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < p->v->id.nqueues && r == 0; i++) {
		const struct fast_queue *q = &p->queues[i];

		if (q->call_fd < 0)
			continue;
		r = fdtable_add_as(fds, "virtio-kick", fd_id(p, i), q->kick_fd, FD_KIND_EVENTFD,
				   err);
		if (r == 0)
			r = fdtable_add_as(fds, "virtio-call", fd_id(p, i), q->call_fd,
					   FD_KIND_EVENTFD, err);
	}
	if (r == 0 && p->error_fd >= 0)
		r = fdtable_add_as(fds, "virtio-error", p->v->pci.slot, p->error_fd,
				   FD_KIND_EVENTFD, err);
	return r;
}

static int take(struct fdtable *fds, const char *name, uint32_t id, int *fd, struct error *err)
{
	*fd = fdtable_take(fds, name, id, FD_KIND_EVENTFD, err);
	return *fd < 0 ? *fd : 0;
}

int fast_path_adopt(struct fast_path *p, struct fdtable *fds, struct error *err)
{
	int r = 0;

	for (uint32_t i = 0; i < p->v->id.nqueues && r == 0; i++) {
		struct fast_queue *q = &p->queues[i];

		if (!fdtable_has(fds, "virtio-kick", fd_id(p, i)))
			continue;
		r = take(fds, "virtio-kick", fd_id(p, i), &q->kick_fd, err);
		if (r == 0)
			r = take(fds, "virtio-call", fd_id(p, i), &q->call_fd, err);
	}
	if (r == 0 && fdtable_has(fds, "virtio-error", p->v->pci.slot))
		r = take(fds, "virtio-error", p->v->pci.slot, &p->error_fd, err);
	/* All of them before the switch, where it costs the guest nothing. */
	for (uint32_t i = 0; i < p->v->id.nqueues && r == 0; i++)
		if (p->queues[i].call_fd >= 0)
			r = listen_to(p, i, err);
	return r;
}

void fast_path_kick(struct fast_path *p, uint32_t queue)
{
	fd_signal_event(p->queues[queue].kick_fd);
	PROBE2(slow_kick, p->v->dev->id, queue);
}

/* ---- the fast way ---- */

static void set_kick(struct fast_queue *q, uint64_t address)
{
	struct kvm_vm *vm = &q->path->v->dev->machine->vm;

	if (q->kick_address == address)
		return;
	if (q->kick_address)
		msi_ioeventfd(vm, q->kick_fd, q->kick_address, false);
	q->kick_address = 0;
	if (address && msi_ioeventfd(vm, q->kick_fd, address, true) == 0)
		q->kick_address = address;
}

static void call_off(struct fast_queue *q)
{
	if (q->call_fast)
		msi_irqfd(&q->path->v->dev->machine->vm, q->call_fd, q->gsi, false);
	q->call_fast = false;
}

/* -ENOSPC: the VM has no more of them. */
static int call_on(struct fast_queue *q, uint64_t address, uint32_t data)
{
	struct machine *m = q->path->v->dev->machine;
	int r = 0;

	if (!q->gsi)
		r = msi_route_alloc(&m->msi_routes);
	if (r < 0)
		return r;
	if (r > 0)
		q->gsi = (uint32_t)r;
	msi_route_set(&m->msi_routes, q->gsi, address, data);
	r = msi_routes_commit(&m->msi_routes, &m->vm);
	if (r == 0 && !q->call_fast)
		r = msi_irqfd(&m->vm, q->call_fd, q->gsi, true);
	if (r == 0)
		q->call_fast = true;
	else
		call_off(q);
	return r;
}

static void retry(void *opaque)
{
	struct fast_path *p = opaque;

	/* The device looks at everything again. */
	machine_request(p->v->dev->machine, MACHINE_REQ_SERVICE);
}

static void update_queue(struct fast_path *p, uint32_t queue, bool used)
{
	struct fast_queue *q = &p->queues[queue];
	struct virtio *v = p->v;
	bool fast = p->allowed && p->live && used, want_call;
	uint64_t address = 0;
	uint32_t data = 0;
	int on = 0, r;

	if (q->call_fd < 0)
		return;
	set_kick(q, fast && v->pci.mapped
			    ? v->pci.mapped + VIRTIO_BAR_NOTIFY + queue * VIRTIO_NOTIFY_STRIDE
			    : 0);
	want_call = fast && pci_msix_message(&v->pci, v->guest->vector[queue], &address, &data);
	if (want_call)
		on = call_on(q, address, data);
	else
		call_off(q);
	r = wait_for_call(q, !q->call_fast);
	if (r < 0)
		log_error("device '%s': nobody waits for its back-end: %s", v->dev->id,
			  error_text(-r));
	/* Each try stops the guest: none where there will be no room either. */
	if (on < 0 && on != -ENOSPC && !p->retry.loop)
		loop_timer_set(v->dev->machine->loop, &p->retry, now_ns() + RETRY_NS, retry, p);
}

/* A vector is fast while any of its queues is. */
static void tell_vectors(struct fast_path *p)
{
	struct virtio *v = p->v;

	for (uint32_t n = 0; n < v->pci.id.nvectors; n++)
		pci_msix_fast(&v->pci, n, false);
	for (uint32_t q = 0; q < v->id.nqueues; q++)
		if (p->queues[q].call_fast)
			pci_msix_fast(&v->pci, v->guest->vector[q], true);
}

void fast_path_update(struct fast_path *p, const uint8_t *used)
{
	/* So it is at a switch, while the guest waits. */
	if (!p->any_fast && !(p->allowed && p->live))
		return;
	p->any_fast = false;
	for (uint32_t q = 0; q < p->v->id.nqueues; q++) {
		update_queue(p, q, used[q]);
		p->any_fast |= p->queues[q].call_fast || p->queues[q].kick_address;
	}
	tell_vectors(p);
}

void fast_path_forget_vm(struct fast_path *p)
{
	for (uint32_t q = 0; q < VIRTIO_QUEUES_MAX; q++) {
		p->queues[q].kick_address = 0;
		p->queues[q].call_fast = false;
	}
	p->any_fast = false;
	tell_vectors(p);
}

/* ---- life ---- */

void fast_path_quiesce(struct fast_path *p)
{
	static const uint8_t none[VIRTIO_QUEUES_MAX];

	p->live = false;
	fast_path_update(p, none);
	loop_group_serve(&p->group, false);
	loop_timer_cancel(&p->retry);
}

void fast_path_resume(struct fast_path *p)
{
	int r = loop_group_serve(&p->group, true);

	p->live = true;
	if (r < 0)
		log_error("device '%s': waiting for its back-end: %s", p->v->dev->id,
			  error_text(-r));
}

void fast_path_fini(struct fast_path *p)
{
	if (!p->v)
		return;
	loop_timer_cancel(&p->retry);
	for (uint32_t i = 0; i < VIRTIO_QUEUES_MAX; i++) {
		struct fast_queue *q = &p->queues[i];

		loop_del(&q->call_source);
		if (q->gsi)
			msi_route_free(&p->v->dev->machine->msi_routes, q->gsi);
		fd_close(&q->kick_fd);
		fd_close(&q->call_fd);
	}
	loop_del(&p->error_source);
	loop_group_close(&p->group);
	fd_close(&p->error_fd);
	p->v = NULL;
}
