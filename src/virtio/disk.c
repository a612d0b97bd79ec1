/* SPDX-License-Identifier: MIT */
/*
 * A disk: a virtio-blk device on a file or a block device of the host, whose data a process of its
 * own moves (`molt io`, docs/io.md).
 *
 * The VMM opens and locks what there is to open, and keeps it: the file, the board, the rings. The
 * process inherits them, and so does the next one, after a crash or after an update. An update of
 * the VMM goes by it: the process is not told. Afterwards the successor starts a process of its own
 * binary beside it, and once that has answered takes the queues back from the old one, which
 * finishes what it has, and gives them to the new one.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/virtio/classes.h>
#include <molt/virtio/io_ring.h>
#include <molt/vm/machine.h>

#include "blk.h"
#include "disk.h"
#include "disk_file.h"

#define WAIT_MS 10000
#define DISKS_MAX 16
#define END_MS 2000

static const struct vmstate_field disk_fields[] = {
	VHOST_DEVICE_FIELDS(struct disk_guest, device),
	VMSTATE_U32(struct disk_guest, pid),
	VMSTATE_BOOL(struct disk_guest, outdated),
	VMSTATE_BOOL(struct disk_guest, renew),
	VMSTATE_UNSAVED(struct disk_guest, reserved, "padding"),
	VMSTATE_END,
};

static const struct vmstate disk_vmstate = {
	.name = "disk",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct disk_guest),
	.fields = disk_fields,
};

static struct vhost_device *device_of(struct device *dev)
{
	return &to_disk(dev)->host.device;
}

/* ---- the process ---- */

/* "7:8:9" */
static char *ring_numbers(const struct disk *d)
{
	char *text = calloc(1, d->host.nrings * 12 + 1);
	size_t len = 0;

	for (uint32_t i = 0; text && i < d->host.nrings; i++)
		len += (size_t)sprintf(text + len, "%s%d", i ? ":" : "", d->host.rings[i]);
	return text;
}

static char *process_arguments(void *opaque, int socket, int *fds, size_t *nfds)
{
	const struct disk *d = opaque;
	const struct disk_options *o = &d->host.options;
	_cleanup_free_ char *rings = ring_numbers(d);
	char *text = NULL;

	io_board_mend(&d->host.board);
	if (!rings ||
	    asprintf(&text,
		     "id=%s,socket=%d,file=%d,board=%d,event=%d%s%s,readonly=%s,discard=%s%s%s,"
		     "queues=%u,queue-size=%u",
		     d->dev.id, socket, d->host.file, d->host.board_fd, d->host.event,
		     d->host.nrings ? ",rings=" : "", rings, o->readonly ? "on" : "off",
		     o->discard ? "on" : "off", o->serial ? ",serial=" : "",
		     o->serial ? o->serial : "", o->queues, o->queue_size) < 0)
		return NULL;
	fds[(*nfds)++] = socket;
	fds[(*nfds)++] = d->host.file;
	fds[(*nfds)++] = d->host.board_fd;
	fds[(*nfds)++] = d->host.event;
	for (uint32_t i = 0; i < d->host.nrings; i++)
		fds[(*nfds)++] = d->host.rings[i];
	return text;
}

static void process_started(void *opaque, int socket)
{
	struct disk *d = opaque;

	d->guest.outdated = d->guest.renew = false;
	vhost_front_give_socket(&d->host.device.front, socket);
}

/* The front-end would refuse another, when the one that is there has gone. */
static bool next_is_fit(void *opaque, uint64_t features)
{
	const struct disk *d = opaque;

	return !(vhost_front_features(&d->host.device.front) & ~features);
}

static void next_is_prepared(void *opaque)
{
	struct disk *d = opaque;

	vhost_device_hold(&d->host.device, true);
}

static void init_process(struct disk *d)
{
	struct io_process *p = &d->host.process;

	io_process_init(p, d->dev.machine->loop, d->dev.id);
	p->arguments = process_arguments;
	p->started = process_started;
	p->is_fit = next_is_fit;
	p->prepared = next_is_prepared;
	p->opaque = d;
}

static int give_first(struct vhost_device *device, struct error *err)
{
	return io_process_start(&to_disk(device->dev)->host.process, err);
}

/* The old process has finished with all queues. The device's lock is held. */
static void queues_are_back(void *opaque)
{
	struct disk *d = to_disk(opaque);

	/* Out of the front-end's callback, in which it must not get another socket's news. */
	d->host.replace = true;
	machine_request(d->dev.machine, MACHINE_REQ_SERVICE);
}

static void connection_is_lost(void *opaque)
{
	struct disk *d = to_disk(opaque);

	io_process_lost(&d->host.process);
}

static bool is_connected(const struct disk *d)
{
	return vhost_front_state(&d->host.device.front) != VHOST_FRONT_DISCONNECTED;
}

/*
 * Where the connection is gone the old process has not finished: its threads may be in the middle
 * of requests that the inflight table has as well. It ends, for its socket is closed, and another
 * one of this binary is started when it has. Where the next one has died meanwhile, the old one
 * goes on.
 */
static void replace_process(struct disk *d)
{
	d->host.replace = false;
	if (is_connected(d) && io_process_is_prepared(&d->host.process))
		io_process_replace(&d->host.process);
	vhost_device_hold(&d->host.device, false);
}

/* Where there is no connection the next one that is started is this binary's anyway. */
static void bring_up_to_date(struct disk *d)
{
	if (d->guest.renew && is_connected(d))
		io_process_prepare(&d->host.process);
}

/* ---- what it has open ---- */

static int make_rings(struct disk *d, struct error *err)
{
	const struct disk_options *o = &d->host.options;

	if (o->engine == DISK_ENGINE_THREADS)
		return 0;
	for (uint32_t i = 0; i < o->queues; i++) {
		struct io_uring_params params;
		int fd = io_ring_make(o->queue_size, &params, err);

		if (fd < 0 && (i > 0 || o->engine == DISK_ENGINE_URING))
			return fd;
		if (fd < 0) {
			log_info("disk '%s' goes by threads: %s", d->dev.id, err->text);
			return 0;
		}
		memcpy(io_board_queue(&d->host.board, i)->ring, &params, sizeof(params));
		d->host.rings[d->host.nrings++] = fd;
	}
	return 0;
}

static int open_all(struct disk *d, struct error *err)
{
	int r = disk_file_open(&d->host.options, &d->host.file, err);

	if (r == 0)
		r = d->host.board_fd = io_board_make(d->host.options.queues, err);
	if (r >= 0)
		r = io_board_map(&d->host.board, d->host.board_fd, d->host.options.queues, err);
	if (r < 0)
		return r;
	d->host.event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (d->host.event < 0)
		return err_sys(err, errno, "eventfd");
	disk_options_set_limits(&d->host.options, d->host.board.board);
	return make_rings(d, err);
}

static uint32_t ring_id(const struct disk *d, uint32_t queue)
{
	return d->dev.instance * VIRTIO_QUEUES_MAX + queue;
}

static int take(struct fdtable *fds, const char *name, uint32_t id, int *fd, struct error *err)
{
	*fd = fdtable_take(fds, name, id, 0, err);
	return *fd < 0 ? *fd : 0;
}

static int take_all(struct disk *d, struct fdtable *fds, struct error *err)
{
	uint32_t id = d->dev.instance;
	int r = take(fds, "disk-file", id, &d->host.file, err);

	if (r == 0)
		r = take(fds, "disk-board", id, &d->host.board_fd, err);
	if (r == 0)
		r = io_board_map(&d->host.board, d->host.board_fd, d->host.options.queues, err);
	if (r == 0)
		r = take(fds, "disk-event", id, &d->host.event, err);
	if (r == 0 && fdtable_has(fds, "disk-process", id))
		r = take(fds, "disk-process", id, &d->host.process.child.fd, err);
	while (r == 0 && d->host.nrings < d->host.options.queues &&
	       fdtable_has(fds, "disk-ring", ring_id(d, d->host.nrings))) {
		r = take(fds, "disk-ring", ring_id(d, d->host.nrings),
			 &d->host.rings[d->host.nrings], err);
		d->host.nrings += r == 0;
	}
	return r;
}

static void close_all(struct disk *d)
{
	io_board_unmap(&d->host.board);
	fd_close(&d->host.file);
	fd_close(&d->host.board_fd);
	fd_close(&d->host.event);
	while (d->host.nrings)
		fd_close(&d->host.rings[--d->host.nrings]);
	disk_options_fini(&d->host.options);
}

/* ---- life ---- */

static void show_config(struct device *dev, uint8_t *config)
{
	blk_show_queues(config, to_disk(dev)->host.options.queues);
}

static int make_device(struct disk *d, struct fdtable *fds, struct error *err)
{
	const struct vhost_device_setup setup = {
		.identity = blk_identity(d->host.options.queues, d->host.options.queue_size),
		.config_len = BLK_CONFIG_BYTES,
		.slot = d->host.options.slot,
		.check_config = blk_check_config,
		.show_config = show_config,
		.lost = connection_is_lost,
		.holds = queues_are_back,
		.opaque = &d->dev,
	};

	return vhost_device_create(&d->host.device, &d->dev, &d->guest.device, &setup, fds,
				   give_first, WAIT_MS, err);
}

static int disk_create(struct device *dev, const struct device_env *env, struct error *err)
{
	struct disk *d = to_disk(dev);
	int r;

	d->host.file = d->host.board_fd = d->host.event = -1;
	init_process(d);
	r = disk_options_parse(&d->host.options, env->list, err);
	if (r == 0)
		r = env->fds ? take_all(d, env->fds, err) : open_all(d, err);
	if (r == 0)
		r = make_device(d, env->fds, err);
	if (r < 0) {
		io_process_end(&d->host.process, END_MS);
		close_all(d);
		return r;
	}
	if (!env->fds)
		io_process_watch(&d->host.process);
	return 0;
}

static int disk_attach(struct device *dev, struct error *err)
{
	(void)err;
	vhost_device_attach(device_of(dev));
	return 0;
}

static void disk_reset(struct device *dev)
{
	struct disk *d = to_disk(dev);

	vhost_device_reset(&d->host.device);
}

static bool disk_before_reset(struct device *dev, bool at_once)
{
	return vhost_device_before_reset(device_of(dev), at_once);
}

static void disk_service(struct device *dev)
{
	struct disk *d = to_disk(dev);

	if (d->host.replace)
		replace_process(d);
	vhost_device_service(&d->host.device);
}

/* The update is over: the data is to be moved by this binary, too. After one that failed it was. */
static void disk_updated(struct device *dev, enum device_update how)
{
	struct disk *d = to_disk(dev);

	if (how != DEVICE_GIVEN_BACK) {
		d->guest.outdated = d->host.process.child.pid != 0;
		d->guest.renew = how == DEVICE_UPDATED;
	}
	bring_up_to_date(d);
}

static void disk_fast_path(struct device *dev, bool on)
{
	vhost_device_fast_path(device_of(dev), on);
}

/*
 * The last update's process, which was replaced, or was to replace another; one that hangs is in no
 * update's way. Nor is one that has written where it should not: neither a successor nor a way back
 * could map the board.
 */
static int disk_rest(struct device *dev, struct error *err)
{
	io_board_mend(&to_disk(dev)->host.board);
	io_process_drop_next(&to_disk(dev)->host.process);
	if (io_process_leaves(&to_disk(dev)->host.process))
		return err_set(err, EBUSY,
			       "an I/O process that does not serve any more has not ended yet");
	return 0;
}

static void disk_go_on(struct device *dev)
{
	bring_up_to_date(to_disk(dev));
}

static int disk_quiesce(struct device *dev, struct error *err)
{
	struct disk *d = to_disk(dev);

	(void)err;
	io_process_unwatch(&d->host.process);
	vhost_device_quiesce(&d->host.device);
	return 0;
}

/* A back-end that is lost, or has something to say, waits for the VMM that is to come. */
static void disk_serve(struct device *dev)
{
	vhost_device_serve(&to_disk(dev)->host.device);
}

static void disk_resume(struct device *dev)
{
	struct disk *d = to_disk(dev);

	vhost_device_resume(&d->host.device);
	io_process_watch(&d->host.process);
	if (!is_connected(d))
		io_process_lost(&d->host.process);
}

static int disk_pre_save(struct device *dev, struct error *err)
{
	struct disk *d = to_disk(dev);

	(void)err;
	d->guest.pid = (uint32_t)d->host.process.child.pid;
	return 0;
}

static int disk_save_host(struct device *dev, struct stream_writer *w, struct fdtable *fds,
			  struct error *err)
{
	struct disk *d = to_disk(dev);
	uint32_t id = dev->instance;
	int r = fdtable_add(fds, "disk-file", id, d->host.file, err);

	(void)w;
	if (r == 0)
		r = fdtable_add(fds, "disk-board", id, d->host.board_fd, err);
	if (r == 0)
		r = fdtable_add_as(fds, "disk-event", id, d->host.event, FD_KIND_EVENTFD, err);
	if (r == 0 && d->host.process.child.fd >= 0)
		r = fdtable_add(fds, "disk-process", id, d->host.process.child.fd, err);
	for (uint32_t i = 0; i < d->host.nrings && r == 0; i++)
		r = fdtable_add_as(fds, "disk-ring", ring_id(d, i), d->host.rings[i],
				   FD_KIND_IO_URING, err);
	return r < 0 ? r : vhost_device_save_host(&d->host.device, fds, err);
}

static int disk_post_load(struct device *dev, struct error *err)
{
	struct disk *d = to_disk(dev);
	struct child *child = &d->host.process.child;

	if ((d->guest.pid != 0) != (child->fd >= 0) || d->guest.pid > INT32_MAX)
		return err_set(err, EINVAL, "I/O process %u", d->guest.pid);
	child->pid = (pid_t)d->guest.pid;
	return vhost_device_post_load(&d->host.device, err);
}

static void disk_destroy(struct device *dev)
{
	struct disk *d = to_disk(dev);

	io_process_unwatch(&d->host.process);
	vhost_device_destroy(&d->host.device);
	/* Its socket is closed: it ends, if nobody else has that. */
	io_process_end(&d->host.process, END_MS);
	close_all(d);
}

static const char *const fd_names[] = {
	VHOST_DEVICE_FD_NAMES, "disk-file", "disk-board", "disk-event",
	"disk-process",        "disk-ring", NULL,
};

static const struct takeover_kind disk_host = { .fds = fd_names };

const struct device_class disk_class = {
	.name = "disk",
	.since = 2,
	.most = DISKS_MAX,
	.back_end = true,
	.option = &disk_option,
	.block = &disk_block_ops,
	.host = &disk_host,
	.size = sizeof(struct disk),
	.guest_offset = offsetof(struct disk, guest),
	.guest_size = sizeof(struct disk_guest),
	.state = &disk_vmstate,
	.create = disk_create,
	.attach = disk_attach,
	.reset = disk_reset,
	.before_reset = disk_before_reset,
	.service = disk_service,
	.updated = disk_updated,
	.fast_path = disk_fast_path,
	.rest = disk_rest,
	.go_on = disk_go_on,
	.quiesce = disk_quiesce,
	.resume = disk_resume,
	.serve = disk_serve,
	.pre_save = disk_pre_save,
	.save_host = disk_save_host,
	.post_load = disk_post_load,
	.destroy = disk_destroy,
};
