/* SPDX-License-Identifier: MIT */
/*
 * What guest RAM is made of on the host: memory files of 4 KiB or huge pages, whether the host has
 * such pages, and how RAM is filled before the guest needs it. For memory.c; the functions that
 * read what the host says of itself get the directory, for tests.
 */
#ifndef MOLT_VM_HOSTPAGES_H
#define MOLT_VM_HOSTPAGES_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>

#define HOSTPAGE_SMALL 4096u
#define HUGEPAGES_DIR "/sys/kernel/mm/hugepages"
#define THP_DIR "/sys/kernel/mm/transparent_hugepage"

/*
 * A close-on-exec memory file without a size that can be sealed; huge: of huge pages, of that size
 * in bytes (a power of 2; 0: the host's default). The sentence for a size that the host does not
 * have says so.
 */
int hostpages_memfd(const char *name, bool huge, uint64_t size, struct error *err);

/* The size of a memory file's pages: 4096, or that of hugetlbfs. -errno. */
int64_t hostpages_size(int fd);

/*
 * Why size bytes of huge pages could not be had: how many there are, how many are missing, how to
 * get them. Returns -ENOMEM. dir is HUGEPAGES_DIR.
 */
int hostpages_shortage(const char *dir, uint64_t page, uint64_t size, struct error *err);

/*
 * Whether the host makes huge pages of memory files on which MADV_HUGEPAGE was set. If not, *why
 * says which setting is against it, and the way out. dir is THP_DIR. True, too, where the host does
 * not tell.
 */
bool hostpages_thp_possible(const char *dir, struct error *why);

/*
 * Allocates and maps all of a mapping of the file: *done goes from 0 to size, and where that takes
 * long the log tells of it, with total for all RAM. -EINTR when a signal to end is pending.
 */
int hostpages_populate(int fd, void *hva, uint64_t size, uint64_t *done, uint64_t total,
		       struct error *err);

#endif
