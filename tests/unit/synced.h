/*
 * Was the folder synced in which something new lies? Without that a power cut takes the new name
 * away. For programs that are linked with fsync(2) replaced. Not thread-safe.
 */
#ifndef SYNCED_H
#define SYNCED_H

#include <stdbool.h>

/* synced_watch: from now on that path is looked for whenever its folder is synced. */
void synced_watch(const char *path);
/* synced_seen: it was there at such a sync. */
bool synced_seen(void);

#endif
