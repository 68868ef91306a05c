/*
 * Open files of data/: reading, writing and syncing their bytes, in the receiving thread or, when
 * too many of those wait for disks, in the VM's own. All of these reply.
 */
#ifndef VGPUFS_DATA_HANDLE_H
#define VGPUFS_DATA_HANDLE_H

#define FUSE_USE_VERSION 312

#include "nodes.h"

#include <fuse3/fuse_lowlevel.h>

/* The node and the descriptor are the handle's: they stay until the reply. */
struct data_handle {
    const struct node *node;
    int descriptor;
};

void data_handle_read(struct data_handle handle, fuse_req_t request, size_t size, uint64_t offset);
void data_handle_write(struct data_handle handle, fuse_req_t request, struct fuse_bufvec *in,
                       uint64_t offset);
void data_handle_sync(struct data_handle handle, fuse_req_t request);
void data_handle_allocate(struct data_handle handle, fuse_req_t request, uint64_t offset,
                          uint64_t length);

#endif
