/*
 * Readings of the device, told to the daemon every now and then: when the executor greets, while it
 * waits, while a job runs and before it leaves. Only for a daemon that has asked for them, and only
 * by a backend that has any. Belongs to the executor's one thread.
 */
#ifndef VGPUFS_EXECUTOR_REPORT_H
#define VGPUFS_EXECUTOR_REPORT_H

#include "backend.h"

#include "common/text.h"

void report_start(const struct backend *backend);
/* report_append adds a reading to the frames if one is due, or `now`. */
void report_append(struct text *frames, bool now);
/* report_wait_ms is how long to wait for the daemon before the next one is due; -1: for ever. */
int report_wait_ms(void);

#endif
