/* histogram: quantiles against sorted values, over many sizes of numbers. */
#include "histogram.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

static uint64_t seed;

static uint64_t random_number(void)
{
    seed ^= seed << 13; /* xorshift64, Marsaglia 2003 */
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

static void test_empty(void **state)
{
    (void)state;
    struct histogram histogram = {0};
    assert_int_equal(histogram_quantile(&histogram, 0.5), 0);
    assert_int_equal(histogram_quantile(&histogram, 1), 0);
    assert_int_equal(histogram_below(&histogram, HISTOGRAM_MAX_BITS), 0);
}

/* One value: every quantile is it, at most 12.5 % above, never below; exact below 16. */
static void test_single_values(void **state)
{
    (void)state;
    seed = 1;
    for (unsigned i = 0; i < 100000; i++) {
        uint64_t value = i < 5000 ? i : random_number() >> (64 - HISTOGRAM_MAX_BITS + i % 37);
        struct histogram histogram = {0};
        histogram_add(&histogram, value);
        assert_int_equal(histogram.count, 1);
        assert_int_equal(histogram.sum_us, value);
        uint64_t quantile = histogram_quantile(&histogram, 0.5);
        assert_in_range(quantile, value, value + value / 8);
        if (value < 16)
            assert_int_equal(quantile, value);
        assert_int_equal(histogram_quantile(&histogram, 0.0001), quantile);
        assert_int_equal(histogram_quantile(&histogram, 1), quantile);
    }
}

static void test_quantiles(void **state)
{
    (void)state;
    enum { COUNT = 5000 };
    static uint64_t values[COUNT];
    static const double quantiles[] = {0.0001, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.9999, 1};
    seed = 4711;
    for (unsigned shift = 24; shift < 61; shift += 3) {
        struct histogram histogram = {0};
        uint64_t sum = 0;
        for (size_t i = 0; i < COUNT; i++) {
            values[i] = random_number() >> (shift + i % 3);
            sum += values[i];
            histogram_add(&histogram, values[i]);
        }
        qsort(values, COUNT, sizeof(values[0]), compare);
        assert_int_equal(histogram.count, COUNT);
        assert_int_equal(histogram.sum_us, sum);
        for (size_t i = 0; i < sizeof(quantiles) / sizeof(quantiles[0]); i++) {
            uint64_t exact = values[(size_t)ceil(quantiles[i] * COUNT) - 1];
            assert_in_range(histogram_quantile(&histogram, quantiles[i]), exact, exact + exact / 8);
        }
        for (unsigned bits = 0; bits <= HISTOGRAM_MAX_BITS; bits++) {
            uint64_t below = 0;
            for (size_t i = 0; i < COUNT; i++)
                below += values[i] < UINT64_C(1) << bits;
            assert_int_equal(histogram_below(&histogram, bits), below);
        }
    }
}

/* The rank is rounded up: the median of three is the second one, of four too. */
static void test_ranks(void **state)
{
    (void)state;
    static const struct {
        double quantile;
        uint64_t of_three, of_four;
    } rows[] = {{0.1, 1, 1}, {0.3, 1, 2}, {0.5, 2, 2}, {0.51, 2, 3}, {0.7, 3, 3}, {0.99, 3, 4}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct histogram histogram = {0};
        for (uint64_t value = 3; value > 0; value--)
            histogram_add(&histogram, value);
        assert_int_equal(histogram_quantile(&histogram, rows[i].quantile), rows[i].of_three);
        histogram_add(&histogram, 4);
        assert_int_equal(histogram_quantile(&histogram, rows[i].quantile), rows[i].of_four);
    }
}

/* What is longer than the histogram reaches counts as the longest that it knows. */
static void test_longest(void **state)
{
    (void)state;
    struct histogram histogram = {0};
    uint64_t longest = (UINT64_C(1) << HISTOGRAM_MAX_BITS) - 1;
    histogram_add(&histogram, longest);
    histogram_add(&histogram, longest + 1);
    histogram_add(&histogram, UINT64_MAX);
    assert_int_equal(histogram_quantile(&histogram, 0.01), longest);
    assert_int_equal(histogram_quantile(&histogram, 1), longest);
    assert_int_equal(histogram_below(&histogram, HISTOGRAM_MAX_BITS - 1), 0);
    assert_int_equal(histogram_below(&histogram, HISTOGRAM_MAX_BITS), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_empty),     cmocka_unit_test(test_single_values),
        cmocka_unit_test(test_quantiles), cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_longest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
