/*
 * Frames: what the daemon and an executor say to each other, on the executor's
 * standard input and output. vgpufs-executor(7) is the specification.
 *
 * A frame is a header of 24 bytes, little endian, then `fields_size` bytes of
 * NUL-terminated "key=value" strings, then `payload_size` bytes of payload:
 *
 *   offset  0  u32  FRAME_MAGIC
 *           4  u16  type
 *           6  u16  0
 *           8  u64  attempt (0 where the frame belongs to no job)
 *          16  u32  fields_size   at most FRAME_MAX_FIELDS
 *          20  u32  payload_size  at most FRAME_MAX_PAYLOAD
 *
 * Pure functions over memory, no I/O; a reader belongs to one thread at a time.
 */
#ifndef VGPUFS_COMMON_FRAME_H
#define VGPUFS_COMMON_FRAME_H

#include "text.h"

#include <stdint.h>

#define FRAME_PROTOCOL    1           /* raised when an older peer would misunderstand */
#define FRAME_MAGIC       0x55504756u /* "VGPU" */
#define FRAME_HEADER_SIZE 24
#define FRAME_MAX_FIELDS  (64u * 1024)
#define FRAME_MAX_PAYLOAD (256u * 1024)
/* One message carries at most this many descriptors (SCM_RIGHTS). */
#define FRAME_MAX_DESCRIPTORS 16

enum frame_type {
    FRAME_HELLO = 1,    /* both ways, first of all */
    FRAME_JOB = 2,      /* daemon: run this */
    FRAME_CANCEL = 3,   /* daemon: end the job of this attempt soon */
    FRAME_OUTPUT = 4,   /* executor: payload is the next piece of the job's output */
    FRAME_PROGRESS = 5, /* executor: value=0.42 */
    FRAME_RESERVE = 6,  /* executor: param=out bytes=N, before it writes that much */
    FRAME_RESERVED = 7, /* daemon: the answer; error= if it may not */
    FRAME_DONE = 8,     /* executor: status=done|failed|cancelled, the job's last frame */
    FRAME_REFUSE = 9,   /* executor, instead of a hello: error= says why it cannot serve */
    FRAME_READING = 10, /* executor: what it measures of the device, if the hello asked for it */
};

struct frame {
    enum frame_type type;
    uint64_t attempt;
    const char *fields; /* NUL-terminated strings; the last byte is NUL if there are any */
    size_t fields_size;
    const char *payload;
    size_t payload_size;
};

/*
 * Building: frame_begin, a field for each key (frame_text,
 * frame_number, or frame_field for what needs printf), then frame_end with the
 * payload. Several frames may be built one behind the other in one text. A
 * frame over the limits, or a value with a NUL, sets text->failed.
 */
struct frame_builder {
    struct text *text;
    size_t start; /* of this frame in the text */
};

struct frame_builder frame_begin(struct text *text, enum frame_type type, uint64_t attempt);
void frame_field(struct frame_builder *builder, const char *key, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void frame_text(struct frame_builder *builder, const char *key, const char *value);
void frame_number(struct frame_builder *builder, const char *key, uint64_t value);
void frame_end(struct frame_builder *builder, const void *payload, size_t size);

/* All zero is a valid empty reader. */
struct frame_reader {
    struct text buffer;
    size_t offset; /* of the first byte that no frame has been made of yet */
};

void frame_reader_finish(struct frame_reader *reader);
/* frame_reader_space returns where at least `size` bytes may be read to, or NULL. */
char *frame_reader_space(struct frame_reader *reader, size_t size);
/* frame_reader_fed tells that `size` bytes were put there. */
void frame_reader_fed(struct frame_reader *reader, size_t size);
/*
 * frame_reader_next: 1 and *frame, whose pointers are valid until the next call
 * on this reader; 0 if more bytes are needed; -1 if the peer does not speak the
 * protocol, and *error says why.
 */
int frame_reader_next(struct frame_reader *reader, struct frame *frame, const char **error);

/* frame_get returns the value of the first field of that key, or NULL. */
const char *frame_get(const struct frame *frame, const char *key);
/*
 * frame_each walks the fields: start with *cursor = NULL; returns false at the end. Key and
 * value point into the frame; the key is not NUL-terminated and has *key_size bytes.
 */
bool frame_each(const struct frame *frame, const char **cursor, const char **key, size_t *key_size,
                const char **value);

#endif
