/* SPDX-License-Identifier: MIT */
/*
 * What the lists' generator (mkfilter.c) and their user share.
 *
 * Lists that survive exec must not be added again by each successor: Landlock stops at 16 layers,
 * and each filter costs time on each call. So the main thread's filter tells of itself: prctl()
 * with this number, which without a filter is an unknown one (EINVAL), is answered with
 * SANDBOX_ERRNO plus the level. Of several filters the kernel takes the newest one's answer. An
 * image adds its own lists only if their level is above that, so there are never more layers than
 * there are levels, whichever images come in whichever order; and an image that never heard of a
 * sandbox need not hand anything on.
 */
#ifndef MOLT_SANDBOX_LISTS_H
#define MOLT_SANDBOX_LISTS_H

#define SANDBOX_LEVEL 2          /* one more with each change of what main gives up */
#define SANDBOX_PROBE 0x6d6f6c74 /* "molt" */
#define SANDBOX_ERRNO 1000       /* no error of any call is as high */
#define SANDBOX_LEVEL_MAX 1000

#endif
