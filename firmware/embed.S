/* SPDX-License-Identifier: MIT */
/*
 * Puts built files into molt's read-only data, each between blob_NAME and blob_NAME_end. The
 * DSDT's file name comes from the build as DSDT_FILE, the demo guest's as TICKER_FILE.
 */
	.macro	blob name, file
	.section .rodata.blob_\name, "a", @progbits
	.balign	16
	.globl	blob_\name, blob_\name\()_end
	.type	blob_\name, @object
blob_\name:
	.incbin	"\file"
blob_\name\()_end:
	.size	blob_\name, . - blob_\name
	.byte	0	/* so that the end lies inside the section */
	.endm

	blob	dsdt, DSDT_FILE
	blob	ticker, TICKER_FILE

	.section .note.GNU-stack, "", @progbits
