/* SPDX-License-Identifier: MIT */
/*
 * A virtio device whose queues are served by a vhost-user back-end: the driver's registers
 * (virtio.h) on one side, the front-end (vhost_front.h) on the other, and eventfds between guest
 * and back-end (fast_path.h). What kind of device it is and where the back-end comes from is a
 * class's affair.
 *
 * A class embeds a struct vhost_device_guest in the part of it that migrates and a struct
 * vhost_device in its host part, and hands most of its callbacks on to the functions here.
 */
#ifndef MOLT_VIRTIO_VHOST_DEVICE_H
#define MOLT_VIRTIO_VHOST_DEVICE_H

#include <molt/virtio/vhost_front.h>
#include <molt/virtio/virtio.h>

#include "fast_path.h"

struct vhost_device_guest {
	struct virtio_guest virtio;
	struct vhost_front_guest front;
	uint16_t base[VIRTIO_QUEUES_MAX]; /* where a queue goes on */
	uint8_t given[VIRTIO_QUEUES_MAX]; /* enum given: what the front-end has of it */
	bool started;                     /* the front-end, and not stopped again */
	bool stopping;                    /* that is under way */
	bool held; /* by its owner: the back-end is to have no queue, whatever the driver wants */
	uint8_t reserved[5];
};

/* clang-format off */
#define VHOST_DEVICE_FIELDS(s, m) \
	VIRTIO_FIELDS(s, m.virtio), \
	VHOST_FRONT_FIELDS(s, m.front), \
	VMSTATE_U16_ARRAY(s, m.base), \
	VMSTATE_U8_ARRAY(s, m.given), \
	VMSTATE_BOOL(s, m.started), \
	VMSTATE_BOOL(s, m.stopping), \
	VMSTATE_BOOL(s, m.held), \
	VMSTATE_UNSAVED(s, m.reserved, "padding")
/* clang-format on */

/* Names in the fd table of all that is here. */
#define VHOST_DEVICE_FD_NAMES \
	FAST_PATH_FD_NAMES, "vhost-socket", "vhost-channel", "vhost-inflight", "vhost-in"

struct vhost_device_setup {
	struct virtio_identity identity; /* its features: all that the guest may be shown */
	uint64_t needed;                 /* of them, without which a back-end is of no use */
	uint32_t config_len;             /* of the device's configuration */
	uint32_t slot;
	bool finishes;    /* see struct vhost_front_setup; not for one that waits for it itself */
	const char *path; /* of the back-end's socket, which has to stay; NULL: sockets are given */
	/* As in struct vhost_front_ops; may be NULL. */
	int (*check_config)(void *opaque, const uint8_t *old, const uint8_t *now, uint32_t len,
			    struct error *err);
	/* What the guest is shown of the configuration; NULL: what the back-end says. */
	void (*show_config)(struct device *dev, uint8_t *config);
	void (*lost)(void *opaque);
	/* After vhost_device_hold(): the back-end has no queue any more. Device's lock held. */
	void (*holds)(void *opaque);
	void *opaque;
};

struct vhost_device {
	struct device *dev;
	struct vhost_device_guest *guest;
	struct vhost_device_setup setup;
	struct virtio virtio;
	struct vhost_front front;
	struct fast_path path;
	uint8_t config[VHOST_USER_MAX_CONFIG]; /* what the guest is shown; device's lock */
	struct fdtable *fds;                   /* while it is built from a stream */
	bool made;
};

/*
 * From create. On a cold start it then waits up to wait_ms for a back-end, whose features and
 * configuration the guest is shown; incoming (fds), nothing is said to anybody. With sockets that
 * are given, give is called for the first one (vhost_front_give_socket()). -errno with the
 * sentence.
 */
int vhost_device_create(struct vhost_device *d, struct device *dev,
			struct vhost_device_guest *guest, const struct vhost_device_setup *setup,
			struct fdtable *fds, int (*give)(struct vhost_device *d, struct error *err),
			unsigned int wait_ms, struct error *err);
void vhost_device_destroy(struct vhost_device *d);

/*
 * For another back-end to take its place: takes all queues back (holds tells when that is done), or
 * gives them out again. The guest sees requests that take a little longer. Main, no lock held.
 */
void vhost_device_hold(struct vhost_device *d, bool on);

/* The class's callbacks of the same names. */
void vhost_device_attach(struct vhost_device *d);
void vhost_device_reset(struct vhost_device *d);
bool vhost_device_before_reset(struct vhost_device *d, bool at_once);
void vhost_device_service(struct vhost_device *d);
void vhost_device_fast_path(struct vhost_device *d, bool on);
void vhost_device_quiesce(struct vhost_device *d);
void vhost_device_resume(struct vhost_device *d);
/* Kicks and calls alone. */
void vhost_device_serve(struct vhost_device *d);
int vhost_device_save_host(struct vhost_device *d, struct fdtable *fds, struct error *err);
int vhost_device_post_load(struct vhost_device *d, struct error *err);

#endif
