/*
 * The lines of exports(5) that let each VM, and no other, enter the tree: all that comes from the
 * VM's address acts as the owner of its directory. Pure but for the printing; thread-safe.
 */
#ifndef VGPUFS_NFS_EXPORTS_H
#define VGPUFS_NFS_EXPORTS_H

#include "config.h"

#include <stdio.h>

/*
 * nfs_exports_fsid is what NFS file handles name the mount by, which has no disk. It depends on the
 * mountpoint only, so handles stay valid over restarts of host and daemon.
 */
unsigned nfs_exports_fsid(const char *mountpoint);
/* nfs_exports_path appends the mountpoint as exports(5) and etab have it: blanks are \040. */
void nfs_exports_path(const struct config *config, struct text *out);
/* nfs_exports_options appends what stands in parentheses behind the VM's address. */
void nfs_exports_options(const struct config *config, const struct config_vm *vm, struct text *out);
/*
 * nfs_exports_print writes a line for each VM that has an address, and a comment about those that
 * have none. -1, and *error in one line: no VM has one, or two have the same.
 */
int nfs_exports_print(const struct config *config, FILE *out, struct text *error);

#endif
