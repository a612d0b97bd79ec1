/* SPDX-License-Identifier: MIT */
/* The notes of an ELF kernel, as far as booting needs them. */
#ifndef MOLT_BOOT_ELF_NOTES_H
#define MOLT_BOOT_ELF_NOTES_H

#include <elf.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/boot/image.h>

/*
 * Finds the PVH entry note (name "Xen", type XEN_ELFNOTE_PHYS32_ENTRY of Xen's public/elfnote.h, 4
 * or 8 bytes) in the PT_NOTE segments among nphdrs program headers, the first in the file's order,
 * and stores the gpa in it. What is damaged is passed over as long as the note is found; -ENOEXEC
 * where it is not, with a sentence that says what was damaged, if anything was. Other errors are of
 * reading.
 */
int elf_notes_find_entry(const struct boot_image *img, const Elf64_Phdr *phdrs, unsigned int nphdrs,
			 uint64_t *entry, struct error *err);

#endif
