/*
 * A binary heap of pointers. Each element is told its own place, so that
 * removing it needs no search. Knows nothing of what it holds. Not thread-safe.
 */
#ifndef VGPUFS_HEAP_H
#define VGPUFS_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HEAP_NOWHERE UINT32_MAX

struct heap {
    void **items;
    size_t count, capacity;
    /* less: does `a` come out before `b`? */
    bool (*less)(const struct heap *heap, const void *a, const void *b);
    /* place returns where the element keeps its index (HEAP_NOWHERE while it is in no heap). */
    uint32_t *(*place)(const struct heap *heap, void *item);
    unsigned level; /* the owner's */
};

void heap_finish(struct heap *heap);
/* heap_reserve makes room for `count` elements in all, so that heap_insert cannot fail. */
int heap_reserve(struct heap *heap, size_t count);
int heap_insert(struct heap *heap, void *item);
void heap_remove(struct heap *heap, void *item);
/* heap_update puts an element in order again whose key has changed. */
void heap_update(struct heap *heap, void *item);
/* heap_top returns the first element, or NULL. */
void *heap_top(const struct heap *heap);

#endif
