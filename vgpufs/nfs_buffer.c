#include "nfs_buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum {
    KNOWN = 1, /* it was written */
    FRESH = 2, /* … and not handed out since */
    BREAK = 4, /* a line was handed out that ended here without a newline */
    REFUSED = 8,
};

void nfs_buffer_finish(struct nfs_buffer *buffer)
{
    free(buffer->bytes);
    free(buffer->flags);
    *buffer = (struct nfs_buffer){0};
}

uint64_t nfs_buffer_size(const struct nfs_buffer *buffer)
{
    return buffer->base + buffer->size;
}

static size_t capacity_for(const struct nfs_buffer *buffer, size_t size)
{
    size_t capacity = buffer->capacity ? buffer->capacity : 256;
    while (capacity < size)
        capacity *= 2;
    return capacity;
}

static int reserve(struct nfs_buffer *buffer, size_t size)
{
    size_t capacity = capacity_for(buffer, size);
    if (capacity == buffer->capacity)
        return 0;
    char *bytes = realloc(buffer->bytes, capacity);
    if (bytes)
        buffer->bytes = bytes;
    unsigned char *flags = realloc(buffer->flags, capacity);
    if (flags)
        buffer->flags = flags;
    if (!bytes || !flags)
        return -1;
    buffer->capacity = capacity;
    return 0;
}

int nfs_buffer_preset(struct nfs_buffer *buffer, const char *bytes, size_t size)
{
    nfs_buffer_finish(buffer);
    if (reserve(buffer, size) < 0)
        return -1;
    if (size)
        memcpy(buffer->bytes, bytes, size);
    memset(buffer->flags, KNOWN, size);
    buffer->size = buffer->cursor = size;
    return 0;
}

int nfs_buffer_take(struct nfs_buffer *buffer, const char *bytes, const char *flags, size_t size)
{
    if (reserve(buffer, size) < 0)
        return -1;
    if (size)
        memcpy(buffer->bytes, bytes, size);
    buffer->size = size;
    buffer->fresh = 0;
    for (size_t at = 0; at < size; at++) {
        /* What was never written cannot be new, nor anything else. */
        buffer->flags[at] =
            flags[at] & KNOWN ? (unsigned char)flags[at] & (KNOWN | FRESH | BREAK | REFUSED) : 0;
        buffer->fresh += (buffer->flags[at] & FRESH) != 0;
        if (buffer->flags[at] & FRESH && at < buffer->cursor)
            buffer->cursor = at;
    }
    return 0;
}

/* below_base narrows a write to what lies behind the base. */
static void below_base(const struct nfs_buffer *buffer, uint64_t *offset, const char **bytes,
                       size_t *size)
{
    if (*offset >= buffer->base)
        return;
    uint64_t below = buffer->base - *offset;
    size_t skipped = below < *size ? (size_t)below : *size;
    *offset += skipped;
    *size -= skipped;
    if (*bytes)
        *bytes += skipped;
}

size_t nfs_buffer_growth(const struct nfs_buffer *buffer, uint64_t offset, size_t size)
{
    const char *none = NULL;
    below_base(buffer, &offset, &none, &size);
    if (size == 0 || offset - buffer->base > buffer->size + NFS_BUFFER_AHEAD)
        return 0;
    size_t end = (size_t)(offset - buffer->base) + size;
    return end > buffer->capacity ? capacity_for(buffer, end) - buffer->capacity : 0;
}

static void mark_fresh(struct nfs_buffer *buffer, size_t at)
{
    buffer->fresh += !(buffer->flags[at] & FRESH);
    buffer->flags[at] = KNOWN | FRESH;
    if (at < buffer->cursor)
        buffer->cursor = at;
}

int nfs_buffer_write(struct nfs_buffer *buffer, uint64_t offset, const char *bytes, size_t size,
                     bool again)
{
    below_base(buffer, &offset, &bytes, &size);
    if (size == 0)
        return 0;
    if (offset - buffer->base > buffer->size + NFS_BUFFER_AHEAD)
        return EFBIG;
    size_t start = (size_t)(offset - buffer->base), end = start + size, before = buffer->fresh;
    if (reserve(buffer, end) < 0)
        return ENOSPC;
    if (end > buffer->size) {
        memset(buffer->bytes + buffer->size, 0, end - buffer->size);
        memset(buffer->flags + buffer->size, 0, end - buffer->size);
        buffer->size = end;
    }
    bool differs = false;
    for (size_t i = 0; i < size; i++) {
        size_t at = start + i;
        if (buffer->flags[at] & KNOWN && buffer->bytes[at] == bytes[i])
            continue;
        buffer->bytes[at] = bytes[i];
        mark_fresh(buffer, at);
        differs = true;
    }
    if (again && !differs && buffer->fresh == before)
        for (size_t at = start; at < end; at++)
            mark_fresh(buffer, at);
    return 0;
}

static bool is_known(const struct nfs_buffer *buffer, size_t at)
{
    return buffer->flags[at] & KNOWN;
}

static bool ends_line(const struct nfs_buffer *buffer, size_t at)
{
    return buffer->bytes[at] == '\n' || buffer->flags[at] & BREAK;
}

/* cursor_move goes to the next new byte; false if there is none, or something is missing before. */
static bool cursor_move(struct nfs_buffer *buffer, bool all)
{
    buffer->gap = false;
    if (buffer->fresh == 0) {
        buffer->cursor = buffer->size;
        return false;
    }
    for (; buffer->cursor < buffer->size; buffer->cursor++) {
        if (buffer->flags[buffer->cursor] & FRESH)
            return true;
        if (is_known(buffer, buffer->cursor) || all)
            continue;
        buffer->gap = true;
        return false;
    }
    return false;
}

/* settle: the bytes from `start` up to `end` are handed out. */
static void settle(struct nfs_buffer *buffer, size_t start, size_t end)
{
    for (size_t at = start; at < end; at++) {
        buffer->fresh -= (buffer->flags[at] & FRESH) != 0;
        buffer->flags[at] &= (unsigned char)~FRESH;
    }
    if (buffer->cursor < end)
        buffer->cursor = end;
}

enum nfs_line nfs_buffer_next(struct nfs_buffer *buffer, bool all, struct line *line,
                              char storage[LINES_MAX_LINE + 1])
{
    if (!cursor_move(buffer, all))
        return NFS_LINE_NONE;
    size_t start = buffer->cursor, end = buffer->cursor;
    while (start > 0 && is_known(buffer, start - 1) && !ends_line(buffer, start - 1))
        start--;
    while (end < buffer->size && is_known(buffer, end) && !ends_line(buffer, end))
        end++;
    bool closed = end < buffer->size && is_known(buffer, end);
    bool newline = closed && buffer->bytes[end] == '\n';
    size_t stop = closed ? end + 1 : end; /* behind the newline, if it has one */
    size_t size = stop - start - newline;
    bool is_long = size > LINES_MAX_LINE || (start == 0 && buffer->inside_long);
    if (!closed && !is_long && !all) {
        buffer->gap = end < buffer->size;
        return NFS_LINE_NONE;
    }
    if (size > LINES_MAX_LINE)
        size = LINES_MAX_LINE;
    memcpy(storage, buffer->bytes + start, size);
    storage[size] = '\0';
    *line = (struct line){.bytes = storage, .size = size, .newline = newline};
    settle(buffer, start, stop);
    buffer->last_start = start;
    buffer->last_stop = stop;
    /* What follows a line that was taken as finished is another one; what follows a part of a long
     * one belongs to it. */
    if (!closed && !is_long)
        buffer->flags[stop - 1] |= BREAK;
    return is_long ? NFS_LINE_LONG : NFS_LINE_WHOLE;
}

void nfs_buffer_refuse(struct nfs_buffer *buffer)
{
    for (size_t at = buffer->last_start; at < buffer->last_stop; at++)
        buffer->flags[at] |= REFUSED;
}

void nfs_buffer_repeat(struct nfs_buffer *buffer, uint64_t offset, size_t size)
{
    const char *none = NULL;
    below_base(buffer, &offset, &none, &size);
    for (uint64_t at = offset - buffer->base; size > 0 && at < buffer->size; at++, size--)
        if (buffer->flags[at] & REFUSED)
            mark_fresh(buffer, (size_t)at);
}

void nfs_buffer_trim(struct nfs_buffer *buffer)
{
    size_t settled = buffer->fresh ? buffer->cursor : buffer->size;
    if (settled < 2 * NFS_BUFFER_KEEP)
        return;
    size_t cut = settled - NFS_BUFFER_KEEP;
    /* A line that reaches further back than what is kept is too long whatever comes. */
    buffer->inside_long = !ends_line(buffer, cut - 1);
    for (size_t at = cut; at < settled && buffer->inside_long; at++)
        if (ends_line(buffer, at)) {
            buffer->inside_long = false;
            cut = at + 1;
        }
    memmove(buffer->bytes, buffer->bytes + cut, buffer->size - cut);
    memmove(buffer->flags, buffer->flags + cut, buffer->size - cut);
    buffer->base += cut;
    buffer->size -= cut;
    buffer->cursor -= cut;
    size_t capacity = capacity_for(&(struct nfs_buffer){0}, buffer->size);
    char *bytes = realloc(buffer->bytes, capacity);
    if (bytes)
        buffer->bytes = bytes;
    unsigned char *flags = realloc(buffer->flags, capacity);
    if (flags)
        buffer->flags = flags;
    buffer->capacity =
        capacity; /* a smaller one never fails for both, and then it only is larger */
}
