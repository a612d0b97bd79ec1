/* SPDX-License-Identifier: MIT */
/* A host that has run out of something: accept4(2), in whose place this is, fails. */
#ifndef MOLT_TESTS_FAILING_ACCEPT_H
#define MOLT_TESTS_FAILING_ACCEPT_H

/* From here on it fails with this errno; 0: no more. */
void fail_accept(int code);

/* How often it was called since. */
unsigned int accepts_failed(void);

#endif
