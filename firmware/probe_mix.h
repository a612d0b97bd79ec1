/* SPDX-License-Identifier: MIT */
#ifndef PROBE_MIX_H
#define PROBE_MIX_H

#include <stdint.h>

/* A value that looks random and depends on nothing but its argument. */
static inline uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9;
	x = (x ^ x >> 27) * 0x94d049bb133111eb;
	return x ^ x >> 31;
}

#endif
