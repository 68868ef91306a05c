/*
 * A folder in memory for the fuzz targets that need a state_dir, and a daemon in it that has
 * neither a mount nor executors. Errors end the process.
 */
#ifndef VGPUFS_FUZZ_FOLDER_H
#define VGPUFS_FUZZ_FOLDER_H

#include "server.h"

/* folder_make makes the folder, which the end of the process removes. */
const char *folder_make(void);
/* folder_clear removes all that is in it. */
void folder_clear(void);

/* daemon_config returns a configuration with state_dir there, and these lines (NULL: none). */
struct config *daemon_config(const char *lines);
/* daemon_begin is server_restore, and what NFS clients write can be taken; time does nothing by
 * itself. To be ended by daemon_end. */
void daemon_begin(struct server *server, const struct config *config);
void daemon_end(struct server *server);

#endif
