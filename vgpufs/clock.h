/*
 * Time. Durations and deadlines are microseconds of CLOCK_MONOTONIC; what users
 * see in stat(2) is real time that never stands still between two changes.
 * Thread-safe.
 */
#ifndef VGPUFS_CLOCK_H
#define VGPUFS_CLOCK_H

#include <stdint.h>
#include <time.h>

uint64_t clock_now_us(void);

/*
 * clock_change returns the time stamp of a change: max(now, last + 1 ns) over
 * the whole daemon. NFSv4 takes its change attribute from ctime, so two changes
 * must never carry the same one.
 */
struct timespec clock_change(void);
/* clock_change_last returns the newest stamp in ns since the epoch, to be kept over a restart. */
uint64_t clock_change_last(void);
/* clock_change_restore makes every later stamp newer than `last_ns`. */
void clock_change_restore(uint64_t last_ns);

#endif
