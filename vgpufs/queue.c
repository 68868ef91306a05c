#include "queue.h"

#include <stdlib.h>
#include <string.h>

/*
 * Positions. A span covers 1024 consecutive arrivals of one priority and has a
 * bit for each that is still queued. An item's position is a sum over spans and
 * a count of bits: a million queued items are a thousand additions. Spans that
 * have become empty are freed.
 */
#define SPAN_BITS  10
#define SPAN_WORDS ((1u << SPAN_BITS) / 64)

struct queue_span {
    struct queue_span *previous, *next;
    uint64_t index; /* sequence >> SPAN_BITS */
    uint32_t count;
    uint64_t bits[SPAN_WORDS];
};

static unsigned span_bit(uint64_t sequence)
{
    return (unsigned)(sequence & ((1u << SPAN_BITS) - 1));
}

/* span_get returns the level's span of that index, made if it is missing; NULL without memory. */
static struct queue_span *span_get(struct queue_level *level, uint64_t index)
{
    struct queue_span *after = level->last;
    while (after && after->index > index)
        after = after->previous;
    if (after && after->index == index)
        return after;
    struct queue_span *span = calloc(1, sizeof(*span));
    if (!span)
        return NULL;
    span->index = index;
    span->previous = after;
    span->next = after ? after->next : level->first;
    *(span->next ? &span->next->previous : &level->last) = span;
    *(after ? &after->next : &level->first) = span;
    return span;
}

/* span_enter counts the item. Without memory for a span its position is unknown, no more. */
static void span_enter(struct queue_level *level, struct queue_item *item)
{
    level->count++;
    item->span = span_get(level, item->sequence >> SPAN_BITS);
    if (!item->span)
        return;
    unsigned bit = span_bit(item->sequence);
    item->span->bits[bit / 64] |= UINT64_C(1) << bit % 64;
    item->span->count++;
}

static void span_leave(struct queue_level *level, struct queue_item *item)
{
    struct queue_span *span = item->span;
    unsigned bit = span_bit(item->sequence);
    level->count--;
    item->span = NULL;
    if (!span)
        return;
    span->bits[bit / 64] &= ~(UINT64_C(1) << bit % 64);
    if (--span->count)
        return;
    *(span->next ? &span->next->previous : &level->last) = span->previous;
    *(span->previous ? &span->previous->next : &level->first) = span->next;
    free(span);
}

/* Heaps of tenants: level 0..2 by priority, AGE by the oldest item of any. */
#define AGE QUEUE_PRIORITIES

/* tenant_oldest returns the tenant's oldest item of the level (AGE: of any), or NULL. */
static struct queue_item *tenant_oldest(const struct queue_tenant *tenant, unsigned level)
{
    if (level != AGE)
        return tenant->list[level].first;
    struct queue_item *oldest = NULL;
    for (unsigned i = 0; i < QUEUE_PRIORITIES; i++) {
        struct queue_item *item = tenant->list[i].first;
        if (item && (!oldest || item->sequence < oldest->sequence))
            oldest = item;
    }
    return oldest;
}

static bool tenant_less_fifo(const struct heap *heap, const void *a, const void *b)
{
    return tenant_oldest(a, heap->level)->sequence < tenant_oldest(b, heap->level)->sequence;
}

static bool tenant_less_fair(const struct heap *heap, const void *a, const void *b)
{
    const struct queue_tenant *x = a, *y = b;
    if (x->last_turn != y->last_turn)
        return x->last_turn < y->last_turn;
    return tenant_less_fifo(heap, a, b);
}

static uint32_t *tenant_place(const struct heap *heap, void *item)
{
    return &((struct queue_tenant *)item)->place[heap->level];
}

static bool deadline_less(const struct heap *heap, const void *a, const void *b)
{
    (void)heap;
    return ((const struct queue_item *)a)->deadline_us <
           ((const struct queue_item *)b)->deadline_us;
}

static uint32_t *deadline_place(const struct heap *heap, void *item)
{
    (void)heap;
    return &((struct queue_item *)item)->deadline_place;
}

void queue_init(struct queue *queue, enum config_order order, uint64_t max_wait_us)
{
    *queue = (struct queue){.deadlines = {.less = deadline_less, .place = deadline_place}};
    for (unsigned class = 0; class < QUEUE_CLASSES; class ++)
        for (unsigned level = 0; level <= AGE; level++)
            queue->tenants[class][level] =
                (struct heap){.less = tenant_less_fifo, .place = tenant_place, .level = level};
    queue_set_order(queue, order, max_wait_us);
}

void queue_finish(struct queue *queue)
{
    for (unsigned class = 0; class < QUEUE_CLASSES; class ++)
        for (unsigned level = 0; level <= AGE; level++)
            heap_finish(&queue->tenants[class][level]);
    heap_finish(&queue->deadlines);
    for (unsigned level = 0; level < QUEUE_PRIORITIES; level++)
        for (struct queue_span *span = queue->levels[level].first, *next; span; span = next) {
            next = span->next;
            free(span);
        }
}

void queue_set_order(struct queue *queue, enum config_order order, uint64_t max_wait_us)
{
    queue->order = order;
    queue->max_wait_us = max_wait_us;
    for (unsigned class = 0; class < QUEUE_CLASSES; class ++)
        for (unsigned level = 0; level < QUEUE_PRIORITIES; level++) {
            struct heap *heap = &queue->tenants[class][level];
            heap->less = order == ORDER_FAIR ? tenant_less_fair : tenant_less_fifo;
            /* Heapify: each element, from the front, moves up to where it belongs. */
            size_t count = heap->count;
            for (heap->count = 0; heap->count < count;)
                heap_insert(heap, heap->items[heap->count]);
        }
}

int queue_attach(struct queue *queue, struct queue_tenant *tenant)
{
    for (unsigned class = 0; class < QUEUE_CLASSES; class ++)
        for (unsigned level = 0; level <= AGE; level++)
            if (heap_reserve(&queue->tenants[class][level], queue->tenant_count + 1) < 0)
                return -1;
    queue->tenant_count++;
    *tenant = (struct queue_tenant){.class = QUEUE_RUNNABLE};
    for (unsigned level = 0; level <= AGE; level++)
        tenant->place[level] = HEAP_NOWHERE;
    return 0;
}

/* tenant_settle puts the tenant into, in order in, or out of its class' heap of that level. */
static void tenant_settle(struct queue *queue, struct queue_tenant *tenant, unsigned level)
{
    if (tenant->class == QUEUE_BLOCKED && level != AGE)
        return;
    struct heap *heap = &queue->tenants[tenant->class][level];
    bool inside = tenant->place[level] != HEAP_NOWHERE;
    bool wanted = tenant_oldest(tenant, level) != NULL;
    if (inside && wanted)
        heap_update(heap, tenant);
    else if (wanted)
        heap_insert(heap, tenant); /* cannot fail: queue_attach made room */
    else if (inside)
        heap_remove(heap, tenant);
}

void queue_set_class(struct queue *queue, struct queue_tenant *tenant, enum queue_class class)
{
    if (tenant->class == class)
        return;
    for (unsigned level = 0; level <= AGE; level++)
        if (tenant->place[level] != HEAP_NOWHERE)
            heap_remove(&queue->tenants[tenant->class][level], tenant);
    tenant->class = class;
    for (unsigned level = 0; level <= AGE; level++)
        tenant_settle(queue, tenant, level);
}

/* list_enter puts the item behind the last one of its list that arrived before it. */
static void list_enter(struct queue_tenant *tenant, struct queue_item *item)
{
    struct queue_item **first = &tenant->list[item->priority].first;
    struct queue_item **last = &tenant->list[item->priority].last;
    struct queue_item *before = *last;
    if (*first && item->sequence < (*first)->sequence)
        before = NULL;
    while (before && before->sequence > item->sequence)
        before = before->previous;
    item->previous = before;
    item->next = before ? before->next : *first;
    *(item->next ? &item->next->previous : last) = item;
    *(before ? &before->next : first) = item;
}

static void list_leave(struct queue_tenant *tenant, struct queue_item *item)
{
    *(item->next ? &item->next->previous : &tenant->list[item->priority].last) = item->previous;
    *(item->previous ? &item->previous->next : &tenant->list[item->priority].first) = item->next;
}

/* item_leads: is it the first of its list? Where its tenant stands depends on no other. */
static bool item_leads(const struct queue_tenant *tenant, const struct queue_item *item)
{
    return tenant->list[item->priority].first == item;
}

static void tenant_settle_all(struct queue *queue, struct queue_tenant *tenant, unsigned priority)
{
    tenant_settle(queue, tenant, priority);
    tenant_settle(queue, tenant, AGE);
}

int queue_reserve(struct queue *queue, uint64_t count)
{
    return heap_reserve(&queue->deadlines, (size_t)count);
}

void queue_requeue(struct queue *queue, struct queue_tenant *tenant, struct queue_item *item)
{
    item->deadline_place = HEAP_NOWHERE;
    if (item->deadline_us)
        heap_insert(&queue->deadlines, item); /* cannot fail: queue_reserve made room */
    span_enter(&queue->levels[item->priority], item);
    item->tenant = tenant;
    tenant->queued++;
    list_enter(tenant, item);
    if (item_leads(tenant, item))
        tenant_settle_all(queue, tenant, item->priority);
}

void queue_restore(struct queue *queue, struct queue_tenant *tenant, struct queue_item *item)
{
    if (queue->sequence < item->sequence)
        queue->sequence = item->sequence;
    queue_requeue(queue, tenant, item);
}

void queue_push(struct queue *queue, struct queue_tenant *tenant, struct queue_item *item,
                unsigned priority, uint64_t now_us)
{
    item->priority = (uint8_t)priority;
    item->queued_us = now_us;
    item->sequence = ++queue->sequence;
    queue_requeue(queue, tenant, item);
}

void queue_remove(struct queue *queue, struct queue_item *item)
{
    struct queue_tenant *tenant = item->tenant;
    bool led = item_leads(tenant, item);
    if (item->deadline_place != HEAP_NOWHERE)
        heap_remove(&queue->deadlines, item);
    span_leave(&queue->levels[item->priority], item);
    list_leave(tenant, item);
    tenant->queued--;
    item->tenant = NULL;
    if (led)
        tenant_settle_all(queue, tenant, item->priority);
}

void queue_set_priority(struct queue *queue, struct queue_item *item, unsigned priority)
{
    struct queue_tenant *tenant = item->tenant;
    unsigned old = item->priority;
    span_leave(&queue->levels[old], item);
    list_leave(tenant, item);
    tenant_settle(queue, tenant, old);
    item->priority = (uint8_t)priority;
    span_enter(&queue->levels[priority], item);
    list_enter(tenant, item);
    tenant_settle_all(queue, tenant, priority);
}

static struct queue_item *class_next(const struct queue *queue, enum queue_class class,
                                     uint64_t now_us)
{
    const struct heap *heaps = queue->tenants[class];
    const struct queue_tenant *tenant = heap_top(&heaps[AGE]);
    if (!tenant)
        return NULL;
    struct queue_item *oldest = tenant_oldest(tenant, AGE);
    if (queue->max_wait_us && now_us - oldest->queued_us >= queue->max_wait_us)
        return oldest;
    for (unsigned level = QUEUE_PRIORITIES; level-- > 0;)
        if ((tenant = heap_top(&heaps[level])))
            return tenant->list[level].first;
    return NULL;
}

struct queue_item *queue_next(const struct queue *queue, uint64_t now_us)
{
    struct queue_item *item = class_next(queue, QUEUE_RUNNABLE, now_us);
    return item ? item : class_next(queue, QUEUE_OVER, now_us);
}

void queue_take(struct queue *queue, struct queue_item *item)
{
    struct queue_tenant *tenant = item->tenant;
    queue_remove(queue, item);
    tenant->last_turn = ++queue->turn;
    for (unsigned level = 0; level < QUEUE_PRIORITIES && queue->order == ORDER_FAIR; level++)
        tenant_settle(queue, tenant, level);
}

struct queue_item *queue_expired(const struct queue *queue, uint64_t now_us)
{
    return queue_next_deadline_us(queue) <= now_us ? heap_top(&queue->deadlines) : NULL;
}

uint64_t queue_next_deadline_us(const struct queue *queue)
{
    const struct queue_item *item = heap_top(&queue->deadlines);
    if (!item)
        return UINT64_MAX;
    return item->deadline_us > 0 ? (uint64_t)item->deadline_us : 0;
}

uint64_t queue_count(const struct queue *queue)
{
    uint64_t count = 0;
    for (unsigned level = 0; level < QUEUE_PRIORITIES; level++)
        count += queue->levels[level].count;
    return count;
}

struct queue_item *queue_oldest(const struct queue *queue)
{
    struct queue_item *oldest = NULL;
    for (unsigned class = 0; class < QUEUE_CLASSES; class ++) {
        const struct queue_tenant *tenant = heap_top(&queue->tenants[class][AGE]);
        struct queue_item *item = tenant ? tenant_oldest(tenant, AGE) : NULL;
        if (item && (!oldest || item->sequence < oldest->sequence))
            oldest = item;
    }
    return oldest;
}

uint64_t queue_position(const struct queue *queue, const struct queue_item *item)
{
    uint64_t ahead = 0;
    if (!item->span)
        return 0;
    for (unsigned level = item->priority + 1u; level < QUEUE_PRIORITIES; level++)
        ahead += queue->levels[level].count;
    for (const struct queue_span *span = item->span->previous; span; span = span->previous)
        ahead += span->count;
    unsigned bit = span_bit(item->sequence);
    for (unsigned word = 0; word < bit / 64; word++)
        ahead += (uint64_t)__builtin_popcountll(item->span->bits[word]);
    uint64_t before = (UINT64_C(1) << bit % 64) - 1;
    ahead += (uint64_t)__builtin_popcountll(item->span->bits[bit / 64] & before);
    return ahead + 1;
}

/* A queued item with what decides when it runs. */
struct listed {
    struct queue_item *item;
    enum queue_class class;
    bool overdue; /* has waited for max_wait */
    /* order = fair: how many of its tenant's go before it, and whose turn it is */
    uint64_t round, turn, first;
};

static int compare(uint64_t a, uint64_t b)
{
    return a < b ? -1 : a > b;
}

/* part_compare tells the parts that are served one after the other. */
static int part_compare(const struct listed *x, const struct listed *y)
{
    int order = compare(x->class, y->class);
    if (!order)
        order = compare(y->overdue, x->overdue);
    if (!order && !x->overdue)
        order = compare(y->item->priority, x->item->priority);
    return order;
}

static int listed_compare(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;
    int order = part_compare(x, y);
    return order ? order : compare(x->item->sequence, y->item->sequence);
}

static int listed_compare_turns(const void *a, const void *b)
{
    const struct listed *x = a, *y = b;
    int order = compare(x->round, y->round);
    if (!order)
        order = compare(x->turn, y->turn);
    return order ? order : compare(x->first, y->first);
}

/* part_take_turns puts one part, which stands by arrival, into the order in which tenants serve
 * it, and moves the tenants' turns on as if it had been served. */
static void part_take_turns(struct listed *part, size_t count, uint64_t *turn)
{
    for (size_t i = 0; i < count; i++)
        part[i].item->tenant->listing.round = 0;
    for (size_t i = 0; i < count; i++) {
        struct queue_tenant *tenant = part[i].item->tenant;
        if (tenant->listing.round == 0)
            tenant->listing.first = part[i].item->sequence;
        part[i].round = tenant->listing.round++;
        part[i].turn = tenant->listing.turn;
        part[i].first = tenant->listing.first;
    }
    if (!part->overdue)
        qsort(part, count, sizeof(*part), listed_compare_turns);
    for (size_t i = 0; i < count; i++)
        part[i].item->tenant->listing.turn = ++*turn;
}

/* listed_take_turns is what order = fair makes of what is sorted by part and arrival. */
static void listed_take_turns(const struct queue *queue, struct listed *listed, size_t count)
{
    uint64_t turn = queue->turn;
    for (size_t i = 0; i < count; i++)
        listed[i].item->tenant->listing.turn = listed[i].item->tenant->last_turn;
    for (size_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && part_compare(&listed[i], &listed[end]) == 0;)
            end++;
        part_take_turns(listed + i, end - i, &turn);
    }
}

/* listed_fill writes down what the tenant has queued, and returns what is behind it. */
static struct listed *listed_fill(struct listed *listed, const struct queue *queue,
                                  const struct queue_tenant *tenant, uint64_t now_us)
{
    for (unsigned level = 0; level < QUEUE_PRIORITIES; level++)
        for (struct queue_item *item = tenant->list[level].first; item; item = item->next)
            *listed++ = (struct listed){
                .item = item,
                .class = tenant->class,
                .overdue = queue->max_wait_us && now_us - item->queued_us >= queue->max_wait_us,
            };
    return listed;
}

int queue_list(const struct queue *queue, struct queue_item **items, uint64_t now_us)
{
    struct listed *listed = calloc((size_t)queue_count(queue) + 1, sizeof(*listed));
    if (!listed)
        return -1;
    struct listed *end = listed;
    for (unsigned class = 0; class < QUEUE_CLASSES; class ++)
        for (size_t i = 0; i < queue->tenants[class][AGE].count; i++)
            end = listed_fill(end, queue, queue->tenants[class][AGE].items[i], now_us);
    size_t n = (size_t)(end - listed);
    qsort(listed, n, sizeof(*listed), listed_compare);
    if (queue->order == ORDER_FAIR)
        listed_take_turns(queue, listed, n);
    for (size_t i = 0; i < n; i++)
        items[i] = listed[i].item;
    free(listed);
    return 0;
}
