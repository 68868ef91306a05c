/*
 * The daemon's end of vgpufs-mount(8): the mount comes from that process and goes back to it. One
 * mount a process, like session.h; the main thread's.
 */
#ifndef VGPUFS_HOLDER_CLIENT_H
#define VGPUFS_HOLDER_CLIENT_H

#include "common/text.h"

#include <stdbool.h>

/* What a daemon gets; the descriptors are the caller's. */
struct holder_gift {
    int device; /* /dev/fuse */
    int state;  /* what the daemon before has left (see handover.h); -1: nothing */
};

/*
 * holder_take asks on the socket for the mount. With `take_over` a daemon that has it is asked to
 * leave, and is waited for. -1, and *error in one line: nobody listens, another daemon has it, it
 * is mounted elsewhere than on `mountpoint`.
 */
int holder_take(const char *socket_path, const char *mountpoint, bool take_over,
                struct holder_gift *gift, struct text *error);
/* holder_leave says that this daemon is done, so that its end is not taken for a crash, and what it
 * leaves to the next one (-1: nothing). */
void holder_leave(int state);
/* holder_drop ends the connection like a crash: who waits in the mount gets an error. */
void holder_drop(void);
/* holder_connection is to be polled for reading; -1: there is none. When it is readable holder_asks
 * tells if another daemon is to take over. */
int holder_connection(void);
bool holder_asks(void);

#endif
