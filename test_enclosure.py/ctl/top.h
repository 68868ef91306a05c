/*
 * vgpuctl top: the statistics, redrawn in place.
 */
#ifndef VGPUFS_CTL_TOP_H
#define VGPUFS_CTL_TOP_H

#include "common/text.h"

/*
 * top_run shows MOUNT's statistics every `interval_ms` until 'q' or Ctrl-C; on a standard output
 * that is no terminal it prints one frame and returns. 0, or -1 and *error.
 */
int top_run(const char *mount, unsigned interval_ms, struct text *error);

#endif
