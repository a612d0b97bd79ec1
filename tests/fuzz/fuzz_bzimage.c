/* SPDX-License-Identifier: MIT */
/* Linux bzImages; see boot_fuzz.h for the input. */
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

	if (size > 8 && memcmp(data + 4, "\177ELF", 4) == 0)
		return 0; /* fuzz_pvh.c's */
	boot_fuzz_load(&boot, &in, "HdrS", 0x202, BOOT_LINUX64);
	return 0;
}
