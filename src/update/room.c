/* SPDX-License-Identifier: MIT */
/*
 * Room for an update. Theory of operation.
 *
 * While an update is under way there are two VMs and two address spaces. What they need beside
 * guest RAM counts for the control groups of this process like everything else, and where a limit
 * is reached and nothing can be taken back the out-of-memory killer ends the process that uses
 * most. That is molt, and with it who shares its memory: no way back leads from there. So the need
 * is reckoned up, and held against what there is, before anything is begun.
 *
 * The figures are upper bounds of what tests/guest/test_room.py measures (docs/live-update.md). The
 * tables are those that lead to guest RAM: the process's page tables and KVM's, eight bytes a page
 * in each. With RAM mapped in advance the new ones are there before the old ones go. Else the guest
 * fills the new ones while the old ones are taken apart, which is much the faster of the two: half
 * is allowed for.
 *
 * KVM's books on a memslot are for all of RAM, used or not. Without nested paging they have two
 * words for each page (reverse map, write tracking: 10 bytes), else at most the second.
 *
 * It is no reservation: others may take what was left. And the host's figure is an estimate of the
 * kernel's.
 */
#include <errno.h>
#include <inttypes.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "cgroup.h"
#include "internal.h"
#include "room.h"
#include "room_threads.h"

#define KIB UINT64_C(1024)
#define PROCESS (3072 * KIB) /* the successor, the stand-in's stack, the check's process; a VM */
#define A_VCPU (256 * KIB)   /* with its thread, in the new VM */
#define A_THREAD (64 * KIB)  /* that waits: kernel's stack, its own, the kernel's books on it */
#define A_DISK (512 * KIB)   /* an I/O process */
#define CHARGED_AHEAD \
	(512 * KIB) /* what a group has left differs by that from one moment to the next */
#define PAGE 4096u
#define ENTRY 8u           /* bytes of a table for a page */
#define MEMSLOT_SHADOW 10u /* bytes for each 4 KiB of RAM */
#define MEMSLOT_NESTED 2u
#define DESCRIPTORS 64u       /* of the successor's own */
#define A_VCPU_DESCRIPTORS 2u /* itself, and its counts (vm/vcpu_reading.c) */
#define THREADS \
	4u /* beside one a vCPU: the stand-in's main, its helper, its writer, who maps RAM */

static uint64_t tables(const struct room_need *need)
{
	uint64_t pages = need->page ? (need->present + need->page - 1) / need->page : 0;

	return 2 * ((pages * ENTRY + PAGE - 1) / PAGE * PAGE);
}

uint64_t room_bytes(const struct room_need *need, enum room room, bool nested_paging)
{
	uint64_t memslot = nested_paging ? MEMSLOT_NESTED : MEMSLOT_SHADOW;

	return PROCESS + need->program + need->ram / PAGE * memslot + need->vcpus * A_VCPU +
	       need->threads * A_THREAD + need->disks * A_DISK +
	       (room == ROOM_FOR_ALL ? tables(need) : tables(need) / 2);
}

/* What cannot be found out is taken for none, which needs more. */
static bool nested_paging(const char *root)
{
	static const char *const files[] = {
		"/sys/module/kvm_intel/parameters/ept",
		"/sys/module/kvm_amd/parameters/npt",
	};

	for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
		_cleanup_file_ FILE *f = cgroup_open(root, files[i]);
		int c = f ? fgetc(f) : EOF;

		if (c == 'Y' || c == '1')
			return true;
	}
	return false;
}

static uint64_t host_left(const char *root)
{
	uint64_t available, swap = 0;

	if (!cgroup_read_key(root, "/proc/meminfo", "MemAvailable:", &available))
		return CGROUP_UNLIMITED;
	cgroup_read_key(root, "/proc/meminfo", "SwapFree:", &swap);
	return (available + swap) * KIB;
}

static uint64_t kib_up(uint64_t bytes)
{
	return (bytes + KIB - 1) / KIB;
}

static int too_little(const struct room_need *need, uint64_t bytes, uint64_t host,
		      const struct cgroup_left *group, struct error *err)
{
	const char *later = "; an earlier update's memory is still being freed: try again soon";
	uint64_t left = group->left < bytes ? group->left : host;
	char copy[96] = "";

	if (need->program)
		snprintf(copy, sizeof(copy),
			 " (%" PRIu64 " of them for a copy of the successor's binary)",
			 kib_up(need->program));
	if (!need->leaving)
		later = "";
	if (group->left < bytes)
		return err_set(err, ENOMEM,
			       "the update needs %" PRIu64 " KiB beside guest RAM%s, and control "
			       "group %.400s has %" PRIu64 " KiB left: raise its %s of %" PRIu64
			       " KiB by %" PRIu64 " KiB%s",
			       kib_up(bytes), copy, group->group, left / KIB, group->file,
			       group->limit / KIB, kib_up(bytes - left + CHARGED_AHEAD), later);
	return err_set(err, ENOMEM,
		       "the update needs %" PRIu64 " KiB beside guest RAM%s, and this host has "
		       "%" PRIu64 " KiB (MemAvailable and SwapFree in /proc/meminfo): free %" PRIu64
		       " KiB%s",
		       kib_up(bytes), copy, left / KIB, kib_up(bytes - left), later);
}

static int ask_memory(const char *root, const struct room_need *need, enum room *room,
		      struct error *err)
{
	bool nested = nested_paging(root);
	uint64_t least = room_bytes(need, ROOM_WITHOUT_TABLES, nested), host = host_left(root);
	uint64_t all = room_bytes(need, ROOM_FOR_ALL, nested);
	struct cgroup_memory group;

	cgroup_memory_left(root, &group);
	if (group.max.left < least || host < least)
		return too_little(need, least, host, &group.max, err);
	/* Nobody is killed beyond memory.high, but all threads are slowed down, vCPUs among them. */
	*room = group.max.left < all || group.high.left < all || host < all
			? ROOM_WITHOUT_TABLES
			: ROOM_FOR_ALL;
	return 0;
}

int update_room(const char *root, const struct room_need *need, enum room *room, struct error *err)
{
	int r = room_threads(root, need->threads, err);

	return r < 0 ? r : ask_memory(root, need, room, err);
}

int room_descriptors(uint32_t carried, uint32_t vcpus, struct error *err)
{
	rlim_t need = 2 * (rlim_t)carried + A_VCPU_DESCRIPTORS * vcpus + DESCRIPTORS;
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || need <= limit.rlim_cur)
		return 0;
	return err_set(err, EMFILE,
		       "the update needs up to %llu descriptors: raise RLIMIT_NOFILE (ulimit -n; "
		       "systemd: LimitNOFILE=), which is %llu",
		       (unsigned long long)need, (unsigned long long)limit.rlim_cur);
}

/* ---- this machine's update ---- */

static uint64_t present(const struct memory *mem)
{
	uint64_t sum = 0;
	struct stat st;

	for (unsigned int i = 0; i < mem->count; i++)
		if (fstat(mem->regions[i].fd, &st) == 0)
			sum += (uint64_t)st.st_blocks * 512;
	return sum < mem->size ? sum : mem->size;
}

/* Only what a client sends is copied: program.c. */
static uint64_t copied(const struct update *u)
{
	struct stat st;

	return u->request.command_fd >= 0 && fstat(u->request.command_fd, &st) == 0 &&
			       S_ISREG(st.st_mode)
		       ? (uint64_t)st.st_size
		       : 0;
}

static uint32_t disks(const struct update *u)
{
	uint32_t n = 0;

	for (unsigned int i = 0; i < u->machine->ndevices && !u->request.keep_io; i++)
		n += u->machine->devices[i]->cls->updated != NULL;
	return n;
}

int room_prepare(struct update *u, struct error *err)
{
	const struct machine *m = u->machine;
	const struct room_need need = {
		.ram = m->memory.size,
		.present = present(&m->memory),
		.page = m->memory.page,
		.program = copied(u),
		.vcpus = m->guest.cpus,
		.threads = THREADS + m->guest.cpus,
		.disks = disks(u),
		.leaving = u->hand_over.wire->nguardians,
	};
	enum room room = ROOM_FOR_ALL;
	int r = update_room("", &need, &room, err);

	u->hand_over.wire->lazily = room == ROOM_WITHOUT_TABLES;
	if (u->hand_over.wire->lazily)
		log_info("little memory is left: guest RAM is not mapped in advance in the update");
	return r;
}
