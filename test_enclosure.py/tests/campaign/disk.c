/*
 * A disk that is slow or fails, as vgpufs sees it: loaded by LD_PRELOAD in front
 * of libc, it stands between SQLite and the files of the database. The page of
 * memory that VGPUFS_TEST_DISK names says what it does, and counts.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct control {
    atomic_uint fails;   /* 1: writing and syncing fail with EIO */
    atomic_uint slow_ms; /* how long a sync takes */
    atomic_uint syncs;   /* that were made */
};

static struct control *control_page(void)
{
    static _Atomic(struct control *) page;
    struct control *known = atomic_load(&page);
    const char *path = known ? NULL : getenv("VGPUFS_TEST_DISK");
    if (known || !path)
        return known;
    int file = open(path, O_RDWR | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof(*known), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (mapped == MAP_FAILED)
        abort();
    atomic_store(&page, mapped);
    return mapped;
}

/* is_database: is it state.db, or its log? */
static int is_database(int file)
{
    char link[64], path[512];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, sizeof(path) - 1);
    path[size < 0 ? 0 : size] = '\0';
    return strstr(path, "/state.db") != NULL;
}

static int fails(int file)
{
    struct control *control = control_page();
    return control && atomic_load(&control->fails) && is_database(file);
}

#define SEEN __attribute__((visibility("default")))

/* The system calls themselves: libc's functions of these names are hidden by ours. */

SEEN ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset);
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset)
{
    if (fails(file)) {
        errno = EIO;
        return -1;
    }
    return syscall(SYS_pwrite64, file, bytes, size, offset);
}

static int sync_as(long call, int file)
{
    struct control *control = control_page();
    if (fails(file)) {
        errno = EIO;
        return -1;
    }
    if (control && is_database(file)) {
        unsigned ms = atomic_load(&control->slow_ms);
        struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
        nanosleep(&pause, NULL);
        atomic_fetch_add(&control->syncs, 1);
    }
    return (int)syscall(call, file);
}

SEEN int fsync(int file)
{
    return sync_as(SYS_fsync, file);
}

SEEN int fdatasync(int file)
{
    return sync_as(SYS_fdatasync, file);
}
