/* SPDX-License-Identifier: MIT */
#include <molt/boot/boot_files.h>
#include <molt/control/control.h>
#include <molt/update/update.h>
#include <molt/vm/machine.h>

#include "fuzz.h"

void fuzz_takeover_kinds(struct takeover_kinds *kinds)
{
	kinds->count = 0;
	machine_takeover_kinds(&machine_model, kinds);
	takeover_kinds_add(kinds, &boot_files_kind);
	control_takeover_kinds(kinds);
	update_takeover_kinds(kinds);
}
