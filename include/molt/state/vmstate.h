/* SPDX-License-Identifier: MIT */
/*
 * vmstate: what a struct's migrated part looks like, declared once as a const table of fields and
 * used to save it, to load it, and by tests to see that no byte was forgotten.
 *
 *	static const struct vmstate_field uart_fields[] = {
 *		VMSTATE_U8(struct uart_guest, ier),
 *		VMSTATE_U8_VAR(struct uart_guest, rx, rx_len),
 *		VMSTATE_U8_DEF(struct uart_guest, scratch, 0),   // added in a later version
 *		VMSTATE_UNSAVED(struct uart_guest, cache, "rebuilt by post_load"),
 *		VMSTATE_END
 *	};
 *
 * The macros check the C type of the member against the field's type at compile time.
 *
 * Compatibility: a field that a predecessor may not have sent carries a default (_DEF). A field the
 * reader does not know is an error unless its sender marked it ignorable. A subsection is a vmstate
 * of the same struct under "<section>/<subsection>" that is written only while needed() says so; if
 * it is absent its fields get their defaults.
 */
#ifndef MOLT_STATE_VMSTATE_H
#define MOLT_STATE_VMSTATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/state/stream.h>

#define VMSTATE_HAS_DEFAULT 1u
#define VMSTATE_IGNORABLE 2u /* sent as ignorable: an older reader may skip it */
#define VMSTATE_NOT_SAVED 4u /* not sent; reason says why */

struct vmstate_field {
	const char *name; /* NULL ends the table */
	size_t offset;
	enum field_type type;
	uint32_t flags;
	uint32_t max;  /* elements in the struct; for strings: bytes with the NUL */
	bool variable; /* the number of used elements is the uint32_t at count_offset */
	size_t count_offset;
	uint64_t def;       /* value of each element where the field is absent */
	const char *reason; /* for VMSTATE_NOT_SAVED */
	size_t bytes;       /* of the member in the struct */
};

struct vmstate {
	const char *name; /* section name; of a subsection: the part after the slash */
	uint32_t version;
	uint32_t min_version; /* oldest version that can be loaded */
	size_t size;          /* of the struct the offsets are in */
	bool ignorable;       /* a reader that does not know the section may skip it */
	const struct vmstate_field *fields;
	const struct vmstate *const *subsections; /* NULL-terminated, or NULL */
	/* For a subsection: write it? */
	bool (*needed)(const void *data);
	/* Makes data consistent and refuses what cannot be: called after all fields are loaded. */
	int (*post_load)(void *data, uint32_t version, struct error *err);
};

/* Writes data as one section, and its needed subsections as further ones. */
void vmstate_save(struct stream_writer *w, const struct vmstate *vms, uint32_t instance,
		  const void *data);

/*
 * Loads the section (vms->name, instance) and its subsections, claims them, and calls post_load.
 * An error names the section and the field: a missing section, a version outside
 * min_version..version, a missing or unknown or doubled field, a wrong type or count.
 * data must be initialised by the caller; on an error it is in no defined state.
 */
int vmstate_load(struct stream *s, const struct vmstate *vms, uint32_t instance, void *data,
		 struct error *err);

/*
 * Whether vmstate_load() would take the section's fields, without anything to load them into and
 * without post_load, which may need what only a machine has. name: the section's, where it is not
 * vms->name. Claims the section and its subsections. -ENOMEM, or as vmstate_load().
 */
int vmstate_try(struct stream *s, const struct vmstate *vms, const char *name, uint32_t instance,
		struct error *err);

#define VMSTATE_CHECK_(type, s, m) \
	(0 * sizeof(char[1 - 2 * !__builtin_types_compatible_p(__typeof__(((s *)0)->m), type)]))
#define VMSTATE_MEMBER_(s, m) (((s *)0)->m)

/* clang-format off */
#define VMSTATE_SCALAR_(s, m, ctype, ftype, fl, d) \
	{ .name = #m, .offset = offsetof(s, m) + VMSTATE_CHECK_(ctype, s, m), .type = (ftype), \
	  .flags = (fl), .max = 1, .def = (d), .bytes = sizeof(VMSTATE_MEMBER_(s, m)) }
#define VMSTATE_ARRAY_(s, m, ctype, ftype, fl, var, coff) \
	{ .name = #m, \
	  .offset = offsetof(s, m) + VMSTATE_CHECK_(ctype, s, m[0]), .type = (ftype), \
	  .flags = (fl), .max = sizeof(VMSTATE_MEMBER_(s, m)) / sizeof(ctype), \
	  .variable = (var), .count_offset = (coff), .bytes = sizeof(VMSTATE_MEMBER_(s, m)) }

#define VMSTATE_BOOL(s, m) VMSTATE_SCALAR_(s, m, bool, FIELD_BOOL, 0, 0)
#define VMSTATE_U8(s, m) VMSTATE_SCALAR_(s, m, uint8_t, FIELD_U8, 0, 0)
#define VMSTATE_U16(s, m) VMSTATE_SCALAR_(s, m, uint16_t, FIELD_U16, 0, 0)
#define VMSTATE_U32(s, m) VMSTATE_SCALAR_(s, m, uint32_t, FIELD_U32, 0, 0)
#define VMSTATE_U64(s, m) VMSTATE_SCALAR_(s, m, uint64_t, FIELD_U64, 0, 0)
/* The kernel's __u64 is unsigned long long, which C takes for another type than uint64_t. */
#define VMSTATE_KU64(s, m) VMSTATE_SCALAR_(s, m, unsigned long long, FIELD_U64, 0, 0)

#define VMSTATE_BOOL_DEF(s, m, d) VMSTATE_SCALAR_(s, m, bool, FIELD_BOOL, VMSTATE_HAS_DEFAULT, d)
#define VMSTATE_U8_DEF(s, m, d) VMSTATE_SCALAR_(s, m, uint8_t, FIELD_U8, VMSTATE_HAS_DEFAULT, d)
#define VMSTATE_U16_DEF(s, m, d) VMSTATE_SCALAR_(s, m, uint16_t, FIELD_U16, VMSTATE_HAS_DEFAULT, d)
#define VMSTATE_U32_DEF(s, m, d) VMSTATE_SCALAR_(s, m, uint32_t, FIELD_U32, VMSTATE_HAS_DEFAULT, d)
#define VMSTATE_U64_DEF(s, m, d) VMSTATE_SCALAR_(s, m, uint64_t, FIELD_U64, VMSTATE_HAS_DEFAULT, d)

/* Fixed arrays: exactly as many elements as the member has. */
#define VMSTATE_U8_ARRAY(s, m) VMSTATE_ARRAY_(s, m, uint8_t, FIELD_U8, 0, false, 0)
#define VMSTATE_U16_ARRAY(s, m) VMSTATE_ARRAY_(s, m, uint16_t, FIELD_U16, 0, false, 0)
#define VMSTATE_U32_ARRAY(s, m) VMSTATE_ARRAY_(s, m, uint32_t, FIELD_U32, 0, false, 0)
#define VMSTATE_U64_ARRAY(s, m) VMSTATE_ARRAY_(s, m, uint64_t, FIELD_U64, 0, false, 0)
#define VMSTATE_KU64_ARRAY(s, m) VMSTATE_ARRAY_(s, m, unsigned long long, FIELD_U64, 0, false, 0)

/* Variable arrays: `count` names a uint32_t member, which is saved by this field alone. */
#define VMSTATE_VAR_(s, m, ctype, ftype, count) \
	VMSTATE_ARRAY_(s, m, ctype, ftype, 0, true, \
		       offsetof(s, count) + VMSTATE_CHECK_(uint32_t, s, count))
#define VMSTATE_U8_VAR(s, m, count) VMSTATE_VAR_(s, m, uint8_t, FIELD_U8, count)
#define VMSTATE_U32_VAR(s, m, count) VMSTATE_VAR_(s, m, uint32_t, FIELD_U32, count)
#define VMSTATE_U64_VAR(s, m, count) VMSTATE_VAR_(s, m, uint64_t, FIELD_U64, count)

/*
 * The same, added after a release that runs the guest as well without: ignorable, and empty by
 * default.
 */
#define VMSTATE_VAR_NEW_(s, m, ctype, ftype, count) \
	VMSTATE_ARRAY_(s, m, ctype, ftype, VMSTATE_HAS_DEFAULT | VMSTATE_IGNORABLE, true, \
		       offsetof(s, count) + VMSTATE_CHECK_(uint32_t, s, count))
#define VMSTATE_U8_VAR_NEW(s, m, count) VMSTATE_VAR_NEW_(s, m, uint8_t, FIELD_U8, count)
#define VMSTATE_U32_VAR_NEW(s, m, count) VMSTATE_VAR_NEW_(s, m, uint32_t, FIELD_U32, count)

/* A char array that holds a NUL-terminated string. */
#define VMSTATE_STRING(s, m) VMSTATE_ARRAY_(s, m, char, FIELD_STRING, 0, false, 0)

/* Any member as raw bytes: for structs whose layout is kernel ABI. Names differ by member. */
#define VMSTATE_RAW(s, m) \
	{ .name = #m, .offset = offsetof(s, m), .type = FIELD_U8, \
	  .max = sizeof(VMSTATE_MEMBER_(s, m)), .bytes = sizeof(VMSTATE_MEMBER_(s, m)) }

/* A member that is deliberately not sent. The reason is for the reader and must not be empty. */
#define VMSTATE_UNSAVED(s, m, why) \
	{ .name = #m, .offset = offsetof(s, m), .flags = VMSTATE_NOT_SAVED, .reason = (why), \
	  .bytes = sizeof(VMSTATE_MEMBER_(s, m)) }

#define VMSTATE_END { .name = NULL }
/* clang-format on */

#endif
