/* handover.c: what one daemon leaves for the next, whole and in every way damaged. */
#include "handover.h"

#include "blob.h"
#include "nodes.h"

#include <linux/fuse.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h> /* after the headers that it needs */

struct request {
    struct fuse_in_header header;
    char body[64];
};

static struct request init, reading, getting, opening;
static struct blob *result;

static struct request request(uint32_t opcode, uint64_t unique, size_t body)
{
    return (struct request){.header = {.len = (uint32_t)(sizeof(struct fuse_in_header) + body),
                                       .opcode = opcode,
                                       .unique = unique}};
}

static struct handover_bytes bytes_of(const struct request *request)
{
    return (struct handover_bytes){(const char *)request, request->header.len};
}

/* put_prefix makes the sum right for what is damaged on purpose behind it. */
static void put_prefix(struct text *packed)
{
    uint64_t sum = UINT64_C(0xcbf29ce484222325), size = packed->size - 32;
    for (size_t i = 32; i < packed->size; i++)
        sum = (sum ^ (unsigned char)packed->data[i]) * UINT64_C(0x100000001b3);
    memcpy(packed->data + 16, &sum, 8);
    memcpy(packed->data + 24, &size, 8);
}

/* A handover with something of each sort. */
static void fill(struct handover *handover)
{
    struct handover_handle handle = {.number = 7,
                                     .ino = node_ino(NODE_SUBMIT, 3, 0),
                                     .writes = 1,
                                     .content = handover_add_blob(handover, result),
                                     .pending = {"NOP tag", 7}};
    struct handover_lines lines = {.ino = node_ino(NODE_SUBMIT, 3, 0),
                                   .base = 4096,
                                   .cursor = 2,
                                   .last_start = 1,
                                   .last_stop = 3,
                                   .active = 1,
                                   .bytes = {"NOP\n", 4},
                                   .flags = {"\1\1\1\1", 4}};
    struct handover_view view = {.ino = node_ino(NODE_STATUS, 3, 0),
                                 .content = handover_add_blob(handover, result),
                                 .changed_s = 5,
                                 .changed_ns = 6,
                                 .pieces = 1};
    struct handover_told told = {.vm = 3, .content = 1};
    struct handover_counts counts = {
        .kind = 1, .vm = 3, .pool = {"A", 1}, .numbers = {"12345678", 8}};
    struct handover_request requests[] = {
        {bytes_of(&reading)}, {bytes_of(&getting)}, {bytes_of(&opening)}};
    handover->session = (struct handover_session){
        .init = bytes_of(&init), .library = 314, .want = 9, .max_write = 1 << 20};
    handover_add(handover, &handover->handles, &handle, sizeof(handle));
    handover_add(handover, &handover->lines, &lines, sizeof(lines));
    handover_add(handover, &handover->views, &view, sizeof(view));
    handover_add(handover, &handover->told, &told, sizeof(told));
    handover_add(handover, &handover->counts, &counts, sizeof(counts));
    for (size_t i = 0; i < 3; i++)
        handover_add(handover, &handover->requests, &requests[i], sizeof(requests[i]));
}

static void pack_changed(struct text *packed, void (*change)(struct handover *handover))
{
    struct handover handover = {0};
    fill(&handover);
    if (change)
        change(&handover);
    handover_pack(&handover, packed);
    assert_false(packed->failed);
    handover_finish(&handover);
}

/* parses: the copy ends where its memory does, so that AddressSanitizer sees a byte too many. */
static bool parses(const char *bytes, size_t size, const char *words)
{
    struct handover handover;
    struct text error = {0};
    char *copy = malloc(size ? size : 1);
    memcpy(copy, bytes, size);
    bool sound = handover_parse(&handover, copy, size, &error) == 0;
    if (sound)
        handover_finish(&handover);
    else
        assert_true(error.size > 0);
    if (words)
        assert_non_null(strstr(error.data ? error.data : "", words));
    text_finish(&error);
    free(copy);
    return sound;
}

static void test_whole(void **unused)
{
    (void)unused;
    struct handover handover;
    struct text packed = {0}, error = {0};
    pack_changed(&packed, NULL);
    assert_int_equal(handover_parse(&handover, packed.data, packed.size, &error), 0);
    assert_memory_equal(handover.session.init.data, &init, init.header.len);
    assert_int_equal(handover.session.library, 314);
    assert_int_equal(handover.session.want, 9);
    assert_int_equal(handover.contents.count, 1); /* the same blob is kept once */
    const struct handover_handle *handle = handover.handles.items;
    assert_int_equal(handle->number, 7);
    assert_int_equal(handle->ino, node_ino(NODE_SUBMIT, 3, 0));
    assert_memory_equal(handle->pending.data, "NOP tag", 7);
    struct blob *blob = handover_blob(&handover, handle->content);
    assert_int_equal(blob->job, 42);
    assert_memory_equal(blob->data, result->data, result->size);
    blob_unref(blob);
    assert_null(handover_blob(&handover, 0));
    const struct handover_lines *lines = handover.lines.items;
    assert_int_equal(lines->base, 4096);
    assert_int_equal(lines->last_stop, 3);
    assert_memory_equal(lines->bytes.data, "NOP\n", 4);
    const struct handover_view *view = handover.views.items;
    assert_int_equal(view->changed_ns, 6);
    const struct handover_counts *counts = handover.counts.items;
    assert_int_equal(counts->kind, 1);
    assert_memory_equal(counts->pool.data, "A", 1);
    assert_int_equal(counts->numbers.size, 8);
    assert_memory_equal(counts->numbers.data, "12345678", 8);
    assert_int_equal(handover.requests.count, 3);
    const struct handover_request *requests = handover.requests.items;
    assert_memory_equal(requests[1].bytes.data, &getting, getting.header.len);
    handover_finish(&handover);
    text_finish(&packed);
}

static void test_nothing(void **unused)
{
    (void)unused;
    struct handover handover = {.session.init = bytes_of(&init)};
    struct text packed = {0};
    handover_pack(&handover, &packed);
    assert_true(parses(packed.data, packed.size, NULL));
    text_finish(&packed);
}

/* Cut off after any byte: as it is, and with the sum made right again. */
static void test_truncated(void **unused)
{
    (void)unused;
    struct text packed = {0};
    pack_changed(&packed, NULL);
    for (size_t size = 0; size < packed.size; size++) {
        struct text part = {0};
        assert_false(parses(packed.data, size, NULL));
        text_append(&part, packed.data, size);
        if (size >= 32)
            put_prefix(&part);
        assert_false(parses(part.data ? part.data : "", size, NULL));
        text_finish(&part);
    }
    text_append(&packed, "", 1);
    put_prefix(&packed);
    assert_false(parses(packed.data, packed.size, "behind its end"));
    text_finish(&packed);
}

/* Any byte changed is seen by the sum; with a right sum, no value of it leads astray. */
static void test_damaged(void **unused)
{
    (void)unused;
    static const unsigned char values[] = {0x00, 0x01, 0x7f, 0x80, 0xff};
    struct text packed = {0};
    pack_changed(&packed, NULL);
    for (size_t at = 0; at < packed.size; at++) {
        char before = packed.data[at];
        packed.data[at] = (char)(before ^ 0x10);
        assert_false(parses(packed.data, packed.size, NULL));
        for (size_t i = 0; at >= 32 && i < sizeof(values); i++) {
            packed.data[at] = (char)values[i];
            put_prefix(&packed);
            parses(packed.data, packed.size, NULL);
        }
        packed.data[at] = before;
        put_prefix(&packed);
    }
    assert_true(parses(packed.data, packed.size, NULL));
    text_finish(&packed);
}

#define ITEM(type, list) ((struct type *)handover->list.items)

static void change_version(struct handover *handover)
{
    ITEM(handover_handle, handles)->nfs = 2;
}
static void change_content(struct handover *handover)
{
    ITEM(handover_handle, handles)->content = 2;
}
static void change_ino(struct handover *handover)
{
    ITEM(handover_handle, handles)->ino = 0;
}
static void change_cursor(struct handover *handover)
{
    ITEM(handover_lines, lines)->cursor = 5;
}
static void change_stop(struct handover *handover)
{
    ITEM(handover_lines, lines)->last_stop = 5;
}
static void change_start(struct handover *handover)
{
    ITEM(handover_lines, lines)->last_start = 4;
}
static void change_flags(struct handover *handover)
{
    ITEM(handover_lines, lines)->flags.size = 3;
}
static void change_base(struct handover *handover)
{
    ITEM(handover_lines, lines)->base = UINT64_MAX;
}
static void change_file(struct handover *handover)
{
    ITEM(handover_lines, lines)->ino = node_ino(NODE_RESULT, 3, 0);
}
static void change_view(struct handover *handover)
{
    ITEM(handover_view, views)->content = 0;
}
static void change_time(struct handover *handover)
{
    ITEM(handover_view, views)->changed_ns = 1000000000;
}
static void change_told(struct handover *handover)
{
    ITEM(handover_told, told)->vm = 65536;
}
static void change_counts(struct handover *handover)
{
    ITEM(handover_counts, counts)->vm = 65536;
}
static void change_request(struct handover *handover)
{
    ITEM(handover_request, requests)->bytes.size--;
}
static void change_opcode(struct handover *handover)
{
    ITEM(handover_request, requests)->bytes = bytes_of(&init);
}
static void change_init(struct handover *handover)
{
    handover->session.init = bytes_of(&reading);
}

/* What makes no sense, in the right form. */
static void test_nonsense(void **unused)
{
    (void)unused;
    static const struct {
        void (*change)(struct handover *handover);
        const char *words;
    } cases[] = {
        {change_version, "open file 0"},  {change_content, "open file 0"},
        {change_ino, "open file 0"},      {change_cursor, "written file 0"},
        {change_stop, "written file 0"},  {change_start, "written file 0"},
        {change_flags, "written file 0"}, {change_base, "written file 0"},
        {change_file, "written file 0"},  {change_view, "view 0"},
        {change_time, "view 0"},          {change_told, "told result 0"},
        {change_counts, "counts 0"},      {change_request, "request 0"},
        {change_opcode, "request 0"},     {change_init, "the session"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct text packed = {0};
        pack_changed(&packed, cases[i].change);
        assert_false(parses(packed.data, packed.size, cases[i].words));
        text_finish(&packed);
    }
}

static void test_another_version(void **unused)
{
    (void)unused;
    struct text packed = {0};
    pack_changed(&packed, NULL);
    packed.data[8]++;
    assert_false(parses(packed.data, packed.size, "of form 3, and this version knows 2"));
    assert_false(parses("something else, and of the right length", 39, "none of vgpufs"));
    text_finish(&packed);
}

/* Through the file that travels. */
static void test_file(void **unused)
{
    (void)unused;
    struct text packed = {0}, read = {0}, error = {0};
    pack_changed(&packed, NULL);
    int file = handover_write(&packed, &error);
    assert_true(file >= 0);
    assert_int_equal(handover_read(file, &read, &error), 0);
    assert_int_equal(read.size, packed.size);
    assert_memory_equal(read.data, packed.data, packed.size);
    close(file);
    text_finish(&read);
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(handover_read(ends[0], &read, &error), -1);
    close(ends[0]);
    close(ends[1]);
    int huge = memfd_create("huge", 0);
    assert_int_equal(ftruncate(huge, (off_t)1 << 40), 0);
    assert_int_equal(handover_read(huge, &read, &error), -1);
    close(huge);
    text_finish(&read);
    text_finish(&packed);
    text_finish(&error);
}

static int setup(void **unused)
{
    (void)unused;
    struct text text = {0};
    text_puts(&text, "status=done\nthe output\n");
    result = blob_from_text(&text);
    result->job = 42;
    init = request(FUSE_INIT, 2, 16);
    reading = request(FUSE_READ, 4, sizeof(struct fuse_read_in));
    getting = request(FUSE_GETATTR, 6, sizeof(struct fuse_getattr_in));
    opening = request(FUSE_OPEN, 8, sizeof(struct fuse_open_in));
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    blob_unref(result);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_whole),     cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_truncated), cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_nonsense),  cmocka_unit_test(test_another_version),
        cmocka_unit_test(test_file),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
