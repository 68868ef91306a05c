/*
 * What a VM has open, and what the daemon keeps in memory for that: so that it cannot open files
 * without end. Counted here; the handles hold what is counted.
 *
 * Thread-safe. The limits may change at any time: what is open already stays open.
 */
#ifndef VGPUFS_OPENINGS_H
#define VGPUFS_OPENINGS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* All zero allows nothing. */
struct openings {
    _Atomic uint64_t files, bytes;
    _Atomic uint64_t max_files, max_bytes;
};

void openings_limit(struct openings *openings, uint64_t max_files, uint64_t max_bytes);
/* So many files can only be opened by who wants to see what is wrong, and to mend it. */
#define OPENINGS_KEPT 8
/* openings_enter: one file more; false if there are as many as may be. `urgent`: it is one for
 * which some room is kept. */
bool openings_enter(struct openings *openings, bool urgent);
/* openings_take: one file and so many bytes more, whatever the limits are. */
void openings_take(struct openings *openings, uint64_t bytes);
void openings_leave(struct openings *openings);
/* openings_charge: so many bytes more are kept; false if it is too much already. One that is large
 * by itself may go beyond the limit. */
bool openings_charge(struct openings *openings, uint64_t bytes);
void openings_discharge(struct openings *openings, uint64_t bytes);

#endif
