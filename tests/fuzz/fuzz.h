/* SPDX-License-Identifier: MIT */
/*
 * What the fuzz targets share. Each target is one file that defines LLVMFuzzerTestOneInput(); it is
 * linked with libFuzzer (run.sh) or with replay.c, which feeds it the kept corpus in every build.
 *
 * A finding is an abort: a sanitizer's, or fuzz_must()'s where an invariant does not hold.
 */
#ifndef MOLT_TESTS_FUZZ_H
#define MOLT_TESTS_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <molt/base/error.h>
#include <molt/state/fdtable.h>
#include <molt/state/kinds.h>
#include <molt/state/stream.h>

/* libFuzzer's interface, https://llvm.org/docs/LibFuzzer.html */
int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/*
 * Chooses the i-th variant of a target that has some, each with a corpus of its own,
 * TARGET_VARIANT: its name, or NULL when there are no more. A target without need not define it.
 */
const char *fuzz_variant(size_t i);

#define fuzz_must(condition) \
	do { \
		if (!(condition)) \
			fuzz_fail(__FILE__, __LINE__, #condition, ""); \
	} while (0)

/* The same for a call that has left a sentence in err. */
#define fuzz_must_work(call, err) \
	do { \
		if ((call) < 0) \
			fuzz_fail(__FILE__, __LINE__, #call, (err)->text); \
	} while (0)

void fuzz_fail(const char *file, int line, const char *what, const char *why)
	__attribute__((noreturn));

/* A function that failed with r must have said why. */
void fuzz_must_explain(int r, const struct error *err);

/* An input, taken apart from its front; beyond its end everything is zero. */
struct fuzz_input {
	const uint8_t *data;
	size_t len;
};

uint8_t fuzz_u8(struct fuzz_input *in);
uint16_t fuzz_u16(struct fuzz_input *in);
uint64_t fuzz_u64(struct fuzz_input *in);
/* Fills buf; returns how many bytes were there. */
size_t fuzz_bytes(struct fuzz_input *in, void *buf, size_t len);

/*
 * Makes every CRC in a state stream right, as far as its framing goes, so that what lies behind
 * them is reached. Lengths and contents stay as they are.
 */
void fuzz_repair_crcs(uint8_t *data, size_t len);

/*
 * The stream as it is or, if that is refused, a copy with its CRCs repaired (*copy, to be freed).
 */
int fuzz_parse(struct stream *s, const uint8_t *data, size_t len, uint8_t **copy,
	       struct error *err);

/* What molt can take over, all rooms. */
void fuzz_takeover_kinds(struct takeover_kinds *kinds);

/* Replaces the contents of a memfd. */
void fuzz_fill(int memfd, const void *data, size_t len);

/*
 * As exec would: the same open files under other numbers. And what nobody took of them is closed.
 */
void fuzz_duplicate_fds(struct fdtable *fds);
void fuzz_close_untaken(struct fdtable *fds);

#endif
