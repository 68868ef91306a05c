/*
 * A pool's queue: strict priorities, first come first served inside one or VMs
 * taking turns, deadlines, cancel, and positions. It knows nothing of FUSE, of
 * VMs' files or of executors.
 *
 * Tenants are who items belong to; each has a list for each priority, and heaps
 * of tenants say whose turn it is. So push, pop and remove cost O(log tenants)
 * whatever the length of the queue, and a tenant that may not run (held, at its
 * limit) costs nothing to pass over.
 *
 * Not thread-safe: the pool's lock guards it. The caller owns items and tenants.
 */
#ifndef VGPUFS_QUEUE_H
#define VGPUFS_QUEUE_H

#include "config.h"
#include "heap.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUEUE_PRIORITIES 3

struct queue_span;
struct queue_tenant;

struct queue_item {
    struct queue_tenant *tenant;        /* NULL while it is in no queue */
    struct queue_item *previous, *next; /* of the same tenant and priority */
    struct queue_span *span;            /* where its position is counted */
    uint64_t sequence;                  /* arrival, from 1; kept over queue_requeue */
    uint64_t queued_us;
    int64_t deadline_us; /* 0: none; below: it passed before the machine started */
    uint32_t deadline_place;
    uint8_t priority;
};

/* Whom queue_next may choose. */
enum queue_class {
    QUEUE_RUNNABLE, /* served first */
    QUEUE_OVER,     /* above its share: only when no runnable tenant has an item */
    QUEUE_BLOCKED,  /* held or at its limit: not served */
    QUEUE_CLASSES,
};

struct queue_tenant {
    struct {
        struct queue_item *first, *last;
    } list[QUEUE_PRIORITIES];
    uint32_t place[QUEUE_PRIORITIES + 1]; /* in the heaps of its class */
    uint32_t queued;
    enum queue_class class;
    uint64_t last_turn; /* when it was served last; order = fair */
    struct {
        uint64_t round, turn, first;
    } listing; /* queue_list's own, while it runs */
};

struct queue_level {
    struct queue_span *first, *last;
    uint64_t count;
};

struct queue {
    enum config_order order;
    uint64_t max_wait_us; /* 0: strict priority */
    uint64_t sequence, turn;
    size_t tenant_count;
    /* Of the tenants that have items: the last one by age; blocked tenants are in that one only. */
    struct heap tenants[QUEUE_CLASSES][QUEUE_PRIORITIES + 1];
    struct heap deadlines;
    struct queue_level levels[QUEUE_PRIORITIES];
};

void queue_init(struct queue *queue, enum config_order order, uint64_t max_wait_us);
void queue_finish(struct queue *queue);
/* queue_set_order takes new rules for what is queued already too. */
void queue_set_order(struct queue *queue, enum config_order order, uint64_t max_wait_us);

/* queue_attach makes room for a tenant; -1 without memory. The tenant is made empty and runnable.
 */
int queue_attach(struct queue *queue, struct queue_tenant *tenant);
void queue_set_class(struct queue *queue, struct queue_tenant *tenant, enum queue_class class);

/* queue_reserve makes room for `count` items in all, so that nothing below can fail. */
int queue_reserve(struct queue *queue, uint64_t count);
/* queue_push: item->deadline_us is set by the caller. */
void queue_push(struct queue *queue, struct queue_tenant *tenant, struct queue_item *item,
                unsigned priority, uint64_t now_us);
/* queue_requeue puts an item that was taken out back where it stood. */
void queue_requeue(struct queue *queue, struct queue_tenant *tenant, struct queue_item *item);
/* queue_restore is queue_requeue for an item of an earlier process: what is pushed later stands
 * behind it. */
void queue_restore(struct queue *queue, struct queue_tenant *tenant, struct queue_item *item);
void queue_remove(struct queue *queue, struct queue_item *item);
/* queue_set_priority moves a queued item; among its new equals it stands by arrival. */
void queue_set_priority(struct queue *queue, struct queue_item *item, unsigned priority);

/* queue_next returns the item whose turn it is, still in the queue; or NULL. */
struct queue_item *queue_next(const struct queue *queue, uint64_t now_us);
/* queue_take removes the item that queue_next gave, and its tenant's turn is over. */
void queue_take(struct queue *queue, struct queue_item *item);

/* queue_expired returns an item whose deadline has passed, still in the queue; or NULL. */
struct queue_item *queue_expired(const struct queue *queue, uint64_t now_us);
/* queue_next_deadline_us returns when the next deadline passes, 0 if that was before the machine
 * started; UINT64_MAX if there is none. */
uint64_t queue_next_deadline_us(const struct queue *queue);

uint64_t queue_count(const struct queue *queue);
/* queue_oldest returns the item that arrived first, whoever may run; or NULL. */
struct queue_item *queue_oldest(const struct queue *queue);
/* queue_position: 1 + the items that stand ahead by priority and arrival; 0 if there was no memory
 * to count them. */
uint64_t queue_position(const struct queue *queue, const struct queue_item *item);
/*
 * queue_list fills `items` (room for queue_count) in the order in which they will run as things
 * stand: blocked tenants' last. O(n log n). -1 without memory.
 */
int queue_list(const struct queue *queue, struct queue_item **items, uint64_t now_us);

#endif
