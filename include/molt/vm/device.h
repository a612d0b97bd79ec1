/* SPDX-License-Identifier: MIT */
/*
 * Device classes. Of a board device each machine has as many as its class says; of others there are
 * those that options asked for at the cold start (struct device_request), or the stream's section
 * "devices" on an update. A device is one struct that begins with `struct device` and has a part
 * `guest` (what migrates: described by a vmstate) and a part `host` (pointers, descriptors,
 * threads). Its const class says everything the machine needs to know; src/devices.c lists the
 * classes.
 *
 * Life of a device:
 *	cold start:	create, attach, reset
 *	incoming:	create (takes its descriptors from env->fds), attach, load, post_load
 *	guest reset:	attach (to a fresh KVM VM), reset
 *	update:		rest, fast_path (off), quiesce, pre_save, save, save_host; then serve,
 *			in the stand-in, and at the switch from quiesce to save_host once more.
 *			Where the update fails: resume, fast_path (on), go_on
 *	successor:	as incoming; at the switch load_host_again, and load and post_load once
 *			more where its state has changed; resume, fast_path (on), updated
 *
 * A device belongs to one thread at a time: the bus takes dev->lock around read and write, and host
 * callbacks (of the event loop) take it themselves. In create, attach, reset, quiesce, pre_save,
 * post_load, resume and destroy every vCPU is parked and no lock is needed.
 */
#ifndef MOLT_VM_DEVICE_H
#define MOLT_VM_DEVICE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/base/loop.h>
#include <molt/base/option.h>
#include <molt/base/values.h>
#include <molt/state/fdtable.h>
#include <molt/state/kinds.h>
#include <molt/state/stream.h>
#include <molt/state/vmstate.h>
#include <molt/vm/block.h>
#include <molt/vm/bus.h>
#include <molt/vm/irq.h>

struct machine;
struct device;

struct chardev;

#define DEVICE_ID_MAX 63
#define DEVICE_ARGS_MAX 8191

/* The option of the command line that makes a device of a class, each time that it is given. */
struct device_option {
	struct option_def def; /* its default is for board devices that it is not given for */
	/*
	 * Where its value is a list: the keys that it may have, NULL-terminated. "id" is every
	 * list's, and seen to by the machine. NULL: the value is one word, the class's affair.
	 */
	const char *const *keys;
	/*
	 * Whether the value is wrong whatever the host is like; nothing is opened. list is NULL
	 * where keys is. 0, -EINVAL or -ERANGE with the sentence.
	 */
	int (*check)(const char *text, const struct value_list *list, struct error *err);
};

/* A device that an option asks for. */
struct device_request {
	const struct device_class *cls;
	const char *args; /* the option's value */
	bool more;        /* by the class's option of that name */
};

/* What a device is created from. Pointers live as long as the machine; fds and stream do not. */
struct device_env {
	struct machine *machine;
	struct loop *loop;
	/*
	 * What the option said, or the predecessor's that made it; NULL for a board device without.
	 * args holds it as text, list taken apart where the option's value is a list.
	 */
	const char *args;
	const struct value_list *list;
	/* Incoming: where descriptors and backend state come from; NULL on a cold start. */
	struct fdtable *fds;
	struct stream *stream;
};

/* What an update was for the devices, in the process that runs the guest now. */
enum device_update {
	DEVICE_UPDATED,
	DEVICE_UPDATED_ALONE, /* whoever serves them is to stay */
	DEVICE_GIVEN_BACK,    /* it failed, and this is the binary of before */
};

struct device_class {
	const char *name;   /* also the section name */
	uint32_t since;     /* the first machine version that has this device */
	unsigned int board; /* how many each machine has */
	unsigned int most;  /* how many one can have, from DEVICES_SINCE on; 0: not more */
	/*
	 * NULL: none of the user's affair. Of a board device the last one given counts; else each
	 * makes another device.
	 */
	const struct device_option *option;
	const struct device_option *more; /* for those beyond the board's; NULL: option */
	size_t size;                      /* of the whole struct */
	size_t guest_offset;              /* of the guest part, described by state */
	size_t guest_size;
	const struct vmstate *state; /* NULL: nothing migrates */
	const struct bus_region *regions;
	unsigned int nregions;

	bool back_end;     /* another process serves it, by vhost-user */
	bool before_vcpus; /* is created and attached before them: so KVM wants interrupt chips */

	/* What the host side adds to stream and fd table (save_host), NULL if nothing. */
	const struct takeover_kind *host;

	/*
	 * The character backend that it is plugged into, for queries; NULL where a device has none.
	 */
	const struct chardev *(*chardev)(struct device *dev);

	const struct device_block_ops *block; /* of a disk */

	/* Host side. All may be NULL. 0 or -errno with the sentence. */
	int (*create)(struct device *dev, const struct device_env *env, struct error *err);
	/* Joins the machine's KVM VM: in-kernel objects, irq lines. Again after each reset. */
	int (*attach)(struct device *dev, struct error *err);
	void (*reset)(struct device *dev);
	/* Drains what is in flight; the device starts nothing new until resume. */
	int (*quiesce)(struct device *dev, struct error *err);
	void (*resume)(struct device *dev);
	/*
	 * Quiesced, in a stand-in whose guest runs, with the device's lock held: serves the guest,
	 * as far as that changes no descriptor and no host state. quiesce follows again, or resume.
	 * NULL: there is nothing to serve but register accesses.
	 */
	void (*serve)(struct device *dev);
	/*
	 * Before an update's pause, while the guest runs: ends threads, so that no other process on
	 * this memory misses them. Does not wait: -EBUSY, and it is called again. They come again
	 * when they are needed after serve() or resume(), or where there is no pause after all,
	 * go_on().
	 */
	int (*rest)(struct device *dev, struct error *err);
	void (*go_on)(struct device *dev);
	/*
	 * The other process on this memory is gone, predecessor or stand-in; before all else.
	 * stood_in: this one has served; else locks of the host side are made anew, their holders
	 * may be dead.
	 */
	void (*revive)(struct device *dev, bool stood_in);
	/*
	 * Asked for by MACHINE_REQ_SERVICE, of every device, with every vCPU parked: what a guest's
	 * access changes and only main may do (regions, descriptors). It finds out itself whether
	 * there is anything to be done.
	 */
	void (*service)(struct device *dev);
	/*
	 * Whether KVM may serve its eventfds by itself; called while the guest runs. See
	 * machine_fast_paths().
	 */
	void (*fast_path)(struct device *dev, bool on);
	/* In a successor that runs the guest: whoever serves it may be replaced, too. */
	void (*updated)(struct device *dev, enum device_update how);
	/*
	 * Before a guest's reset, when RAM is still what it was: whoever else writes to it has to
	 * be stopped. Does not wait: false, and it is called again until it is so. at_once: for the
	 * last time, it is done with whoever has not stopped.
	 */
	bool (*before_reset)(struct device *dev, bool at_once);
	/* Brings the guest part up to date (e.g. from KVM) before it is saved. */
	int (*pre_save)(struct device *dev, struct error *err);
	/* Host state of the backend, as sections of its own, and its descriptors. */
	int (*save_host)(struct device *dev, struct stream_writer *w, struct fdtable *fds,
			 struct error *err);
	/*
	 * In a successor that was built from an earlier state, at the switch: the backend's
	 * sections again, for what may change while a stand-in serves. Descriptors are what they
	 * were.
	 */
	int (*load_host_again)(struct device *dev, struct stream *s, struct error *err);
	/*
	 * There too, of a guest part that has not changed: whether KVM by itself has made something
	 * else of it in the rehearsal, so that post_load() has to set it once more.
	 */
	bool (*kvm_has_changed)(struct device *dev);
	/* Makes the device live from the loaded guest part; may refuse. Writes no guest RAM. */
	int (*post_load)(struct device *dev, struct error *err);
	/* The user presses the power button (a class that has one). */
	void (*power_button)(struct device *dev);
	/*
	 * This process is about to be stopped (SIGTSTP), or it goes on (SIGCONT): a backend that
	 * shares a terminal with a shell puts it right. vCPUs are parked.
	 */
	void (*job_control)(struct device *dev, bool stopping);
	void (*destroy)(struct device *dev);
};

struct device {
	const struct device_class *cls;
	struct machine *machine;
	uint32_t instance;          /* counts those of its class */
	char id[DEVICE_ID_MAX + 1]; /* for queries: what the user called it, or class and number */
	char *args;                 /* see struct device_env */
	uint32_t fds_taken;         /* of an update's descriptors */
	void *transport;            /* between bus and device, if any: a struct virtio */
	bool is_told;               /* see device_told() */
	pthread_mutex_t lock;
};

static inline void *device_guest(struct device *dev)
{
	return (char *)dev + dev->cls->guest_offset;
}

/* Behind the device: its guest part as machine_save() saved it last, if is_told. */
static inline void *device_told(struct device *dev)
{
	return (char *)dev + dev->cls->size;
}

/*
 * The class table, NULL-terminated: src/devices.c. Creation, attach and load go in its order, those
 * before_vcpus first.
 */
extern const struct device_class *const device_classes[];

/* The first machine version with more than board devices. */
#define DEVICES_SINCE 2

/*
 * Whether an option's value is right, whatever the host is like, "id" included. 0, -EINVAL,
 * -ERANGE.
 */
int device_option_check(const struct device_option *opt, const char *text, struct error *err);

/*
 * Which machines a molt can make: of version N, for N from 1 to newest, with all classes whose
 * `since` is at most N. See docs/guest-abi.md.
 */
struct machine_model {
	const struct device_class *const *classes; /* NULL-terminated */
	uint32_t newest;
};

/* This molt's: src/devices.c. */
extern const struct machine_model machine_model;

#endif
