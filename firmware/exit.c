/* SPDX-License-Identifier: MIT */
/* Powers off by ACPI S5, at once and without a word. */
#include "lib/guest.h"

void guest_main(void)
{
	power_off();
}
