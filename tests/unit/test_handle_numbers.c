/* handle_numbers.c: what the kernel calls open files. One table a process, so the order matters. */
#include "handle_numbers.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h> /* after the headers that it needs */

#define MANY 3000

static char places[MANY];

static struct handle *handle(size_t i)
{
    return (struct handle *)(void *)(places + 2 * (i / 2)); /* even, as what malloc gives */
}

/* What a daemon takes over keeps its numbers; the holes between are used, then what is above. */
static void test_put_at(void **unused)
{
    (void)unused;
    uint64_t number;
    assert_int_equal(handle_numbers_put_at(handle(10), 3), 0);
    assert_int_equal(handle_numbers_put_at(handle(20), 1500), 0);
    assert_int_equal(handle_numbers_put_at(handle(20), 3), -1);
    assert_int_equal(handle_numbers_put_at(handle(20), HANDLE_NUMBERS_MAX), -1);
    assert_int_equal(handle_numbers_put_at(handle(20), UINT64_MAX), -1);
    handle_numbers_settle();
    bool seen[MANY] = {[3] = true, [1500] = true};
    for (size_t i = 0; i < MANY - 2; i++) {
        assert_int_equal(handle_numbers_put(handle(i), &number), 0);
        assert_true(number < MANY && !seen[number]);
        seen[number] = true;
        assert_ptr_equal(handle_numbers_get(number), handle(i));
    }
    assert_ptr_equal(handle_numbers_get(3), handle(10));
    assert_ptr_equal(handle_numbers_get(1500), handle(20));
    for (uint64_t i = 0; i < MANY; i++)
        handle_numbers_drop(i);
}

/* A number that was dropped is used again, and only then. */
static void test_again(void **unused)
{
    (void)unused;
    uint64_t a, b, c;
    assert_int_equal(handle_numbers_put(handle(0), &a), 0);
    assert_int_equal(handle_numbers_put(handle(2), &b), 0);
    assert_int_not_equal(a, b);
    handle_numbers_drop(a);
    assert_int_equal(handle_numbers_put(handle(4), &c), 0);
    assert_int_equal(c, a);
    assert_ptr_equal(handle_numbers_get(c), handle(4));
    assert_ptr_equal(handle_numbers_get(b), handle(2));
    handle_numbers_drop(b);
    handle_numbers_drop(c);
}

static void *churn(void *mine)
{
    uint64_t numbers[64];
    for (int round = 0; round < 500; round++) {
        for (size_t i = 0; i < 64; i++)
            if (handle_numbers_put(mine, &numbers[i]) < 0)
                return mine;
        for (size_t i = 0; i < 64; i++) {
            if (handle_numbers_get(numbers[i]) != mine)
                return mine;
            handle_numbers_drop(numbers[i]);
        }
    }
    return NULL;
}

static void test_threads(void **unused)
{
    (void)unused;
    pthread_t threads[4];
    void *failure;
    for (size_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, handle(2 * i)), 0);
    for (size_t i = 0; i < 4; i++) {
        pthread_join(threads[i], &failure);
        assert_null(failure);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_put_at),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
