/* SPDX-License-Identifier: MIT */
/*
 * Puts built files into molt's read-only data, each between blob_NAME and blob_NAME_end. Their names
 * come from the build: the DSDTs' as DSDT1_FILE (of machine version 1) and so on, the demo guest's
 * as TICKER_FILE.
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

	blob	dsdt1, DSDT1_FILE
	blob	dsdt2, DSDT2_FILE
	blob	ticker, TICKER_FILE

	.section .note.GNU-stack, "", @progbits
