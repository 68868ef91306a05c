/*
 * The mount itself: /dev/fuse, mounted where the host sees it, without a libfuse. The struct
 * belongs to one thread; the caller owns its storage and device_unmount gives back the rest.
 */
#ifndef VGPUFS_MOUNT_DEVICE_H
#define VGPUFS_MOUNT_DEVICE_H

/*
 * In /proc/self/mounts where others have their device: tells the mounts of vgpufs-mount from
 * those that a vgpufs made itself.
 */
#define DEVICE_SOURCE "vgpufs-mount"

struct device {
    const char *mountpoint; /* absolute, not through a symbolic link; the caller's */
    int fd;                 /* /dev/fuse; -1: nothing can serve the mount, or there is none */
};

/* device_clear takes away what a dead daemon or holder left on the mountpoint. -1 and a message if
 * a vgpufs that somebody started by hand is alive there. */
int device_clear(const struct device *device);
/* device_mount opens /dev/fuse and mounts; -1 and a message. Makes the folder if it is missing. */
int device_mount(struct device *device);
/* device_abort ends every call into the mount, now and later, with an error; it stays in place. */
void device_abort(struct device *device);
/* device_unmount aborts it and takes the mount away. */
void device_unmount(struct device *device);

#endif
