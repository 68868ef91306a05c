/* What one fdatasync costs on the disk that the state lies on. */
#ifndef BENCH_DISK_H
#define BENCH_DISK_H

#include "bench.h"

/* disk_sync adds the times of `rounds` records of 64 bytes, each appended and synced. */
void disk_sync(struct samples *samples, size_t rounds);

#endif
