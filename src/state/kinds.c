/* SPDX-License-Identifier: MIT */
#include <assert.h>
#include <string.h>

#include <molt/state/kinds.h>

void takeover_kinds_add(struct takeover_kinds *kinds, const struct takeover_kind *kind)
{
	assert(kinds->count < TAKEOVER_KINDS_MAX);
	kinds->kind[kinds->count] = *kind;
	if (kind->vms && !kind->section)
		kinds->kind[kinds->count].section = kind->vms->name;
	kinds->count++;
}

void takeover_kinds_limit(struct takeover_kinds *kinds, uint32_t machine_version)
{
	size_t kept = 0;

	for (size_t i = 0; i < kinds->count; i++)
		if (kinds->kind[i].since <= machine_version)
			kinds->kind[kept++] = kinds->kind[i];
	kinds->count = kept;
}

const struct takeover_kind *takeover_kinds_section(const struct takeover_kinds *kinds,
						   const char *section)
{
	size_t len = strcspn(section, "/");

	for (size_t i = 0; i < kinds->count; i++) {
		const char *name = kinds->kind[i].section;

		if (name && strlen(name) == len && memcmp(name, section, len) == 0)
			return &kinds->kind[i];
	}
	return NULL;
}

bool takeover_kinds_has_fd(const struct takeover_kinds *kinds, const char *name)
{
	for (size_t i = 0; i < kinds->count; i++)
		for (const char *const *fd = kinds->kind[i].fds; fd && *fd; fd++)
			if (strcmp(*fd, name) == 0)
				return true;
	return false;
}
