/* SPDX-License-Identifier: MIT */
/*
 * The front-end's memory table becomes a struct memory, so that guest RAM is looked up here as it
 * is in the VMM. User addresses are guest physical ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "internal.h"

#define PAGE 4096u

static int check_region(const struct vhost_user_region *r, int fd, struct error *err)
{
	int seals = fcntl(fd, F_GET_SEALS);
	struct stat st;

	if (r->user_addr != r->guest_addr)
		return err_set(err, EINVAL, "its user address is not the guest's");
	if (!r->size || (r->size | r->guest_addr | r->mmap_offset) % PAGE ||
	    r->guest_addr + r->size < r->guest_addr)
		return err_set(err, EINVAL, "it is not made of whole pages");
	if (fstat(fd, &st) < 0 || seals < 0 || !(seals & F_SEAL_SHRINK))
		return err_set(err, EINVAL, "it is no memfd that is sealed against shrinking");
	if (st.st_size < 0 || r->size > (uint64_t)st.st_size ||
	    r->mmap_offset > (uint64_t)st.st_size - r->size)
		return err_set(err, EINVAL, "its memfd is too small");
	return 0;
}

/* #syscalls io: mmap(,,!&PROT_EXEC) madvise munmap */
static int map_region(struct memory *mem, const struct vhost_user_region *r, int fd,
		      struct error *err)
{
	struct memory_region *to = &mem->regions[mem->count];
	const struct memory_region *before = mem->count ? to - 1 : NULL;
	int ret = check_region(r, fd, err);
	void *p;

	if (ret < 0)
		return ret;
	if (before && r->guest_addr < before->gpa + before->size)
		return err_set(err, EINVAL, "it overlaps the one before, or is below it");
	p = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
		 (off_t)r->mmap_offset);
	if (p == MAP_FAILED)
		return err_sys(err, errno, "mmap");
	madvise(p, r->size, MADV_DONTDUMP);
	*to = (struct memory_region){ .gpa = r->guest_addr, .size = r->size, .fd = -1, .hva = p };
	mem->size += r->size;
	mem->count++;
	return 0;
}

int io_memory_map(struct memory *mem, const struct vhost_user_memory *table, int *fds,
		  struct error *err)
{
	int r = 0;

	memset(mem, 0, sizeof(*mem));
	mem->page = PAGE;
	if (table->count < 1 || table->count > MEMORY_MAX_REGIONS)
		return err_set(err, EINVAL, "memory table: %u regions, not 1 to %d", table->count,
			       MEMORY_MAX_REGIONS);
	for (uint32_t i = 0; i < table->count && r == 0; i++) {
		r = map_region(mem, &table->regions[i], fds[i], err);
		err_prefix(r < 0 ? err : NULL, "memory table: region %u", i);
	}
	if (r < 0)
		io_memory_unmap(mem);
	return r;
}

void io_memory_unmap(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->count; i++)
		munmap(mem->regions[i].hva, mem->regions[i].size);
	memset(mem, 0, sizeof(*mem));
}
