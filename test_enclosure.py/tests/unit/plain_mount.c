/*
 * Makes a plain directory behave like MOUNT/vmN/jobs, for tests of vgpu-run
 * without a mount: linked into a second copy of it with --wrap, so that mkdir
 * brings the job's files along, rmdir takes them away, and one call fails.
 *
 * VGPU_TEST_FAULT="CALL[/FILE] ERRNO SKIP COUNT", as "open/status 5 1 3": the
 * calls on files of that name, after SKIP good ones, fail COUNT times.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

int __real_mkdir(const char *path, mode_t mode);
int __wrap_mkdir(const char *path, mode_t mode);
int __real_rmdir(const char *path);
int __wrap_rmdir(const char *path);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_close(int file);
int __wrap_close(int file);
ssize_t __real_write(int file, const void *bytes, size_t size);
ssize_t __wrap_write(int file, const void *bytes, size_t size);
ssize_t __real_pread64(int file, void *bytes, size_t size, off_t offset);
ssize_t __wrap_pread64(int file, void *bytes, size_t size, off_t offset);
ssize_t __real_getrandom(void *bytes, size_t size, unsigned flags);
ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags);

enum { MAX_FILES = 64, NAME_SIZE = 32 };

static char file_names[MAX_FILES][NAME_SIZE];

static const char *const job_files[] = {"command", "status", "result"};

static const char *file_name(int file)
{
    return file >= 0 && file < MAX_FILES ? file_names[file] : "";
}

/* fails counts one call and tells if it is to fail, with errno. */
static bool fails(const char *call, const char *name)
{
    static int calls;
    const char *fault = getenv("VGPU_TEST_FAULT");
    char wanted[64], this[64];
    int error, skip, count;
    if (!fault || sscanf(fault, "%63s %d %d %d", wanted, &error, &skip, &count) != 4)
        return false;
    snprintf(this, sizeof(this), "%s%s%s", call, *name ? "/" : "", name);
    if (strcmp(this, wanted) != 0)
        return false;
    calls++;
    errno = error;
    return calls > skip && calls <= skip + count;
}

int __wrap_mkdir(const char *path, mode_t mode)
{
    char file_path[4096];
    if (fails("mkdir", ""))
        return -1;
    if (__real_mkdir(path, mode) != 0)
        return -1;
    for (size_t i = 0; i < sizeof(job_files) / sizeof(job_files[0]); i++) {
        snprintf(file_path, sizeof(file_path), "%s/%s", path, job_files[i]);
        __real_close(__real_open64(file_path, O_WRONLY | O_CREAT | O_EXCL, 0600));
    }
    return 0;
}

int __wrap_rmdir(const char *path)
{
    char file_path[4096];
    if (fails("rmdir", ""))
        return -1;
    for (size_t i = 0; i < sizeof(job_files) / sizeof(job_files[0]); i++) {
        snprintf(file_path, sizeof(file_path), "%s/%s", path, job_files[i]);
        unlink(file_path);
    }
    return __real_rmdir(path);
}

int __wrap_open64(const char *path, int flags, ...)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash ? slash + 1 : path;
    if (fails("open", name))
        return -1;
    int file = __real_open64(path, flags);
    if (file >= 0 && file < MAX_FILES)
        snprintf(file_names[file], NAME_SIZE, "%.31s", name);
    return file;
}

int __wrap_close(int file)
{
    bool failed = fails("close", file_name(file));
    int error = errno;
    int result = __real_close(file);
    if (!failed)
        return result;
    errno = error;
    return -1;
}

ssize_t __wrap_write(int file, const void *bytes, size_t size)
{
    return fails("write", file_name(file)) ? -1 : __real_write(file, bytes, size);
}

ssize_t __wrap_pread64(int file, void *bytes, size_t size, off_t offset)
{
    return fails("read", file_name(file)) ? -1 : __real_pread64(file, bytes, size, offset);
}

ssize_t __wrap_getrandom(void *bytes, size_t size, unsigned flags)
{
    return fails("getrandom", "") ? -1 : __real_getrandom(bytes, size, flags);
}
