/* number: bounds, suffixes, and everything that is not a number. */
#include "common/number.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

#define UNTOUCHED 4711u

typedef int parse(const char *string, uint64_t min, uint64_t max, uint64_t *result);

static void assert_parses(parse *function, const char *string, uint64_t expected)
{
    uint64_t value = UNTOUCHED;
    assert_int_equal(function(string, 0, UINT64_MAX, &value), 0);
    assert_int_equal(value, expected);
}

static void assert_fails(parse *function, const char *string)
{
    uint64_t value = UNTOUCHED;
    assert_int_equal(function(string, 0, UINT64_MAX, &value), -1);
    assert_int_equal(value, UNTOUCHED);
}

static const char *const never[] = {"",    " ",  "-1",  "+1",  " 1",   "1 ", "0x10", "1,0",
                                    "1e3", "\n", "1\n", "one", "1.5K", "K",  "--",   "\xff"};

static void test_plain(void **state)
{
    (void)state;
    assert_parses(number_parse, "0", 0);
    assert_parses(number_parse, "007", 7);
    assert_parses(number_parse, "18446744073709551615", UINT64_MAX);
    assert_fails(number_parse, "18446744073709551616");
    assert_fails(number_parse, "99999999999999999999999");
    assert_fails(number_parse, "1K");
    assert_fails(number_parse, "1.0");
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
        assert_fails(number_parse, never[i]);
}

static void test_bounds(void **state)
{
    (void)state;
    uint64_t value = UNTOUCHED;
    assert_int_equal(number_parse("9", 10, 20, &value), -1);
    assert_int_equal(number_parse("21", 10, 20, &value), -1);
    assert_int_equal(value, UNTOUCHED);
    assert_int_equal(number_parse("10", 10, 20, &value), 0);
    assert_int_equal(number_parse("20", 10, 20, &value), 0);
    assert_int_equal(value, 20);
    assert_int_equal(number_parse_bytes("2K", 0, 2047, &value), -1);
    assert_int_equal(number_parse_ms("2", 0, 1999, &value), -1);
}

static void test_bytes(void **state)
{
    (void)state;
    assert_parses(number_parse_bytes, "12", 12);
    assert_parses(number_parse_bytes, "1K", 1024);
    assert_parses(number_parse_bytes, "3M", 3u << 20);
    assert_parses(number_parse_bytes, "2G", (uint64_t)2 << 30);
    assert_parses(number_parse_bytes, "1T", (uint64_t)1 << 40);
    assert_parses(number_parse_bytes, "16777215T", (uint64_t)16777215 << 40);
    assert_fails(number_parse_bytes, "16777216T");
    assert_fails(number_parse_bytes, "1k");
    assert_fails(number_parse_bytes, "1KB");
    assert_fails(number_parse_bytes, "1KK");
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
        assert_fails(number_parse_bytes, never[i]);
}

static void test_durations(void **state)
{
    (void)state;
    assert_parses(number_parse_ms, "20", 20000);
    assert_parses(number_parse_ms, "20s", 20000);
    assert_parses(number_parse_ms, "250ms", 250);
    assert_parses(number_parse_ms, "0.5s", 500);
    assert_parses(number_parse_ms, "0.5", 500);
    assert_parses(number_parse_ms, "1.5m", 90000);
    assert_parses(number_parse_ms, "5m", 300000);
    assert_parses(number_parse_ms, "1h", 3600000);
    assert_parses(number_parse_ms, "2d", 172800000);
    assert_parses(number_parse_ms, "0.001", 1);
    assert_fails(number_parse_ms, "1.");
    assert_fails(number_parse_ms, ".5");
    assert_fails(number_parse_ms, "0.0001");
    assert_fails(number_parse_ms, "1 s");
    assert_fails(number_parse_ms, "1S");
    assert_fails(number_parse_ms, "1w");
    assert_fails(number_parse_ms, "18446744073709551615");
    assert_fails(number_parse_ms, "18446744073709551615d");
    for (size_t i = 0; i < sizeof(never) / sizeof(never[0]); i++)
        assert_fails(number_parse_ms, never[i]);
}

static void test_reals(void **state)
{
    (void)state;
    static const char *const wrong[] = {"",      "nan",   "inf", "0x1p3", " 1", "1 ",
                                        "1e999", "1.2.3", "-",   "e5",    "1e", "1,5"};
    double value = 4711;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        assert_int_equal(number_parse_real(wrong[i], -1e308, 1e308, &value), -1);
    assert_int_equal(number_parse_real("1.5", 2, 3, &value), -1);
    assert_true(value == 4711);
    assert_int_equal(number_parse_real("-2.5e-3", -1, 1, &value), 0);
    assert_true(value == -2.5e-3);
    assert_int_equal(number_parse_real("3", 2, 3, &value), 0);
    assert_true(value == 3);
}

static void test_printed(void **state)
{
    (void)state;
    static const struct {
        uint64_t number;
        const char *text;
    } rows[] = {{0, "0"},       {9, "9"},
                {10, "10"},     {99, "99"},
                {100, "100"},   {UINT64_C(18446744073709551615), "18446744073709551615"},
                {1005, "1005"}, {UINT64_C(10000000000000000000), "10000000000000000000"}};
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[NUMBER_TEXT_SIZE];
        memset(text, 'x', sizeof(text));
        assert_int_equal(number_print(text, rows[i].number), strlen(rows[i].text));
        assert_string_equal(text, rows[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_bytes), cmocka_unit_test(test_durations),
        cmocka_unit_test(test_reals), cmocka_unit_test(test_printed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
