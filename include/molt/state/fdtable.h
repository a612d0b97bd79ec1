/* SPDX-License-Identifier: MIT */
/*
 * The fd table: how open files reach the successor. The predecessor lists (name, id) -> descriptor
 * and kind, writes the list to a memfd in the stream's framing, and clears close-on-exec on exactly
 * these. The successor reads it before any other object exists, checks each kind, sets
 * close-on-exec again, and lets each owner take what is its own; what nobody took is an error.
 */
#ifndef MOLT_STATE_FDTABLE_H
#define MOLT_STATE_FDTABLE_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/state/stream.h>

#define FDTABLE_ENV "MOLT_FDTABLE" /* the memfd's number, in decimal */
/*
 * A disk of 64 queues may have 216, another back-end of 64 queues 148: in 31 slots, 16 of them
 * disks, that is 5676. All that is not in a slot is some 300.
 */
#define FDTABLE_MAX 6144

enum fd_kind {
	FD_KIND_FILE = 1, /* regular file */
	FD_KIND_MEMFD,    /* memory file with seals */
	FD_KIND_LISTEN,   /* listening stream socket */
	FD_KIND_STREAM,   /* connected stream socket */
	FD_KIND_TTY,      /* terminal or pty */
	FD_KIND_CHAR,     /* other character device, such as /dev/kvm */
	FD_KIND_PIPE,
	FD_KIND_OTHER, /* whatever was inherited as standard input or output, or sent by others */
	FD_KIND_EVENTFD,
	FD_KIND_IO_URING,
};

const char *fd_kind_name(enum fd_kind kind);

/* What a descriptor is, by asking the kernel; -EBADF if it is not open. */
int fd_kind_of(int fd);

struct fdtable_entry {
	char name[STREAM_NAME_MAX + 1];
	uint32_t id;
	uint32_t kind;
	int fd;
	bool taken;
};

#define UPDATE_MARKS_MAX 24

/* What happened when, for the report the successor gives: stage names and CLOCK_MONOTONIC. */
struct update_mark {
	char name[24];
	uint64_t start_ns;
	uint64_t end_ns;
};

struct fdtable {
	uint32_t count;
	uint32_t guardian; /* its process id, 0 if there is none */
	uint8_t nonce[STREAM_NONCE_BYTES];
	char state_uri[4096]; /* the URI given to the successor, see update/handover.c */
	struct update_mark marks[UPDATE_MARKS_MAX];
	uint32_t nmarks;
	uint64_t stopped_ns; /* when the last vCPU stopped */
	uint64_t exec_ns;    /* just before exec */
	uint32_t vm_fd;      /* number of the predecessor's KVM VM; see kvm_vm_create() */
	uint32_t ntaken;     /* by fdtable_take() */
	uint32_t last;       /* position of the last one taken */
	/*
	 * Not NULL: nothing is added, it is only seen that all is in that table already, in the
	 * same order.
	 */
	const struct fdtable *handed;
	/*
	 * Last, and only the first `count` are ever touched: a page costs the guest's pause 1.5 us.
	 */
	struct fdtable_entry entries[FDTABLE_MAX];
};

/*
 * Adds a descriptor, which stays the caller's. -EEXIST for a (name, id) that is there already,
 * -ENFILE when the table is full, -EBADF if it is not open, -EINVAL for a name that is too long.
 */
int fdtable_add(struct fdtable *t, const char *name, uint32_t id, int fd, struct error *err);

/*
 * The same for an eventfd or a ring, by its kind. fdtable_add() calls these "other", as all did
 * before there were machines with such descriptors. -EINVAL where it is of another kind. By
 * FD_KIND_OTHER for what somebody else has sent: neither side asks what it is.
 */
int fdtable_add_as(struct fdtable *t, const char *name, uint32_t id, int fd, enum fd_kind kind,
		   struct error *err);

/* Writes the table into memfd (from its start), close-on-exec untouched. */
int fdtable_write(const struct fdtable *t, int memfd, struct error *err);

/* The same through a writer that the caller has: its buffer is used, and what was in it is gone. */
int fdtable_write_by(const struct fdtable *t, struct stream_writer *w, int memfd,
		     struct error *err);

/*
 * Clears or sets close-on-exec on all entries. Used to clear before exec, and to set again when
 * exec failed or in the successor.
 */
int fdtable_set_cloexec(const struct fdtable *t, bool on, struct error *err);

/* Reads a table that fdtable_write() wrote, checks that each fd is open and of its kind. */
int fdtable_read(struct fdtable *t, int memfd, struct error *err);

/* Reads a table for its names and kinds alone: descriptors in it need not be open here. */
int fdtable_describe_read(struct fdtable *t, int memfd, struct error *err);

/*
 * The successor's owner of (name, id) takes its descriptor: from now on it is the caller's to
 * close. kind 0 takes any. -ENOENT if it is not there, -EINVAL if it is of another kind.
 */
int fdtable_take(struct fdtable *t, const char *name, uint32_t id, unsigned int kind,
		 struct error *err);

/* The descriptor of (name, id), which stays to be taken; -1 where there is none. */
int fdtable_look(const struct fdtable *t, const char *name, uint32_t id);

/* Whether (name, id) is there and not yet taken. */
bool fdtable_has(const struct fdtable *t, const char *name, uint32_t id);

/* 0 if all were taken, else an error that names the rest. */
int fdtable_check_taken(const struct fdtable *t, struct error *err);

#endif
