/* nfs_buffer: whatever a client sends twice, in pieces, or out of order, each line comes once. */
#include "nfs_buffer.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

static struct nfs_buffer buffer;

static int teardown(void **unused)
{
    (void)unused;
    nfs_buffer_finish(&buffer);
    return 0;
}

static void write_again(uint64_t offset, const char *text, bool again)
{
    assert_int_equal(nfs_buffer_write(&buffer, offset, text, strlen(text), again), 0);
}

static void write_at(uint64_t offset, const char *text)
{
    write_again(offset, text, false);
}

/* taken returns the lines that are handed out now, each with its newline as '|', or '.' without,
 * or '!' if it is too long. */
static const char *taken_lines(bool all)
{
    static char out[4096];
    char storage[LINES_MAX_LINE + 1];
    struct line line;
    size_t size = 0;
    for (enum nfs_line found;
         (found = nfs_buffer_next(&buffer, all, &line, storage)) != NFS_LINE_NONE;) {
        size_t shown = line.size < 64 ? line.size : 64;
        assert_int_equal(line.bytes[line.size], '\0');
        memcpy(out + size, line.bytes, shown);
        size += shown;
        out[size++] = found == NFS_LINE_LONG ? '!' : line.newline ? '|' : '.';
    }
    out[size] = '\0';
    return out;
}

static const char *taken(void)
{
    return taken_lines(false);
}

static void test_lines(void **unused)
{
    (void)unused;
    assert_string_equal(taken(), "");
    write_at(0, "A\nB\n");
    assert_string_equal(taken(), "A|B|");
    assert_string_equal(taken(), "");
    assert_int_equal(nfs_buffer_size(&buffer), 4);
    write_at(4, "\nC\n");
    assert_string_equal(taken(), "|C|");
    assert_int_equal(buffer.fresh, 0);
}

/* `{ echo A; echo B; } > submit`, as clients send it; and `>>` of a v4.2 client. */
static void test_what_was_sent_says_nothing(void **unused)
{
    (void)unused;
    write_at(0, "A\n");
    assert_string_equal(taken(), "A|");
    write_at(0, "A\nB\n");
    assert_string_equal(taken(), "B|");
    write_at(0, "A\nB\n");
    assert_string_equal(taken(), "");
    write_at(2, "B\nA\n");
    assert_string_equal(taken(), "A|");
    assert_int_equal(nfs_buffer_size(&buffer), 6);
}

static void test_what_differs_is_new(void **unused)
{
    (void)unused;
    write_at(0, "SLEEP ms=1\nB\n");
    assert_string_equal(taken(), "SLEEP ms=1|B|");
    write_at(0, "SLEEP ms=2\n"); /* without truncation */
    assert_string_equal(taken(), "SLEEP ms=2|");
    write_at(0, "NOP\n"); /* what is left of the longer line was not written now */
    assert_string_equal(taken(), "NOP|");
    write_at(0, "NOP\nS\n");
    assert_string_equal(taken(), "S|");
    assert_int_equal(nfs_buffer_size(&buffer), 13);
}

static void test_again(void **unused)
{
    (void)unused;
    write_at(0, "A\nB\n");
    taken();
    write_again(0, "A\n", true);
    assert_string_equal(taken(), "A|");
    write_again(0, "A\nB\nC\n", true); /* it goes on from there: not a new file */
    assert_string_equal(taken(), "C|");
}

static void test_pieces(void **unused)
{
    (void)unused;
    write_at(0, "SLE");
    assert_string_equal(taken(), "");
    write_at(3, "EP ms=1");
    assert_string_equal(taken(), "");
    assert_false(buffer.gap);
    write_at(0, "SLEEP ms=100\nX");
    assert_string_equal(taken(), "SLEEP ms=100|");
    write_at(14, "\n");
    assert_string_equal(taken(), "X|");
}

static void test_out_of_order(void **unused)
{
    (void)unused;
    write_at(4, "C\nD\n");
    assert_string_equal(taken(), ""); /* not before A and B */
    assert_true(buffer.gap);
    write_at(2, "B");
    assert_string_equal(taken(), "");
    write_at(0, "A\n");
    assert_string_equal(taken(), "A|");
    assert_true(buffer.gap);
    write_at(3, "\n");
    assert_string_equal(taken(), "B|C|D|");
    assert_false(buffer.gap);
}

static void test_what_never_comes(void **unused)
{
    (void)unused;
    write_at(0, "A\n");
    taken();
    write_at(10, "C\n");
    assert_string_equal(taken(), "");
    assert_string_equal(taken_lines(true), "C|");
    assert_int_equal(buffer.fresh, 0);
    write_at(12, "D\n");
    assert_string_equal(taken(), "D|");
    write_at(2, "B\n"); /* late */
    assert_string_equal(taken(), "B|");
}

static void test_unfinished(void **unused)
{
    (void)unused;
    write_at(0, "NOP");
    assert_string_equal(taken_lines(true), "NOP.");
    assert_string_equal(taken_lines(true), "");
    write_at(3, "\n"); /* the newline comes after all: it is no line of its own */
    assert_string_equal(taken(), "|");
    write_at(4, "VEC");
    assert_string_equal(taken_lines(true), "VEC.");
    write_at(0, "NOP\nVECTOR\n");
    assert_string_equal(taken(), "TOR|"); /* what follows a finished line is another one */
    write_at(4, "X");
    assert_string_equal(taken(), "XEC.");
}

static void test_preset(void **unused)
{
    (void)unused;
    assert_int_equal(nfs_buffer_preset(&buffer, "A:2:3\n", 6), 0);
    assert_int_equal(nfs_buffer_size(&buffer), 6);
    write_at(0, "A:2:3\n");
    assert_string_equal(taken(), "");
    write_at(6, "A:1:3\n");
    assert_string_equal(taken(), "A:1:3|");
    assert_int_equal(nfs_buffer_preset(&buffer, NULL, 0), 0);
    assert_int_equal(nfs_buffer_size(&buffer), 0);
}

static void test_long_lines(void **unused)
{
    (void)unused;
    static char text[3 * 4096 + 1];
    memset(text, 'x', sizeof(text) - 1);
    write_at(0, "A\n");
    write_at(2, text);
    const char *got = taken();
    assert_memory_equal(got, "A|xxxx", 6);
    assert_int_equal(got[strlen(got) - 1], '!');
    write_at(2 + 3 * 4096, "y\nB\n"); /* its rest is no line */
    got = taken();
    assert_non_null(strstr(got, "!B|"));
    text[4095] = '\0';
    write_at(2 + 3 * 4096 + 4, text);
    write_at(2 + 3 * 4096 + 4 + 4095, "\n");
    got = taken();
    assert_int_equal(got[strlen(got) - 1], '|');
}

static void test_far_away(void **unused)
{
    (void)unused;
    assert_int_equal(nfs_buffer_write(&buffer, NFS_BUFFER_AHEAD + 1, "A\n", 2, false), EFBIG);
    assert_int_equal(nfs_buffer_write(&buffer, INT64_MAX - 2, "A\n", 2, false), EFBIG);
    assert_int_equal(nfs_buffer_size(&buffer), 0);
    assert_int_equal(nfs_buffer_growth(&buffer, INT64_MAX - 2, 2), 0);
    write_at(NFS_BUFFER_AHEAD, "A\n");
    assert_string_equal(taken_lines(true), "A|");
}

/* Appended to for ever, the buffer stays small, and what is compared stays right. */
static void test_trim(void **unused)
{
    (void)unused;
    char line[32], both[64];
    uint64_t offset = 0, last = 0;
    for (unsigned i = 0; i < 200000; i++) {
        snprintf(line, sizeof(line), "NOP tag=x%u\n", i);
        write_at(offset, line);
        snprintf(both, sizeof(both), "NOP tag=x%u|", i);
        assert_string_equal(taken(), both);
        last = offset;
        offset += strlen(line);
        nfs_buffer_trim(&buffer);
        assert_true(buffer.capacity <= 4 * NFS_BUFFER_KEEP);
    }
    assert_int_equal(nfs_buffer_size(&buffer), offset);
    assert_true(buffer.base > 0);
    snprintf(both, sizeof(both), "%sNOP\n", line);
    write_at(last, both);
    assert_string_equal(taken(), "NOP|");
    write_at(0, "other\n"); /* so far back nothing is compared */
    assert_string_equal(taken(), "");
    assert_int_equal(nfs_buffer_growth(&buffer, 0, 6), 0);
}

static void test_trim_of_a_long_line(void **unused)
{
    (void)unused;
    enum { SIZE = 3 * NFS_BUFFER_KEEP };
    char *text = malloc(SIZE);
    assert_non_null(text);
    memset(text, 'x', SIZE);
    assert_int_equal(nfs_buffer_write(&buffer, 0, text, SIZE, false), 0);
    taken();
    nfs_buffer_trim(&buffer);
    assert_true(buffer.base > 0);
    write_at(SIZE, "y\nNOP\n");
    const char *got = taken();
    assert_non_null(strstr(got, "!NOP|"));
    free(text);
}

/*
 * Any file of lines, cut anywhere into pieces that come in any order, some of them twice: each line
 * comes once, in the file's order.
 */
static void test_random_pieces(void **unused)
{
    (void)unused;
    for (unsigned seed = 1; seed < 2000; seed++) {
        char text[256], expected[512] = "", got[512] = "";
        size_t size = 0;
        srand(seed);
        for (unsigned i = 0, lines = 1 + (unsigned)rand() % 8; i < lines; i++) {
            char line[32];
            snprintf(line, sizeof(line), "line%u %.*s", i, rand() % 10, "xxxxxxxxxx");
            size += (size_t)sprintf(text + size, "%s\n", line);
            strcat(strcat(expected, line), "|");
        }
        size_t starts[64], sizes[64], count = 0;
        for (size_t at = 0; at < size; at += sizes[count++]) {
            starts[count] = at;
            sizes[count] = 1 + (size_t)rand() % 12;
            if (sizes[count] > size - at)
                sizes[count] = size - at;
        }
        for (size_t i = count; i-- > 0;) { /* shuffled, and about every third sent twice */
            size_t other = (size_t)rand() % (i + 1);
            size_t start = starts[other], length = sizes[other];
            starts[other] = starts[i];
            sizes[other] = sizes[i];
            for (int times = rand() % 3 == 0; times >= 0; times--) {
                assert_int_equal(nfs_buffer_write(&buffer, start, text + start, length, false), 0);
                strcat(got, taken());
            }
        }
        assert_string_equal(got, expected);
        nfs_buffer_finish(&buffer);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_lines, teardown),
        cmocka_unit_test_teardown(test_what_was_sent_says_nothing, teardown),
        cmocka_unit_test_teardown(test_what_differs_is_new, teardown),
        cmocka_unit_test_teardown(test_again, teardown),
        cmocka_unit_test_teardown(test_pieces, teardown),
        cmocka_unit_test_teardown(test_out_of_order, teardown),
        cmocka_unit_test_teardown(test_what_never_comes, teardown),
        cmocka_unit_test_teardown(test_unfinished, teardown),
        cmocka_unit_test_teardown(test_preset, teardown),
        cmocka_unit_test_teardown(test_long_lines, teardown),
        cmocka_unit_test_teardown(test_far_away, teardown),
        cmocka_unit_test_teardown(test_trim, teardown),
        cmocka_unit_test_teardown(test_trim_of_a_long_line, teardown),
        cmocka_unit_test_teardown(test_random_pieces, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
