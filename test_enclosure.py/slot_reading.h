/*
 * What an executor last said of its device. Pure but for the log; guarded as the slot is.
 */
#ifndef VGPUFS_SLOT_READING_H
#define VGPUFS_SLOT_READING_H

#include "common/frame.h"

#include <stdint.h>

enum slot_measure {
    MEASURE_TEMPERATURE,
    MEASURE_UTILISATION,
    MEASURE_MEMORY_USED,
    MEASURE_MEMORY,
    MEASURE_XID_EVENTS, /* since the daemon's start, of all of the slot's executors */
    MEASURE_LAST_XID,
    MEASURE_COUNT,
};

struct slot_reading {
    int64_t values[MEASURE_COUNT]; /* -1: unknown */
};

/* slot_measure_key is the name of a measure in frames and in statistics. */
const char *slot_measure_key(enum slot_measure measure);

void slot_reading_init(struct slot_reading *reading);
/* slot_reading_take takes a READING frame of the slot `name`; what is malformed is unknown. */
void slot_reading_take(struct slot_reading *reading, const struct frame *frame, const char *name);
/* slot_reading_lose: the executor is gone. What has happened remains. */
void slot_reading_lose(struct slot_reading *reading);

#endif
