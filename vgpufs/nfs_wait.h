/*
 * Waiting for a result on behalf of an NFS server.
 *
 * A guest's kernel takes what a file holds from its attributes, and reads no
 * further; what it has read it keeps until they change. So while the job is
 * pending GETATTR, OPEN and READ of its result all wait, for at most `hold`, and
 * then are EAGAIN: the server tells the guest to ask again, which its kernel
 * does by itself. LOOKUP never waits. Once a size was told, READ returns those
 * very bytes, whatever was submitted since.
 *
 * No thread waits: requests are parked, and done again from the start when
 * there may be something to tell. Thread-safe; its lock is taken under a VM's.
 */
#ifndef VGPUFS_NFS_WAIT_H
#define VGPUFS_NFS_WAIT_H

#define FUSE_USE_VERSION 312

#include "nfs_turns.h"

#include <fuse3/fuse_lowlevel.h>
#include <stdbool.h>

struct config;
struct handle;
struct job;
struct node;
struct parked;
struct server;
struct vm;

struct nfs_wait;

/* nfs_wait_create starts the thread that ends what has waited too long. NULL with errno. */
struct nfs_wait *nfs_wait_create(struct server *server);
/* nfs_wait_stop ends the thread, when no job is pending any more; requests may still come. */
void nfs_wait_stop(struct nfs_wait *wait);    /* accepts NULL; the second time it does nothing */
void nfs_wait_destroy(struct nfs_wait *wait); /* accepts NULL */
/* nfs_wait_ask wakes the thread for an answer; nfs_wait_is_silent: there is none yet. */
void nfs_wait_ask(struct nfs_wait *wait);
bool nfs_wait_is_silent(const struct nfs_wait *wait);
void nfs_wait_limit(struct nfs_wait *wait, const struct config *config);

/* These answer the request, of an NFS server, now or later. The node's content is a result. */
void nfs_wait_getattr(fuse_req_t request, const struct node *node);
void nfs_wait_open(fuse_req_t request, const struct node *node, const struct fuse_file_info *info);
void nfs_wait_read(fuse_req_t request, struct handle *handle, size_t size, uint64_t offset);

/*
 * nfs_wait_looked: that thread is just being told these attributes of the node, which is a result.
 * Since Linux 6.5 (commit 2cb1e08985e3, "splice: Use filemap_splice_read() instead of
 * generic_file_splice_read()") its NFS server reads through the page cache, up to the size that the
 * inode has; and the reply to a GETATTR changes nothing of an inode that another reply has changed
 * since it was sent (attr_version in fuse_change_attributes). So a GETATTR that waits while others
 * look would leave the inode with their size, which is an older one: it is EAGAIN, and the next is
 * taken. Not if who asks has looked itself: a thread has taken an answer before it asks again. For
 * the same reason nothing is invalidated by a notification, which counts as a change:
 * that the modification time is another one empties the cache.
 */
void nfs_wait_looked(const struct node *node, const struct stat *stat, pid_t thread);

/* nfs_wait_leave: a parked request waits no longer. Nothing for one that has no turn. */
void nfs_wait_leave(struct nfs_wait *wait, struct nfs_turn *turn);
/* nfs_wait_tick_at: nfs_lines_tick is to be called then. Locks of lines may be held. */
void nfs_wait_tick_at(struct nfs_wait *wait, uint64_t due_us);
/* nfs_wait_moved: the newest entry is another than `job`; who waits for it looks again. The VM is
 * locked. */
void nfs_wait_moved(struct vm *vm, struct job *job);

#endif
