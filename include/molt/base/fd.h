/* SPDX-License-Identifier: MIT */
/* File descriptor and time helpers, and scoped cleanup for what C would otherwise leak. */
#ifndef MOLT_BASE_FD_H
#define MOLT_BASE_FD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>
#include <time.h>

#include <molt/base/error.h>

/* Closes *fd unless it is negative, and makes it -1. errno is kept. */
void fd_close(int *fd);

/* Sets or clears close-on-exec. 0 or -errno. */
int fd_set_cloexec(int fd, bool on);

/* Sets or clears O_NONBLOCK (of the open file description, so of everyone who shares it). */
int fd_set_nonblock(int fd, bool on);

/*
 * Closes every descriptor above standard error that is not close-on-exec. All of molt's own are, so
 * these are what whoever executed it left open. Numbers from 4096 on are made close-on-exec.
 */
void fd_close_inherited(void);

/*
 * The process may have as many descriptors as it may let itself have: RLIMIT_NOFILE's soft limit,
 * for programs that call select(2), is made its hard limit. getrlimit(2)
 */
void fd_raise_limit(void);

/*
 * A memfd for data: close-on-exec, sealable, and where the kernel has it (MFD_NOEXEC_SEAL) never
 * executable, whatever the sysctl vm.memfd_noexec says. flags are further MFD_*, such as
 * MFD_HUGETLB. The descriptor or -errno.
 */
int fd_memfd(const char *name, unsigned int flags);

/*
 * Ends a sentence about a path that open(2) refused for output with that errno: what ENXIO means
 * there, as " (...)", or "". errno stays.
 */
const char *fd_output_hint(const char *path, int code);

/*
 * What it is, as in a mode (S_IFREG and so on), or -errno. No file system is asked: on NFS and FUSE
 * fstat() waits for an answer, and on NFS until all that is to be written to the file is.
 */
int fd_type(int fd);

/* Whether fd is ready for events (POLLIN, POLLOUT), or hung up, right now. */
bool fd_ready(int fd, short events);

/*
 * An eventfd that another process has as well: that may make it block by a flag that both share, so
 * these do not go by it. take: whether there was a count, which is 0 now. signal: adds 1; not to
 * one that is full, who waits for it has plenty to read. fd may be -1.
 */
bool fd_take_event(int fd);
void fd_signal_event(int fd);

/*
 * Writes all of buf, over short writes and EINTR. 0 or -errno; what was written until then stays.
 */
int fd_write_all(int fd, const void *buf, size_t len);

/*
 * Reads a whole regular file (or memfd) from its start into a fresh buffer, which the caller frees.
 * A file over max bytes is refused with -EFBIG. name is for the error sentence only.
 */
int fd_read_file(int fd, const char *name, size_t max, void **buf, size_t *len, struct error *err);

/* Whether a file that can be read begins as an ELF file does. */
bool fd_is_elf(int fd);

/*
 * Locks the file for this open description alone (flock), and waits so long for others: 0, -errno,
 * -EWOULDBLOCK when the time is over.
 */
int fd_lock(int fd, unsigned int ms);

/* CLOCK_MONOTONIC in nanoseconds; it runs on across exec, so stamps from both sides compare. */
uint64_t now_ns(void);

/* A time or a length of time as system calls take it. */
struct timespec ns_to_timespec(uint64_t ns);

static inline void cleanup_close(int *fd)
{
	fd_close(fd);
}

static inline void cleanup_free(void *p)
{
	free(*(void **)p);
}

#define _cleanup_close_ __attribute__((cleanup(cleanup_close)))
#define _cleanup_free_ __attribute__((cleanup(cleanup_free)))

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

#endif
