/* table and heap: random operations against plain arrays. */
#include "heap.h"
#include "table.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

static uint64_t seed = 88172645463325252u;

static uint64_t random_below(uint64_t limit)
{
    seed ^= seed << 13; /* xorshift64, Marsaglia 2003 */
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % limit;
}

struct thing {
    char before[8]; /* so that container_of has something to do */
    struct table_entry entry;
    uint64_t key;
    bool inside;
    unsigned walked;
};

/* The lower the limit, the more keys share a hash and a bucket. */
static uint64_t hash_of(uint64_t key, uint64_t limit)
{
    return key % limit * 0x100000001u;
}

static struct thing *thing_find(const struct table *table, uint64_t key, uint64_t limit)
{
    struct table_entry *entry = table_find(table, hash_of(key, limit));
    for (; entry; entry = table_find_next(entry)) {
        struct thing *thing = container_of(entry, struct thing, entry);
        assert_int_equal(entry->hash, hash_of(key, limit));
        if (thing->key == key)
            return thing;
    }
    return NULL;
}

static void check_walk(const struct table *table, struct thing *things, size_t count)
{
    size_t walked = 0, inside = 0;
    for (size_t i = 0; i < count; i++) {
        things[i].walked = 0;
        inside += things[i].inside;
    }
    for (struct table_entry *entry = table_next(table, NULL); entry;
         entry = table_next(table, entry), walked++)
        container_of(entry, struct thing, entry)->walked++;
    assert_int_equal(walked, inside);
    assert_int_equal(table->count, inside);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(things[i].walked, things[i].inside);
}

static void table_against_model(uint64_t limit)
{
    enum { COUNT = 500 };
    struct thing *things = calloc(COUNT, sizeof(*things));
    struct table table = {0};
    assert_non_null(things);
    for (size_t i = 0; i < COUNT; i++)
        things[i].key = i;
    for (unsigned i = 0; i < 20000; i++) {
        struct thing *thing = &things[random_below(COUNT)];
        /* Grows at first, shrinks in the end. */
        bool insert = random_below(20000) > i;
        assert_ptr_equal(thing_find(&table, thing->key, limit), thing->inside ? thing : NULL);
        if (insert && !thing->inside) {
            assert_int_equal(table_insert(&table, &thing->entry, hash_of(thing->key, limit)), 0);
            thing->inside = true;
        } else if (!insert && thing->inside) {
            table_remove(&table, &thing->entry);
            thing->inside = false;
        }
        assert_ptr_equal(thing_find(&table, thing->key, limit), thing->inside ? thing : NULL);
        if (i % 200 == 0)
            check_walk(&table, things, COUNT);
    }
    check_walk(&table, things, COUNT);
    table_finish(&table);
    assert_null(table_find(&table, 0));
    assert_null(table_next(&table, NULL));
    free(things);
}

static void test_table(void **state)
{
    (void)state;
    table_against_model(UINT64_MAX);
    table_against_model(20);
    table_against_model(1); /* all of them collide */
}

static void test_empty_table(void **state)
{
    (void)state;
    struct table table = {0};
    assert_null(table_find(&table, 17));
    assert_null(table_next(&table, NULL));
    table_finish(&table);
}

/* The buckets grow with the count: chains stay short. */
static void test_table_grows(void **state)
{
    (void)state;
    enum { COUNT = 10000 };
    struct table_entry *entries = calloc(COUNT, sizeof(*entries));
    struct table table = {0};
    for (size_t i = 0; i < COUNT; i++)
        assert_int_equal(table_insert(&table, &entries[i], table_hash_number(i)), 0);
    assert_true(table.bucket_count >= COUNT);
    size_t longest = 0;
    for (size_t i = 0; i < table.bucket_count; i++) {
        size_t length = 0;
        for (struct table_entry *entry = table.buckets[i]; entry; entry = entry->next)
            length++;
        longest = length > longest ? length : longest;
    }
    assert_true(longest < 12);
    table_finish(&table);
    free(entries);
}

static void test_hashes(void **state)
{
    (void)state;
    assert_int_equal(table_hash_string("fft1"), table_hash_string("fft1"));
    assert_int_not_equal(table_hash_string("fft1"), table_hash_string("fft2"));
    assert_int_not_equal(table_hash_string(""), table_hash_string("a"));
    assert_int_not_equal(table_hash_string("\xff"), table_hash_string("\x7f"));
    assert_int_not_equal(table_hash_number(1), table_hash_number(2));
    /* Each of the bits that choose the bucket is set about half of the time. */
    for (unsigned bit = 0; bit < 16; bit++) {
        unsigned set = 0;
        for (uint64_t number = 0; number < 1000; number++)
            set += table_hash_number(number) >> bit & 1;
        assert_in_range(set, 400, 600);
    }
}

/* heap */

struct element {
    uint64_t key;
    uint32_t place[2];
};

static bool element_less(const struct heap *heap, const void *a, const void *b)
{
    (void)heap;
    return ((const struct element *)a)->key < ((const struct element *)b)->key;
}

static uint32_t *element_place(const struct heap *heap, void *item)
{
    return &((struct element *)item)->place[heap->level];
}

static void check_heap(const struct heap *heap, struct element *elements, size_t count)
{
    uint64_t least = UINT64_MAX;
    size_t inside = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t place = elements[i].place[heap->level];
        if (place == HEAP_NOWHERE)
            continue;
        assert_true(place < heap->count);
        assert_ptr_equal(heap->items[place], &elements[i]);
        least = elements[i].key < least ? elements[i].key : least;
        inside++;
    }
    assert_int_equal(heap->count, inside);
    const struct element *top = heap_top(heap);
    assert_int_equal(top ? top->key : UINT64_MAX, least);
}

static void test_heap(void **state)
{
    (void)state;
    enum { COUNT = 200 };
    static struct element elements[COUNT];
    struct heap heap = {.less = element_less, .place = element_place, .level = 1};
    assert_null(heap_top(&heap));
    for (size_t i = 0; i < COUNT; i++)
        elements[i].place[0] = elements[i].place[1] = HEAP_NOWHERE;
    for (unsigned i = 0; i < 100000; i++) {
        struct element *element = &elements[random_below(COUNT)];
        bool inside = element->place[1] != HEAP_NOWHERE;
        switch (random_below(4)) {
        case 0:
        case 1:
            if (inside)
                break;
            element->key = random_below(50); /* many are equal */
            assert_int_equal(heap_insert(&heap, element), 0);
            break;
        case 2:
            if (inside)
                heap_remove(&heap, random_below(3) ? (void *)element : heap_top(&heap));
            break;
        default:
            element->key = random_below(50);
            if (inside)
                heap_update(&heap, element);
        }
        check_heap(&heap, elements, COUNT);
    }
    uint64_t last = 0;
    for (struct element *top; (top = heap_top(&heap)); last = top->key) {
        assert_true(top->key >= last);
        heap_remove(&heap, top);
        assert_int_equal(top->place[1], HEAP_NOWHERE);
        assert_int_equal(top->place[0], HEAP_NOWHERE);
    }
    heap_finish(&heap);
}

static void test_heap_reserve(void **state)
{
    (void)state;
    struct element elements[100];
    struct heap heap = {.less = element_less, .place = element_place};
    assert_int_equal(heap_reserve(&heap, 100), 0);
    void **items = heap.items;
    for (size_t i = 0; i < 100; i++) {
        elements[i].key = 100 - i;
        assert_int_equal(heap_insert(&heap, &elements[i]), 0);
    }
    assert_ptr_equal(heap.items, items); /* so none of the inserts could have failed */
    assert_ptr_equal(heap_top(&heap), &elements[99]);
    heap_finish(&heap);
    assert_null(heap_top(&heap));
}

/* The last vector of the paper's appendix A: key 00 01 … 0f, message 00 01 … 0e. */
static void test_keyed_hash(void **state)
{
    (void)state;
    const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
    unsigned char message[15];
    for (unsigned char i = 0; i < sizeof(message); i++)
        message[i] = i;
    assert_true(table_hash_keyed(key, message, sizeof(message)) == 0xa129ca6149be45e5);
    const uint64_t other[2] = {key[0], key[1] ^ 1};
    assert_false(table_hash_keyed(other, message, 8) == table_hash_keyed(key, message, 8));
    assert_true(table_hash_string("abc") == table_hash_string("abc"));
    assert_false(table_hash_string("abc") == table_hash_string("abd"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_table),        cmocka_unit_test(test_empty_table),
        cmocka_unit_test(test_table_grows),  cmocka_unit_test(test_hashes),
        cmocka_unit_test(test_keyed_hash),   cmocka_unit_test(test_heap),
        cmocka_unit_test(test_heap_reserve),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
