/* SPDX-License-Identifier: MIT */
/*
 * Guest RAM: sealed memfds, mapped shared, one below the PCI hole and one from 4 GiB up. This is
 * the only place where a guest physical address becomes a pointer.
 *
 * What the memfds are made of is the host's affair: no option here changes what the guest sees.
 */
#ifndef MOLT_VM_MEMORY_H
#define MOLT_VM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/state/fdtable.h>
#include <molt/vm/kvm.h>

#define MEMORY_LOW_MAX 0xc0000000ull /* RAM below here, the PCI hole from here to 4 GiB */
#define MEMORY_HIGH_BASE 0x100000000ull
#define MEMORY_MIN_BYTES (2ull << 20)
#define MEMORY_MAX_BYTES (252ull << 30) /* the 64-bit PCI window starts at 256 GiB */
#define MEMORY_MAX_REGIONS 2

#define MEMORY_HUGE_DEFAULT 1ull

enum memory_thp {
	MEMORY_THP_HOST, /* as the host has it set for everybody */
	MEMORY_THP_ON,   /* MADV_HUGEPAGE */
	MEMORY_THP_OFF,  /* MADV_NOHUGEPAGE */
};

struct memory_options {
	/*
	 * Bytes a page, a power of 2; 0: 4 KiB; MEMORY_HUGE_DEFAULT: the host's default huge page.
	 */
	uint64_t hugepages;
	enum memory_thp thp;
	bool prefault; /* all of RAM is allocated before the guest runs */
};

struct memory_region {
	uint64_t gpa;
	uint64_t size;
	int fd;
	void *hva;
};

struct memory {
	struct memory_region regions[MEMORY_MAX_REGIONS]; /* by ascending gpa */
	unsigned int count;
	uint64_t size;
	uint64_t page; /* size of the memfds' pages: 4096, or that of the huge pages */
	struct memory_options options;
};

/* Whether a guest can have that much: 0, or -EINVAL with the limits in the sentence. */
int memory_check_size(uint64_t size, struct error *err);

/*
 * Makes size bytes of zeroed RAM (a multiple of 4 KiB and of the huge pages' size,
 * MEMORY_MIN_BYTES..MEMORY_MAX_BYTES). Huge pages are reserved here: -ENOMEM says how many are
 * missing, and a guest never runs into it. -EINTR if a signal to end came during a prefault.
 *
 * With from, the memfds are taken from there ("ram", region) instead and must have the right size.
 * What pages they have is theirs then, and nothing is prefaulted: the guest waits.
 *
 * Each mapping begins at a multiple of 2 MiB, or of the pages' size if that is more, so that KVM
 * and the host can map it by huge pages. opt NULL is all defaults.
 */
int memory_create(struct memory *mem, uint64_t size, const struct memory_options *opt,
		  struct fdtable *from, struct error *err);
void memory_destroy(struct memory *mem);

/* Whether RAM is made of the pages that hugepages (as in struct memory_options) asks for. */
bool memory_pages_are(const struct memory *mem, uint64_t hugepages);

/* Tells the log of options that have no effect here, and the way out. */
void memory_log_trouble(const struct memory *mem);

/*
 * Gives every page back to the host: the guest reads zeroes. For reset. Huge pages are reserved
 * again, and RAM is prefaulted again, as in memory_create().
 */
int memory_clear(struct memory *mem, struct error *err);

/* Lists the memfds as ("ram", region). */
int memory_save_fds(const struct memory *mem, struct fdtable *t, struct error *err);

/* One KVM_SET_USER_MEMORY_REGION a region. Belongs before KVM_CREATE_IRQCHIP (SRCU, slow after). */
int memory_map_into(const struct memory *mem, struct kvm_vm *vm, struct error *err);

/*
 * A pointer to len bytes of guest RAM from gpa on, all inside one region; NULL where any byte is
 * not RAM. len 0 asks for an address inside RAM all the same. Valid until memory_destroy(). The
 * guest may change the bytes at any time: copy before checking.
 */
void *memory_ptr(const struct memory *mem, uint64_t gpa, uint64_t len);

/* Copies to or from guest RAM. 0, or -EFAULT with nothing copied where any byte is not RAM. */
int memory_read(const struct memory *mem, uint64_t gpa, void *buf, size_t len);
int memory_write(const struct memory *mem, uint64_t gpa, const void *buf, size_t len);

#endif
