/*
 * The FUSE low-level operations: look the node up, hand over, reply now or
 * later. Run by the session's threads, all at once.
 */
#ifndef VGPUFS_FS_H
#define VGPUFS_FS_H

#define FUSE_USE_VERSION 312

#include <fuse3/fuse_lowlevel.h>

/* The session's user data is the struct server. */
extern const struct fuse_lowlevel_ops fs_operations;

#endif
