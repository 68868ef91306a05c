/*
 * A disk that is slow or fails, as vgpufs sees it: loaded by LD_PRELOAD in front
 * of libc, it stands between SQLite and the files of the database, and syncs of data files. The
 * page of memory that VGPUFS_TEST_DISK names says what it does, and counts.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct control {
    atomic_uint fails;   /* an errno: writing and syncing fail with it */
    atomic_uint slow_ms; /* how long a sync takes; made shorter, it ends those under way too */
    atomic_uint syncs;   /* that were made */
    atomic_uint tables;  /* of them: of state.db itself, not of its log */
    /* The same for the bytes of data files, of which only syncs fail or are slow. */
    atomic_uint data_fails, data_slow_ms, data_begun, data_syncs;
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

static void path_of(int file, char path[512])
{
    char link[64];
    snprintf(link, sizeof(link), "/proc/self/fd/%d", file);
    ssize_t size = readlink(link, path, 511);
    path[size < 0 ? 0 : size] = '\0';
}

/* is_database: is it state.db, or its log? */
static int is_database(int file)
{
    char path[512];
    path_of(file, path);
    return strstr(path, "/state.db") != NULL;
}

static int is_tables(int file)
{
    char path[512];
    path_of(file, path);
    char *name = strstr(path, "/state.db");
    return name && !strcmp(name, "/state.db");
}

/* is_data: is it state_dir/data/<vm>/<number>? */
static int is_data(int file)
{
    char path[512];
    unsigned vm;
    int end = 0;
    path_of(file, path);
    const char *name = strstr(path, "/state/data/");
    return name && sscanf(name, "/state/data/%u/%*u%n", &vm, &end) == 1 && end && !name[end];
}

/* pause_for waits as long as `ms` says, which may be made shorter meanwhile. */
static void pause_for(const atomic_uint *ms)
{
    static const struct timespec pause = {.tv_nsec = 5000000};
    for (unsigned passed = 0; passed < atomic_load(ms); passed += 5)
        nanosleep(&pause, NULL);
}

/* note_folder writes down which folders were synced. */
static void note_folder(int file)
{
    struct stat stat;
    char path[512], list[512];
    if (fstat(file, &stat) < 0 || !S_ISDIR(stat.st_mode))
        return;
    path_of(file, path);
    snprintf(list, sizeof(list), "%s.folders", getenv("VGPUFS_TEST_DISK"));
    int out = open(list, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    dprintf(out, "%s\n", path);
    close(out);
}

/* fails gives the errno, or 0. */
static int fails(int file)
{
    struct control *control = control_page();
    int number = control ? (int)atomic_load(&control->fails) : 0;
    return number && is_database(file) ? number : 0;
}

#define SEEN __attribute__((visibility("default")))

/* The system calls themselves: libc's functions of these names are hidden by ours. */

SEEN ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset);
ssize_t pwrite64(int file, const void *bytes, size_t size, off64_t offset)
{
    int number = fails(file);
    if (number) {
        errno = number;
        return -1;
    }
    return syscall(SYS_pwrite64, file, bytes, size, offset);
}

static int sync_as(long call, int file)
{
    struct control *control = control_page();
    int number = fails(file);
    if (number) {
        errno = number;
        return -1;
    }
    if (control && is_database(file)) {
        pause_for(&control->slow_ms);
        atomic_fetch_add(&control->syncs, 1);
        atomic_fetch_add(&control->tables, (unsigned)is_tables(file));
    } else if (control && is_data(file)) {
        atomic_fetch_add(&control->data_begun, 1);
        pause_for(&control->data_slow_ms);
        number = (int)atomic_load(&control->data_fails);
        if (number) {
            errno = number;
            return -1;
        }
        atomic_fetch_add(&control->data_syncs, 1);
    } else if (control) {
        note_folder(file);
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
