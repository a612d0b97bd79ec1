/* SPDX-License-Identifier: MIT */
/*
 * Entropy device (virtio 1.2, 5.4): one queue, whose buffers are filled by getrandom(2).
 *
 * The vCPU that notifies fills them itself, before its next instruction: so a guest that asks for
 * much keeps nobody waiting but itself, and there is never anything in flight when an update comes.
 * A buffer gets at most CHUNK bytes, which the specification allows, so that a notification takes
 * well under a millisecond.
 * #syscalls vcpu: getrandom
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/virtio_ids.h>
#include <linux/virtio_ring.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/virtio/classes.h>
#include <molt/virtio/virtio.h>
#include <molt/vm/machine.h>

#define QUEUE_MAX 64
#define IOVS 16
#define CHUNK 4096u
#define CLASS_OTHER 0xff0000 /* of no class */
#define RNGS_MAX 8

struct rng_guest {
	struct virtio_guest virtio;
	uint16_t next; /* of both rings: what is popped is pushed at once */
	uint8_t reserved[6];
};

static_assert(sizeof(struct rng_guest) == sizeof(struct virtio_guest) + 8, "every byte is saved");

struct rng {
	struct device dev;
	struct rng_guest guest;
	struct {
		struct virtio virtio;
		struct virtqueue queue;
	} host;
};

static const struct vmstate_field rng_fields[] = {
	VIRTIO_FIELDS(struct rng_guest, virtio),
	VMSTATE_U16(struct rng_guest, next),
	VMSTATE_UNSAVED(struct rng_guest, reserved, "padding"),
	VMSTATE_END,
};

static const struct vmstate rng_vmstate = {
	.name = "virtio-rng",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct rng_guest),
	.fields = rng_fields,
};

static struct rng *to_rng(struct device *dev)
{
	return container_of(dev, struct rng, dev);
}

/* ---- the queue ---- */

static uint32_t fill(const struct virtqueue_chain *chain)
{
	uint32_t done = 0;

	for (unsigned int i = 0; i < chain->nwrite && done < CHUNK; i++) {
		const struct iovec *iov = &chain->iov[chain->nread + i];
		size_t len = iov->iov_len < CHUNK - done ? iov->iov_len : CHUNK - done;
		/*
		 * glibc's getrandom() takes the vDSO's since 2.41, where Linux (6.11) has it, and
		 * maps memory for that, which would end a vCPU thread.
		 */
		long n;

		do
			n = syscall(SYS_getrandom, iov->iov_base, len, 0);
		while (n < 0 && errno == EINTR); /* by a kick, after which it parks */
		if (n <= 0)
			break;
		done += (uint32_t)n;
	}
	return done;
}

/* What there is, *left buffers of it at most. */
static void serve(struct rng *r, unsigned int *left)
{
	struct virtqueue *q = &r->host.queue;
	struct iovec iov[IOVS];
	struct virtqueue_chain chain = { .iov = iov, .max = IOVS };
	uint16_t before = q->next_avail;
	int n = 0;

	for (; *left && (n = virtqueue_pop(q, &chain)) > 0; --*left)
		virtqueue_push(q, chain.head, fill(&chain));
	r->guest.next = q->next_avail;
	virtqueue_flush(q);
	if (n < 0)
		virtio_broken(&r->host.virtio, virtqueue_error_text((enum virtqueue_error) - n));
	else if (q->next_avail != before && virtqueue_should_notify(q))
		virtio_notify_queue(&r->host.virtio, 0);
}

/*
 * A driver whose other CPU was interrupted by that may add the next buffer before this one asks for
 * notifications again; then there is none, and it is looked at once more. One that adds them all
 * the time waits until main has stopped all its CPUs, which in an update's stand-in takes long.
 */
static void serve_all(struct rng *r)
{
	struct virtio *v = &r->host.virtio;
	struct virtqueue *q = &r->host.queue;
	unsigned int left = q->size;
	bool more = true;

	if (!q->mem || !virtio_is_live(v))
		return;
	while (more && left) {
		serve(r, &left);
		more = virtio_is_live(v) && virtqueue_enable_kicks(q);
	}
	if (more)
		machine_request(v->dev->machine, MACHINE_REQ_SERVICE);
}

static void rng_kick(struct virtio *v, uint32_t queue)
{
	(void)queue;
	serve_all(to_rng(v->dev));
}

static int set_up(struct rng *r, struct error *err)
{
	const struct virtqueue_config config = virtio_queue_config(&r->host.virtio, 0);

	r->host.queue = (struct virtqueue){ 0 };
	if (!r->guest.virtio.enabled[0])
		return 0;
	return virtqueue_setup(&r->host.queue, &r->dev.machine->memory, &config, r->guest.next,
			       r->guest.next, err);
}

/*
 * The drivers of Linux 5.16 to 5.18 add their buffer and notify before they say DRIVER_OK, when
 * nobody listens, and not again: so the queue is looked at here. Only ever called for what the
 * driver does: an update's successor sets the queue up by itself, and touches nothing.
 */
static void start(struct virtio *v)
{
	struct rng *r = to_rng(v->dev);
	struct error err = ERROR_INIT;

	r->guest.next = 0;
	if (set_up(r, &err) < 0)
		virtio_broken(v, err.text);
	else
		serve_all(r);
}

static void queue_enable(struct virtio *v, uint32_t queue)
{
	(void)queue;
	start(v);
}

static bool stop(struct virtio *v)
{
	to_rng(v->dev)->host.queue = (struct virtqueue){ 0 };
	to_rng(v->dev)->guest.next = 0;
	return true;
}

static bool queue_reset(struct virtio *v, uint32_t queue)
{
	(void)queue;
	return stop(v);
}

static const struct virtio_ops rng_ops = {
	.start = start,
	.kick = rng_kick,
	.queue_enable = queue_enable,
	.queue_reset = queue_reset,
	.reset = stop,
};

/* ---- life ---- */

static int rng_create(struct device *dev, const struct device_env *env, struct error *err)
{
	static const struct virtio_identity identity = {
		.type = VIRTIO_ID_RNG,
		.class_code = CLASS_OTHER,
		.features = 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_RING_F_INDIRECT_DESC,
		.nqueues = 1,
		.queue_max = QUEUE_MAX,
	};
	struct rng *r = to_rng(dev);
	uint32_t slot = 0;
	int ret = virtio_slot_of(env->list, "--rng", &slot, err);

	if (ret < 0)
		return ret;
	return virtio_init(&r->host.virtio, dev, &r->guest.virtio, &identity, &rng_ops, slot, err);
}

static void rng_reset(struct device *dev)
{
	struct rng *r = to_rng(dev);

	stop(&r->host.virtio);
	memset(&r->guest, 0, sizeof(r->guest));
	virtio_power_on(&r->host.virtio);
}

static void rng_service(struct device *dev)
{
	struct rng *r = to_rng(dev);

	pci_function_service(&r->host.virtio.pci);
	serve_all(r);
}

static int rng_post_load(struct device *dev, struct error *err)
{
	struct rng *r = to_rng(dev);
	int ret = virtio_post_load(&r->host.virtio, err);

	return ret < 0 ? ret : set_up(r, err);
}

static void rng_destroy(struct device *dev)
{
	virtio_fini(&to_rng(dev)->host.virtio);
}

static const char *const keys[] = { "src", "slot", NULL };

static int check(const char *text, const struct value_list *list, struct error *err)
{
	const char *src = value_list_get(list, "src");
	uint32_t slot;

	if (!src || strcmp(src, "host") != 0)
		return err_set(err, EINVAL, "--rng '%s': the source must be host", text);
	return virtio_slot_of(list, "--rng", &slot, err);
}

static const struct device_option rng_option = {
	.def = {
		.name = "rng",
		.arg = "SOURCE",
		.help = "add a source of entropy (virtio-rng): host, which is getrandom(2); then "
			",slot=N ,id=ID",
		.values = "host",
	},
	.keys = keys,
	.check = check,
};

const struct device_class virtio_rng_class = {
	.name = "virtio-rng",
	.since = 2,
	.most = RNGS_MAX,
	.option = &rng_option,
	.size = sizeof(struct rng),
	.guest_offset = offsetof(struct rng, guest),
	.guest_size = sizeof(struct rng_guest),
	.state = &rng_vmstate,
	.create = rng_create,
	.reset = rng_reset,
	.service = rng_service,
	.post_load = rng_post_load,
	.destroy = rng_destroy,
};
