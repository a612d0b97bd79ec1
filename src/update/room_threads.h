/* SPDX-License-Identifier: MIT */
/* Whether there may be as many threads more as an update needs; see update_room(). */
#ifndef MOLT_UPDATE_ROOM_THREADS_H
#define MOLT_UPDATE_ROOM_THREADS_H

#include <stdint.h>

#include <molt/base/error.h>

/*
 * Asks the control groups, molt's user and the host. 0, or -EAGAIN with a sentence that says whose
 * limit it is. root stands before every path: "" but for tests.
 */
int room_threads(const char *root, uint32_t threads, struct error *err);

#endif
