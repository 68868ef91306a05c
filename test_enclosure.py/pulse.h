/*
 * Does a loop still turn? Who watches asks, and wakes the loop's thread; the
 * loop answers each time that it turns. Thread-safe.
 */
#ifndef VGPUFS_PULSE_H
#define VGPUFS_PULSE_H

#include <stdatomic.h>
#include <stdbool.h>

/* All zero: nothing was asked. */
struct pulse {
    atomic_uint asked, answered;
};

static inline void pulse_ask(struct pulse *pulse)
{
    atomic_fetch_add(&pulse->asked, 1);
}

static inline void pulse_answer(struct pulse *pulse)
{
    atomic_store_explicit(&pulse->answered, atomic_load(&pulse->asked), memory_order_release);
}

/* pulse_is_missing: what was asked last has no answer yet. */
static inline bool pulse_is_missing(const struct pulse *pulse)
{
    return atomic_load(&pulse->answered) != atomic_load(&pulse->asked);
}

#endif
