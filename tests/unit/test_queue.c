/* queue: against a model that looks at every item for every question; and what its header says. */
#include "queue.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

#define TENANTS    7
#define ITEMS      600
#define OPERATIONS 100000

enum where { NOWHERE, QUEUED, TAKEN };

/* What the model knows of an item; it never looks into the queue's own. */
struct entry {
    enum where where;
    unsigned tenant, priority;
    uint64_t sequence, queued_us, deadline_us;
};

struct model {
    struct entry entries[ITEMS];
    enum queue_class class[TENANTS];
    uint64_t last_turn[TENANTS];
    enum config_order order;
    uint64_t max_wait_us, sequence, turn;
};

/* A queue and its model, which see the same operations. */
struct pair {
    struct queue queue;
    struct queue_tenant tenants[TENANTS];
    struct queue_item items[ITEMS];
    struct model model;
    uint64_t random, now_us;
};

static uint64_t random_below(struct pair *pair, uint64_t limit)
{
    pair->random ^= pair->random << 13; /* xorshift64, Marsaglia 2003 */
    pair->random ^= pair->random >> 7;
    pair->random ^= pair->random << 17;
    return pair->random % limit;
}

/* The model: each answer from first principles. */

static bool goes_before(const struct model *model, const struct entry *a, const struct entry *b)
{
    if (a->priority != b->priority)
        return a->priority > b->priority;
    if (model->order == ORDER_FAIR && a->tenant != b->tenant &&
        model->last_turn[a->tenant] != model->last_turn[b->tenant])
        return model->last_turn[a->tenant] < model->last_turn[b->tenant];
    return a->sequence < b->sequence;
}

static int model_next_of(const struct model *model, enum queue_class class, uint64_t now_us)
{
    int oldest = -1, best = -1;
    for (int i = 0; i < ITEMS; i++) {
        const struct entry *entry = &model->entries[i];
        if (entry->where != QUEUED || model->class[entry->tenant] != class)
            continue;
        if (oldest < 0 || entry->sequence < model->entries[oldest].sequence)
            oldest = i;
        if (best < 0 || goes_before(model, entry, &model->entries[best]))
            best = i;
    }
    if (oldest >= 0 && model->max_wait_us &&
        now_us - model->entries[oldest].queued_us >= model->max_wait_us)
        return oldest;
    return best;
}

static int model_next(const struct model *model, uint64_t now_us)
{
    int next = model_next_of(model, QUEUE_RUNNABLE, now_us);
    return next >= 0 ? next : model_next_of(model, QUEUE_OVER, now_us);
}

static void model_take(struct model *model, int index)
{
    model->entries[index].where = TAKEN;
    model->last_turn[model->entries[index].tenant] = ++model->turn;
}

static uint64_t model_position(const struct model *model, int index)
{
    const struct entry *mine = &model->entries[index];
    uint64_t position = 1;
    for (int i = 0; i < ITEMS; i++) {
        const struct entry *entry = &model->entries[i];
        if (entry->where == QUEUED &&
            (entry->priority > mine->priority ||
             (entry->priority == mine->priority && entry->sequence < mine->sequence)))
            position++;
    }
    return position;
}

static uint64_t model_count(const struct model *model)
{
    uint64_t count = 0;
    for (int i = 0; i < ITEMS; i++)
        count += model->entries[i].where == QUEUED;
    return count;
}

static uint64_t model_next_deadline_us(const struct model *model)
{
    uint64_t next = UINT64_MAX;
    for (int i = 0; i < ITEMS; i++) {
        const struct entry *entry = &model->entries[i];
        if (entry->where == QUEUED && entry->deadline_us && entry->deadline_us < next)
            next = entry->deadline_us;
    }
    return next;
}

/* random_item returns an item that is `where`, or -1 if it met none. */
static int random_item(struct pair *pair, enum where where)
{
    unsigned start = (unsigned)random_below(pair, ITEMS);
    for (unsigned i = 0; i < ITEMS; i++) {
        int index = (int)((start + i) % ITEMS);
        if (pair->model.entries[index].where == where)
            return index;
    }
    return -1;
}

/* The operations, on both. */

static void do_push(struct pair *pair)
{
    int index = random_item(pair, NOWHERE);
    if (index < 0)
        return;
    unsigned tenant = (unsigned)random_below(pair, TENANTS);
    unsigned priority = (unsigned)random_below(pair, QUEUE_PRIORITIES);
    uint64_t deadline =
        random_below(pair, 4) == 0 ? pair->now_us + 1 + random_below(pair, 3000) : 0;
    pair->model.entries[index] =
        (struct entry){QUEUED, tenant, priority, ++pair->model.sequence, pair->now_us, deadline};
    pair->items[index].deadline_us = deadline;
    assert_int_equal(queue_reserve(&pair->queue, queue_count(&pair->queue) + 1), 0);
    queue_push(&pair->queue, &pair->tenants[tenant], &pair->items[index], priority, pair->now_us);
}

static void do_take(struct pair *pair)
{
    int expected = model_next(&pair->model, pair->now_us);
    struct queue_item *item = queue_next(&pair->queue, pair->now_us);
    assert_ptr_equal(item, expected < 0 ? NULL : &pair->items[expected]);
    if (!item)
        return;
    queue_take(&pair->queue, item);
    assert_null(item->tenant);
    model_take(&pair->model, expected);
}

static void do_requeue(struct pair *pair)
{
    int index = random_item(pair, TAKEN);
    if (index < 0)
        return;
    struct entry *entry = &pair->model.entries[index];
    entry->where = QUEUED;
    assert_int_equal(queue_reserve(&pair->queue, queue_count(&pair->queue) + 1), 0);
    queue_requeue(&pair->queue, &pair->tenants[entry->tenant], &pair->items[index]);
}

/* An item that was taken has ended: its storage may be used for another one. */
static void do_end(struct pair *pair)
{
    int index = random_item(pair, TAKEN);
    if (index >= 0)
        pair->model.entries[index].where = NOWHERE;
}

static void do_remove(struct pair *pair)
{
    int index = random_item(pair, QUEUED);
    if (index < 0)
        return;
    queue_remove(&pair->queue, &pair->items[index]);
    assert_null(pair->items[index].tenant);
    pair->model.entries[index].where = NOWHERE;
}

static void do_set_priority(struct pair *pair)
{
    int index = random_item(pair, QUEUED);
    if (index < 0)
        return;
    unsigned priority = (unsigned)random_below(pair, QUEUE_PRIORITIES);
    queue_set_priority(&pair->queue, &pair->items[index], priority);
    pair->model.entries[index].priority = priority;
}

static void do_set_class(struct pair *pair)
{
    unsigned tenant = (unsigned)random_below(pair, TENANTS);
    enum queue_class class = (enum queue_class)random_below(pair, QUEUE_BLOCKED + 1);
    queue_set_class(&pair->queue, &pair->tenants[tenant], class);
    pair->model.class[tenant] = class;
}

static void do_set_order(struct pair *pair)
{
    pair->model.order = random_below(pair, 2) ? ORDER_FAIR : ORDER_FIFO;
    pair->model.max_wait_us = random_below(pair, 2) ? 0 : 1 + random_below(pair, 2000);
    queue_set_order(&pair->queue, pair->model.order, pair->model.max_wait_us);
}

static void do_expire(struct pair *pair)
{
    uint64_t next = model_next_deadline_us(&pair->model);
    struct queue_item *item = queue_expired(&pair->queue, pair->now_us);
    assert_int_equal(item != NULL, next <= pair->now_us);
    if (!item)
        return;
    /* Of several with the same deadline any will do. */
    int index = (int)(item - pair->items);
    assert_int_equal(pair->model.entries[index].where, QUEUED);
    assert_int_equal(pair->model.entries[index].deadline_us, next);
    queue_remove(&pair->queue, item);
    pair->model.entries[index].where = NOWHERE;
}

static void do_pass_time(struct pair *pair)
{
    pair->now_us += random_below(pair, 50);
}

static const struct {
    void (*run)(struct pair *pair);
    unsigned weight;
} operations[] = {
    {do_push, 40},        {do_take, 22},     {do_requeue, 4}, {do_end, 18},       {do_remove, 4},
    {do_set_priority, 6}, {do_set_class, 2}, {do_expire, 4},  {do_pass_time, 20},
};
#define OPERATION_KINDS (sizeof(operations) / sizeof(operations[0]))

static void random_operation(struct pair *pair)
{
    unsigned sum = 0;
    for (size_t i = 0; i < OPERATION_KINDS; i++)
        sum += operations[i].weight;
    unsigned chosen = (unsigned)random_below(pair, sum);
    size_t i = 0;
    for (; chosen >= operations[i].weight; i++)
        chosen -= operations[i].weight;
    operations[i].run(pair);
}

/* check_answers compares what costs little, after every operation. */
static void check_answers(struct pair *pair)
{
    int expected = model_next(&pair->model, pair->now_us);
    assert_ptr_equal(queue_next(&pair->queue, pair->now_us),
                     expected < 0 ? NULL : &pair->items[expected]);
    assert_int_equal(queue_count(&pair->queue), model_count(&pair->model));
    assert_int_equal(queue_next_deadline_us(&pair->queue), model_next_deadline_us(&pair->model));
    int index = random_item(pair, QUEUED);
    if (index < 0)
        return;
    const struct queue_item *item = &pair->items[index];
    assert_int_equal(queue_position(&pair->queue, item), model_position(&pair->model, index));
    assert_ptr_equal(item->tenant, &pair->tenants[pair->model.entries[index].tenant]);
    assert_int_equal(item->priority, pair->model.entries[index].priority);
}

/*
 * check_list: the list is the order of successive takes as of now, then the same of the blocked
 * tenants as if they were free.
 */
static void check_list(struct pair *pair)
{
    static struct model model;
    static struct queue_item *items[ITEMS];
    model = pair->model;
    assert_int_equal(queue_list(&pair->queue, items, pair->now_us), 0);
    uint64_t count = queue_count(&pair->queue);
    for (uint64_t i = 0; i < count; i++) {
        int expected = model_next(&model, pair->now_us);
        if (expected < 0)
            expected = model_next_of(&model, QUEUE_BLOCKED, pair->now_us);
        assert_true(expected >= 0);
        assert_ptr_equal(items[i], &pair->items[expected]);
        model_take(&model, expected);
    }
}

static void check_tenants(const struct pair *pair)
{
    for (unsigned tenant = 0; tenant < TENANTS; tenant++) {
        uint32_t queued = 0;
        for (int i = 0; i < ITEMS; i++)
            queued +=
                pair->model.entries[i].where == QUEUED && pair->model.entries[i].tenant == tenant;
        assert_int_equal(pair->tenants[tenant].queued, queued);
    }
}

/* check_oldest: whose wait is shown, whether its tenant may run or not. */
static void check_oldest(const struct pair *pair)
{
    const struct entry *entries = pair->model.entries;
    int oldest = -1;
    for (int i = 0; i < ITEMS; i++)
        if (entries[i].where == QUEUED &&
            (oldest < 0 || entries[i].sequence < entries[oldest].sequence))
            oldest = i;
    assert_ptr_equal(queue_oldest(&pair->queue), oldest < 0 ? NULL : &pair->items[oldest]);
}

static struct pair *pair_create(enum config_order order, uint64_t max_wait_us, uint64_t seed)
{
    struct pair *pair = calloc(1, sizeof(*pair));
    assert_non_null(pair);
    pair->random = seed;
    pair->now_us = 1000;
    pair->model.order = order;
    pair->model.max_wait_us = max_wait_us;
    queue_init(&pair->queue, order, max_wait_us);
    for (unsigned i = 0; i < TENANTS; i++)
        assert_int_equal(queue_attach(&pair->queue, &pair->tenants[i]), 0);
    return pair;
}

static void pair_destroy(struct pair *pair)
{
    queue_finish(&pair->queue);
    free(pair);
}

static void run_against_model(enum config_order order, uint64_t max_wait_us, unsigned reorder_every)
{
    struct pair *pair = pair_create(order, max_wait_us, 88172645463325252u + order);
    for (unsigned i = 1; i <= OPERATIONS; i++) {
        random_operation(pair);
        if (reorder_every && i % reorder_every == 0)
            do_set_order(pair);
        check_answers(pair);
        if (i % 250 == 0) {
            check_list(pair);
            check_tenants(pair);
            check_oldest(pair);
        }
        if (i % 10000 == 0) /* now and then to the bottom */
            for (uint64_t left = queue_count(&pair->queue); left > 0; left--)
                do_take(pair);
    }
    pair_destroy(pair);
}

static void test_model_fifo(void **state)
{
    (void)state;
    run_against_model(ORDER_FIFO, 0, 0);
}

static void test_model_fair(void **state)
{
    (void)state;
    run_against_model(ORDER_FAIR, 0, 0);
}

static void test_model_fifo_max_wait(void **state)
{
    (void)state;
    run_against_model(ORDER_FIFO, 1500, 0);
}

static void test_model_fair_max_wait(void **state)
{
    (void)state;
    run_against_model(ORDER_FAIR, 1500, 0);
}

static void test_model_changing_order(void **state)
{
    (void)state;
    run_against_model(ORDER_FIFO, 0, 97);
}

/* By hand, so that the rules can be read here and the model cannot share a mistake. */

struct hand {
    struct queue queue;
    struct queue_tenant tenants[3];
    struct queue_item items[16];
    size_t count;
};

static void hand_init(struct hand *hand, enum config_order order, uint64_t max_wait_us)
{
    memset(hand, 0, sizeof(*hand));
    queue_init(&hand->queue, order, max_wait_us);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(queue_attach(&hand->queue, &hand->tenants[i]), 0);
}

static void hand_push(struct hand *hand, unsigned tenant, unsigned priority, uint64_t now_us)
{
    assert_int_equal(queue_reserve(&hand->queue, hand->count + 1), 0);
    queue_push(&hand->queue, &hand->tenants[tenant], &hand->items[hand->count++], priority, now_us);
}

/* assert_order: the items, by number of their push from 0, come out like this and are listed so. */
static void assert_order(struct hand *hand, uint64_t now_us, const char *expected)
{
    struct queue_item *listed[16];
    char order[17] = "", list[17] = "";
    size_t count = (size_t)queue_count(&hand->queue);
    assert_int_equal(queue_list(&hand->queue, listed, now_us), 0);
    for (size_t i = 0; i < count; i++)
        list[i] = (char)('0' + (listed[i] - hand->items));
    struct queue_item *item;
    for (size_t i = 0; (item = queue_next(&hand->queue, now_us)); i++) {
        order[i] = (char)('0' + (item - hand->items));
        queue_take(&hand->queue, item);
    }
    assert_string_equal(order, expected);
    assert_memory_equal(list, expected, strlen(expected));
}

static void test_strict_priority(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FIFO, 0);
    static const unsigned priorities[] = {0, 1, 2, 0, 2, 1};
    for (size_t i = 0; i < 6; i++)
        hand_push(&hand, i % 3, priorities[i], 10 * i);
    assert_int_equal(queue_position(&hand.queue, &hand.items[3]), 6);
    assert_int_equal(queue_position(&hand.queue, &hand.items[2]), 1);
    assert_order(&hand, UINT32_MAX, "241503");
    assert_null(queue_next(&hand.queue, 0));
    queue_finish(&hand.queue);
}

static void test_turns(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FAIR, 0);
    for (size_t i = 0; i < 3; i++)
        hand_push(&hand, 0, 1, 0);
    for (size_t i = 0; i < 2; i++)
        hand_push(&hand, 1, 1, 0);
    hand_push(&hand, 2, 1, 0);
    assert_order(&hand, 0, "035142");
    queue_finish(&hand.queue);
}

/* A turn that was taken at a high priority counts at a lower one too. */
static void test_turns_over_priorities(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FAIR, 0);
    hand_push(&hand, 0, 2, 0);
    hand_push(&hand, 0, 0, 0);
    hand_push(&hand, 1, 0, 0);
    assert_order(&hand, 0, "021");
    queue_finish(&hand.queue);
}

/* The second round is in the order of the first one, whoever came first in it. */
static void test_turns_second_round(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FAIR, 0);
    static const unsigned tenants[] = {0, 1, 1, 0};
    for (size_t i = 0; i < 4; i++)
        hand_push(&hand, tenants[i], 1, 0);
    assert_order(&hand, 0, "0132");
    queue_finish(&hand.queue);
}

static void test_max_wait(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FIFO, 100);
    hand_push(&hand, 0, 0, 1000);
    hand_push(&hand, 1, 2, 1001);
    hand_push(&hand, 1, 1, 1050);
    assert_ptr_equal(queue_next(&hand.queue, 1099), &hand.items[1]);
    assert_ptr_equal(queue_next(&hand.queue, 1100), &hand.items[0]);
    assert_order(&hand, 1100, "012");
    queue_finish(&hand.queue);
}

static void test_classes(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FIFO, 1);
    hand_push(&hand, 0, 2, 0); /* blocked: not even after max_wait */
    hand_push(&hand, 1, 2, 0); /* over its share */
    hand_push(&hand, 2, 0, 0);
    queue_set_class(&hand.queue, &hand.tenants[0], QUEUE_BLOCKED);
    queue_set_class(&hand.queue, &hand.tenants[1], QUEUE_OVER);
    assert_order(&hand, 1000, "21");
    assert_int_equal(queue_count(&hand.queue), 1);
    queue_set_class(&hand.queue, &hand.tenants[0], QUEUE_RUNNABLE);
    assert_order(&hand, 1000, "0");
    queue_finish(&hand.queue);
}

static void test_requeue_keeps_the_place(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FIFO, 0);
    for (size_t i = 0; i < 3; i++)
        hand_push(&hand, i, 1, i);
    struct queue_item *item = queue_next(&hand.queue, 5);
    queue_take(&hand.queue, item);
    queue_requeue(&hand.queue, &hand.tenants[0], item);
    assert_int_equal(item->queued_us, 0);
    assert_int_equal(queue_position(&hand.queue, item), 1);
    assert_order(&hand, 5, "012");
    queue_finish(&hand.queue);
}

/* The machine has started again since: its clock is below the one by which the item was queued. */
static void test_deadline_of_an_earlier_life(void **state)
{
    (void)state;
    struct hand hand;
    hand_init(&hand, ORDER_FIFO, 0);
    static const int64_t deadlines[] = {50, -5, 0, -7};
    for (size_t i = 0; i < 4; i++) {
        hand.items[i] = (struct queue_item){.sequence = i + 1, .deadline_us = deadlines[i]};
        queue_reserve(&hand.queue, i + 1);
        queue_restore(&hand.queue, &hand.tenants[0], &hand.items[i]);
    }
    assert_int_equal(queue_next_deadline_us(&hand.queue), 0);
    assert_ptr_equal(queue_expired(&hand.queue, 1), &hand.items[3]);
    queue_remove(&hand.queue, &hand.items[3]);
    assert_ptr_equal(queue_expired(&hand.queue, 1), &hand.items[1]);
    queue_remove(&hand.queue, &hand.items[1]);
    assert_null(queue_expired(&hand.queue, 49));
    assert_int_equal(queue_next_deadline_us(&hand.queue), 50);
    queue_finish(&hand.queue);
}

/* Positions are counted in spans of arrivals: over many of them, with holes. */
static void test_positions_over_spans(void **state)
{
    (void)state;
    enum { COUNT = 10000 };
    struct queue queue;
    struct queue_tenant tenant;
    struct queue_item *items = calloc(COUNT, sizeof(*items));
    queue_init(&queue, ORDER_FIFO, 0);
    assert_int_equal(queue_attach(&queue, &tenant), 0);
    for (size_t i = 0; i < COUNT; i++)
        queue_push(&queue, &tenant, &items[i], 1, i);
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(queue_position(&queue, &items[i]), i + 1);
    for (size_t i = 2000; i < 8000; i++)
        queue_remove(&queue, &items[i]);
    for (size_t i = 8000; i < COUNT; i++)
        assert_int_equal(queue_position(&queue, &items[i]), i + 1 - 6000);
    queue_set_priority(&queue, &items[COUNT - 1], 2);
    assert_int_equal(queue_position(&queue, &items[COUNT - 1]), 1);
    assert_int_equal(queue_position(&queue, &items[0]), 2);
    queue_finish(&queue);
    free(items);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_strict_priority),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_turns_over_priorities),
        cmocka_unit_test(test_turns_second_round),
        cmocka_unit_test(test_max_wait),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_requeue_keeps_the_place),
        cmocka_unit_test(test_deadline_of_an_earlier_life),
        cmocka_unit_test(test_positions_over_spans),
        cmocka_unit_test(test_model_fifo),
        cmocka_unit_test(test_model_fair),
        cmocka_unit_test(test_model_fifo_max_wait),
        cmocka_unit_test(test_model_fair_max_wait),
        cmocka_unit_test(test_model_changing_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
