/* The NFS server's knowledge of the mount. One thread. */
#ifndef VGPUFS_MOUNT_EXPORTS_H
#define VGPUFS_MOUNT_EXPORTS_H

/*
 * exports_flush makes the NFS server look at the mountpoint again, where there is one: without it,
 * guests go on with the mount that is gone, and get EIO. Does not wait for it.
 */
void exports_flush(void);
/* exports_reap collects it: at SIGCHLD. */
void exports_reap(void);

#endif
