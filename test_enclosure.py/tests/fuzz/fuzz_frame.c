/*
 * frame: what a peer sends is the same frames however the bytes arrive, and every field and
 * payload lies inside what was sent. The first byte says how large the pieces are.
 */
#include "common/frame.h"
#include "fuzz.h"

#include <inttypes.h>
#include <string.h>

static void note_fields(const struct frame *frame, struct text *seen)
{
    const char *cursor = NULL, *key, *value;
    size_t key_size;
    if (frame->fields_size)
        CHECK(frame->fields[frame->fields_size - 1] == '\0');
    while (frame_each(frame, &cursor, &key, &key_size, &value)) {
        CHECK(key >= frame->fields && value + strlen(value) < frame->fields + frame->fields_size);
        text_append(seen, key, key_size);
        text_printf(seen, "=%s;", value);
    }
}

static void note(const struct frame *frame, struct text *seen)
{
    CHECK(frame->fields_size <= FRAME_MAX_FIELDS && frame->payload_size <= FRAME_MAX_PAYLOAD);
    text_printf(seen, "%d %" PRIu64 " ", (int)frame->type, frame->attempt);
    note_fields(frame, seen);
    text_append(seen, frame->payload, frame->payload_size);
    text_puts(seen, "\n");
}

/* read_pieces returns 0, or -1 when the reader refused the peer. */
static int read_pieces(const uint8_t *data, size_t size, size_t step, struct text *seen)
{
    struct frame_reader reader = {0};
    int found = 0;
    for (size_t from = 0; from < size && found >= 0; from += step) {
        size_t length = step < size - from ? step : size - from;
        char *space = frame_reader_space(&reader, length);
        const char *error = NULL;
        struct frame frame;
        CHECK(space);
        memcpy(space, data + from, length);
        frame_reader_fed(&reader, length);
        while ((found = frame_reader_next(&reader, &frame, &error)) > 0)
            note(&frame, seen);
        CHECK(found == 0 || (error && error[0]));
    }
    frame_reader_finish(&reader);
    return found;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct text whole = {0}, pieces = {0};
    if (size < 2)
        return 0;
    size_t step = (size_t)data[0] + 1;
    int refused = read_pieces(data + 1, size - 1, size, &whole);
    CHECK(read_pieces(data + 1, size - 1, step, &pieces) == refused);
    CHECK(whole.size == pieces.size);
    CHECK(!whole.size || memcmp(whole.data, pieces.data, whole.size) == 0);
    text_finish(&whole);
    text_finish(&pieces);
    return 0;
}
