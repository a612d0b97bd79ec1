/* SPDX-License-Identifier: MIT */
/* What the machine's commands return and what its events hold; see commands.c. */
#ifndef MOLT_CONTROL_MACHINE_SCHEMA_H
#define MOLT_CONTROL_MACHINE_SCHEMA_H

#include <stddef.h>

#include <molt/base/command.h>

extern const struct command_type machine_status_type, machine_kvm_type, machine_name_type;
extern const struct command_type machine_uuid_type, machine_target_type;
extern const struct command_type machine_cpus_type, machine_list_type; /* arrays */
extern const struct command_type machine_chardevs_type;

extern const struct command_event machine_events[];
extern const size_t machine_events_count;

#endif
