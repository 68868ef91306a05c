/*
 * The nearest known name to a mistyped one, for "did you mean 'max_queued'?".
 *
 * Start with {.word = "max_quued"}, offer each known name, then look at `best`.
 * Names are not copied: they must outlive the struct. Not thread-safe.
 */
#ifndef VGPUFS_COMMON_NEAREST_H
#define VGPUFS_COMMON_NEAREST_H

#include <stddef.h>

struct nearest {
    const char *word;
    const char *best; /* NULL: none is near; not NUL-terminated unless the offered name was */
    size_t best_size;
    unsigned distance;
};

/* nearest_offer considers one name of `size` bytes. The first of several equally near ones stays.
 */
void nearest_offer(struct nearest *nearest, const char *name, size_t size);

#endif
