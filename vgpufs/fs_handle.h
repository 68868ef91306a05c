/*
 * Open files: what reading and writing means for each sort of node.
 *
 * A handle is made by OPEN, freed by RELEASE, and used by any number of threads
 * in between. It has its own locks for what is its own.
 */
#ifndef VGPUFS_FS_HANDLE_H
#define VGPUFS_FS_HANDLE_H

#define FUSE_USE_VERSION 312

#include "blob.h"
#include "handover.h"
#include "listing.h"
#include "nodes.h"

#include <fuse3/fuse_lowlevel.h>

struct handle;

/*
 * handle_open makes the handle of the node's file and keeps it in info->fh: 0 or an errno. `uid`:
 * who opens it. `nfs`: it is an NFS server's, and so is all that is done with it.
 */
int handle_open(const struct node *node, struct fuse_file_info *info, uid_t uid, bool nfs);
struct handle *handle_of(const struct fuse_file_info *info);
void handle_close(struct handle *handle);

/* handles_wait_readers waits until no `result` is open, at most `ms`: so that who got the result of
 * a job that ended at the last moment can read on to its end. */
void handles_wait_readers(unsigned ms);
/* handles_save notes all that are open for the next daemon, when no request can come any more;
 * handles_leave has it find the bytes of those that have no name. handles_restore opens what was
 * noted: -1 if that cannot be. */
void handles_save(struct handover *handover);
void handles_leave(void);
int handles_restore(struct server *server, const struct handover *handover);
/* handles_finish frees all that are open, when no request can come any more. */
void handles_finish(void);
/* handle_node is what the handle has open; its references are the handle's. */
const struct node *handle_node(const struct handle *handle);
/* handle_note_read tells the VM that a result was read to its end. */
void handle_note_read(const struct node *node, const struct blob *content);
/* handle_listing: of an open directory; NULL of one that is gone. */
const struct listing *handle_listing(const struct handle *handle);

/* These reply, at once or when a job has ended. */
void handle_read(struct handle *handle, fuse_req_t request, size_t size, uint64_t offset);
void handle_write(struct handle *handle, fuse_req_t request, struct fuse_bufvec *in,
                  uint64_t offset);

/* These reply, at once or when what was accepted is on disk. */
void handle_flush(struct handle *handle, fuse_req_t request);
void handle_fsync(struct handle *handle, fuse_req_t request);

void handle_allocate(struct handle *handle, fuse_req_t request, uint64_t offset, uint64_t length);
/* handle_poll returns what is ready. It takes `poll` (NULL: nobody waits). */
unsigned handle_poll(struct handle *handle, struct fuse_pollhandle *poll);

#endif
