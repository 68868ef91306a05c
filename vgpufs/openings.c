#include "openings.h"

void openings_limit(struct openings *openings, uint64_t max_files, uint64_t max_bytes)
{
    atomic_store(&openings->max_files, max_files);
    atomic_store(&openings->max_bytes, max_bytes);
}

/* add: false, and nothing is added, if there is as much as may be. */
static bool add(_Atomic uint64_t *total, uint64_t more, uint64_t most)
{
    uint64_t before = atomic_load(total);
    do {
        if (before >= most)
            return false;
    } while (!atomic_compare_exchange_weak(total, &before, before + more));
    return true;
}

bool openings_enter(struct openings *openings, bool urgent)
{
    uint64_t most = atomic_load(&openings->max_files);
    return add(&openings->files, 1, urgent ? most : most - OPENINGS_KEPT);
}

void openings_take(struct openings *openings, uint64_t bytes)
{
    atomic_fetch_add(&openings->files, 1);
    atomic_fetch_add(&openings->bytes, bytes);
}

void openings_leave(struct openings *openings)
{
    atomic_fetch_sub(&openings->files, 1);
}

bool openings_charge(struct openings *openings, uint64_t bytes)
{
    return add(&openings->bytes, bytes, atomic_load(&openings->max_bytes));
}

void openings_discharge(struct openings *openings, uint64_t bytes)
{
    atomic_fetch_sub(&openings->bytes, bytes);
}
