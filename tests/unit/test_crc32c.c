/* SPDX-License-Identifier: MIT */
/* CRC32C: the standard's vectors, and that both ways to compute it agree. */
#include "fake_kvm.h"

#include <string.h>

/* For the two implementations, which nobody else can see; the library's crc32c() is not linked. */
#include "../../src/state/crc32c.c"

/* RFC 3720, appendix B.4; the CRCs are printed there byte by byte. */
static void crc_vectors(uint8_t v[5][48], uint32_t want[5], size_t len[5])
{
	static const uint8_t scsi_read[48] = {
		[0] = 0x01,  [1] = 0xc0,  [16] = 0x14, [22] = 0x04,
		[27] = 0x14, [31] = 0x18, [32] = 0x28, [40] = 0x02,
	};

	memset(v[0], 0, 32);
	memset(v[1], 0xff, 32);
	for (uint8_t i = 0; i < 32; i++) {
		v[2][i] = i;
		v[3][i] = (uint8_t)(31 - i);
	}
	memcpy(v[4], scsi_read, 48);
	want[0] = 0x8a9136aa;
	want[1] = 0x62a8ab43;
	want[2] = 0x46dd794e;
	want[3] = 0x113fdb5c;
	want[4] = 0xd9963a56;
	for (int i = 0; i < 5; i++)
		len[i] = i == 4 ? 48 : 32;
}

static void test_crc_vectors(void **state)
{
	uint8_t v[5][48];
	uint32_t want[5];
	size_t len[5];

	(void)state;
	crc_vectors(v, want, len);
	for (int i = 0; i < 5; i++) {
		assert_int_equal(crc32c(0, v[i], len[i]), want[i]);
		assert_int_equal(~crc_bitwise(~0u, v[i], len[i]), want[i]);
	}
	assert_int_equal(crc32c(0, "", 0), 0);
}

static void test_crc_implementations_agree(void **state)
{
	uint8_t buf[300];
	uint32_t seed = 99;

	(void)state;
	if (!__builtin_cpu_supports("sse4.2")) {
		print_message("# this CPU has no SSE4.2\n");
		skip();
	}
	fake_random_bytes(&seed, buf, sizeof(buf));
	for (size_t start = 0; start < 9; start++)
		for (size_t len = 0; start + len <= sizeof(buf); len++) {
			uint32_t crc = fake_random(&seed);

			assert_int_equal(crc_bitwise(crc, buf + start, len),
					 crc_sse42(crc, buf + start, len));
		}
}

static void test_crc_in_pieces(void **state)
{
	uint8_t buf[100];
	uint32_t seed = 5;

	(void)state;
	fake_random_bytes(&seed, buf, sizeof(buf));
	for (size_t at = 0; at <= sizeof(buf); at++)
		assert_int_equal(crc32c(crc32c(0, buf, at), buf + at, sizeof(buf) - at),
				 crc32c(0, buf, sizeof(buf)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_crc_vectors),
		cmocka_unit_test(test_crc_implementations_agree),
		cmocka_unit_test(test_crc_in_pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
