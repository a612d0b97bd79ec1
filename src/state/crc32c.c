/* SPDX-License-Identifier: MIT */
/*
 * CRC32C: the SSE4.2 instruction where the CPU has it (a stream is checked inside the pause),
 * bit by bit otherwise (every CPU that runs KVM well has it).
 */
#include <string.h>

#include <molt/state/stream.h>

#define POLY 0x82f63b78u /* 0x1edc6f41 bit-reversed */

static uint32_t crc_bitwise(uint32_t crc, const uint8_t *p, size_t len)
{
	while (len--) {
		crc ^= *p++;
		for (int bit = 0; bit < 8; bit++)
			crc = (crc >> 1) ^ (POLY & (0u - (crc & 1)));
	}
	return crc;
}

__attribute__((target("sse4.2"))) static uint32_t crc_sse42(uint32_t crc, const uint8_t *p,
							    size_t len)
{
	uint64_t c = crc;

	for (; len >= 8; p += 8, len -= 8) {
		uint64_t v;

		memcpy(&v, p, sizeof(v));
		c = __builtin_ia32_crc32di(c, v);
	}
	crc = (uint32_t)c;
	while (len--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return crc;
}

uint32_t crc32c(uint32_t crc, const void *data, size_t len)
{
	crc = ~crc;
	if (__builtin_cpu_supports("sse4.2"))
		crc = crc_sse42(crc, data, len);
	else
		crc = crc_bitwise(crc, data, len);
	return ~crc;
}
