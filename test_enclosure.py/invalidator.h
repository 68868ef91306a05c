/*
 * Takes what the kernel has cached of a result away when there is a newer one.
 *
 * Results are opened with direct_io, so local processes never read the cache.
 * But since Linux 6.5 (commit 2cb1e08985e3, "splice: Use filemap_splice_read()
 * instead of generic_file_splice_read()") the kernel's NFS server reads every
 * file through it. Taking pages away waits for READs that are under way, so it
 * has a thread of its own that answers nothing, and comes after the answers.
 *
 * Thread-safe; its lock is taken under any other.
 */
#ifndef VGPUFS_INVALIDATOR_H
#define VGPUFS_INVALIDATOR_H

#include <stdint.h>

struct invalidator;
struct server;

/* invalidator_create: NULL with errno. Where the kernel is older it does nothing. */
struct invalidator *invalidator_create(struct server *server);
/* invalidator_stop ends the thread; what is posted after that is forgotten. Accepts NULL. */
void invalidator_stop(struct invalidator *invalidator);
void invalidator_destroy(struct invalidator *invalidator); /* accepts NULL */
/* invalidator_post: what the kernel holds of the inode is out of date. Never waits. */
void invalidator_post(struct invalidator *invalidator, uint64_t ino);

#endif
