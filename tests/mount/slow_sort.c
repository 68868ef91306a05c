/*
 * Sorting much takes as long as the file VGPUFS_TEST_SORT exists, and notes itself in it: loaded by
 * LD_PRELOAD in front of libc, so that a test can hold whoever makes a large listing.
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define MUCH 500

typedef int compare_fn(const void *, const void *);
typedef void sort_fn(void *, size_t, size_t, compare_fn *);

static void wait_for_end(const char *path)
{
    static const struct timespec pause = {.tv_nsec = 1000000};
    int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (file < 0)
        return;
    if (write(file, ".", 1) < 1)
        abort();
    close(file);
    while (access(path, F_OK) == 0)
        nanosleep(&pause, NULL);
}

__attribute__((visibility("default"))) void qsort(void *items, size_t count, size_t size,
                                                  compare_fn *compare)
{
    sort_fn *sort;
    const char *path = count > MUCH ? getenv("VGPUFS_TEST_SORT") : NULL;
    *(void **)&sort = dlsym(RTLD_NEXT, "qsort"); /* as in dlsym(3) */
    if (path)
        wait_for_end(path);
    sort(items, count, size, compare);
}
