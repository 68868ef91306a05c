/*
 * The queue by itself, for callgrind to count instructions: fills it and does
 * one operation 1,000 times, in a function of its own that --toggle-collect
 * names.
 *
 * usage: bench-queue enqueue|dequeue|cancel QUEUED
 */
#include "queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TENANTS  100
#define MEASURED 1000

static struct queue queue;
static struct queue_tenant tenants[TENANTS];

void measured_enqueue(struct queue_item *items, size_t count);
void measured_dequeue(struct queue_item *items, size_t count);
void measured_cancel(struct queue_item *items, size_t count);

static void push(struct queue_item *items, size_t index)
{
    queue_push(&queue, &tenants[index % TENANTS], &items[index], (unsigned)(index % 3),
               1000 + index);
}

__attribute__((noinline)) void measured_enqueue(struct queue_item *items, size_t count)
{
    for (size_t i = count; i < count + MEASURED; i++)
        push(items, i);
}

__attribute__((noinline)) void measured_dequeue(struct queue_item *items, size_t count)
{
    (void)items;
    for (size_t i = 0; i < MEASURED; i++)
        queue_take(&queue, queue_next(&queue, 1000 + count));
}

__attribute__((noinline)) void measured_cancel(struct queue_item *items, size_t count)
{
    size_t step = count / MEASURED;
    for (size_t i = 0; i < MEASURED; i++)
        queue_remove(&queue, &items[i * step]);
}

static const struct {
    const char *name;
    void (*run)(struct queue_item *items, size_t count);
} operations[] = {
    {"enqueue", measured_enqueue},
    {"dequeue", measured_dequeue},
    {"cancel", measured_cancel},
};

int main(int argc, char **argv)
{
    size_t count = argc == 3 ? strtoul(argv[2], NULL, 10) : 0;
    struct queue_item *items = calloc(count + MEASURED, sizeof(*items));
    if (!items || count < MEASURED) {
        fputs("usage: bench-queue enqueue|dequeue|cancel QUEUED (1000 at least)\n", stderr);
        return 2;
    }
    queue_init(&queue, ORDER_FIFO, 0);
    for (size_t i = 0; i < TENANTS; i++)
        if (queue_attach(&queue, &tenants[i]) < 0)
            return 1;
    if (queue_reserve(&queue, count + MEASURED) < 0)
        return 1;
    for (size_t i = 0; i < count; i++)
        push(items, i);
    for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
        if (strcmp(operations[i].name, argv[1]) == 0)
            operations[i].run(items, count);
    queue_finish(&queue);
    free(items);
    return 0;
}
