/* SPDX-License-Identifier: MIT */
#ifndef BAD_SCRIBBLE_H
#define BAD_SCRIBBLE_H

#include <stdint.h>

/* That many rounds of two CPUs, of which one writes over the rings that the other one drives. */
void bad_scribble(uint64_t rounds);

#endif
