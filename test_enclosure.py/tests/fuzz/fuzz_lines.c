/*
 * lines: however the writes are cut, the same lines come out, in order, none of them blank or a
 * comment. The first byte of the input says where the cuts are.
 */
#include "fuzz.h"
#include "lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct seen {
    struct text lines; /* each with its length in front */
};

static int note(void *context, const struct line *batch, size_t count)
{
    struct seen *seen = context;
    CHECK(count > 0);
    for (size_t i = 0; i < count; i++) {
        CHECK(batch[i].size && batch[i].size <= LINES_MAX_LINE);
        CHECK(batch[i].bytes[batch[i].size] == '\0');
        CHECK(batch[i].bytes[0] != '#');
        CHECK(!memchr(batch[i].bytes, '\n', batch[i].size));
        text_printf(&seen->lines, "%zu:", batch[i].size);
        text_append(&seen->lines, batch[i].bytes, batch[i].size);
    }
    return 0;
}

/* write_cut writes pieces of `step`, 2 `step`, … bytes. 0, or EFBIG where a line is too long. */
static int write_cut(const uint8_t *data, size_t size, size_t step, struct seen *seen)
{
    struct lines lines = {0};
    int error = 0;
    size_t from = 0;
    for (size_t round = 1; from < size && !error; round++) {
        size_t length = step * round < size - from ? step * round : size - from;
        char *piece = fuzz_copy(data + from, length);
        error = lines_write(&lines, piece, length, note, seen);
        free(piece);
        from += length;
    }
    if (!error)
        error = lines_flush(&lines, note, seen);
    lines_finish(&lines);
    CHECK(error == 0 || error == EFBIG);
    return error;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct seen whole = {{0}}, pieces = {{0}};
    if (size < 2)
        return 0;
    size_t step = data[0] ? data[0] : 1;
    int refused = write_cut(data + 1, size - 1, size, &whole);
    int also = write_cut(data + 1, size - 1, step, &pieces);
    /* A batch is refused as a whole only if it comes in one write, a line in any. */
    CHECK(refused || !also);
    if (!refused) {
        CHECK(whole.lines.size == pieces.lines.size);
        CHECK(!whole.lines.size ||
              memcmp(whole.lines.data, pieces.lines.data, whole.lines.size) == 0);
    }
    text_finish(&whole.lines);
    text_finish(&pieces.lines);
    return 0;
}
