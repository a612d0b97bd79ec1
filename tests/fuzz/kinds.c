/* SPDX-License-Identifier: MIT */
#include <molt/vmm/vmm.h>

#include "fuzz.h"

void fuzz_takeover_kinds(struct takeover_kinds *kinds)
{
	kinds->count = 0;
	vmm_takeover_kinds(kinds);
}
