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

#include "handover.h"

#include <stdbool.h>
#include <stdint.h>

struct invalidator;
struct server;

/* invalidator_create: NULL with errno. Where the kernel is older it does nothing. */
struct invalidator *invalidator_create(struct server *server);
/* invalidator_stop ends the thread. Accepts NULL; the second time it does nothing. */
void invalidator_stop(struct invalidator *invalidator);
/* invalidator_pause does that within so many seconds, or returns false: a READ may hold it up for
 * as long as a job runs. */
bool invalidator_pause(struct invalidator *invalidator, unsigned seconds);
/* invalidator_save leaves what is not done to the next daemon; the thread has ended. */
void invalidator_save(const struct invalidator *invalidator, struct handover *handover);
/* invalidator_is_needed: does this kernel's NFS server read through the cache? */
bool invalidator_is_needed(const struct invalidator *invalidator);
void invalidator_destroy(struct invalidator *invalidator); /* accepts NULL */
/* invalidator_post: what the kernel holds of the inode is out of date. Never waits. */
void invalidator_post(struct invalidator *invalidator, uint64_t ino);

#endif
