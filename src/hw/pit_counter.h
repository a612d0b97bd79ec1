/* SPDX-License-Identifier: MIT */
/*
 * The arithmetic of an 8254's counters (Intel 82C54 datasheet): what they show and when they tick,
 * from the time when their count was loaded. Times are CLOCK_MONOTONIC in ns. No state but the
 * channel itself.
 */
#ifndef MOLT_HW_PIT_COUNTER_H
#define MOLT_HW_PIT_COUNTER_H

#include <stdbool.h>
#include <stdint.h>

#include <linux/kvm.h>

#define PIT_HZ 1193181u /* KVM's, whose states are loaded */
#define PIT_MAX_COUNT 0x10000u
#define PIT_MIN_PERIOD_NS 200000u /* of interrupts: KVM's limit, too */
#define PIT_NEVER UINT64_MAX

/* What the counter holds, and its output, at a time. */
uint16_t pit_counter_value(const struct kvm_pit_channel_state *c, uint64_t now);
bool pit_counter_out(const struct kvm_pit_channel_state *c, uint64_t now);

/* How many interrupts there were, up to now, since the count was loaded. */
uint64_t pit_counter_ticks(const struct kvm_pit_channel_state *c, uint64_t now);

/* When the n-th of them, from 1 on, is due; or PIT_NEVER. */
uint64_t pit_counter_due(const struct kvm_pit_channel_state *c, uint64_t n);

#endif
