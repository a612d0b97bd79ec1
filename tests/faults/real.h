/* SPDX-License-Identifier: MIT */
/* The wrapped functions by the names under which the linker leaves the real ones. */
#ifndef MOLT_TESTS_FAULTS_REAL_H
#define MOLT_TESTS_FAULTS_REAL_H

#include <poll.h>
#include <sys/epoll.h>
#include <sys/types.h>

#define CALL(type, name, params, args, code, failed) type __real_##name params;
#define VARIADIC(type, name, params) type __real_##name params;
#include "calls.h"
#undef CALL
#undef VARIADIC

#endif
