/*
 * The bytes that an NFS client writes to a file of lines -> complete lines.
 *
 * A client writes pages, not lines: it sends bytes again that it has sent
 * before, cuts one write(2) anywhere into several, and may send the pieces in
 * any order. So this is a file: what is the same as before says nothing, what
 * is new or different makes the line that it stands in a new one, and lines are
 * handed out in the file's order as soon as nothing before them is missing.
 *
 * Not thread-safe: the owner's lock guards it.
 */
#ifndef VGPUFS_NFS_BUFFER_H
#define VGPUFS_NFS_BUFFER_H

#include "lines.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How far behind the end a piece may begin that comes too early. */
#define NFS_BUFFER_AHEAD (4u << 20)
/* So much of what was handed out is kept, to be compared with what comes again: clients repeat the
 * part of one page (or folio) that they had already. What lies before it counts as the same. */
#define NFS_BUFFER_KEEP (256u << 10)

/* All zero is an empty file. */
struct nfs_buffer {
    uint64_t base; /* the file's offset of bytes[0] */
    char *bytes;
    unsigned char *flags; /* one for each byte */
    size_t size, capacity;
    size_t cursor;                /* nothing before it is new */
    size_t fresh;                 /* bytes that are new */
    size_t last_start, last_stop; /* of the line that was handed out last */
    bool gap;                     /* the last nfs_buffer_next stopped at bytes that are missing */
    bool inside_long;             /* bytes[0] belongs to a line that is too long */
};

void nfs_buffer_finish(struct nfs_buffer *buffer);
/* nfs_buffer_preset makes the buffer a file of these bytes, none of them new. -1 without memory. */
int nfs_buffer_preset(struct nfs_buffer *buffer, const char *bytes, size_t size);
/* nfs_buffer_growth is how many bytes of memory the write would cost more, at least. */
size_t nfs_buffer_growth(const struct nfs_buffer *buffer, uint64_t offset, size_t size);
/*
 * nfs_buffer_write: 0, EFBIG if it lies too far behind the end, or ENOSPC without memory. `again`:
 * if nothing in it differs, all of it is new nevertheless.
 */
int nfs_buffer_write(struct nfs_buffer *buffer, uint64_t offset, const char *bytes, size_t size,
                     bool again);
/* nfs_buffer_size is the file's size. */
uint64_t nfs_buffer_size(const struct nfs_buffer *buffer);

enum nfs_line { NFS_LINE_NONE, NFS_LINE_WHOLE, NFS_LINE_LONG };
/*
 * nfs_buffer_next hands out the next new line, and fills in *line and `storage`. With `all`, an
 * unfinished line counts as finished, and missing bytes as there. NFS_LINE_LONG: it has more than
 * LINES_MAX_LINE bytes, of which the first are handed out.
 */
enum nfs_line nfs_buffer_next(struct nfs_buffer *buffer, bool all, struct line *line,
                              char storage[LINES_MAX_LINE + 1]);
/* nfs_buffer_refuse: the line that was handed out last was refused. nfs_buffer_repeat makes the
 * refused ones in that part of the file new again. */
void nfs_buffer_refuse(struct nfs_buffer *buffer);
void nfs_buffer_repeat(struct nfs_buffer *buffer, uint64_t offset, size_t size);
/* nfs_buffer_trim gives up memory that is not needed any more. */
void nfs_buffer_trim(struct nfs_buffer *buffer);

#endif
