/* SPDX-License-Identifier: MIT */
/*
 * What a molt can take over, told without a machine: which sections and which descriptors belong to
 * which part of it. Each room offers its own; `molt run` puts them together and the check before an
 * update (update/check.c) holds the running machine's against the successor's.
 */
#ifndef MOLT_STATE_KINDS_H
#define MOLT_STATE_KINDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/state/vmstate.h>

struct takeover_kind {
	const char *section;       /* NULL: vms->name */
	const struct vmstate *vms; /* NULL: descriptors only */
	bool required;             /* its section must be there */
	const char *const *fds;    /* names in the fd table, NULL-terminated, or NULL */
	uint32_t since;            /* the first machine version that has it; 0: all have */
};

#define TAKEOVER_KINDS_MAX 128

struct takeover_kinds {
	struct takeover_kind kind[TAKEOVER_KINDS_MAX];
	size_t count;
};

/* Appends; more than fit is a bug in molt and asserted. */
void takeover_kinds_add(struct takeover_kinds *kinds, const struct takeover_kind *kind);

/* Drops what machines of this version do not have. */
void takeover_kinds_limit(struct takeover_kinds *kinds, uint32_t machine_version);

/* The kind that a section, or a subsection of it, belongs to; NULL if there is none. */
const struct takeover_kind *takeover_kinds_section(const struct takeover_kinds *kinds,
						   const char *section);

/* Whether a descriptor of that name belongs to anything. */
bool takeover_kinds_has_fd(const struct takeover_kinds *kinds, const char *name);

#endif
