/* SPDX-License-Identifier: MIT */
/* ELF kernels with a PVH entry; see boot_fuzz.h for the input. */
#include "boot_fuzz.h"

static struct boot_fuzz boot;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc;
	(void)argv;
	boot_fuzz_init(&boot);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fuzz_input in = { data, size };

	boot_fuzz_load(&boot, &in, "\177ELF", 0, BOOT_PVH32);
	return 0;
}
