#include "frame.h"

#include <endian.h>
#include <string.h>

/* The header as it travels; every member is little endian. */
struct frame_header {
    uint32_t magic;
    uint16_t type;
    uint16_t zero;
    uint64_t attempt;
    uint32_t fields_size;
    uint32_t payload_size;
};
_Static_assert(sizeof(struct frame_header) == FRAME_HEADER_SIZE, "no padding");

struct frame_builder frame_begin(struct text *text, enum frame_type type, uint64_t attempt)
{
    struct frame_header header = {.magic = htole32(FRAME_MAGIC),
                                  .type = htole16((uint16_t)type),
                                  .attempt = htole64(attempt)};
    struct frame_builder builder = {.text = text, .start = text->size};
    text_append(text, &header, sizeof(header));
    return builder;
}

void frame_field(struct frame_builder *builder, const char *key, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    text_puts(builder->text, key);
    text_puts(builder->text, "=");
    text_vprintf(builder->text, format, args);
    text_append(builder->text, "", 1);
    va_end(args);
}

void frame_text(struct frame_builder *builder, const char *key, const char *value)
{
    text_puts(builder->text, key);
    text_append(builder->text, "=", 1);
    text_append(builder->text, value, strlen(value) + 1);
}

void frame_number(struct frame_builder *builder, const char *key, uint64_t value)
{
    text_puts(builder->text, key);
    text_append(builder->text, "=", 1);
    text_number(builder->text, value);
    text_append(builder->text, "", 1);
}

void frame_end(struct frame_builder *builder, const void *payload, size_t size)
{
    struct text *text = builder->text;
    size_t fields_size = text->size - builder->start - FRAME_HEADER_SIZE;
    if (text->failed || fields_size > FRAME_MAX_FIELDS || size > FRAME_MAX_PAYLOAD) {
        text->failed = true;
        return;
    }
    text_append(text, payload, size);
    if (text->failed)
        return;
    struct frame_header header;
    memcpy(&header, text->data + builder->start, sizeof(header));
    header.fields_size = htole32((uint32_t)fields_size);
    header.payload_size = htole32((uint32_t)size);
    memcpy(text->data + builder->start, &header, sizeof(header));
}

void frame_reader_finish(struct frame_reader *reader)
{
    text_finish(&reader->buffer);
    reader->offset = 0;
}

char *frame_reader_space(struct frame_reader *reader, size_t size)
{
    struct text *buffer = &reader->buffer;
    if (reader->offset) {
        size_t rest = buffer->size - reader->offset;
        memmove(buffer->data, buffer->data + reader->offset, rest);
        buffer->size = rest;
        reader->offset = 0;
    }
    return text_reserve(buffer, size) ? buffer->data + buffer->size : NULL;
}

void frame_reader_fed(struct frame_reader *reader, size_t size)
{
    reader->buffer.size += size;
}

/* frame_header_error returns what is wrong with a header in host order, or NULL. */
static const char *frame_header_error(const struct frame_header *header)
{
    if (le32toh(header->magic) != FRAME_MAGIC)
        return "bytes that are no frame";
    if (le16toh(header->zero) != 0)
        return "a frame header with unknown flags";
    if (le16toh(header->type) < FRAME_HELLO || le16toh(header->type) > FRAME_READING)
        return "a frame of an unknown type";
    if (le32toh(header->fields_size) > FRAME_MAX_FIELDS)
        return "a frame with too many fields";
    if (le32toh(header->payload_size) > FRAME_MAX_PAYLOAD)
        return "a frame with too large a payload";
    return NULL;
}

int frame_reader_next(struct frame_reader *reader, struct frame *frame, const char **error)
{
    struct frame_header header;
    size_t available = reader->buffer.size - reader->offset;
    if (available < sizeof(header))
        return 0;
    const char *start = reader->buffer.data + reader->offset;
    memcpy(&header, start, sizeof(header));
    *error = frame_header_error(&header);
    if (*error)
        return -1;
    *frame = (struct frame){
        .type = le16toh(header.type),
        .attempt = le64toh(header.attempt),
        .fields = start + sizeof(header),
        .fields_size = le32toh(header.fields_size),
        .payload_size = le32toh(header.payload_size),
    };
    frame->payload = frame->fields + frame->fields_size;
    size_t size = sizeof(header) + frame->fields_size + frame->payload_size;
    if (available < size)
        return 0;
    if (frame->fields_size && frame->fields[frame->fields_size - 1] != '\0') {
        *error = "a frame whose fields do not end";
        return -1;
    }
    reader->offset += size;
    return 1;
}

bool frame_each(const struct frame *frame, const char **cursor, const char **key, size_t *key_size,
                const char **value)
{
    const char *end = frame->fields + frame->fields_size;
    const char *field = *cursor ? *cursor + strlen(*cursor) + 1 : frame->fields;
    for (; field < end; field += strlen(field) + 1) {
        const char *equals = strchr(field, '=');
        if (!equals)
            continue;
        *key = field;
        *key_size = (size_t)(equals - field);
        *value = equals + 1;
        *cursor = field;
        return true;
    }
    return false;
}

const char *frame_get(const struct frame *frame, const char *key)
{
    const char *cursor = NULL, *found, *value;
    size_t size;
    while (frame_each(frame, &cursor, &found, &size, &value))
        if (size == strlen(key) && memcmp(found, key, size) == 0)
            return value;
    return NULL;
}
