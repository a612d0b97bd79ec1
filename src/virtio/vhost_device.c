/* SPDX-License-Identifier: MIT */
/*
 * Between a virtio device's registers and its back-end. Theory of operation.
 *
 * The registers are the guest's, on vCPU threads; the front-end is main's. What a driver asks of
 * the back-end is never done by the vCPU that asks: it changes registers and requests service. Then
 * main holds what the guest wants (live or not, which queues) against what the front-end was told,
 * and tells it the rest: settle(). It is done again whenever either side has moved, and only ever
 * goes by what is written in the guest part. So an update may come at any moment: the successor
 * settles what is left.
 *
 * A reset by the driver takes as long as the back-end needs to finish; the driver reads the status
 * until it is 0.
 */
#include <errno.h>
#include <string.h>

#include <linux/virtio_config.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/machine.h>

#include "vhost_device.h"

enum given {
	NOT_GIVEN,
	GIVEN,
	TAKING_BACK,
};

static struct vhost_device *of_virtio(struct virtio *v)
{
	return container_of(v, struct vhost_device, virtio);
}

/* ---- what the front-end is to do ---- */

static void give_queue(struct vhost_device *d, uint32_t q)
{
	struct vhost_device_guest *g = d->guest;
	const struct vhost_front_queue queue = {
		.size = g->virtio.size[q],
		.desc = g->virtio.desc[q],
		.avail = g->virtio.avail[q],
		.used = g->virtio.used[q],
		.base = g->base[q],
		.enabled = true,
	};
	struct fast_queue *fq = &d->path.queues[q];
	struct error err = ERROR_INIT;
	int r;

	if (fast_path_open(&d->path, q, &err) < 0) {
		log_error("device '%s': %s", d->dev->id, err.text);
		virtio_broken(&d->virtio, "the host has no eventfd for a queue");
		return;
	}
	fast_path_resume(&d->path);
	vhost_front_set_fds(&d->front, q, fq->kick_fd, fq->call_fd, d->path.error_fd);
	r = vhost_front_start_queue(&d->front, q, &queue);
	if (r == 0)
		g->given[q] = GIVEN;
	else if (r != -EBUSY)
		virtio_broken(&d->virtio, error_text(-r));
}

/* Before a start: with that a queue's old requests would be the next back-end's to do. */
static void end_queue_resets(struct vhost_device *d)
{
	for (uint32_t q = 0; q < d->virtio.id.nqueues; q++) {
		if (d->guest->given[q] != NOT_GIVEN || !d->guest->virtio.resetting[q])
			continue;
		vhost_front_forget_queue(&d->front, q);
		virtio_queue_reset_done(&d->virtio, q);
	}
}

static void settle_queue(struct vhost_device *d, uint32_t q)
{
	struct vhost_device_guest *g = d->guest;

	if (g->given[q] == NOT_GIVEN && g->virtio.enabled[q] && g->started && !g->stopping)
		give_queue(d, q);
	else if (g->given[q] == GIVEN && g->virtio.resetting[q] &&
		 vhost_front_stop_queue(&d->front, q) == 0)
		g->given[q] = TAKING_BACK;
}

static void forget_queues(struct vhost_device *d)
{
	memset(d->guest->base, 0, sizeof(d->guest->base));
	for (uint32_t q = 0; q < d->virtio.id.nqueues; q++)
		vhost_front_forget_queue(&d->front, q);
}

/* The device's lock is held, or every vCPU is parked. */
static void settle(struct vhost_device *d)
{
	struct vhost_device_guest *g = d->guest;
	bool live = virtio_is_live(&d->virtio) && !g->held;
	uint64_t features = g->virtio.driver_features & vhost_front_features(&d->front);
	uint8_t used[VIRTIO_QUEUES_MAX];

	end_queue_resets(d);
	if (live && !g->started && !g->stopping)
		g->started = vhost_front_start(&d->front, features) == 0;
	else if (!live && g->started && !g->stopping)
		g->stopping = vhost_front_stop(&d->front, g->virtio.resetting_all) == 0;
	if (g->virtio.resetting_all && !g->started && !g->stopping) {
		forget_queues(d);
		virtio_reset_done(&d->virtio);
	}
	if (g->held && !g->started && !g->stopping && d->setup.holds)
		d->setup.holds(d->setup.opaque);
	for (uint32_t q = 0; q < d->virtio.id.nqueues; q++)
		settle_queue(d, q);
	for (uint32_t q = 0; q < VIRTIO_QUEUES_MAX; q++)
		used[q] = live && g->given[q] == GIVEN;
	fast_path_update(&d->path, used);
}

static void lock_and_settle(struct vhost_device *d)
{
	pthread_mutex_lock(&d->dev->lock);
	settle(d);
	pthread_mutex_unlock(&d->dev->lock);
}

/* ---- what the front-end tells; main, no lock held ---- */

static void queue_stopped(void *opaque, unsigned int queue, uint16_t base)
{
	struct vhost_device *d = opaque;

	pthread_mutex_lock(&d->dev->lock);
	fast_path_last_call(&d->path, queue);
	d->guest->given[queue] = NOT_GIVEN;
	d->guest->base[queue] = d->guest->virtio.resetting[queue] ? 0 : base;
	if (!d->guest->stopping)
		settle(d);
	pthread_mutex_unlock(&d->dev->lock);
}

static void stopped(void *opaque)
{
	struct vhost_device *d = opaque;

	pthread_mutex_lock(&d->dev->lock);
	d->guest->started = d->guest->stopping = false;
	memset(d->guest->given, NOT_GIVEN, sizeof(d->guest->given));
	settle(d);
	pthread_mutex_unlock(&d->dev->lock);
}

static void show_config(struct vhost_device *d)
{
	memcpy(d->config, vhost_front_config(&d->front), d->setup.config_len);
	if (d->setup.show_config)
		d->setup.show_config(d->dev, d->config);
}

static void config_changed(void *opaque)
{
	struct vhost_device *d = opaque;

	pthread_mutex_lock(&d->dev->lock);
	show_config(d);
	virtio_notify_config(&d->virtio);
	pthread_mutex_unlock(&d->dev->lock);
}

static void lost(void *opaque)
{
	struct vhost_device *d = opaque;

	if (d->setup.lost)
		d->setup.lost(d->setup.opaque);
}

static void front_failed(void *opaque, const struct error *err)
{
	const struct vhost_device *d = opaque;

	log_warn("device '%s': %s", d->dev->id, err->text);
}

static void requests_lost(void *opaque, unsigned int queue, const struct error *err)
{
	struct vhost_device *d = opaque;

	(void)queue;
	pthread_mutex_lock(&d->dev->lock);
	virtio_broken(&d->virtio, err->text);
	settle(d);
	pthread_mutex_unlock(&d->dev->lock);
}

static int check_config(void *opaque, const uint8_t *old, const uint8_t *now, uint32_t len,
			struct error *err)
{
	struct vhost_device *d = opaque;

	if (!d->setup.check_config)
		return memcmp(old, now, len) == 0
			       ? 0
			       : err_set(err, EINVAL, "its configuration is another than before");
	return d->setup.check_config(d->setup.opaque, old, now, len, err);
}

static const struct vhost_front_ops front_ops = {
	.queue_stopped = queue_stopped,
	.stopped = stopped,
	.lost = lost,
	.requests_lost = requests_lost,
	.config_changed = config_changed,
	.failed = front_failed,
	.check_config = check_config,
};

/* ---- what the driver does; the device's lock is held ---- */

static void ask_for_service(struct virtio *v)
{
	machine_request(v->dev->machine, MACHINE_REQ_SERVICE);
}

static void driver_kicks(struct virtio *v, uint32_t queue)
{
	fast_path_kick(&of_virtio(v)->path, queue);
}

static void driver_enables(struct virtio *v, uint32_t queue)
{
	of_virtio(v)->guest->base[queue] = 0;
	ask_for_service(v);
}

static bool driver_resets_queue(struct virtio *v, uint32_t queue)
{
	(void)queue;
	ask_for_service(v);
	return false;
}

static bool driver_resets(struct virtio *v)
{
	struct vhost_device *d = of_virtio(v);
	struct vhost_device_guest *g = d->guest;

	/* What a stop has left of requests is main's to forget, or the next start has it. */
	if (!g->started && !g->stopping && !vhost_front_has_to_forget(&d->front)) {
		memset(g->base, 0, sizeof(g->base));
		return true;
	}
	ask_for_service(v);
	return false;
}

/*
 * Before the front-end was started there is nothing that a vector could be fast for; and while fast
 * paths are off, as in a stand-in, where nobody serves, it is looked at when they come on.
 */
static void vectors_changed(struct virtio *v)
{
	const struct vhost_device *d = of_virtio(v);

	if (d->guest->started && d->path.allowed)
		ask_for_service(v);
}

static void config_read(struct virtio *v, uint64_t offset, void *data, unsigned int size)
{
	struct vhost_device *d = of_virtio(v);
	uint32_t len = d->setup.config_len;

	if (offset < len)
		memcpy(data, d->config + offset, size < len - offset ? size : len - offset);
}

static const struct virtio_ops virtio_ops = {
	.start = ask_for_service,
	.kick = driver_kicks,
	.queue_enable = driver_enables,
	.queue_reset = driver_resets_queue,
	.reset = driver_resets,
	.config_read = config_read,
	.changed = vectors_changed,
};

static void back_end_error(struct virtio *v)
{
	const struct vhost_device_guest *g = of_virtio(v)->guest;

	/* Of a session that is over by now it is no news. */
	if (!g->started || g->stopping || g->virtio.resetting_all)
		return;
	virtio_broken(v, "says its back-end");
	ask_for_service(v);
}

/* ---- life ---- */

static struct vhost_front_setup front_setup(struct vhost_device *d)
{
	return (struct vhost_front_setup){
		.name = d->dev->id,
		.path = d->setup.path,
		.loop = d->dev->machine->loop,
		.mem = &d->dev->machine->memory,
		.ops = &front_ops,
		.opaque = d,
		.allowed = d->setup.identity.features | 1ull << VIRTIO_F_VERSION_1,
		.needed = d->setup.needed | 1ull << VIRTIO_F_VERSION_1,
		.queues = (uint16_t)d->setup.identity.nqueues,
		.max_queue_size = (uint16_t)d->setup.identity.queue_max,
		.config_len = d->setup.config_len,
		.finishes = d->setup.finishes,
	};
}

static int wait_for_back_end(struct vhost_device *d,
			     int (*give)(struct vhost_device *d, struct error *err),
			     unsigned int wait_ms, struct error *err)
{
	int r;

	vhost_front_resume(&d->front);
	r = give ? give(d, err) : 0;
	if (r == 0)
		r = vhost_front_wait_ready(&d->front, wait_ms, err);
	if (r == 0)
		fast_path_resume(&d->path);
	return r;
}

int vhost_device_create(struct vhost_device *d, struct device *dev,
			struct vhost_device_guest *guest, const struct vhost_device_setup *setup,
			struct fdtable *fds, int (*give)(struct vhost_device *d, struct error *err),
			unsigned int wait_ms, struct error *err)
{
	struct vhost_front_setup front;
	int r;

	d->dev = dev;
	d->guest = guest;
	d->setup = *setup;
	d->fds = fds;
	front = front_setup(d);
	fast_path_init(&d->path, &d->virtio, back_end_error);
	vhost_front_init(&d->front, &guest->front, &front);
	/* A successor's guest does not wait for them in the pause. */
	d->path.allowed = !fds;
	r = fds ? 0 : wait_for_back_end(d, give, wait_ms, err);
	if (r == 0 && !fds) {
		d->setup.identity.features &= vhost_front_features(&d->front);
		show_config(d);
	}
	if (r == 0)
		r = virtio_init(&d->virtio, dev, &guest->virtio, &d->setup.identity, &virtio_ops,
				setup->slot, err);
	if (r < 0) {
		vhost_front_destroy(&d->front);
		return r;
	}
	d->made = true;
	return 0;
}

void vhost_device_destroy(struct vhost_device *d)
{
	if (!d->made)
		return;
	vhost_front_destroy(&d->front);
	fast_path_fini(&d->path);
	virtio_fini(&d->virtio);
}

void vhost_device_attach(struct vhost_device *d)
{
	fast_path_forget_vm(&d->path);
}

bool vhost_device_before_reset(struct vhost_device *d, bool at_once)
{
	struct vhost_device_guest *g = d->guest;

	if (g->started && !g->stopping)
		g->stopping = vhost_front_stop(&d->front, true) == 0;
	/* Nothing is to be started again by what comes in meanwhile. */
	g->virtio.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
	if (g->stopping)
		vhost_front_serve_stop(&d->front, at_once);
	return !g->stopping;
}

/* The front-end's part stays: it is the connection's, not the guest's. */
void vhost_device_reset(struct vhost_device *d)
{
	forget_queues(d);
	memset(d->guest->given, NOT_GIVEN, sizeof(d->guest->given));
	d->guest->started = d->guest->stopping = false;
	virtio_power_on(&d->virtio);
}

void vhost_device_service(struct vhost_device *d)
{
	pci_function_service(&d->virtio.pci);
	lock_and_settle(d);
}

void vhost_device_hold(struct vhost_device *d, bool on)
{
	d->guest->held = on;
	lock_and_settle(d);
}

void vhost_device_fast_path(struct vhost_device *d, bool on)
{
	pthread_mutex_lock(&d->dev->lock);
	d->path.allowed = on;
	settle(d);
	pthread_mutex_unlock(&d->dev->lock);
}

void vhost_device_quiesce(struct vhost_device *d)
{
	fast_path_quiesce(&d->path);
	vhost_front_quiesce(&d->front);
}

void vhost_device_serve(struct vhost_device *d)
{
	fast_path_resume(&d->path);
}

void vhost_device_resume(struct vhost_device *d)
{
	fast_path_resume(&d->path);
	vhost_front_resume(&d->front);
	/* What was asked for and not yet done. Fast paths come later. */
	settle(d);
}

int vhost_device_save_host(struct vhost_device *d, struct fdtable *fds, struct error *err)
{
	int r = fast_path_save(&d->path, fds, err);

	return r < 0 ? r : vhost_front_save_fds(&d->front, d->virtio.pci.slot, fds, err);
}

static int check_given(const struct vhost_device *d, struct error *err)
{
	const struct vhost_device_guest *g = d->guest;

	for (uint32_t q = 0; q < VIRTIO_QUEUES_MAX; q++)
		if (g->given[q] > TAKING_BACK || (g->given[q] && !g->started) ||
		    (g->given[q] && q >= d->virtio.id.nqueues))
			return err_set(err, EINVAL, "queue %u cannot be at the back-end", q);
	if (g->stopping && !g->started)
		return err_set(err, EINVAL, "a stop of what was not started");
	return 0;
}

int vhost_device_post_load(struct vhost_device *d, struct error *err)
{
	int r = virtio_post_load(&d->virtio, err);

	if (r == 0)
		r = check_given(d, err);
	if (r == 0 && d->fds)
		r = fast_path_adopt(&d->path, d->fds, err);
	for (uint32_t q = 0; q < d->virtio.id.nqueues && r == 0; q++)
		if (d->guest->given[q] && d->path.queues[q].call_fd < 0)
			r = err_set(err, EINVAL, "queue %u has no eventfds", q);
	if (r == 0 && d->fds)
		r = vhost_front_adopt(&d->front, d->virtio.pci.slot, d->fds, err);
	for (uint32_t q = 0; q < d->virtio.id.nqueues && r == 0; q++)
		if (d->path.queues[q].call_fd >= 0)
			vhost_front_set_fds(&d->front, q, d->path.queues[q].kick_fd,
					    d->path.queues[q].call_fd, d->path.error_fd);
	d->fds = NULL;
	if (r < 0)
		return r;
	/* After a guest's reset, too, it is shown what it was shown. */
	d->virtio.id.features = d->guest->virtio.device_features;
	show_config(d);
	return 0;
}
