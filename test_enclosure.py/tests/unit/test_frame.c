/* frame: what is built is what is read, however it is cut; what is no frame is refused. */
#include "common/frame.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h> /* after the headers that it needs */

static void feed(struct frame_reader *reader, const void *bytes, size_t size)
{
    char *space = frame_reader_space(reader, size);
    assert_non_null(space);
    memcpy(space, bytes, size);
    frame_reader_fed(reader, size);
}

/* build_three: a job, a frame of nothing but its header, an output with a payload. */
static struct text build_three(void)
{
    struct text text = {0};
    struct frame_builder builder = frame_begin(&text, FRAME_JOB, 0x1122334455667788u);
    frame_text(&builder, "command", "VECTOR_ADD");
    frame_number(&builder, "arg.n", 8);
    frame_field(&builder, "empty", "%s", "");
    frame_field(&builder, "twice", "%s", "a=b");
    frame_end(&builder, NULL, 0);
    builder = frame_begin(&text, FRAME_CANCEL, 2);
    frame_end(&builder, NULL, 0);
    builder = frame_begin(&text, FRAME_OUTPUT, 3);
    frame_end(&builder, "\0pay\0load", 9);
    assert_false(text.failed);
    return text;
}

static void check_frame(const struct frame *frame, int number)
{
    if (number == 0) {
        assert_int_equal(frame->type, FRAME_JOB);
        assert_true(frame->attempt == 0x1122334455667788u);
        assert_string_equal(frame_get(frame, "command"), "VECTOR_ADD");
        assert_string_equal(frame_get(frame, "arg.n"), "8");
        assert_string_equal(frame_get(frame, "empty"), "");
        assert_string_equal(frame_get(frame, "twice"), "a=b");
        assert_null(frame_get(frame, "arg"));
        assert_null(frame_get(frame, "arg.nn"));
        assert_int_equal(frame->payload_size, 0);
    } else if (number == 1) {
        assert_int_equal(frame->type, FRAME_CANCEL);
        assert_int_equal(frame->fields_size, 0);
        assert_null(frame_get(frame, "command"));
    } else {
        assert_int_equal(frame->type, FRAME_OUTPUT);
        assert_int_equal(frame->payload_size, 9);
        assert_memory_equal(frame->payload, "\0pay\0load", 9);
    }
}

static void test_round_trip(void **state)
{
    (void)state;
    struct text text = build_three();
    struct frame_reader reader = {0};
    struct frame frame;
    const char *error = NULL;
    feed(&reader, text.data, text.size);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(frame_reader_next(&reader, &frame, &error), 1);
        check_frame(&frame, i);
    }
    assert_int_equal(frame_reader_next(&reader, &frame, &error), 0);
    frame_reader_finish(&reader);
    text_finish(&text);
}

static void test_header_layout(void **state)
{
    (void)state;
    static const unsigned char expected[] = {'V', 'G', 'P', 'U', 4,   0,   0,   0, 0xbc, 0x0a,
                                             0,   0,   0,   0,   0,   0,   4,   0, 0,    0,
                                             2,   0,   0,   0,   'k', '=', 'v', 0, 'x',  'y'};
    struct text text = {0};
    struct frame_builder builder = frame_begin(&text, FRAME_OUTPUT, 0xabc);
    frame_field(&builder, "k", "%s", "v");
    frame_end(&builder, "xy", 2);
    assert_int_equal(text.size, sizeof(expected));
    assert_memory_equal(text.data, expected, sizeof(expected));
    text_finish(&text);
}

static void test_cut_at_every_byte(void **state)
{
    (void)state;
    struct text text = build_three();
    for (size_t cut = 0; cut <= text.size; cut++) {
        struct frame_reader reader = {0};
        struct frame frame;
        const char *error = NULL;
        int seen = 0;
        feed(&reader, text.data, cut);
        while (frame_reader_next(&reader, &frame, &error) == 1)
            check_frame(&frame, seen++);
        assert_null(error);
        feed(&reader, text.data + cut, text.size - cut);
        while (frame_reader_next(&reader, &frame, &error) == 1)
            check_frame(&frame, seen++);
        assert_null(error);
        assert_int_equal(seen, 3);
        frame_reader_finish(&reader);
    }
    text_finish(&text);
}

static void test_byte_by_byte(void **state)
{
    (void)state;
    struct text text = build_three();
    struct frame_reader reader = {0};
    struct frame frame;
    const char *error = NULL;
    int seen = 0;
    for (size_t i = 0; i < text.size; i++) {
        feed(&reader, text.data + i, 1);
        if (frame_reader_next(&reader, &frame, &error) == 1)
            check_frame(&frame, seen++);
    }
    assert_int_equal(seen, 3);
    frame_reader_finish(&reader);
    text_finish(&text);
}

/* assert_refused feeds one frame, of which the byte at `offset` is changed. */
static void assert_refused(size_t offset, unsigned char value, const char *words)
{
    struct text text = build_three();
    struct frame_reader reader = {0};
    struct frame frame;
    const char *error = NULL;
    text.data[offset] = (char)value;
    feed(&reader, text.data, text.size);
    assert_int_equal(frame_reader_next(&reader, &frame, &error), -1);
    assert_non_null(error);
    assert_non_null(strstr(error, words));
    frame_reader_finish(&reader);
    text_finish(&text);
}

static void test_refused(void **state)
{
    (void)state;
    for (size_t i = 0; i < 4; i++)
        assert_refused(i, '!', "no frame");
    assert_refused(4, 0, "unknown type");
    assert_refused(4, FRAME_READING + 1, "unknown type");
    assert_refused(5, 1, "unknown type");
    assert_refused(6, 1, "unknown flags");
    assert_refused(7, 1, "unknown flags");
    assert_refused(18, 2, "too many fields");
    assert_refused(19, 0x80, "too many fields");
    assert_refused(22, 5, "too large a payload");
    assert_refused(23, 0xff, "too large a payload");
}

static void test_refused_at_the_header(void **state)
{
    (void)state;
    /* An enormous size must be refused before anybody waits for that many bytes. */
    struct frame_reader reader = {0};
    struct frame frame;
    const char *error = NULL;
    struct text text = build_three();
    memset(text.data + 20, 0xff, 4);
    feed(&reader, text.data, FRAME_HEADER_SIZE);
    assert_int_equal(frame_reader_next(&reader, &frame, &error), -1);
    frame_reader_finish(&reader);
    text_finish(&text);
}

static void test_fields_without_end(void **state)
{
    (void)state;
    struct text text = {0};
    struct frame_builder builder = frame_begin(&text, FRAME_JOB, 1);
    frame_field(&builder, "k", "%s", "v");
    frame_end(&builder, NULL, 0);
    text.data[text.size - 1] = 'x';
    struct frame_reader reader = {0};
    struct frame frame;
    const char *error = NULL;
    feed(&reader, text.data, text.size);
    assert_int_equal(frame_reader_next(&reader, &frame, &error), -1);
    assert_non_null(strstr(error, "do not end"));
    frame_reader_finish(&reader);
    text_finish(&text);
}

static void test_each(void **state)
{
    (void)state;
    static const char fields[] = "a=1\0noequals\0\0=novalue\0a=2\0b=";
    struct frame frame = {.fields = fields, .fields_size = sizeof(fields)};
    static const char *const keys[] = {"a", "", "a", "b"};
    static const char *const values[] = {"1", "novalue", "2", ""};
    const char *cursor = NULL, *key, *value;
    size_t size, count = 0;
    while (frame_each(&frame, &cursor, &key, &size, &value)) {
        assert_in_range(count, 0, 3);
        assert_int_equal(size, strlen(keys[count]));
        assert_memory_equal(key, keys[count], size);
        assert_string_equal(value, values[count]);
        count++;
    }
    assert_int_equal(count, 4);
    assert_string_equal(frame_get(&frame, "a"), "1");
    assert_null(frame_get(&frame, "noequals"));
}

static void test_builder_limits(void **state)
{
    (void)state;
    static char payload[FRAME_MAX_PAYLOAD + 1];
    struct text text = {0};
    struct frame_builder builder = frame_begin(&text, FRAME_OUTPUT, 1);
    frame_end(&builder, payload, FRAME_MAX_PAYLOAD);
    assert_false(text.failed);
    struct frame_reader reader = {0};
    struct frame frame;
    const char *error = NULL;
    feed(&reader, text.data, text.size);
    assert_int_equal(frame_reader_next(&reader, &frame, &error), 1);
    assert_int_equal(frame.payload_size, FRAME_MAX_PAYLOAD);
    frame_reader_finish(&reader);

    text_clear(&text);
    builder = frame_begin(&text, FRAME_OUTPUT, 1);
    frame_end(&builder, payload, FRAME_MAX_PAYLOAD + 1);
    assert_true(text.failed);

    text_clear(&text);
    builder = frame_begin(&text, FRAME_JOB, 1);
    frame_field(&builder, "k", "%0*d", (int)FRAME_MAX_FIELDS - 2, 7);
    frame_end(&builder, NULL, 0);
    assert_true(text.failed);
    text_finish(&text);
}

/* Random damage: whatever comes, the reader stays inside its buffer and ends. */
static void test_damage(void **state)
{
    (void)state;
    struct text text = build_three();
    unsigned random = 1;
    for (int round = 0; round < 20000; round++) {
        struct frame_reader reader = {0};
        struct frame frame;
        const char *error = NULL;
        feed(&reader, text.data, text.size);
        for (int i = 0; i < 3; i++) {
            random = random * 1664525u + 1013904223u;
            reader.buffer.data[(random >> 8) % text.size] = (char)(random >> 24);
        }
        int frames = 0;
        while (frame_reader_next(&reader, &frame, &error) == 1) {
            const char *cursor = NULL, *key, *value;
            size_t size, bytes = 0;
            while (frame_each(&frame, &cursor, &key, &size, &value))
                bytes += size + strlen(value);
            assert_in_range(bytes, 0, frame.fields_size);
            frames++;
        }
        assert_in_range(frames, 0, (int)(text.size / FRAME_HEADER_SIZE));
        frame_reader_finish(&reader);
    }
    text_finish(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_header_layout),
        cmocka_unit_test(test_cut_at_every_byte),
        cmocka_unit_test(test_byte_by_byte),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_refused_at_the_header),
        cmocka_unit_test(test_fields_without_end),
        cmocka_unit_test(test_each),
        cmocka_unit_test(test_builder_limits),
        cmocka_unit_test(test_damage),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
