/* SPDX-License-Identifier: MIT */
/* Section "update": what travels to the successor beside the machine. */
#include "internal.h"

static const struct vmstate_field update_fields[] = {
	VMSTATE_STRING(struct update_wire, id), VMSTATE_STRING(struct update_wire, version),
	VMSTATE_U64(struct update_wire, updates), VMSTATE_U32(struct update_wire, client),
	VMSTATE_U32(struct update_wire, kind),
	/* Who does not know it has no I/O processes, or replaces them. */
	VMSTATE_SCALAR_(struct update_wire, keep_io, bool, FIELD_BOOL,
			VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, false),
	VMSTATE_SCALAR_(struct update_wire, lazily, bool, FIELD_BOOL,
			VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, false),
	VMSTATE_UNSAVED(struct update_wire, reserved, "padding"),
	VMSTATE_U8_VAR(struct update_wire, argv, argv_len),
	VMSTATE_U8_VAR_NEW(struct update_wire, command, command_len),
	VMSTATE_U8_VAR_NEW(struct update_wire, wrapper, wrapper_len),
	VMSTATE_U32_VAR_NEW(struct update_wire, guardians, nguardians),
	VMSTATE_U8_VAR_NEW(struct update_wire, last, last_len), VMSTATE_END
};

const struct vmstate update_vmstate = {
	.name = "update",
	.version = 1,
	.min_version = 1,
	.size = sizeof(struct update_wire),
	.fields = update_fields,
};

void update_save(const struct update *u, struct stream_writer *w)
{
	vmstate_save(w, &update_vmstate, 0, u->hand_over.wire);
}

/* One that has grown too long, or that there is no memory for, is forgotten: it is history. */
void update_pack_last(const json_t *last, struct update_wire *wire)
{
	size_t len = last ? json_dumpb(last, (char *)wire->last, UPDATE_LAST_MAX, JSON_COMPACT) : 0;

	wire->last_len = len <= UPDATE_LAST_MAX ? (uint32_t)len : 0;
}

json_t *update_unpack_last(const struct update_wire *wire)
{
	return json_loadb((const char *)wire->last, wire->last_len, 0, NULL);
}

void update_takeover_kinds(struct takeover_kinds *kinds)
{
	static const char *const fds[] = { "state",      "predecessor", "guard-page",
					   "guard-wake", "final",       NULL };

	takeover_kinds_add(kinds, &(struct takeover_kind){ .vms = &update_vmstate,
							   .required = true,
							   .fds = fds });
}
