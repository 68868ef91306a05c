/*
 * The executor's session with the daemon: the greeting, then one job after the
 * other, until the daemon closes its end.
 */
#ifndef VGPUFS_EXECUTOR_SERVE_H
#define VGPUFS_EXECUTOR_SERVE_H

#include "backend.h"

/*
 * serve speaks on standard input and output. With `backend` NULL it refuses the
 * daemon's hello and says `error`. Returns the process's exit status.
 */
int serve(const struct backend *backend, const char *error);

#endif
