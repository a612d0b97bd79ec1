/* SPDX-License-Identifier: MIT */
/*
 * A machine for device tests: no KVM, no vCPUs, one device at a time. KVM_IRQ_LINE is recorded,
 * what a device asks of the machine (machine_request(), machine_exit()) too. Anything else a device
 * asks of KVM fails with -ENOTTY unless the test sets vm_ioctl.
 */
#ifndef MOLT_TESTS_FAKE_MACHINE_H
#define MOLT_TESTS_FAKE_MACHINE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>

#include <cmocka.h>

#include <molt/vm/machine.h>

#define FAKE_GSIS 24

struct fake_machine {
	struct machine m;
	struct device *dev;
	bool level[FAKE_GSIS];
	unsigned int edges[FAKE_GSIS]; /* low to high */
	unsigned int irq_calls;
	int irq_status; /* what KVM_IRQ_LINE_STATUS answers: 1 after fake_machine_init() */
	bool exited;
	const char *exit_reason;
	const char *args; /* what the device is created with */
	int (*vm_ioctl)(struct fake_machine *f, unsigned long request, uintptr_t arg);
};

void fake_machine_init(struct fake_machine *f);
void fake_machine_fini(struct fake_machine *f);

/*
 * create and attach, as a cold start (fds and stream NULL: reset follows) or incoming. 0 or -errno.
 */
int fake_device_create(struct fake_machine *f, const struct device_class *cls, struct fdtable *fds,
		       struct stream *stream, struct error *err);
void fake_device_destroy(struct fake_machine *f);

/* A guest's access at an address, under the device's lock; fails the test where nobody answers. */
uint64_t fake_read(struct fake_machine *f, enum bus_kind kind, uint64_t addr, unsigned int size);
void fake_write(struct fake_machine *f, enum bus_kind kind, uint64_t addr, uint64_t value,
		unsigned int size);

static inline uint8_t fake_inb(struct fake_machine *f, uint16_t port)
{
	return (uint8_t)fake_read(f, BUS_PIO, port, 1);
}

static inline void fake_outb(struct fake_machine *f, uint16_t port, uint8_t value)
{
	fake_write(f, BUS_PIO, port, value, 1);
}

/* Takes and clears the requests made so far. */
uint32_t fake_requests(struct fake_machine *f);

/* A whole stream: the device's guest part and, with fds, its host part. The caller frees data. */
void fake_save(struct fake_machine *f, struct fdtable *fds, void **data, size_t *len);

/* vmstate_load() into the device, then its post_load. */
int fake_load(struct fake_machine *f, struct stream *s, struct error *err);

/*
 * Saves f's device, loads it into a fresh one in a second machine, saves that: the test fails
 * unless both streams are the same. The second machine is left in *g for the test to go on with; it
 * took over the descriptors of the first (as duplicates).
 */
void fake_migrate(struct fake_machine *f, struct fake_machine *g);

/* Saves, lets change() spoil the guest part in a second device, and returns what post_load says. */
int fake_post_load_of(struct fake_machine *f, void (*spoil)(void *guest));

/* Runs the loop until nothing is ready. */
void fake_settle(struct fake_machine *f);

/* Fails the test if the loop is woken more than a few times in a while with nothing to do. */
void fake_assert_idle(struct loop *loop);

#endif
