#include "handle_numbers.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#define CHUNK       1024
#define CHUNK_COUNT (HANDLE_NUMBERS_MAX / CHUNK)

/* A handle, or (odd) the next free place: its number, doubled, plus one; or nothing yet (0). */
typedef _Atomic(uintptr_t) place;

#define LAST_FREE HANDLE_NUMBERS_MAX

static _Atomic(place *) chunks[CHUNK_COUNT];             /* freed by handle_numbers_finish */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards the free places and `used` */
static uint64_t first_free = LAST_FREE, used; /* no place from `used` on was ever taken */

static place *place_of(uint64_t number)
{
    place *chunk = atomic_load_explicit(&chunks[number / CHUNK], memory_order_acquire);
    return chunk ? &chunk[number % CHUNK] : NULL;
}

/* place_make makes the chunk too; NULL without memory. Locked. */
static place *place_make(uint64_t number)
{
    if (!place_of(number)) {
        place *chunk = calloc(CHUNK, sizeof(*chunk));
        if (!chunk)
            return NULL;
        atomic_store_explicit(&chunks[number / CHUNK], chunk, memory_order_release);
    }
    return place_of(number);
}

int handle_numbers_put(struct handle *handle, uint64_t *number)
{
    int result = -1;
    pthread_mutex_lock(&lock);
    bool again = first_free != LAST_FREE;
    uint64_t chosen = again ? first_free : used;
    place *found = chosen < HANDLE_NUMBERS_MAX ? place_make(chosen) : NULL;
    if (found) {
        if (again)
            first_free = atomic_load(found) >> 1;
        else
            used++;
        atomic_store(found, (uintptr_t)handle);
        *number = chosen;
        result = 0;
    }
    pthread_mutex_unlock(&lock);
    return result;
}

struct handle *handle_numbers_get(uint64_t number)
{
    return (struct handle *)atomic_load_explicit(place_of(number), memory_order_acquire);
}

void handle_numbers_drop(uint64_t number)
{
    pthread_mutex_lock(&lock);
    atomic_store(place_of(number), (uintptr_t)(first_free << 1 | 1));
    first_free = number;
    pthread_mutex_unlock(&lock);
}

int handle_numbers_put_at(struct handle *handle, uint64_t number)
{
    place *found = number < HANDLE_NUMBERS_MAX ? place_make(number) : NULL;
    if (!found || atomic_load(found))
        return -1;
    atomic_store(found, (uintptr_t)handle);
    if (used <= number)
        used = number + 1;
    return 0;
}

void handle_numbers_settle(void)
{
    for (uint64_t number = used; number > 0; number--) {
        place *found = place_make(number - 1);
        if (!found || atomic_load(found))
            continue;
        atomic_store(found, (uintptr_t)(first_free << 1 | 1));
        first_free = number - 1;
    }
}

void handle_numbers_finish(void)
{
    for (size_t i = 0; i < CHUNK_COUNT; i++)
        free(atomic_exchange(&chunks[i], NULL));
    first_free = LAST_FREE;
    used = 0;
}
