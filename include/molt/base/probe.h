/* SPDX-License-Identifier: MIT */
/*
 * USDT probes: places that perf, bpftrace and SystemTap know by name (docs/io.md and
 * docs/live-update.md list them). Where nobody looks each is a nop; the header is that of Debian's
 * systemtap-sdt-dev, and without it there are none. Arguments are numbers and pointers, and
 * computed whether or not anybody looks.
 */
#ifndef MOLT_BASE_PROBE_H
#define MOLT_BASE_PROBE_H

#ifdef MOLT_HAS_PROBES /* meson.build */
#include <sys/sdt.h>
#define PROBE1(name, a) DTRACE_PROBE1(molt, name, a)
#define PROBE2(name, a, b) DTRACE_PROBE2(molt, name, a, b)
#define PROBE6(name, a, b, c, d, e, f) DTRACE_PROBE6(molt, name, a, b, c, d, e, f)
#else
#define PROBE1(name, a) ((void)(a))
#define PROBE2(name, a, b) \
	do { \
		(void)(a); \
		(void)(b); \
	} while (0)
#define PROBE6(name, a, b, c, d, e, f) \
	do { \
		(void)(a); \
		(void)(b); \
		(void)(c); \
		(void)(d); \
		(void)(e); \
		(void)(f); \
	} while (0)
#endif

#endif
