/*
 * MOUNT/stats as records, and the reading of a mount's other files.
 *
 * A struct snapshot owns its records. Not thread-safe.
 */
#ifndef VGPUFS_CTL_SNAPSHOT_H
#define VGPUFS_CTL_SNAPSHOT_H

#include "common/text.h"
#include "ctl/record.h"

#include <stdint.h>
#include <stdio.h>

struct snapshot {
    struct record *records;
    size_t record_count;
    uint64_t taken_us; /* CLOCK_MONOTONIC */
};

/* snapshot_read reads MOUNT/stats. 0, or -1 and *error is what failed and what to do, in one line.
 */
int snapshot_read(struct snapshot *snapshot, const char *mount, struct text *error);
void snapshot_finish(struct snapshot *snapshot);

/* snapshot_find returns the record that begins with the words `kind name` (NULL: any), or NULL. */
const struct record *snapshot_find(const struct snapshot *snapshot, const char *kind,
                                   const char *name);

/* mount_open opens MOUNT/NAME with the flags of open(2): a descriptor, or -1, *error and errno. */
int mount_open(const char *mount, const char *name, int flags, struct text *error);
/* mount_stream is the same as a stream to read, or NULL. */
FILE *mount_stream(const char *mount, const char *name, struct text *error);

#endif
