/*
 * The daemon's end of vgpufs-mount(8): the mount comes from that process and goes back to it. One
 * mount a process, like session.h; the main thread's.
 */
#ifndef VGPUFS_HOLDER_CLIENT_H
#define VGPUFS_HOLDER_CLIENT_H

#include "common/text.h"

/*
 * holder_take asks on the socket for the mount and returns /dev/fuse, which is the caller's. -1,
 * and *error in one line: nobody listens, another daemon has it, it is mounted elsewhere than on
 * `mountpoint`.
 */
int holder_take(const char *socket_path, const char *mountpoint, struct text *error);
/* holder_leave says that this daemon is done, so that its end is not taken for a crash. */
void holder_leave(void);

#endif
