/* SPDX-License-Identifier: MIT */
/* Whether host and control groups have room for an update: before anything is done for it. */
#ifndef MOLT_UPDATE_ROOM_H
#define MOLT_UPDATE_ROOM_H

#include <stdint.h>

#include <molt/base/error.h>

struct update;

/* What an update's need is reckoned from. */
struct room_need {
	uint64_t ram;     /* bytes of guest RAM */
	uint64_t present; /* bytes of it that exist: those that were ever used */
	uint64_t page;    /* bytes of a page that it is made of */
	uint64_t program; /* bytes of the successor's binary, where it is copied; else 0 */
	uint32_t vcpus;
	uint32_t threads; /* threads and processes, at most, beyond those that there are now */
	uint32_t disks;   /* I/O processes that are replaced */
	uint32_t leaving; /* processes of earlier updates that are still being taken apart */
};

enum room {
	ROOM_FOR_ALL,
	ROOM_WITHOUT_TABLES, /* only if RAM is not mapped in advance */
};

/* In bytes, beside guest RAM: with nested paging KVM needs less for a VM. */
uint64_t room_bytes(const struct room_need *need, enum room room, bool nested_paging);

/*
 * Asks the control groups, with all their ancestors that can be seen, and the host. 0 and *room; or
 * -ENOMEM or -EAGAIN (threads), with a sentence that says how much is needed and where how much is
 * left. What cannot be found out is taken for enough. root stands before every path: "" but for
 * tests.
 */
int update_room(const char *root, const struct room_need *need, enum room *room, struct error *err);

/*
 * Whether so many descriptors can be carried: the successor copies each for the way back, and makes
 * new ones for its vCPUs. 0, or -EMFILE with a sentence that says how much RLIMIT_NOFILE is to be.
 */
int room_descriptors(uint32_t carried, uint32_t vcpus, struct error *err);

/* For the stage `prepare`: asks for this machine, and sets the hand-over's `lazily`. */
int room_prepare(struct update *u, struct error *err);

#endif
