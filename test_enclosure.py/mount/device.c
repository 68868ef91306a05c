#include "device.h"

#include "common/log.h"

#include <errno.h>
#include <fcntl.h>
#include <mntent.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#define TYPE       "fuse.vgpufs"
#define MOST_TRIES 16 /* mounts on top of each other, or a folder that somebody keeps removing */

/* What is mounted uppermost on a path. */
struct mounted {
    bool found;
    char type[32], source[64];
};

static struct mounted mounted_on(const char *path)
{
    struct mounted mounted = {0};
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    for (struct mntent *entry; mounts && (entry = getmntent(mounts));) {
        if (strcmp(entry->mnt_dir, path) != 0)
            continue;
        mounted.found = true; /* the last one is the uppermost */
        snprintf(mounted.type, sizeof(mounted.type), "%s", entry->mnt_type);
        snprintf(mounted.source, sizeof(mounted.source), "%s", entry->mnt_fsname);
    }
    if (mounts)
        endmntent(mounts);
    return mounted;
}

/* is_ours: is the uppermost mount one that a vgpufs-mount has made? */
static bool is_ours(const struct device *device)
{
    struct mounted mounted = mounted_on(device->mountpoint);
    return mounted.found && strcmp(mounted.source, DEVICE_SOURCE) == 0;
}

/* detach also ends every call into the mount: umount2(2). */
static int detach(const char *path)
{
    return umount2(path, MNT_FORCE | MNT_DETACH | UMOUNT_NOFOLLOW);
}

int device_clear(const struct device *device)
{
    struct statfs buffer;
    for (int tries = 0; tries < MOST_TRIES; tries++) {
        struct mounted mounted = mounted_on(device->mountpoint);
        if (!mounted.found || strcmp(mounted.type, TYPE) != 0)
            return 0;
        if (strcmp(mounted.source, DEVICE_SOURCE) != 0 &&
            statfs(device->mountpoint, &buffer) == 0) {
            log_error("%s: a vgpufs that was started by hand serves it: stop that one, or name "
                      "another mountpoint",
                      device->mountpoint);
            return -1;
        }
        log_warning("%s was left behind by a process that died: unmounting it", device->mountpoint);
        if (detach(device->mountpoint) < 0)
            break;
    }
    log_error("%s: cannot unmount what was left there: %s: run 'umount -l %s'", device->mountpoint,
              strerror(errno), device->mountpoint);
    return -1;
}

static int folder_make(const char *path)
{
    struct stat buffer;
    if (mkdir(path, 0755) == 0)
        return 0;
    int error = errno;
    if (error == EEXIST && lstat(path, &buffer) == 0 && S_ISDIR(buffer.st_mode))
        return 0;
    log_error("%s: %s: name a folder, or one that can be made", path,
              error == EEXIST ? "no folder" : strerror(error));
    return -1;
}

int device_mount(struct device *device)
{
    char options[128];
    device->fd = -1;
    if (folder_make(device->mountpoint) < 0)
        return -1;
    int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        log_error("/dev/fuse: %s: run 'modprobe fuse' as root", strerror(errno));
        return -1;
    }
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd);
    if (mount(DEVICE_SOURCE, device->mountpoint, TYPE, MS_NOSUID | MS_NODEV | MS_NOEXEC, options) <
        0) {
        log_error("cannot mount %s: %s: only root can", device->mountpoint, strerror(errno));
        close(fd);
        return -1;
    }
    device->fd = fd;
    return 0;
}

/*
 * device_abort: MNT_FORCE aborts the connection (fuse_umount_begin in the kernel's fs/fuse/inode.c)
 * and unmounts what is not busy; the open folder makes it busy. What fusectl(5) has for this is not
 * mounted everywhere. The descriptor alone will not do: a process that was given it may live on.
 */
void device_abort(struct device *device)
{
    if (device->fd < 0)
        return;
    int folder = open(device->mountpoint, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (is_ours(device) && folder >= 0)
        umount2(device->mountpoint, MNT_FORCE | UMOUNT_NOFOLLOW);
    if (folder >= 0)
        close(folder);
    close(device->fd);
    device->fd = -1;
}

void device_unmount(struct device *device)
{
    device_abort(device);
    if (is_ours(device) && detach(device->mountpoint) < 0)
        log_error("cannot unmount %s: %s: run 'umount -l %s'", device->mountpoint, strerror(errno),
                  device->mountpoint);
}
