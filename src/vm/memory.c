/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/base/fd.h>
#include <molt/vm/memory.h>

#define PAGE 4096u
/* The size is sealed: nobody who holds the memfd can shrink it under the guest (SIGBUS). */
#define RAM_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

static int make_memfd(const struct memory_region *r, unsigned int index, struct error *err)
{
	char name[16] = "molt-ram0";
	int fd;

	name[8] = (char)('0' + index);
	fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return err_sys(err, errno, "memfd_create for guest RAM");
	if (ftruncate(fd, (off_t)r->size) < 0 || fcntl(fd, F_ADD_SEALS, RAM_SEALS) < 0) {
		err_sys(err, errno, "guest RAM of %llu MiB",
			(unsigned long long)(r->size >> 20));
		close(fd);
		return -(err ? err->code : EIO);
	}
	return fd;
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
		ret = err_set(err, EINVAL, "guest RAM %u: the memfd has %lld bytes, not %llu", index,
			      (long long)st.st_size, (unsigned long long)r->size);
	else if ((fcntl(fd, F_GET_SEALS) & RAM_SEALS) != RAM_SEALS)
		ret = err_set(err, EINVAL, "guest RAM %u: the memfd is not sealed", index);
	else
		return fd;
	close(fd);
	return ret;
}

static int map_region(struct memory_region *r, unsigned int index, struct fdtable *from,
		      struct error *err)
{
	void *hva;
	int fd = from ? take_memfd(r, index, from, err) : make_memfd(r, index, err);

	if (fd < 0)
		return fd;
	hva = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
	if (hva == MAP_FAILED) {
		err_sys(err, errno, "mapping %llu MiB of guest RAM",
			(unsigned long long)(r->size >> 20));
		close(fd);
		return -(err ? err->code : ENOMEM);
	}
	/* A guest's memory has no place in a core file of the host. */
	madvise(hva, r->size, MADV_DONTDUMP);
	r->fd = fd;
	r->hva = hva;
	return 0;
}

static int check_size(uint64_t size, struct error *err)
{
	if (size < MEMORY_MIN_BYTES || size > MEMORY_MAX_BYTES || size % PAGE)
		return err_set(err, EINVAL,
			       "guest RAM of %llu bytes: it must be %llu MiB to %llu GiB in steps of 4 KiB",
			       (unsigned long long)size, MEMORY_MIN_BYTES >> 20,
			       MEMORY_MAX_BYTES >> 30);
	return 0;
}

int memory_create(struct memory *mem, uint64_t size, struct fdtable *from, struct error *err)
{
	uint64_t low = size < MEMORY_LOW_MAX ? size : MEMORY_LOW_MAX;
	int r = check_size(size, err);

	*mem = (struct memory){ .size = size };
	if (r < 0)
		return r;
	mem->regions[0] = (struct memory_region){ .gpa = 0, .size = low, .fd = -1 };
	mem->regions[1] = (struct memory_region){
		.gpa = MEMORY_HIGH_BASE, .size = size - low, .fd = -1
	};
	while (mem->count < MEMORY_MAX_REGIONS && mem->regions[mem->count].size) {
		r = map_region(&mem->regions[mem->count], mem->count, from, err);
		if (r < 0) {
			memory_destroy(mem);
			return r;
		}
		mem->count++;
	}
	return 0;
}

void memory_destroy(struct memory *mem)
{
	for (unsigned int i = 0; i < mem->count; i++) {
		munmap(mem->regions[i].hva, mem->regions[i].size);
		fd_close(&mem->regions[i].fd);
	}
	mem->count = 0;
}

int memory_clear(struct memory *mem, struct error *err)
{
	for (unsigned int i = 0; i < mem->count; i++)
		if (fallocate(mem->regions[i].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			      (off_t)mem->regions[i].size) < 0)
			return err_sys(err, errno, "clearing guest RAM");
	return 0;
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
