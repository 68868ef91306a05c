/*
 * Fork and join over the processors that this process may use (its affinity mask,
 * sched_setaffinity(2); taskset(1) narrows it). The threads are started at first use and wait in
 * between.
 *
 * For the executor's one thread, one call at a time. So that a result does not depend on how many
 * processors there are, work is divided by its size alone, each index writes to a place of its own,
 * and the caller puts these together in the order of the indices.
 */
#ifndef VGPUFS_EXECUTOR_PARALLEL_H
#define VGPUFS_EXECUTOR_PARALLEL_H

#include <stddef.h>

typedef void parallel_work(void *context, size_t index);

/* parallel_run calls work for 0 … count - 1, in any order and at the same time; all have returned
 * when it does. */
void parallel_run(size_t count, parallel_work *work, void *context);

/* parallel_threads: how many may work at the same time, the caller included. */
size_t parallel_threads(void);

/* parallel_finish ends the threads; the next parallel_run starts new ones. */
void parallel_finish(void);

#endif
