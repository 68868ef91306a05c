/*
 * What an NFS server sees of the files that the daemon makes up: `status`,
 * `stats` and their like.
 *
 * A guest's kernel takes the size from the attributes and the bytes from READ,
 * which are requests of their own, and shows NULs or cuts the end off where the
 * two differ. So the answers come from a version that is kept: the attributes
 * make a new one, READ returns it, and none is made while somebody is between
 * the pieces of a long one. Versions of a file have the same size, with blanks
 * before the last newline, as far as that can be: what is said may grow between
 * the attributes and READ. When it outgrows that, who asks for just the size of
 * the version before gets that one, for a while.
 *
 * Thread-safe. The VM's lock is taken without the lock of the views.
 */
#ifndef VGPUFS_NFS_VIEW_H
#define VGPUFS_NFS_VIEW_H

#include "blob.h"
#include "table.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>

struct node;

/* A VM's, or the root's. */
struct nfs_views {
    pthread_mutex_t lock; /* guards all below */
    struct table views;
};

void nfs_views_init(struct nfs_views *views);
void nfs_views_finish(struct nfs_views *views);

/* All of these are of a node that renders text. */

/* nfs_view_stat makes the version that READ will return: 0 or an errno. */
int nfs_view_stat(const struct node *node, off_t *size, struct timespec *changed);
/* nfs_view_peek returns false unless an NFS server has used the file a moment ago. */
bool nfs_view_peek(const struct node *node, off_t *size, struct timespec *changed);
/* nfs_view_read returns a reference to the version, or NULL without memory. The part of it that is
 * read begins at `offset` and has `size` bytes. */
struct blob *nfs_view_read(const struct node *node, uint64_t offset, size_t size);

#endif
