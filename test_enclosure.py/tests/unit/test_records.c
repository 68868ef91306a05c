/* vgpuctl's records and its tables: parsing what the daemon writes, and showing nothing harmful. */
#include "ctl/record.h"
#include "ctl/snapshot.h"
#include "ctl/view.h"

#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void parse(struct record *record, const char *line)
{
    assert_int_equal(record_parse(record, line, strlen(line)), 0);
}

static void test_words_and_pairs(void **state)
{
    (void)state;
    struct record record;
    parse(&record, "pool A  state=running order=fifo queued=2 empty= note=a=b ");
    assert_int_equal(record.field_count, 7);
    assert_string_equal(record_word(&record, 0), "pool");
    assert_string_equal(record_word(&record, 1), "A");
    assert_null(record_word(&record, 2));
    assert_null(record_word(&record, 7));
    assert_string_equal(record_find(&record, "state")->value, "running");
    assert_string_equal(record_find(&record, "empty")->value, "");
    assert_string_equal(record_find(&record, "note")->value, "a=b");
    assert_null(record_find(&record, "A"));
    assert_null(record_find(&record, "stat"));
    assert_int_equal(record_count(&record, "queued"), 2);
    assert_int_equal(record_count(&record, "state"), 0);
    assert_int_equal(record_count(&record, "nothing"), 0);
    record_finish(&record);
}

static void test_empty_line(void **state)
{
    (void)state;
    struct record record;
    parse(&record, "");
    assert_int_equal(record.field_count, 0);
    assert_null(record_word(&record, 0));
    record_finish(&record);
    parse(&record, "=x");
    assert_string_equal(record_word(&record, 0), "=x");
    record_finish(&record);
}

static void test_quoted_values(void **state)
{
    (void)state;
    struct record record;
    parse(&record,
          "slot device=\"AMD EPYC\" a=\"x\\\"y\\\\z\" b=\"\\x1B[m\\x0a\\x00!\" c=\"\" pid=7");
    assert_string_equal(record_find(&record, "device")->value, "AMD EPYC");
    assert_string_equal(record_find(&record, "a")->value, "x\"y\\z");
    const struct record_field *b = record_find(&record, "b");
    assert_int_equal(b->value_size, 6);
    assert_memory_equal(b->value, "\x1b[m\n\0!", 6);
    assert_int_equal(record_find(&record, "c")->value_size, 0);
    assert_int_equal(record_count(&record, "pid"), 7);
    record_finish(&record);
    parse(&record, "at_the_end=\"\\x41\"");
    assert_string_equal(record_find(&record, "at_the_end")->value, "A");
    record_finish(&record);
}

/* A value cannot forge a further field. */
static void test_forged_field(void **state)
{
    (void)state;
    struct record record;
    parse(&record, "vm 3 text=\"no\\\" state=done x=\\\"\" state=queued");
    assert_string_equal(record_find(&record, "text")->value, "no\" state=done x=\"");
    assert_string_equal(record_find(&record, "state")->value, "queued");
    assert_int_equal(record.field_count, 4);
    record_finish(&record);
}

static void test_malformed(void **state)
{
    (void)state;
    static const char *const lines[] = {"a=\"",      "a=\"b",        "a=\"b\\\"",
                                        "a=\"\\q\"", "a=\"\\x1\"",   "a=\"\\x1g\"",
                                        "a=\"b\"c",  "a=\"b\"\"c\"", "a=\"\\"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct record record;
        errno = 0;
        assert_int_equal(record_parse(&record, lines[i], strlen(lines[i])), -1);
        assert_int_equal(errno, EINVAL);
    }
}

static void test_limits(void **state)
{
    (void)state;
    struct record record;
    char *line = malloc(RECORD_MAX_BYTES + 1);
    assert_non_null(line);
    memset(line, 'x', RECORD_MAX_BYTES + 1);
    assert_int_equal(record_parse(&record, line, RECORD_MAX_BYTES), 0);
    record_finish(&record);
    assert_int_equal(record_parse(&record, line, RECORD_MAX_BYTES + 1), -1);
    assert_int_equal(errno, E2BIG);
    for (size_t i = 0; i < 2 * (RECORD_MAX_FIELDS + 1); i += 2)
        line[i] = ' ';
    assert_int_equal(record_parse(&record, line, 2 * RECORD_MAX_FIELDS), 0);
    assert_int_equal(record.field_count, RECORD_MAX_FIELDS);
    record_finish(&record);
    assert_int_equal(record_parse(&record, line, 2 * RECORD_MAX_FIELDS + 2), -1);
    assert_int_equal(errno, E2BIG);
    free(line);
}

/* Every escape of the daemon comes back as the bytes it was made from. */
static void test_round_trip(void **state)
{
    (void)state;
    char bytes[255];
    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i + 1);
    struct text line = {0};
    text_puts(&line, "x bytes=\"");
    text_escape(&line, bytes, sizeof(bytes), SIZE_MAX);
    text_puts(&line, "\" end=1");
    struct record record;
    parse(&record, line.data);
    assert_int_equal(record_find(&record, "bytes")->value_size, sizeof(bytes));
    assert_memory_equal(record_find(&record, "bytes")->value, bytes, sizeof(bytes));
    assert_int_equal(record_count(&record, "end"), 1);
    record_finish(&record);
    text_finish(&line);
}

static void check_text(const char *bytes, size_t size, unsigned width, const char *shown,
                       unsigned columns)
{
    struct text out = {0};
    text_puts(&out, "<");
    assert_int_equal(view_text(&out, bytes, size, width), columns);
    assert_string_equal(out.data + 1, shown);
    text_finish(&out);
}

static void test_safe_text(void **state)
{
    (void)state;
    check_text("abc", 3, 3, "abc", 3);
    check_text("abcd", 4, 3, "ab+", 3);
    check_text("abcd", 4, 1, "+", 1);
    check_text("a\x1b[31m\n\0z", 9, 20, "a?[31m??z", 9);
}

/* Needs a UTF-8 locale: wide characters take two columns, the C1 controls are not let through. */
static void test_safe_text_utf8(void **state)
{
    (void)state;
    assert_non_null(setlocale(LC_CTYPE, "C.UTF-8"));
    check_text("\xe6\x97\xa5\xe6\x9c\xac", 6, 4, "\xe6\x97\xa5\xe6\x9c\xac", 4);
    check_text("\xe6\x97\xa5\xe6\x9c\xac", 6, 3, "\xe6\x97\xa5+", 3);
    check_text("\xe6\x97\xa5\xe6\x9c\xac", 6, 2, "+", 1);
    check_text("\xc2\x9b"
               "31m\xff",
               6, 20, "?31m?", 5);
    setlocale(LC_CTYPE, "C");
}

static const char *const lines[] = {
    "version 1",
    "vgpufs state=running uptime_s=3725 submitted=9 done=7 failed=1",
    "pool A state=running order=fifo queued=2 queued_high=1 queued_medium=0 queued_low=1 running=1 "
    "oldest_wait_ms=12 done=5 failed=1 wait_us_p50=- wait_us_p99=900 run_us_p50=410 "
    "run_us_p99=61000000 device_us=2000000",
    "slot A.0 state=busy backend=cpu device=\"AMD EPYC with a name\" host=localhost pid=4711",
    "vm 1 pool=A priority=1 queued=0 running=0 done=0 failed=0",
    "vm 3 pool=A priority=2 queued=1 running=1 done=4 failed=0 device_us=2210 data_bytes=1536",
};
#define LINE_COUNT (sizeof(lines) / sizeof(lines[0]))

static void render(struct text *out, unsigned width, bool with_before)
{
    struct record now_records[LINE_COUNT], before_records[LINE_COUNT];
    for (size_t i = 0; i < LINE_COUNT; i++) {
        parse(&now_records[i], lines[i]);
        parse(&before_records[i], lines[i]);
    }
    /* half of the second between the two was spent on jobs of pool A */
    record_finish(&before_records[2]);
    parse(&before_records[2], "pool A device_us=1500000");
    struct snapshot now = {now_records, LINE_COUNT, 2000000};
    struct snapshot before = {before_records, LINE_COUNT, 1000000};
    struct view view = {&now, with_before ? &before : NULL, width};
    view_render(&view, out);
    for (size_t i = 0; i < LINE_COUNT; i++) {
        record_finish(&now_records[i]);
        record_finish(&before_records[i]);
    }
}

static void test_tables(void **state)
{
    (void)state;
    struct text out = {0};
    render(&out, 0, false);
    assert_non_null(strstr(out.data, "vgpufs running for 1h02m; 9 submitted, 7 done, 1 failed\n"));
    assert_non_null(
        strstr(out.data, "\nA     running  fifo        2     1       0    1        1  12.0ms     5 "
                         "      1         -     900us    410us    1m01s\n"));
    assert_non_null(strstr(out.data, "AMD EPYC with a name  localhost  4711\n"));
    assert_non_null(strstr(out.data, "\n3   A        2       1        1     4       0"));
    assert_non_null(strstr(out.data, "2.2ms  1.5K  -"));
    assert_non_null(strstr(out.data, "(1 vm without any job or data)\n"));
    assert_null(strstr(out.data, "BUSY"));
    text_finish(&out);
}

static void test_rates(void **state)
{
    (void)state;
    struct text out = {0};
    render(&out, 0, true);
    assert_non_null(strstr(out.data, "RUN-P99  BUSY\n"));
    assert_non_null(strstr(out.data, "  1m01s   50%\n"));
    text_finish(&out);
}

/* Whatever the width, no line is longer, and the names and queues stay. */
static void test_narrow(void **state)
{
    (void)state;
    for (unsigned width = 50; width < 130; width++) {
        struct text out = {0};
        render(&out, width, true);
        for (const char *line = out.data; *line; line += strcspn(line, "\n") + 1)
            assert_true(strcspn(line, "\n") <= width);
        assert_non_null(strstr(out.data, "POOL  STATE"));
        assert_non_null(strstr(out.data, "QUEUED"));
        assert_non_null(strstr(out.data, "AMD EPYC"));
        text_finish(&out);
    }
}

static void test_queue_line(void **state)
{
    (void)state;
    static const char line[] = "A 2 vm3 17 fft1 running 12ms VECTOR_ADD n=1\x1b";
    struct text out = {0};
    view_queue_line(VIEW_QUEUE_HEADING, strlen(VIEW_QUEUE_HEADING), &out);
    view_queue_line(line, strlen(line), &out);
    view_queue_line("A", 1, &out);
    assert_string_equal(
        out.data,
        "POOL     PRIO VM            JOB TAG              STATE          TIME COMMAND\n"
        "A           2 vm3            17 fft1             running        12ms VECTOR_ADD n=1?\n"
        "A\n");
    text_finish(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_words_and_pairs), cmocka_unit_test(test_empty_line),
        cmocka_unit_test(test_quoted_values),   cmocka_unit_test(test_forged_field),
        cmocka_unit_test(test_malformed),       cmocka_unit_test(test_limits),
        cmocka_unit_test(test_round_trip),      cmocka_unit_test(test_safe_text),
        cmocka_unit_test(test_safe_text_utf8),  cmocka_unit_test(test_tables),
        cmocka_unit_test(test_rates),           cmocka_unit_test(test_narrow),
        cmocka_unit_test(test_queue_line),
    };
    return cmocka_run_group_tests_name("records", tests, NULL, NULL);
}
