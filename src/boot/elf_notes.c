/* SPDX-License-Identifier: MIT */
/*
 * Theory of operation
 *
 * A note is a header of three words, a name and contents. How both are padded is where the writers
 * part. Linux, Xen and every tool for segments aligned to 4 round the lengths of name and contents
 * up to 4. For segments aligned to 8 the gABI, binutils and glibc (ELF_NOTE_DESC_OFFSET) round the
 * *sum* of header and name up to 8, and then the end of the contents. But linkers also put sections
 * of both kinds into one segment, whose alignment is then 8: .note.gnu.property (8) beside Xen's
 * notes (4). In all of these the contents of a note named "Xen" are where the header is plus 16; it
 * is the way there that differs.
 *
 * So a segment is walked by the rule of 4 and, if it is aligned to 8, by that of 8. Where that
 * finds nothing but the walk may have gone astray (damage, or both kinds mixed), each word of the
 * segment is tried as the beginning of the note.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <molt/base/fd.h>

#include "elf_notes.h"

#define XEN_NOTE_NAME "Xen"
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define NOTE_MAX_BYTES (1u << 20)
#define NOTE_WORD 4u

/* The bytes of one segment. */
struct notes {
	const struct boot_image *img;
	const uint8_t *buf;
	uint64_t len;
};

static uint64_t align_up(uint64_t n, uint64_t align)
{
	return (n + align - 1) & ~(align - 1);
}

/* Whether the note at pos, whose header is there, is the one that is looked for. */
static bool is_entry_note(const struct notes *n, uint64_t pos, const Elf64_Nhdr *nh)
{
	uint64_t name = pos + sizeof(*nh);

	return nh->n_type == XEN_ELFNOTE_PHYS32_ENTRY && nh->n_namesz == sizeof(XEN_NOTE_NAME) &&
	       n->len - name >= sizeof(XEN_NOTE_NAME) &&
	       memcmp(n->buf + name, XEN_NOTE_NAME, sizeof(XEN_NOTE_NAME)) == 0;
}

/* True where the contents, which are within the segment, are an address of 4 or 8 bytes. */
static bool take_entry(const uint8_t *desc, uint32_t descsz, uint64_t *entry)
{
	uint32_t entry32;

	if (descsz == sizeof(*entry)) {
		memcpy(entry, desc, sizeof(*entry));
		return true;
	}
	if (descsz != sizeof(entry32))
		return false;
	memcpy(&entry32, desc, sizeof(entry32));
	*entry = entry32;
	return true;
}

/* 1 where the note was found, 0 where it is not among these, -ENOEXEC where that cannot be said. */
static int walk(const struct notes *n, uint64_t align, uint64_t *entry, struct error *err)
{
	uint64_t pos = 0;
	int ret = 0;

	while (pos <= n->len && n->len - pos >= sizeof(Elf64_Nhdr)) {
		uint64_t desc;
		Elf64_Nhdr nh;

		memcpy(&nh, n->buf + pos, sizeof(nh));
		desc = pos + align_up(sizeof(nh) + nh.n_namesz, align);
		if (desc > n->len || nh.n_descsz > n->len - desc)
			return err_set(err, ENOEXEC,
				       "%s: damaged ELF file: a note with a name of "
				       "%u bytes and contents of %u goes beyond the %" PRIu64
				       " bytes of its segment",
				       n->img->name, nh.n_namesz, nh.n_descsz, n->len);
		if (is_entry_note(n, pos, &nh)) {
			if (take_entry(n->buf + desc, nh.n_descsz, entry))
				return 1;
			ret = err_set(err, ENOEXEC,
				      "%s: damaged ELF file: the PVH entry note has "
				      "%u bytes instead of 4 or 8",
				      n->img->name, nh.n_descsz);
		}
		/* The last one's padding may be missing. */
		pos = desc + align_up(nh.n_descsz, align);
	}
	return ret;
}

/* The same by looking everywhere. */
static bool sift(const struct notes *n, uint64_t *entry)
{
	const uint64_t before = sizeof(Elf64_Nhdr) + sizeof(XEN_NOTE_NAME);

	for (uint64_t pos = 0; pos + before <= n->len; pos += NOTE_WORD) {
		uint64_t desc = pos + before;
		Elf64_Nhdr nh;

		memcpy(&nh, n->buf + pos, sizeof(nh));
		if (is_entry_note(n, pos, &nh) && nh.n_descsz <= n->len - desc &&
		    take_entry(n->buf + desc, nh.n_descsz, entry))
			return true;
	}
	return false;
}

static int search(const struct notes *n, uint64_t align, uint64_t *entry, struct error *err)
{
	int ret = walk(n, NOTE_WORD, entry, err);

	if (ret != 1 && align == 8) {
		struct error other = ERROR_INIT;
		int by8 = walk(n, align, entry, &other);

		if (by8 >= 0)
			ret = by8;
	}
	if (ret == 1 || (ret == 0 && align != 8))
		return ret;
	return sift(n, entry) ? 1 : ret;
}

static int search_segment(const struct boot_image *img, const Elf64_Phdr *ph, uint64_t *entry,
			  struct error *err)
{
	_cleanup_free_ uint8_t *buf = NULL;
	int ret;

	if (ph->p_filesz > NOTE_MAX_BYTES)
		return err_set(err, ENOEXEC,
			       "%s: has %" PRIu64 " bytes of ELF notes; up to %u are "
			       "read",
			       img->name, ph->p_filesz, NOTE_MAX_BYTES);
	if (ph->p_filesz == 0)
		return 0;
	buf = malloc(ph->p_filesz);
	if (!buf)
		return err_sys(err, ENOMEM, "%s: cannot read its ELF notes", img->name);
	ret = boot_image_read(img, ph->p_offset, buf, ph->p_filesz, "segment of ELF notes", err);
	if (ret < 0)
		return ret;
	return search(&(struct notes){ .img = img, .buf = buf, .len = ph->p_filesz }, ph->p_align,
		      entry, err);
}

int elf_notes_find_entry(const struct boot_image *img, const Elf64_Phdr *phdrs, unsigned int nphdrs,
			 uint64_t *entry, struct error *err)
{
	struct error damage = ERROR_INIT;

	for (unsigned int i = 0; i < nphdrs; i++) {
		struct error why = ERROR_INIT;
		int ret = phdrs[i].p_type == PT_NOTE ? search_segment(img, &phdrs[i], entry, &why)
						     : 0;

		if (ret == 1)
			return 0;
		if (ret < 0 && ret != -ENOEXEC)
			return err_set(err, -ret, "%s", why.text);
		if (ret < 0 && !damage.code)
			damage = why;
	}
	if (damage.code)
		return err_set(err, ENOEXEC,
			       "%s; no PVH entry note (Xen, type %d) was found "
			       "elsewhere",
			       damage.text, XEN_ELFNOTE_PHYS32_ENTRY);
	return err_set(err, ENOEXEC,
		       "%s: is an ELF file without a PVH entry note (Xen, type %d): "
		       "build Linux with CONFIG_PVH, or use its bzImage",
		       img->name, XEN_ELFNOTE_PHYS32_ENTRY);
}
