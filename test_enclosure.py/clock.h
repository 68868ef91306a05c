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
/* Real time, for what must mean the same after a restart: microseconds since the epoch … */
uint64_t clock_real_us(void);
/* … of a point of the monotonic clock, and back. The result may lie before the machine's start:
 * then it has wrapped round, and only differences to it mean anything. */
uint64_t clock_to_real_us(uint64_t monotonic_us);
uint64_t clock_from_real_us(uint64_t real_us);

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
