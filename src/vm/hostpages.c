/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <molt/base/end_signals.h>
#include <molt/base/fd.h>
#include <molt/base/log.h>

#include "hostpages.h"

#define MIB_SHIFT 20
/* What is filled in one go: short enough for a Ctrl-C, long enough to cost nothing. */
#define PIECE (64ull << MIB_SHIFT)
#define TELL_NS 2000000000ull

int hostpages_memfd(const char *name, bool huge, uint64_t size, struct error *err)
{
	unsigned int flags = 0;
	int fd;

	if (huge)
		flags |= MFD_HUGETLB;
	if (huge && size)
		flags |= (unsigned int)__builtin_ctzll(size) << MFD_HUGE_SHIFT;
	fd = fd_memfd(name, flags);
	if (fd >= 0)
		return fd;
	if (!huge || !size)
		return err_sys(err, -fd, "memfd_create for guest RAM%s",
			       huge ? " of huge pages" : "");
	return err_sys(err, -fd,
		       "guest RAM of huge pages of %llu MiB (" HUGEPAGES_DIR " has the "
		       "sizes that this host offers)",
		       (unsigned long long)(size >> MIB_SHIFT));
}

int64_t hostpages_size(int fd)
{
	struct statfs st;

	if (fstatfs(fd, &st) < 0)
		return -errno;
	/* Not st_blksize: that of a tmpfs file changes with the host's setting for huge pages. */
	return st.f_type == HUGETLBFS_MAGIC ? (int64_t)st.f_bsize : HOSTPAGE_SMALL;
}

/* A small text file's content; "" if it cannot be read. */
static void read_text(const char *path, char *text, size_t size)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, size - 1);

	text[n < 0 ? 0 : n] = '\0';
}

/* False: it cannot be read. */
static bool read_count(const char *dir, const char *name, uint64_t *count)
{
	char path[256], text[32];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	read_text(path, text, sizeof(text));
	*count = strtoull(text, NULL, 10);
	return text[0];
}

int hostpages_shortage(const char *dir, uint64_t page, uint64_t size, struct error *err)
{
	uint64_t need = size / page, all, available, reserved;
	char pool[128];

	snprintf(pool, sizeof(pool), "%s/hugepages-%llukB", dir, (unsigned long long)(page >> 10));
	/* Without /sys no number is known: one that is too low would take pages from others. */
	if (!read_count(pool, "nr_hugepages", &all) ||
	    !read_count(pool, "free_hugepages", &available) ||
	    !read_count(pool, "resv_hugepages", &reserved)) /* free, but promised to others */
		return err_set(
			err, ENOMEM,
			"guest RAM needs %llu huge pages of %llu MiB and did not get them; how "
			"many the host has is not to be seen here (%s)",
			(unsigned long long)need, (unsigned long long)(page >> MIB_SHIFT), pool);
	available -= reserved < available ? reserved : available;
	if (available >= need) /* just given back by somebody, or a control group's limit */
		return err_set(err, ENOMEM,
			       "guest RAM needs %llu huge pages of %llu MiB and did not "
			       "get them, although %llu are free now",
			       (unsigned long long)need, (unsigned long long)(page >> MIB_SHIFT),
			       (unsigned long long)available);
	return err_set(err, ENOMEM,
		       "guest RAM needs %llu huge pages of %llu MiB, of which the host has %llu free; "
		       "more, as root: echo %llu >%s/nr_hugepages%s",
		       (unsigned long long)need, (unsigned long long)(page >> MIB_SHIFT),
		       (unsigned long long)available, (unsigned long long)(all + need - available),
		       pool, page > 2 << MIB_SHIFT ? " (best soon after the host has booted)" : "");
}

/* The word in brackets of a setting such as "always [never]"; "" if the file is not there. */
static const char *selected(const char *path, char *text, size_t size)
{
	char *word, *end;

	read_text(path, text, size);
	word = strchr(text, '[');
	end = word ? strchr(word, ']') : NULL;
	if (!end)
		return "";
	*end = '\0';
	return word + 1;
}

bool hostpages_thp_possible(const char *dir, struct error *why)
{
	char all[256], one[256], text[128];
	const char *path = all, *word;

	snprintf(all, sizeof(all), "%s/shmem_enabled", dir);
	snprintf(one, sizeof(one), "%s/hugepages-2048kB/shmem_enabled", dir);
	word = selected(all, text, sizeof(text));
	/* These two outdo what is set for a single size, which Linux has since 6.11. */
	if (strcmp(word, "force") == 0)
		return true;
	if (strcmp(word, "deny") != 0) {
		word = selected(one, text, sizeof(text));
		if (*word && strcmp(word, "inherit") != 0)
			path = one;
		else
			word = selected(all, text, sizeof(text));
	}
	if (strcmp(word, "never") != 0 && strcmp(word, "deny") != 0)
		return true;
	err_set(why, ENOTSUP,
		"thp=on has no effect on this host: %s is '%s'; as root: echo advise >%s, "
		"or use hugepages=2M",
		path, word, path);
	return false;
}

/*
 * Before Linux 5.14 there is no MADV_POPULATE_WRITE. The file's own allocation gives the same, but
 * for the page tables; a loop that writes to each page would end molt with SIGBUS where there is
 * none.
 */
static int populate(int fd, void *hva, uint64_t offset, uint64_t len)
{
	if (madvise((char *)hva + offset, len, MADV_POPULATE_WRITE) == 0)
		return 0;
	if (errno != EINVAL)
		return -errno;
	return fallocate(fd, FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) < 0 ? -errno : 0;
}

int hostpages_populate(int fd, void *hva, uint64_t size, uint64_t *done, uint64_t total,
		       struct error *err)
{
	uint64_t told = now_ns();
	int r;

	for (uint64_t at = 0, len; at < size; at += len, *done += len) {
		len = size - at < PIECE ? size - at : PIECE;
		if (end_signals_pending())
			return err_set(err, EINTR,
				       "ended by a signal while guest RAM was populated");
		r = populate(fd, hva, at, len);
		if (r < 0)
			return err_sys(err, -r,
				       "populating guest RAM (prefault=on), after %llu of %llu "
				       "MiB",
				       (unsigned long long)(*done >> MIB_SHIFT),
				       (unsigned long long)(total >> MIB_SHIFT));
		if (now_ns() - told < TELL_NS)
			continue;
		told = now_ns();
		log_info("guest RAM: %llu of %llu MiB populated",
			 (unsigned long long)((*done + len) >> MIB_SHIFT),
			 (unsigned long long)(total >> MIB_SHIFT));
	}
	return 0;
}
