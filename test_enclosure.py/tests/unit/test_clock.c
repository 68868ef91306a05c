/* clock: change stamps grow, under threads too, and after what an earlier daemon gave out. */
#include "clock.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

#define THREADS 8
#define STAMPS  50000
#define SECOND  UINT64_C(1000000000)

static uint64_t stamps[THREADS][STAMPS];
static pthread_barrier_t together;

static uint64_t stamp_ns(void)
{
    struct timespec time = clock_change();
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static uint64_t real_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (uint64_t)time.tv_sec * SECOND + (uint64_t)time.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void *take_stamps(void *row)
{
    pthread_barrier_wait(&together);
    for (size_t i = 0; i < STAMPS; i++)
        ((uint64_t *)row)[i] = stamp_ns();
    return NULL;
}

/* take_all fills `stamps` from all threads at once; all differ, each thread's own grow. */
static void take_all(uint64_t newer_than)
{
    pthread_t threads[THREADS];
    assert_int_equal(pthread_barrier_init(&together, NULL, THREADS), 0);
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, take_stamps, stamps[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&together);
    for (size_t i = 0; i < THREADS; i++)
        for (size_t k = 1; k < STAMPS; k++)
            assert_true(stamps[i][k - 1] < stamps[i][k]);
    uint64_t *all = stamps[0];
    qsort(all, (size_t)THREADS * STAMPS, sizeof(*all), compare);
    assert_true(all[0] > newer_than);
    for (size_t i = 1; i < (size_t)THREADS * STAMPS; i++)
        assert_true(all[i - 1] < all[i]);
    assert_int_equal(clock_change_last(), all[(size_t)THREADS * STAMPS - 1]);
}

static void test_real_time(void **state)
{
    (void)state;
    uint64_t before = real_ns();
    uint64_t stamp = stamp_ns();
    assert_in_range(stamp, before, real_ns());
    assert_int_equal(clock_change_last(), stamp);
    take_all(stamp);
}

/* With the clock behind, all stamps are the last one and one more. */
static void test_restored(void **state)
{
    (void)state;
    uint64_t future = real_ns() + 3600 * SECOND;
    clock_change_restore(future);
    assert_int_equal(clock_change_last(), future);
    assert_int_equal(stamp_ns(), future + 1);
    clock_change_restore(future - SECOND);
    assert_int_equal(stamp_ns(), future + 2);
    take_all(future + 2);
    assert_int_equal(clock_change_last(), future + 2 + (uint64_t)THREADS * STAMPS);
    /* Into the next second. */
    clock_change_restore((future / SECOND + 2) * SECOND - 1);
    struct timespec time = clock_change();
    assert_int_equal(time.tv_sec, future / SECOND + 2);
    assert_int_equal(time.tv_nsec, 0);
}

static void test_now_us(void **state)
{
    (void)state;
    struct timespec time;
    uint64_t last = 0;
    for (int i = 0; i < 1000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &time);
        uint64_t before = (uint64_t)time.tv_sec * 1000000 + (uint64_t)time.tv_nsec / 1000;
        uint64_t now = clock_now_us();
        assert_true(now >= before && now >= last && now < before + 60 * 1000000);
        last = now;
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_now_us),
        cmocka_unit_test(test_real_time),
        cmocka_unit_test(test_restored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
