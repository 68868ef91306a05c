/*
 * The FUSE session: mounting, the receive loop in several threads on one
 * descriptor, unmounting. Not thread-safe: the main thread's.
 */
#ifndef VGPUFS_SESSION_H
#define VGPUFS_SESSION_H

#include "common/text.h"

#include <stdbool.h>

struct server;

/*
 * session_prepare makes the mountpoint if it is missing, and takes away what a dead daemon left
 * there. -1, and *error in one line.
 */
int session_prepare(const char *mountpoint, struct text *error);

/* How the mount is made. */
struct session_options {
    const char *mount_options; /* beyond our own; NULL: none */
    const char *mount_socket;  /* of vgpufs-mount(8), which mounts in our place; NULL: we do */
};

/*
 * session_mount mounts on the prepared folder, or takes the mount from vgpufs-mount, and starts the
 * threads; server->session is set. Returns when the kernel has said hello. -1, and *error in one
 * line.
 */
int session_mount(struct server *server, const char *mountpoint,
                  const struct session_options *options, struct text *error);
/*
 * session_unmount ends the threads and unmounts, or gives the mount back. Requests that are still
 * waiting are aborted.
 */
void session_unmount(struct server *server);
/* session_ask wakes the threads for an answer; session_is_silent: one has not given it yet. */
void session_ask(void);
bool session_is_silent(void);
/* session_was_taken_away: has somebody else unmounted it? */
bool session_was_taken_away(void);

/* session_is_private: as a plain user without user_allow_other in fuse.conf, only that user can
 * use the mount. */
int session_is_private(void);

#endif
