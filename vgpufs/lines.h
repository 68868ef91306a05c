/*
 * The bytes that a local process writes -> complete lines. An unfinished line
 * belongs to the open file; offsets are ignored, as for any device that is
 * written line by line.
 *
 * Not thread-safe: the handle's lock guards it.
 */
#ifndef VGPUFS_LINES_H
#define VGPUFS_LINES_H

#include "common/text.h"

#include <stdbool.h>
#include <stddef.h>

#define LINES_MAX_LINE 4095 /* bytes, without the newline */
/*
 * One write of at most this many bytes is one batch. FUSE hands over at most
 * 256 pages at a time and cuts a longer write(2) into several requests, the
 * first of which is larger than this wherever the caller's buffer begins. So a
 * batch is never cut in two, and one that would be is refused whole.
 */
#define LINES_MAX_BATCH (1024 * 1024 - 4096)

struct line {
    const char *bytes; /* followed by a NUL in memory, may hold further NULs */
    size_t size;       /* without the newline */
    bool newline;      /* written by the guest; false for a line that a flush completed */
};

/* All zero is a valid empty buffer. */
struct lines {
    struct text pending; /* the unfinished line */
    bool flushing;       /* its newline is ours */
};

void lines_finish(struct lines *lines);

/* lines_count counts newlines. */
size_t lines_count(const char *bytes, size_t size);
/* line_is_ignored: it is blank, or a comment. */
bool line_is_ignored(const struct line *line);

/* Called with the complete lines of one write; returns 0 or an errno. Blank lines and lines that
 * start with # are not among them. */
typedef int lines_accept_fn(void *context, const struct line *batch, size_t count);

/*
 * lines_write takes `size` bytes and hands all lines that they complete to
 * `accept` in one call. Returns 0, EFBIG, ENOSPC without memory, or what accept returned; after an
 * error the unfinished line is forgotten too.
 */
int lines_write(struct lines *lines, const char *bytes, size_t size, lines_accept_fn *accept,
                void *context);
/* lines_flush completes the unfinished line, if there is one. */
int lines_flush(struct lines *lines, lines_accept_fn *accept, void *context);

#endif
