/*
 * Requests that would have to wait for the disk, since their VM has used up the numbers that are
 * reserved for it, and those that take long: they are done in a thread of the VM's own.
 */
#ifndef VGPUFS_FS_LATER_H
#define VGPUFS_FS_LATER_H

#define FUSE_USE_VERSION 312

#include <fuse3/fuse_lowlevel.h>
#include <stdbool.h>

struct vm;
struct handle;
struct worker;

typedef void fs_name_fn(fuse_req_t request, fuse_ino_t parent, const char *name,
                        struct fuse_file_info *info);

/* Both take the request, and copy what is given. False without memory: nothing was done. */
bool fs_later_name(struct worker *worker, fs_name_fn *run, fuse_req_t request, fuse_ino_t parent,
                   const char *name, const struct fuse_file_info *info);
typedef void fs_write_fn(struct handle *handle, fuse_req_t request, const char *bytes, size_t size,
                         uint64_t offset);
bool fs_later_write(struct vm *vm, fs_write_fn *run, struct handle *handle, fuse_req_t request,
                    const char *bytes, size_t size, uint64_t offset);

#endif
