/*
 * Replies that wait for the disk: to FLUSH, FSYNC and an NFS server's WRITE.
 * They are sent when the state has written what was asked for, by a thread of
 * the state's, so that many submitters share one sync and none costs a thread.
 * Thread-safe.
 */
#ifndef VGPUFS_DURABLE_H
#define VGPUFS_DURABLE_H

#define FUSE_USE_VERSION 312

#include "state.h"

#include <fuse3/fuse_lowlevel.h>

/* durable_reply replies 0 once all up to the ticket is on disk, or the errno of the disk. */
void durable_reply(struct state *state, fuse_req_t request, state_ticket ticket);
/* durable_reply_write is that for a WRITE of so many bytes. */
void durable_reply_write(struct state *state, fuse_req_t request, state_ticket ticket, size_t size);
/* durable_reply_later replies to a WRITE that succeeded, but not before all up to the ticket is in
 * the state or cannot be written: so that its sender asks for no more than can be. */
void durable_reply_later(struct state *state, fuse_req_t request, state_ticket ticket, size_t size);

#endif
