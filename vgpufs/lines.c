#include "lines.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* What an unfinished line may take beyond twice its length: a VM may leave very many of them. */
#define SPARE_ROOM 256
/* A write of no more bytes, or lines, costs no allocation. */
#define FEW_BYTES 512
#define FEW_LINES 8

void lines_finish(struct lines *lines)
{
    text_finish(&lines->pending);
}

bool line_is_ignored(const struct line *line)
{
    size_t blanks = 0;
    while (blanks < line->size && (line->bytes[blanks] == ' ' || line->bytes[blanks] == '\t'))
        blanks++;
    return blanks == line->size || line->bytes[0] == '#';
}

/*
 * batch_split cuts `bytes`, each newline of which becomes a NUL, into lines. Returns how many
 * bytes belong to complete lines, or -1 if one of them is too long.
 */
static ssize_t batch_split(char *bytes, size_t size, bool newline, struct line *batch,
                           size_t *count)
{
    size_t start = 0;
    *count = 0;
    for (char *end; (end = memchr(bytes + start, '\n', size - start));) {
        struct line line = {
            .bytes = bytes + start, .size = (size_t)(end - bytes) - start, .newline = newline};
        if (line.size > LINES_MAX_LINE)
            return -1;
        *end = '\0';
        if (!line_is_ignored(&line))
            batch[(*count)++] = line;
        start = (size_t)(end - bytes) + 1;
    }
    return size - start > LINES_MAX_LINE ? -1 : (ssize_t)start;
}

size_t lines_count(const char *bytes, size_t size)
{
    size_t count = 0;
    for (const char *end = bytes + size; (bytes = memchr(bytes, '\n', (size_t)(end - bytes)));
         bytes++)
        count++;
    return count;
}

/* lines_process hands over the lines that `bytes`, which it may change, complete. They end at
 * *used. */
static int lines_process(const struct lines *lines, char *bytes, size_t size, size_t *used,
                         lines_accept_fn *accept, void *context)
{
    size_t newlines = lines_count(bytes, size), count;
    struct line few[FEW_LINES];
    *used = 0;
    if (newlines == 0)
        return size > LINES_MAX_LINE ? EFBIG : 0;
    struct line *batch = newlines <= FEW_LINES ? few : calloc(newlines, sizeof(*batch));
    if (!batch)
        return ENOSPC;
    ssize_t whole = batch_split(bytes, size, !lines->flushing, batch, &count);
    int error = whole < 0 ? EFBIG : count ? accept(context, batch, count) : 0;
    if (batch != few)
        free(batch);
    *used = error ? 0 : (size_t)whole;
    return error;
}

/* lines_join puts the bytes behind the unfinished line, and keeps what is left unfinished then. */
static int lines_join(struct lines *lines, const char *bytes, size_t size, lines_accept_fn *accept,
                      void *context)
{
    struct text *pending = &lines->pending;
    size_t used;
    text_append(pending, bytes, size);
    if (pending->failed)
        return ENOSPC;
    int error = lines_process(lines, pending->data, pending->size, &used, accept, context);
    size_t rest = pending->size - used;
    memmove(pending->data, pending->data + used, rest);
    pending->size = rest;
    pending->data[rest] = '\0';
    return error;
}

/* lines_whole is lines_join for few bytes that leave nothing unfinished, behind nothing. */
static int lines_whole(struct lines *lines, const char *bytes, size_t size, lines_accept_fn *accept,
                       void *context)
{
    char copy[FEW_BYTES];
    size_t used;
    memcpy(copy, bytes, size);
    return lines_process(lines, copy, size, &used, accept, context);
}

/* lines_settle drops the buffer after an error, and a large one that is no longer needed. */
static int lines_settle(struct lines *lines, int error)
{
    struct text *pending = &lines->pending;
    if (error || pending->size == 0) {
        text_finish(pending);
    } else if (pending->capacity > SPARE_ROOM + 2 * pending->size) {
        struct text rest = {0};
        text_append(&rest, pending->data, pending->size);
        if (!rest.failed) {
            text_finish(pending);
            *pending = rest;
        }
    }
    return error;
}

int lines_write(struct lines *lines, const char *bytes, size_t size, lines_accept_fn *accept,
                void *context)
{
    if (size > LINES_MAX_BATCH)
        return lines_settle(lines, EFBIG);
    if (size == 0)
        return 0;
    bool whole = lines->pending.size == 0 && size <= FEW_BYTES && bytes[size - 1] == '\n';
    int error = (whole ? lines_whole : lines_join)(lines, bytes, size, accept, context);
    return lines_settle(lines, error);
}

int lines_flush(struct lines *lines, lines_accept_fn *accept, void *context)
{
    if (lines->pending.size == 0)
        return 0;
    lines->flushing = true;
    int error = lines_write(lines, "\n", 1, accept, context);
    lines->flushing = false;
    return error;
}
