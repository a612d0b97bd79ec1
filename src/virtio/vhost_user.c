/* SPDX-License-Identifier: MIT */
/*
 * A device whose back-end is somebody else's process, at the other end of a socket that the user
 * names: qemu-storage-daemon, SPDK. The back-end may go and come back; see docs/vhost-user.md.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <linux/virtio_blk.h>

#include <molt/base/fd.h>
#include <molt/base/unix_socket.h>
#include <molt/virtio/classes.h>
#include <molt/vm/machine.h>

#include "blk.h"
#include "vhost_device.h"

#define WAIT_MS 10000
#define DEVICES_MAX 16
#define QUEUES_DEFAULT 1

struct vhost_user_guest {
	struct vhost_device_guest device;
};

struct vhost_user {
	struct device dev;
	struct vhost_user_guest guest;
	struct {
		struct vhost_device device;
		char *path;
	} host;
};

static const struct vmstate_field guest_fields[] = {
	VHOST_DEVICE_FIELDS(struct vhost_user_guest, device),
	VMSTATE_END,
};

static const struct vmstate vhost_user_vmstate = {
	.name = "vhost-user",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct vhost_user_guest),
	.fields = guest_fields,
};

static struct vhost_user *to_vhost_user(struct device *dev)
{
	return container_of(dev, struct vhost_user, dev);
}

static struct vhost_device *device_of(struct device *dev)
{
	return &to_vhost_user(dev)->host.device;
}

/* ---- the option ---- */

static const char *const keys[] = { "socket", "type", "queues", "queue-size", "slot", NULL };

struct vhost_user_args {
	const char *path;
	uint64_t queues;
	uint64_t queue_size;
	uint32_t slot;
};

static int parse(const struct value_list *list, struct vhost_user_args *args, struct error *err)
{
	const char *type = value_list_get(list, "type");
	const char *queues = value_list_get(list, "queues");
	const char *size = value_list_get(list, "queue-size");
	int r = 0;

	*args = (struct vhost_user_args){
		.path = value_list_get(list, "socket"),
		.queues = QUEUES_DEFAULT,
		.queue_size = BLK_QUEUE_MAX_DEFAULT,
	};
	if (!args->path)
		return err_set(err, EINVAL, "--vhost-user: 'socket' is missing: socket=PATH");
	if (!type || strcmp(type, "blk") != 0)
		return err_set(err, EINVAL, "--vhost-user: type=%s: it must be blk",
			       type ? type : "");
	r = unix_socket_check_path("--vhost-user socket", args->path, err);
	if (r == 0 && queues)
		r = value_number("--vhost-user queues", queues, 1, VIRTIO_QUEUES_MAX, &args->queues,
				 err);
	if (r == 0 && size)
		r = value_number("--vhost-user queue-size", size, 2, VIRTQUEUE_SIZE_MAX,
				 &args->queue_size, err);
	if (r == 0 && (args->queue_size & (args->queue_size - 1)))
		r = err_set(err, EINVAL, "--vhost-user queue-size %s: it must be a power of 2",
			    size);
	return r < 0 ? r : virtio_slot_of(list, "--vhost-user", &args->slot, err);
}

static int check(const char *text, const struct value_list *list, struct error *err)
{
	struct vhost_user_args args;

	(void)text;
	return parse(list, &args, err);
}

static const struct device_option vhost_user_option = {
	.def = {
		.name = "vhost-user",
		.arg = "DEVICE",
		.help = "add a device that another process serves by vhost-user: "
			"socket=PATH,type=blk ,queues=N ,queue-size=N ,slot=N ,id=ID",
	},
	.keys = keys,
	.check = check,
};

/* ---- what can be seen of it ---- */

static void vhost_user_info(struct device *dev, struct block_info *info)
{
	struct vhost_device *d = device_of(dev);
	uint64_t sectors, features = vhost_front_features(&d->front);

	pthread_mutex_lock(&dev->lock);
	sectors = blk_capacity(d->config);
	pthread_mutex_unlock(&dev->lock);
	*info = (struct block_info){
		.socket = to_vhost_user(dev)->host.path,
		.state = vhost_front_state_name(vhost_front_state(&d->front)),
		.since_ns = vhost_front_since_ns(&d->front),
		.size = sectors > UINT64_MAX / 512 ? UINT64_MAX : sectors * 512,
		.queues = d->setup.identity.nqueues,
		.queue_size = d->setup.identity.queue_max,
		.readonly = features >> VIRTIO_BLK_F_RO & 1,
	};
}

/* What it does with the data, and how much there is, it does not tell. */
static const struct device_block_ops block_ops = { .info = vhost_user_info };

/* ---- life ---- */

static void show_config(struct device *dev, uint8_t *config)
{
	blk_show_queues(config, device_of(dev)->setup.identity.nqueues);
}

static int vhost_user_create(struct device *dev, const struct device_env *env, struct error *err)
{
	struct vhost_user *u = to_vhost_user(dev);
	struct vhost_user_args args;
	struct vhost_device_setup setup = {
		.config_len = BLK_CONFIG_BYTES,
		.finishes = true,
		.check_config = blk_check_config,
		.show_config = show_config,
		.opaque = dev,
	};
	int r = parse(env->list, &args, err);

	if (r < 0)
		return r;
	u->host.path = strdup(args.path);
	if (!u->host.path)
		return err_set(err, ENOMEM, "no memory for the socket's path");
	setup.path = u->host.path;
	setup.slot = args.slot;
	setup.identity = blk_identity((uint32_t)args.queues, (uint32_t)args.queue_size);
	r = vhost_device_create(&u->host.device, dev, &u->guest.device, &setup, env->fds, NULL,
				WAIT_MS, err);
	if (r < 0)
		free(u->host.path);
	return r;
}

static int vhost_user_attach(struct device *dev, struct error *err)
{
	(void)err;
	vhost_device_attach(device_of(dev));
	return 0;
}

static void vhost_user_reset(struct device *dev)
{
	vhost_device_reset(device_of(dev));
}

static bool vhost_user_before_reset(struct device *dev, bool at_once)
{
	return vhost_device_before_reset(device_of(dev), at_once);
}

static void vhost_user_service(struct device *dev)
{
	vhost_device_service(device_of(dev));
}

static void vhost_user_fast_path(struct device *dev, bool on)
{
	vhost_device_fast_path(device_of(dev), on);
}

static int vhost_user_quiesce(struct device *dev, struct error *err)
{
	(void)err;
	vhost_device_quiesce(device_of(dev));
	return 0;
}

/* A back-end that is lost, or has something to say, waits for the VMM that is to come. */
static void vhost_user_serve(struct device *dev)
{
	vhost_device_serve(device_of(dev));
}

static void vhost_user_resume(struct device *dev)
{
	vhost_device_resume(device_of(dev));
}

static int vhost_user_save_host(struct device *dev, struct stream_writer *w, struct fdtable *fds,
				struct error *err)
{
	(void)w;
	return vhost_device_save_host(device_of(dev), fds, err);
}

static int vhost_user_post_load(struct device *dev, struct error *err)
{
	return vhost_device_post_load(device_of(dev), err);
}

static void vhost_user_destroy(struct device *dev)
{
	vhost_device_destroy(device_of(dev));
	free(to_vhost_user(dev)->host.path);
}

static const char *const fd_names[] = { VHOST_DEVICE_FD_NAMES, NULL };

static const struct takeover_kind vhost_user_host = { .fds = fd_names };

const struct device_class vhost_user_class = {
	.name = "vhost-user",
	.since = 2,
	.most = DEVICES_MAX,
	.back_end = true,
	.option = &vhost_user_option,
	.block = &block_ops,
	.host = &vhost_user_host,
	.size = sizeof(struct vhost_user),
	.guest_offset = offsetof(struct vhost_user, guest),
	.guest_size = sizeof(struct vhost_user_guest),
	.state = &vhost_user_vmstate,
	.create = vhost_user_create,
	.attach = vhost_user_attach,
	.reset = vhost_user_reset,
	.before_reset = vhost_user_before_reset,
	.service = vhost_user_service,
	.fast_path = vhost_user_fast_path,
	.quiesce = vhost_user_quiesce,
	.resume = vhost_user_resume,
	.serve = vhost_user_serve,
	.save_host = vhost_user_save_host,
	.post_load = vhost_user_post_load,
	.destroy = vhost_user_destroy,
};
