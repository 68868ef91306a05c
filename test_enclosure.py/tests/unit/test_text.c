/* text: the one escape that no byte of a guest or a program gets around, and growing. */
#include "common/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

static void assert_escapes(const void *bytes, size_t size, size_t limit, const char *expected)
{
    struct text text = {0};
    text_puts(&text, "");
    text_escape(&text, bytes, size, limit);
    assert_false(text.failed);
    assert_string_equal(text.data, expected);
    assert_int_equal(text.size, strlen(expected));
    text_finish(&text);
}

#define ESCAPES(bytes, expected)        assert_escapes(bytes, sizeof(bytes) - 1, SIZE_MAX, expected)
#define LIMITED(bytes, limit, expected) assert_escapes(bytes, sizeof(bytes) - 1, limit, expected)

static void test_escape_table(void **state)
{
    (void)state;
    ESCAPES("", "");
    ESCAPES("plain text, ~!", "plain text, ~!");
    ESCAPES("say \"hi\"", "say \\\"hi\\\"");
    ESCAPES("a\\b", "a\\\\b");
    ESCAPES("a\nstatus=done", "a\\x0Astatus=done");
    ESCAPES("\0\x01\x1f\x7f", "\\x00\\x01\\x1F\\x7F");
    ESCAPES("\x1b[31mred", "\\x1B[31mred");
}

static void test_every_byte(void **state)
{
    (void)state;
    for (unsigned value = 0; value < 256; value++) {
        unsigned char byte = (unsigned char)value;
        struct text text = {0};
        text_escape(&text, &byte, 1, SIZE_MAX);
        bool plain = value >= 0x20 && value < 0x7f && value != '"' && value != '\\';
        assert_int_equal(text.size, plain ? 1 : value == '"' || value == '\\' ? 2 : 4);
        for (size_t i = 0; i < text.size; i++)
            assert_in_range((unsigned char)text.data[i], 0x20, 0x7e);
        text_finish(&text);
    }
}

static void test_utf8(void **state)
{
    (void)state;
    /* Well-formed: the first and last of each row of Unicode 15, table 3-7. */
    ESCAPES("\xc2\x80\xdf\xbf", "\xc2\x80\xdf\xbf");
    ESCAPES("\xe0\xa0\x80\xe0\xbf\xbf", "\xe0\xa0\x80\xe0\xbf\xbf");
    ESCAPES("\xed\x80\x80\xed\x9f\xbf", "\xed\x80\x80\xed\x9f\xbf");
    ESCAPES("\xef\xbf\xbf", "\xef\xbf\xbf");
    ESCAPES("\xf0\x90\x80\x80\xf4\x8f\xbf\xbf", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf");
    /* Overlong, surrogate, too large, alone, cut off. */
    ESCAPES("\xc0\x80", "\\xC0\\x80");
    ESCAPES("\xc1\xbf", "\\xC1\\xBF");
    ESCAPES("\xe0\x9f\xbf", "\\xE0\\x9F\\xBF");
    ESCAPES("\xed\xa0\x80", "\\xED\\xA0\\x80");
    ESCAPES("\xf0\x8f\xbf\xbf", "\\xF0\\x8F\\xBF\\xBF");
    ESCAPES("\xf4\x90\x80\x80", "\\xF4\\x90\\x80\\x80");
    ESCAPES("\xf5\x80\x80\x80", "\\xF5\\x80\\x80\\x80");
    ESCAPES("\x80", "\\x80");
    ESCAPES("\xff\xfe", "\\xFF\\xFE");
    ESCAPES("\xe2\x82", "\\xE2\\x82");
    ESCAPES("\xf0\x9f\x98", "\\xF0\\x9F\\x98");
    ESCAPES("\xe2\x82\"", "\\xE2\\x82\\\"");
    ESCAPES("\xc3\n", "\\xC3\\x0A");
}

static void test_number(void **state)
{
    (void)state;
    struct text text = {0};
    text_puts(&text, "n=");
    text_number(&text, 4711);
    text_number(&text, 0);
    assert_false(text.failed);
    assert_int_equal(text.size, 7);
    assert_string_equal(text.data, "n=47110");
    text_finish(&text);
}

static void test_escape_limit(void **state)
{
    (void)state;
    LIMITED("abc", 2, "ab");
    LIMITED("abc", 0, "");
    LIMITED("ab\"", 3, "ab");
    LIMITED("ab\"", 4, "ab\\\"");
    LIMITED("a\nb", 4, "a");
    LIMITED("a\nb", 5, "a\\x0A");
    LIMITED("a\xe2\x82\xac", 3, "a");
    LIMITED("a\xe2\x82\xac", 4, "a\xe2\x82\xac");
}

static void test_quote(void **state)
{
    (void)state;
    struct text text = {0};
    text_quote(&text, "a \"b\"\n");
    assert_string_equal(text.data, "\"a \\\"b\\\"\\x0A\"");
    text_finish(&text);
}

static void test_growing(void **state)
{
    (void)state;
    struct text text = {0};
    for (int i = 0; i < 1000; i++) {
        text_printf(&text, "%d,", i % 10);
        text_append(&text, "\0", 1);
    }
    assert_false(text.failed);
    assert_int_equal(text.size, 3000);
    for (size_t i = 0; i < 1000; i++)
        assert_memory_equal(text.data + 3 * i, ((char[]){(char)('0' + i % 10), ',', '\0'}), 3);
    char *before = text.data;
    text_clear(&text);
    assert_int_equal(text.size, 0);
    assert_ptr_equal(text.data, before);
    /* Longer than the room that is there. */
    text_finish(&text);
    text_printf(&text, "%0200d", 7);
    assert_int_equal(text.size, 200);
    assert_int_equal(strlen(text.data), 200);
    text_finish(&text);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct text text = {0};
    text_puts(&text, "kept");
    assert_false(text_reserve(&text, SIZE_MAX / 2));
    assert_true(text.failed);
    text_puts(&text, "dropped");
    assert_string_equal(text.data, "kept");
    assert_null(text_take(&text, NULL));
    assert_null(text.data);
}

static void test_take(void **state)
{
    (void)state;
    struct text text = {0};
    size_t size = 4711;
    char *taken = text_take(&text, &size);
    assert_string_equal(taken, "");
    assert_int_equal(size, 0);
    free(taken);
    text_append(&text, "a\0b", 3);
    taken = text_take(&text, &size);
    assert_int_equal(size, 3);
    assert_memory_equal(taken, "a\0b", 4);
    assert_null(text.data);
    free(taken);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_escape_table), cmocka_unit_test(test_every_byte),
        cmocka_unit_test(test_utf8),         cmocka_unit_test(test_escape_limit),
        cmocka_unit_test(test_quote),        cmocka_unit_test(test_growing),
        cmocka_unit_test(test_no_memory),    cmocka_unit_test(test_take),
        cmocka_unit_test(test_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
