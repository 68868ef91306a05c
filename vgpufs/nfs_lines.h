/*
 * What NFS clients write to `submit`, `command`, `identity`, `ctl` and
 * `request.txt`: one buffer for each file, however often a server opens it.
 *
 * Each line stands alone. It is taken by the WRITE that completes it; one
 * without a newline by the FLUSH that ends a v4 client's CLOSE, or, since v3 has
 * none, when nothing has come for a while: then its error shows only in `status`
 * and `result`. Truncation to nothing begins anew.
 *
 * As long as something is unfinished, the file is what was written. After that
 * what can be read is what was accepted, and what can only be written goes on
 * being what was written, so that a client's next truncation is one, and its
 * appending goes on where it ended.
 *
 * Thread-safe. A VM's lock is taken under the lock of its lines.
 */
#ifndef VGPUFS_NFS_LINES_H
#define VGPUFS_NFS_LINES_H

#include "common/text.h"
#include "handover.h"
#include "table.h"

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct node;
struct server;

/* How much memory the buffers of one VM may take; more is EDQUOT. */
#define NFS_LINES_MAX_BYTES (8u << 20)

/* A VM's, or the root's. */
struct nfs_lines {
    pthread_mutex_t lock; /* guards all below */
    struct table files;
    size_t bytes;    /* of all buffers */
    uint64_t due_us; /* when the next file is due; UINT64_MAX: none is */
};

void nfs_lines_init(struct nfs_lines *lines);
void nfs_lines_finish(struct nfs_lines *lines);

/* All of these are of a node that takes lines, for an NFS server. */

/*
 * nfs_lines_portion is how much of a WRITE is to be taken at once, 1 byte at least if there is one:
 * the client sends the rest again. It bounds how long one WRITE keeps a thread.
 */
size_t nfs_lines_portion(const char *bytes, size_t size);
/* nfs_lines_write: 0, or the errno of the first line that was refused; the others are taken. Where
 * a hole was filled, more lines may be complete than one turn takes: the others follow at ticks. */
int nfs_lines_write(const struct node *node, uint64_t offset, const char *bytes, size_t size);
/* nfs_lines_flush takes what is unfinished: 0 or an errno. */
int nfs_lines_flush(const struct node *node);
/* nfs_lines_truncate: 0, or EINVAL unless the size is 0 or what it is already; EAGAIN while lines
 * that were written before have not had their turn. */
int nfs_lines_truncate(const struct node *node, uint64_t size);
/* nfs_lines_open and nfs_lines_close: a handle for writing. */
void nfs_lines_open(const struct node *node);
void nfs_lines_close(const struct node *node);

/* nfs_lines_size returns false if the file is what the node renders. For any caller. */
bool nfs_lines_size(const struct node *node, uint64_t *size);
/* nfs_lines_render appends what is written and not accepted yet; false as above. */
bool nfs_lines_render(const struct node *node, struct text *text);

/* nfs_lines_save notes what is in the buffers for the next daemon, which nfs_lines_restore takes it
 * with: -1 without memory. No thread serves. */
void nfs_lines_save(const struct nfs_lines *lines, struct handover *handover);
int nfs_lines_restore(struct server *server, const struct handover_lines *saved);

/* nfs_lines_tick takes what has been unfinished for too long; returns when it is to be called
 * again, UINT64_MAX: when nfs_wait_tick_at says so. */
uint64_t nfs_lines_tick(struct server *server, uint64_t now_us);

#endif
