/* SPDX-License-Identifier: MIT */
/* The device classes of this room, for the class table in src/devices.c. */
#ifndef MOLT_VIRTIO_CLASSES_H
#define MOLT_VIRTIO_CLASSES_H

#include <molt/vm/device.h>

extern const struct device_class virtio_rng_class; /* entropy, served by the VMM itself */
extern const struct device_class disk_class;       /* a file, served by `molt io` */
extern const struct device_class vhost_user_class; /* whatever somebody else serves */

#endif
