/* SPDX-License-Identifier: MIT */
/* The value of `molt run --memory`. */
#ifndef MOLT_CLI_MEMORY_OPTION_H
#define MOLT_CLI_MEMORY_OPTION_H

#include <stdbool.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/vm/memory.h>
#include <molt/vm/refault.h>

struct memory_arg {
	uint64_t size;
	struct memory_options options;
	bool hugepages_given;
	enum refault_mode refault;
	uint64_t refault_limit_ns; /* for REFAULT_BEFORE; 0 is as REFAULT_BACKGROUND */
};

/*
 * Takes "SIZE[,hugepages=on|off|SIZE][,thp=on|off][,prefault=on|off]
 * [,refault=before|background|lazy][,refault-limit=SECONDS]" apart. -EINVAL or -ERANGE with a
 * sentence that names the value.
 */
int cli_parse_memory(const char *text, struct memory_arg *arg, struct error *err);

#endif
