/*
 * The FUSE session: mounting, the receive loop in several threads on one
 * descriptor, unmounting. Not thread-safe: the main thread's.
 */
#ifndef VGPUFS_SESSION_H
#define VGPUFS_SESSION_H

#include "handover.h"

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
    bool take_over;            /* a daemon that serves is to leave */
};

/* session_take_over has the daemon that serves leave, and takes the mount from it: first of all, as
 * it has the state too. -1, and *error in one line. */
int session_take_over(const char *mountpoint, const struct session_options *options,
                      struct text *error);
/*
 * session_mount mounts on the prepared folder, or takes the mount from vgpufs-mount and goes on
 * with what the daemon before has left, and starts the threads; server->session is set. Returns
 * when the kernel has said hello. -1, and *error in one line.
 */
int session_mount(struct server *server, const char *mountpoint,
                  const struct session_options *options, struct text *error);
/* session_can_leave: may the next daemon go on with this mount? */
bool session_can_leave(void);
/*
 * Leaving, in this order: session_stop_reading ends the threads, and what they had read is worked
 * off; session_save notes what the kernel was told; and when all else has ended session_leave gives
 * the file of a handover to the next daemon.
 */
void session_stop_reading(void);
void session_save(struct handover *handover);
void session_leave(int state);
/*
 * session_unmount ends the threads and unmounts, or gives the mount back. Requests that are still
 * waiting are aborted. With `left` the mount stays as it is.
 */
void session_unmount(struct server *server, bool left);
/* session_ask wakes the threads for an answer; session_is_silent: one has not given it yet, or was
 * just about to wait for the next request and was not woken: it must be asked again. */
void session_ask(void);
bool session_is_silent(void);
/* session_was_taken_away: has somebody else unmounted it? */
bool session_was_taken_away(void);

/* session_is_private: as a plain user without user_allow_other in fuse.conf, only that user can
 * use the mount. */
int session_is_private(void);

#endif
