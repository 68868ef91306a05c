/* The snapshot that all statistics are written from; only the files of the statistics room use it.
 */
#ifndef VGPUFS_STATS_SNAPSHOT_H
#define VGPUFS_STATS_SNAPSHOT_H

#include "histogram.h"
#include "pool.h"
#include "vm.h"

#include <stddef.h>
#include <stdint.h>

struct slot_stats {
    char name[48], backend[16], device[256], host[256], pid[24];
    const char *state; /* in words */
    bool up;
    struct slot_reading reading;
};

struct pool_stats {
    const char *name;
    const char *state;
    enum config_order order;
    uint64_t queued[QUEUE_PRIORITIES]; /* by priority */
    uint64_t running, oldest_wait_ms;
    struct pool_counters counters;
    struct histogram wait, run;
    struct slot_stats *slots;
    size_t slot_count;
};

struct vm_stats {
    unsigned id, priority;
    bool held;
    const char *pool;
    uint64_t queued, running, data_bytes, data_quota_bytes;
    struct vm_counters counters;
};

struct stats_snapshot {
    const char *state;
    uint64_t uptime_s, submitted, done, failed;
    struct pool_stats *pools;
    size_t pool_count;
    struct vm_stats *vms;
    size_t vm_count;
};

/* NULL without memory. */
struct stats_snapshot *stats_snapshot_take(struct server *server);
void stats_snapshot_free(struct stats_snapshot *snapshot); /* accepts NULL */

#endif
