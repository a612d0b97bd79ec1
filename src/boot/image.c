/* SPDX-License-Identifier: MIT */
/* Bounded reading from kernel and initramfs, and placing of what both loaders place alike. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <molt/boot/image.h>

/* A file that shrinks under us must not look like an endless one. */
#define READ_CHUNK (1u << 30)

int boot_image_open(struct boot_image *img, int fd, const char *name, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return err_sys(err, errno, "%s: cannot ask for its size", name);
	if (S_ISDIR(st.st_mode))
		return err_set(err, EISDIR, "%s: is a directory", name);
	if (!S_ISREG(st.st_mode))
		return err_set(err, EINVAL, "%s: is not a regular file (mode 0%o)", name,
			       (unsigned int)st.st_mode & (unsigned int)S_IFMT);
	if (st.st_size <= 0)
		return err_set(err, ENOEXEC, "%s: is empty", name);
	*img = (struct boot_image){ .name = name, .fd = fd, .size = (uint64_t)st.st_size };
	return 0;
}

static int read_file(const struct boot_image *img, uint64_t off, uint8_t *buf, uint64_t len,
		     const char *what, struct error *err)
{
	while (len > 0) {
		ssize_t n = pread(img->fd, buf, len < READ_CHUNK ? (size_t)len : READ_CHUNK,
				  (off_t)off);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(err, errno, "%s: cannot read the %s at offset %" PRIu64,
				       img->name, what, off);
		if (n == 0)
			return err_set(err, ENOEXEC,
				       "%s: became shorter while it was read: the %s "
				       "goes on at offset %" PRIu64,
				       img->name, what, off);
		buf += n;
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

int boot_image_read(const struct boot_image *img, uint64_t off, void *buf, uint64_t len,
		    const char *what, struct error *err)
{
	if (off > img->size || len > img->size - off)
		return err_set(err, ENOEXEC,
			       "%s: truncated: the %s is %" PRIu64 " bytes at offset "
			       "%" PRIu64 ", but the file has %" PRIu64 " bytes",
			       img->name, what, len, off, img->size);
	if (img->fd >= 0)
		return read_file(img, off, buf, len, what, err);
	memcpy(buf, img->data + off, len);
	return 0;
}

int boot_image_load(const struct boot_image *img, uint64_t off, uint64_t len, struct memory *mem,
		    uint64_t gpa, const char *what, struct error *err)
{
	void *p = memory_ptr(mem, gpa, len);

	if (!p)
		return err_set(err, ENOMEM,
			       "%s: the %s (%" PRIu64 " bytes at 0x%" PRIx64
			       ") is not inside the guest's %" PRIu64 " MiB of RAM",
			       img->name, what, len, gpa, mem->size >> 20);
	return boot_image_read(img, off, p, len, what, err);
}

int boot_put(struct memory *mem, uint64_t gpa, const void *data, size_t len, const char *what,
	     struct error *err)
{
	if (memory_write(mem, gpa, data, len) < 0)
		return err_set(err, ENOMEM, "no guest RAM for the %s (%zu bytes at 0x%" PRIx64 ")",
			       what, len, gpa);
	return 0;
}

int boot_put_cmdline(const struct boot_job *job, uint64_t limit, struct error *err)
{
	size_t len = strlen(job->cmdline);

	if (limit > BOOT_CMDLINE_SIZE - 1)
		limit = BOOT_CMDLINE_SIZE - 1;
	if (len > limit)
		return err_set(err, E2BIG,
			       "the kernel command line has %zu bytes, but %s takes at "
			       "most %" PRIu64,
			       len, job->kernel.name, limit);
	return boot_put(job->mem, BOOT_CMDLINE_GPA, job->cmdline, len + 1, "command line", err);
}

int boot_put_initramfs(const struct boot_job *job, uint64_t floor, uint64_t ceiling, uint64_t *gpa,
		       struct error *err)
{
	const struct boot_image *img = &job->initramfs;
	uint64_t room = ceiling > floor ? ceiling - floor : 0;
	uint64_t start;

	*gpa = 0;
	if (!job->has_initramfs)
		return 0;
	start = img->size <= room ? (ceiling - img->size) & ~(BOOT_PAGE_SIZE - 1) : 0;
	if (start < floor)
		return err_set(err, ENOMEM,
			       "%s: the initramfs has %" PRIu64 " bytes, but between "
			       "the kernel's end (0x%" PRIx64 ") and the highest address for it "
			       "(0x%" PRIx64 ") are %" PRIu64 "; the guest has %" PRIu64
			       " MiB of RAM",
			       img->name, img->size, floor, ceiling, room, job->mem->size >> 20);
	*gpa = start;
	return boot_image_load(img, 0, img->size, job->mem, start, "initramfs", err);
}
