/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/base/log.h>
#include <molt/vm/memory.h>

#include "hostpages.h"

#define ALIGN_MIN (2ull << 20) /* of mappings: the smallest huge page */
/* The size is sealed: nobody who holds the memfd can shrink it under the guest (SIGBUS). */
#define RAM_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int make_memfd(const struct memory *mem, unsigned int index, struct error *err)
{
	const struct memory_region *r = &mem->regions[index];
	uint64_t huge = mem->options.hugepages;
	char name[16] = "molt-ram0";
	int64_t page;
	int fd;

	name[8] = (char)('0' + index);
	fd = hostpages_memfd(name, huge, huge == MEMORY_HUGE_DEFAULT ? 0 : huge, err);
	if (fd < 0)
		return fd;
	page = hostpages_size(fd);
	if (page > 0 && r->size % (uint64_t)page)
		err_set(err, EINVAL,
			"guest RAM of %llu KiB is no multiple of the huge pages' size, %llu "
			"MiB",
			(unsigned long long)(mem->size >> 10), (unsigned long long)page >> 20);
	else if (ftruncate(fd, (off_t)r->size) < 0 || fcntl(fd, F_ADD_SEALS, RAM_SEALS) < 0)
		err_sys(err, errno, "guest RAM of %llu MiB%s", (unsigned long long)(r->size >> 20),
			errno == EFBIG ? " (RLIMIT_FSIZE must allow a file of that size)" : "");
	else
		return fd;
	close(fd);
	return -(err ? err->code : EIO);
}

static int take_memfd(const struct memory_region *r, unsigned int index, struct fdtable *from,
		      struct error *err)
{
	int fd = fdtable_take(from, "ram", index, FD_KIND_MEMFD, err);
	struct stat st = { 0 };
	int ret;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || (uint64_t)st.st_size != r->size)
		ret = err_set(err, EINVAL, "guest RAM %u: the memfd has %lld bytes, not %llu",
			      index, (long long)st.st_size, (unsigned long long)r->size);
	else if ((fcntl(fd, F_GET_SEALS) & RAM_SEALS) != RAM_SEALS)
		ret = err_set(err, EINVAL, "guest RAM %u: the memfd is not sealed", index);
	else
		return fd;
	close(fd);
	return ret;
}

/*
 * MAP_NORESERVE for the guest may be given more RAM than the host has; but for huge pages, of which
 * a missing one would be a SIGBUS: their mapping reserves them, for the file, so that later
 * mappings of the same file, in a successor above all, find it done.
 */
static int map_flags(uint64_t page)
{
	return page > HOSTPAGE_SMALL ? MAP_SHARED : MAP_SHARED | MAP_NORESERVE;
}

/* MAP_FAILED and errno where it cannot be had. */
static void *map_aligned(int fd, uint64_t size, uint64_t page)
{
	uint64_t align = page > ALIGN_MIN ? page : ALIGN_MIN;
	char *area = mmap(NULL, size + align, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t before;
	void *hva;

	if (area == MAP_FAILED)
		return area;
	before = -(uintptr_t)area & (align - 1);
	hva = mmap(area + before, size, PROT_READ | PROT_WRITE, map_flags(page) | MAP_FIXED, fd, 0);
	if (hva == MAP_FAILED) {
		int code = errno;

		munmap(area, size + align);
		errno = code;
		return hva;
	}
	if (before)
		munmap(area, before);
	munmap(area + before + size, align - before);
	return hva;
}

static void advise(const struct memory *mem, const struct memory_region *r)
{
	/* A guest's memory has no place in a core file of the host. */
	madvise(r->hva, r->size, MADV_DONTDUMP);
	if (mem->page > HOSTPAGE_SMALL || mem->options.thp == MEMORY_THP_HOST)
		return;
	madvise(r->hva, r->size,
		mem->options.thp == MEMORY_THP_ON ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

static int map_region(struct memory *mem, unsigned int index, struct fdtable *from,
		      struct error *err)
{
	struct memory_region *r = &mem->regions[index];
	int64_t page = -1;
	void *hva;
	int fd = from ? take_memfd(r, index, from, err) : make_memfd(mem, index, err);

	if (fd < 0)
		return fd;
	page = hostpages_size(fd);
	hva = page < 0 ? MAP_FAILED : map_aligned(fd, r->size, (uint64_t)page);
	if (hva == MAP_FAILED) {
		err_sys(err, errno, "mapping %llu MiB of guest RAM",
			(unsigned long long)(r->size >> 20));
		close(fd);
		mem->page = page > 0 ? (uint64_t)page : 0;
		return -(err ? err->code : ENOMEM);
	}
	mem->page = (uint64_t)page;
	r->fd = fd;
	r->hva = hva;
	advise(mem, r);
	return 0;
}

static int prefault(struct memory *mem, struct error *err)
{
	uint64_t done = 0;
	int r = 0;

	for (unsigned int i = 0; i < mem->count && r == 0; i++)
		r = hostpages_populate(mem->regions[i].fd, mem->regions[i].hva,
				       mem->regions[i].size, &done, mem->size, err);
	return r;
}

int memory_check_size(uint64_t size, struct error *err)
{
	if (size < MEMORY_MIN_BYTES || size > MEMORY_MAX_BYTES || size % HOSTPAGE_SMALL)
		return err_set(
			err, EINVAL,
			"guest RAM of %llu bytes: it must be %llu MiB to %llu GiB in steps of 4 KiB",
			(unsigned long long)size, MEMORY_MIN_BYTES >> 20, MEMORY_MAX_BYTES >> 30);
	return 0;
}

static int map_regions(struct memory *mem, struct fdtable *from, struct error *err)
{
	while (mem->count < MEMORY_MAX_REGIONS && mem->regions[mem->count].size) {
		int r = map_region(mem, mem->count, from, err);

		if (r < 0)
			return r;
		mem->count++;
	}
	return 0;
}

int memory_create(struct memory *mem, uint64_t size, const struct memory_options *opt,
		  struct fdtable *from, struct error *err)
{
	uint64_t low = size < MEMORY_LOW_MAX ? size : MEMORY_LOW_MAX;
	int r = memory_check_size(size, err);

	*mem = (struct memory){ .size = size, .page = HOSTPAGE_SMALL };
	if (opt)
		mem->options = *opt;
	if (r < 0)
		return r;
	mem->regions[0] = (struct memory_region){ .gpa = 0, .size = low, .fd = -1 };
	mem->regions[1] = (struct memory_region){ .gpa = MEMORY_HIGH_BASE,
						  .size = size - low,
						  .fd = -1 };
	r = map_regions(mem, from, err);
	if (r == 0 && mem->options.prefault && !from)
		r = prefault(mem, err);
	if (r < 0)
		memory_destroy(mem);
	/*
	 * Told last: what was reserved for the first region is free again, and all of it is needed.
	 */
	if (r == -ENOMEM && mem->page > HOSTPAGE_SMALL)
		r = hostpages_shortage(HUGEPAGES_DIR, mem->page, size, err);
	return r;
}

bool memory_pages_are(const struct memory *mem, uint64_t hugepages)
{
	if (hugepages == MEMORY_HUGE_DEFAULT)
		return mem->page > HOSTPAGE_SMALL;
	return mem->page == (hugepages ? hugepages : HOSTPAGE_SMALL);
}

void memory_log_trouble(const struct memory *mem)
{
	struct error why = ERROR_INIT;

	if (mem->options.thp == MEMORY_THP_ON && mem->page == HOSTPAGE_SMALL &&
	    !hostpages_thp_possible(THP_DIR, &why))
		log_warn("--memory: %s", why.text);
}

void memory_destroy(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->count; i++) {
		munmap(mem->regions[i].hva, mem->regions[i].size);
		fd_close(&mem->regions[i].fd);
	}
	mem->count = 0;
}

/* A hole gives the reservation back together with the page; a mapping reserves what is missing. */
static int reserve_again(const struct memory *mem, const struct memory_region *r, struct error *err)
{
	void *p = mmap(NULL, r->size, PROT_NONE, map_flags(mem->page), r->fd, 0);

	if (p == MAP_FAILED)
		return hostpages_shortage(HUGEPAGES_DIR, mem->page, r->size, err);
	munmap(p, r->size);
	return 0;
}

int memory_clear(struct memory *mem, struct error *err)
{
	int ret = 0;

	for (unsigned int i = 0; i < mem->count && ret == 0; i++) {
		const struct memory_region *r = &mem->regions[i];

		if (fallocate(r->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			      (off_t)r->size) < 0)
			return err_sys(err, errno, "clearing guest RAM");
		if (mem->page > HOSTPAGE_SMALL)
			ret = reserve_again(mem, r, err);
	}
	if (ret == 0 && mem->options.prefault)
		ret = prefault(mem, err);
	/* Whoever waits for the signals ends the machine in good order. */
	return ret == -EINTR ? 0 : ret;
}

int memory_save_fds(const struct memory *mem, struct fdtable *t, struct error *err)
{
	int r = 0;

	for (unsigned int i = 0; i < mem->count && r == 0; i++)
		r = fdtable_add(t, "ram", i, mem->regions[i].fd, err);
	return r;
}

int memory_map_into(const struct memory *mem, struct kvm_vm *vm, struct error *err)
{
	for (unsigned int i = 0; i < mem->count; i++) {
		const struct memory_region *r = &mem->regions[i];
		struct kvm_userspace_memory_region slot = {
			.slot = i,
			.guest_phys_addr = r->gpa,
			.memory_size = r->size,
			.userspace_addr = (uintptr_t)r->hva,
		};
		int ret = kvm_vm_call(vm, KVM_SET_USER_MEMORY_REGION, &slot);

		if (ret < 0)
			return err_sys(err, -ret, "KVM_SET_USER_MEMORY_REGION at 0x%llx",
				       (unsigned long long)r->gpa);
	}
	return 0;
}

void *memory_ptr(const struct memory *mem, uint64_t gpa, uint64_t len)
{
	for (unsigned int i = 0; i < mem->count; i++) {
		const struct memory_region *r = &mem->regions[i];

		if (gpa >= r->gpa && gpa - r->gpa < r->size && len <= r->size - (gpa - r->gpa))
			return (char *)r->hva + (gpa - r->gpa);
	}
	return NULL;
}

int memory_read(const struct memory *mem, uint64_t gpa, void *buf, size_t len)
{
	const void *p = memory_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(buf, p, len);
	return 0;
}

int memory_write(const struct memory *mem, uint64_t gpa, const void *buf, size_t len)
{
	void *p = memory_ptr(mem, gpa, len);

	if (!p)
		return -EFAULT;
	memcpy(p, buf, len);
	return 0;
}
