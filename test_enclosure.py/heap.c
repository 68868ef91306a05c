#include "heap.h"

#include <stdlib.h>

void heap_finish(struct heap *heap)
{
    free(heap->items);
    heap->items = NULL;
    heap->count = heap->capacity = 0;
}

int heap_reserve(struct heap *heap, size_t count)
{
    if (count <= heap->capacity)
        return 0;
    size_t capacity = heap->capacity ? heap->capacity : 16;
    while (capacity < count)
        capacity *= 2;
    void **items = realloc(heap->items, capacity * sizeof(*items));
    if (!items)
        return -1;
    heap->items = items;
    heap->capacity = capacity;
    return 0;
}

static void heap_set(struct heap *heap, size_t index, void *item)
{
    heap->items[index] = item;
    *heap->place(heap, item) = (uint32_t)index;
}

static void heap_sift_up(struct heap *heap, size_t index)
{
    void *item = heap->items[index];
    while (index > 0) {
        size_t parent = (index - 1) / 2;
        if (!heap->less(heap, item, heap->items[parent]))
            break;
        heap_set(heap, index, heap->items[parent]);
        index = parent;
    }
    heap_set(heap, index, item);
}

static void heap_sift_down(struct heap *heap, size_t index)
{
    void *item = heap->items[index];
    for (;;) {
        size_t child = 2 * index + 1;
        if (child >= heap->count)
            break;
        if (child + 1 < heap->count && heap->less(heap, heap->items[child + 1], heap->items[child]))
            child++;
        if (!heap->less(heap, heap->items[child], item))
            break;
        heap_set(heap, index, heap->items[child]);
        index = child;
    }
    heap_set(heap, index, item);
}

int heap_insert(struct heap *heap, void *item)
{
    if (heap_reserve(heap, heap->count + 1) < 0)
        return -1;
    heap->items[heap->count] = item;
    heap_sift_up(heap, heap->count++);
    return 0;
}

void heap_update(struct heap *heap, void *item)
{
    heap_sift_up(heap, *heap->place(heap, item));
    heap_sift_down(heap, *heap->place(heap, item));
}

void heap_remove(struct heap *heap, void *item)
{
    size_t index = *heap->place(heap, item);
    void *last = heap->items[--heap->count];
    *heap->place(heap, item) = HEAP_NOWHERE;
    if (last == item)
        return;
    heap_set(heap, index, last);
    heap_update(heap, last);
}

void *heap_top(const struct heap *heap)
{
    return heap->count ? heap->items[0] : NULL;
}
