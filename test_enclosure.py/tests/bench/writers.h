/* Several writers at once, each a thread with a VM of its own. */
#ifndef BENCH_WRITERS_H
#define BENCH_WRITERS_H

#include "mounts.h"

#include <stdbool.h>

/*
 * writers_rate lets `count` writers submit `jobs` lines each, to vm1, vm2 …: lines a second. With
 * `closing` a writer opens and closes the file for each line, which waits until it is durable.
 */
double writers_rate(const struct mount *mount, unsigned count, size_t jobs, bool closing);

#endif
