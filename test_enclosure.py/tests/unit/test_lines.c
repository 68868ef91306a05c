/* lines: what a process writes becomes the same lines however the writes are cut. */
#include "lines.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

/* What accept got: each line as <its bytes>, closed by '|', or by '!' if a flush completed it. */
struct got {
    struct text seen;
    size_t calls, lines;
    int answer; /* what accept returns */
};

static int note(void *context, const struct line *batch, size_t count)
{
    struct got *got = context;
    got->calls++;
    got->lines += count;
    assert_true(count > 0);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(batch[i].bytes[batch[i].size], '\0');
        text_append(&got->seen, batch[i].bytes, batch[i].size);
        text_puts(&got->seen, batch[i].newline ? "|" : "!");
    }
    return got->answer;
}

static void got_clear(struct got *got)
{
    text_finish(&got->seen);
    *got = (struct got){0};
}

/* write_exact hands over a copy of exactly that size, so that a sanitizer sees any read beyond. */
static int write_exact(struct lines *lines, const char *bytes, size_t size, struct got *got)
{
    char *copy = malloc(size ? size : 1);
    assert_non_null(copy);
    memcpy(copy, bytes, size);
    int error = lines_write(lines, copy, size, note, got);
    free(copy);
    return error;
}

#define WRITE(lines, string, got) write_exact(lines, string, sizeof(string) - 1, got)

static void assert_seen(const struct got *got, const char *expected, size_t size)
{
    assert_false(got->seen.failed);
    assert_int_equal(got->seen.size, size);
    if (size)
        assert_memory_equal(got->seen.data, expected, size);
}

#define SEEN(got, expected) assert_seen(got, expected, sizeof(expected) - 1)

static const char content[] = "NOP\n# a comment\n\n \t \nA:1:2:NOP x=\"#\"\n  # no comment\nN\0P\n"
                              "\r\n#\n VECTOR_ADD n=8 \nlast";
static const char commands[] =
    "NOP|A:1:2:NOP x=\"#\"|  # no comment|N\0P|\r| VECTOR_ADD n=8 |last!";

static void write_in_pieces(const size_t *cuts, size_t count)
{
    struct lines lines = {0};
    struct got got = {0};
    size_t from = 0;
    for (size_t i = 0; i <= count; i++) {
        size_t to = i < count ? cuts[i] : sizeof(content) - 1;
        assert_int_equal(write_exact(&lines, content + from, to - from, &got), 0);
        from = to;
    }
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    SEEN(&got, commands);
    got_clear(&got);
    lines_finish(&lines);
}

static void test_cut_anywhere(void **state)
{
    (void)state;
    for (size_t one = 0; one < sizeof(content); one++)
        for (size_t two = one; two < sizeof(content); two++)
            write_in_pieces((size_t[]){one, two}, 2);
    size_t all[sizeof(content)];
    for (size_t i = 0; i < sizeof(content); i++)
        all[i] = i;
    write_in_pieces(all, sizeof(content));
}

static void test_one_write_is_one_batch(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct got got = {0};
    assert_int_equal(WRITE(&lines, "a\nb\n#\n\nc\nrest", &got), 0);
    assert_int_equal(got.calls, 1);
    assert_int_equal(got.lines, 3);
    assert_int_equal(WRITE(&lines, " of it", &got), 0);
    assert_int_equal(got.calls, 1);
    assert_int_equal(WRITE(&lines, "\nd\n", &got), 0);
    assert_int_equal(got.calls, 2);
    SEEN(&got, "a|b|c|rest of it|d|");
    got_clear(&got);
    lines_finish(&lines);
}

static void test_nothing_to_accept(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct got got = {0};
    assert_int_equal(WRITE(&lines, "", &got), 0);
    assert_int_equal(WRITE(&lines, "\n\n \t\n# comment\n#\n", &got), 0);
    assert_int_equal(WRITE(&lines, "# unfinished", &got), 0);
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    assert_int_equal(WRITE(&lines, "  ", &got), 0);
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    assert_int_equal(got.calls, 0);
    got_clear(&got);
    lines_finish(&lines);
}

static void test_flush(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct got got = {0};
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    assert_int_equal(WRITE(&lines, "one", &got), 0);
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    SEEN(&got, "one!");
    /* What comes after it has a newline of its own again. */
    assert_int_equal(WRITE(&lines, "two\n", &got), 0);
    SEEN(&got, "one!two|");
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    assert_int_equal(got.calls, 2);
    got_clear(&got);
    lines_finish(&lines);
}

/* fill returns `size` bytes of x, to be freed. */
static char *fill(size_t size)
{
    char *bytes = malloc(size);
    assert_non_null(bytes);
    memset(bytes, 'x', size);
    return bytes;
}

static void test_line_limit(void **state)
{
    (void)state;
    static const struct {
        size_t first, second; /* two writes; the second one may be empty */
        bool newline;
        int error;
    } rows[] = {
        {LINES_MAX_LINE, 0, true, 0},        {LINES_MAX_LINE + 1, 0, true, EFBIG},
        {LINES_MAX_LINE, 0, false, 0},       {LINES_MAX_LINE + 1, 0, false, EFBIG},
        {LINES_MAX_LINE - 1, 1, true, 0},    {LINES_MAX_LINE, 1, true, EFBIG},
        {1, LINES_MAX_LINE - 1, true, 0},    {1, LINES_MAX_LINE, true, EFBIG},
        {1, LINES_MAX_LINE - 1, false, 0},   {1, LINES_MAX_LINE, false, EFBIG},
        {10, LINES_MAX_BATCH, false, EFBIG},
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct lines lines = {0};
        struct got got = {0};
        size_t total = rows[i].first + rows[i].second;
        char *bytes = fill(total + 1);
        bytes[total] = '\n';
        size_t last = rows[i].second + rows[i].newline;
        int error = write_exact(&lines, bytes, rows[i].first, &got);
        if (!error && last)
            error = write_exact(&lines, bytes + rows[i].first, last, &got);
        assert_int_equal(error, rows[i].error);
        assert_int_equal(got.lines, rows[i].newline && !rows[i].error);
        assert_int_equal(lines_flush(&lines, note, &got), 0);
        assert_int_equal(got.lines, !rows[i].error);
        assert_int_equal(got.seen.size, rows[i].error ? 0 : total + 1);
        got_clear(&got);
        free(bytes);
        lines_finish(&lines);
    }
}

/* A line that is too long takes those before and behind it along: all or none. */
static void test_too_long_among_others(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct got got = {0};
    char *bytes = fill(LINES_MAX_LINE + 20);
    memcpy(bytes, "first\n", 6);
    memcpy(bytes + LINES_MAX_LINE + 10, "\nlast\n", 6);
    assert_int_equal(write_exact(&lines, bytes, LINES_MAX_LINE + 16, &got), EFBIG);
    /* Behind the last newline too. */
    memcpy(bytes, "first\n", 6);
    memset(bytes + 6, 'x', LINES_MAX_LINE + 1);
    assert_int_equal(write_exact(&lines, bytes, 6 + LINES_MAX_LINE + 1, &got), EFBIG);
    assert_int_equal(got.calls, 0);
    free(bytes);
    got_clear(&got);
    lines_finish(&lines);
}

static void test_batch_limit(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct got got = {0};
    char *bytes = fill(LINES_MAX_BATCH + 1);
    for (size_t i = 1; i <= LINES_MAX_BATCH; i += 2)
        bytes[i] = '\n';
    assert_int_equal(write_exact(&lines, bytes, LINES_MAX_BATCH, &got), 0);
    assert_int_equal(got.calls, 1);
    assert_int_equal(got.lines, LINES_MAX_BATCH / 2);
    assert_int_equal(write_exact(&lines, bytes, LINES_MAX_BATCH + 1, &got), EFBIG);
    assert_int_equal(got.calls, 1);
    free(bytes);
    got_clear(&got);
    lines_finish(&lines);
}

/* After an error nothing of what was written before comes back. */
static void test_error_forgets(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct got got = {0};
    static const size_t too_long[] = {LINES_MAX_LINE + 1, LINES_MAX_BATCH + 1};
    for (size_t i = 0; i < 2; i++) {
        char *bytes = fill(too_long[i]);
        assert_int_equal(WRITE(&lines, "unfinished", &got), 0);
        assert_int_equal(write_exact(&lines, bytes, too_long[i], &got), EFBIG);
        assert_int_equal(WRITE(&lines, "NOP\n", &got), 0);
        SEEN(&got, "NOP|");
        got_clear(&got);
        free(bytes);
    }

    got.answer = EDQUOT;
    assert_int_equal(WRITE(&lines, "a\nb\nrest", &got), EDQUOT);
    assert_int_equal(got.calls, 1);
    got_clear(&got);
    assert_int_equal(lines_flush(&lines, note, &got), 0);
    assert_int_equal(got.calls, 0);

    /* The flush hands the error of accept on, and what follows is a new line. */
    assert_int_equal(WRITE(&lines, "c", &got), 0);
    got.answer = EACCES;
    assert_int_equal(lines_flush(&lines, note, &got), EACCES);
    SEEN(&got, "c!");
    got_clear(&got);
    assert_int_equal(WRITE(&lines, "d\n", &got), 0);
    SEEN(&got, "d|");
    got_clear(&got);
    lines_finish(&lines);
}

/* What stays unfinished after a large write keeps no more room than it needs. */
static void test_small_rest(void **state)
{
    (void)state;
    struct lines lines = {0};
    struct got got = {0};
    char *bytes = fill(LINES_MAX_BATCH);
    for (size_t i = 0; i < LINES_MAX_BATCH; i += 1000)
        bytes[i] = '\n';
    bytes[LINES_MAX_BATCH - 2] = '\n';
    assert_int_equal(write_exact(&lines, bytes, LINES_MAX_BATCH, &got), 0);
    assert_in_range(lines.pending.capacity, 1, 8 * LINES_MAX_LINE);
    got_clear(&got);
    assert_int_equal(WRITE(&lines, "y\n", &got), 0);
    SEEN(&got, "xy|");
    free(bytes);
    got_clear(&got);
    lines_finish(&lines);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cut_anywhere),      cmocka_unit_test(test_one_write_is_one_batch),
        cmocka_unit_test(test_nothing_to_accept), cmocka_unit_test(test_flush),
        cmocka_unit_test(test_line_limit),        cmocka_unit_test(test_too_long_among_others),
        cmocka_unit_test(test_batch_limit),       cmocka_unit_test(test_error_forgets),
        cmocka_unit_test(test_small_rest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
